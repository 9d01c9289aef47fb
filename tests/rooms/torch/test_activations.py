"""Activations by name: recorded and patched on every kernel, in every class, and gone when the block ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activation_cases import IDS, arguments, make
from cases import B, E, T, tiny_config
from gpt2kit import GPT2LMHeadModel, GPT2Model
from gpt2kit.errors import InputError
from gpt2kit.torch.answering import GPT2ForQuestionAnswering
from gpt2kit.torch.classification import GPT2ForSequenceClassification, GPT2ForTokenClassification
from gpt2kit.torch.double import GPT2DoubleHeadsModel

# --------------------------------------------------------------------------- recording


def test_every_name_is_recorded_in_the_order_of_computation_with_the_shape_of_the_page() -> None:
    config = tiny_config("cross_attention", n_layer=2, n_inner=47)
    model = make(config)
    with model.record("**") as store:
        model(**arguments(config))
    assert list(store) == model.activation_names()
    D, H, K, M, V = 33, 3, 11, 47, 101
    attention = {"query": (B, H, T, K), "mixed": (B, H, T, K), "out": (B, T, D)}
    shapes: dict[str, tuple[int, ...]] = {"embed": (B, T, D), "ln_f": (B, T, D), "logits": (B, T, V)}
    for layer in range(2):
        for word in ("in", "ln_1", "cross_in", "ln_cross_attn", "mid", "ln_2", "out"):
            shapes[f"h.{layer}.{word}"] = (B, T, D)
        for part, S in (("attn", T), ("crossattention", E)):
            keys = {"key": (B, H, S, K), "value": (B, H, S, K)}
            weights = {"scores": (B, H, T, S), "weights": (B, H, T, S)}
            for word, shape in (attention | keys | weights).items():
                shapes[f"h.{layer}.{part}.{word}"] = shape
        shapes |= {f"h.{layer}.mlp.pre": (B, T, M), f"h.{layer}.mlp.act": (B, T, M)}
        shapes[f"h.{layer}.mlp.out"] = (B, T, D)
    assert {name: tuple(tensor.shape) for name, tensor in store.items()} == shapes


@pytest.mark.parametrize("padding", [None, "left"])
def test_what_is_recorded_is_what_the_outputs_hold(padding: str | None) -> None:
    config = tiny_config("cross_attention")
    model, inputs = make(config), arguments(config, padding)
    output = model(**inputs, output_attentions=True, output_hidden_states=True)
    with model.record("**") as store:
        model(**inputs)
    for layer in range(3):
        assert torch.equal(store[f"h.{layer}.attn.weights"], output.attentions[layer])
        assert torch.equal(store[f"h.{layer}.crossattention.weights"], output.cross_attentions[layer])
        assert torch.equal(store[f"h.{layer}.in"], output.hidden_states[layer])
        assert torch.equal(store[f"h.{layer}.attn.key"], output.past_key_values[layer][0])
        assert torch.equal(store[f"h.{layer}.attn.value"], output.past_key_values[layer][1])
    assert torch.equal(store["embed"], output.hidden_states[0])
    assert torch.equal(store["ln_f"], output.hidden_states[-1])
    assert torch.equal(store["logits"], output.logits)


def test_the_recorded_parts_are_those_of_the_equations() -> None:
    config = tiny_config("cross_attention_all_switches")
    model = make(config)
    with model.record("h.1.**") as store:
        model(**arguments(config, "right"))
    block, at = model.transformer.h[1], {name.removeprefix("h.1."): value for name, value in store.items()}
    near = torch.testing.assert_close
    near(at["ln_1"], block.ln_1(at["in"]))
    near(at["attn.weights"], at["attn.scores"].softmax(-1))
    seen = torch.ones(T, T, dtype=torch.bool).tril() & torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])[
        :, None, None
    ].bool().expand(B, 3, T, T)
    scores = at["attn.query"] @ at["attn.key"].mT / (11**0.5 * 2)
    near(at["attn.scores"][seen], scores[seen])
    assert (at["attn.scores"][~seen] < -1e300).all()
    near(at["attn.mixed"], at["attn.weights"] @ at["attn.value"])
    near(at["attn.out"], block.attn.c_proj(at["attn.mixed"].transpose(1, 2).flatten(2)))
    near(at["cross_in"], at["in"] + at["attn.out"])
    near(at["ln_cross_attn"], block.ln_cross_attn(at["cross_in"]))
    near(at["crossattention.mixed"], at["crossattention.weights"] @ at["crossattention.value"])
    near(at["mid"], at["cross_in"] + at["crossattention.out"])
    near(at["ln_2"], block.ln_2(at["mid"]))
    near(at["mlp.pre"], block.mlp.c_fc(at["ln_2"]))
    near(at["mlp.act"], block.mlp.act(at["mlp.pre"]))
    near(at["mlp.out"], block.mlp.c_proj(at["mlp.act"]))
    near(at["out"], at["mid"] + at["mlp.out"])


def calls_of_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "gpt2kit.torch.layers.F.scaled_dot_product_attention",
        lambda *given, **named: calls.append(1) or real(*given, **named),
    )
    return calls


@pytest.mark.parametrize("padding", [None, "left", "right"])
def test_the_fused_kernel_gives_the_same_activations_where_weights_are_not_asked_for(
    padding: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("cross_attention")
    eager, inputs = make(config, "eager"), arguments(config, padding)
    names = [name for name in eager.activation_names() if not name.endswith(("scores", "weights"))]
    with eager.record(*names) as wanted:
        eager(**inputs)
    calls = calls_of_the_fused_kernel(monkeypatch)
    for kernel in ("auto", "sdpa"):
        model = make(config, kernel)
        with model.record(*names) as store:
            model(**inputs)
        assert len(calls) == 6
        calls.clear()
        for name in names:
            torch.testing.assert_close(store[name], wanted[name])


def test_asking_for_weights_takes_the_explicit_kernel_for_the_calls_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = make(), calls_of_the_fused_kernel(monkeypatch)
    with model.record("h.1.attn.scores"):
        model(IDS)
    with model.patch({"h.1.attn.weights": torch.zeros_like}):
        model(IDS)
    assert not calls
    model(IDS)
    assert len(calls) == 3


@pytest.mark.parametrize("word", ["scores", "weights"])
def test_the_fused_kernel_by_name_refuses_to_record_or_patch_weights(word: str) -> None:
    model = make(kernel="sdpa")
    sentence = rf"h\.2\.attn\.{word} needs the attention weights, which attn_implementation='sdpa' does not"
    with pytest.raises(InputError, match=sentence), model.record(f"h.2.attn.{word}"):
        model(IDS)
    with pytest.raises(InputError, match=sentence), model.patch({f"h.2.attn.{word}": torch.zeros_like}):
        model(IDS)


CLASSES: dict[type[Any], dict[str, tuple[int, ...]]] = {
    GPT2Model: {},
    GPT2LMHeadModel: {"logits": (B, T, 101)},
    GPT2DoubleHeadsModel: {"logits": (B, T, 101), "mc_logits": (B,)},
    GPT2ForSequenceClassification: {"logits": (B, 2)},
    GPT2ForTokenClassification: {"logits": (B, T, 2)},
    GPT2ForQuestionAnswering: {"logits": (B, T, 2)},
}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_has_the_names_of_its_body_and_of_its_own_scores(cls: type[Any]) -> None:
    model = cls(tiny_config(pad_token_id=0)).eval()
    with model.record("**") as store:
        output = model(IDS)
    assert list(store) == model.activation_names()
    assert model.activation_names()[: -len(CLASSES[cls]) or None] == model.base_model.activation_names()
    assert {name: tuple(store[name].shape) for name in CLASSES[cls]} == CLASSES[cls]
    for name in CLASSES[cls]:
        replaced = torch.linspace(-1, 1, store[name].numel()).view_as(store[name])
        with model.patch({name: replaced}):
            patched = model(IDS)
        if cls is GPT2ForQuestionAnswering:
            assert torch.equal(patched.start_logits, replaced[..., 0])
            assert torch.equal(patched.end_logits, replaced[..., 1])
        else:
            assert patched[name] is replaced
            assert output[name] is not replaced


def test_a_body_and_the_model_around_it_have_the_same_activations() -> None:
    model = make()
    with model.transformer.record("h.1.out") as inner, model.record("h.1.out", "logits") as outer:
        model(IDS)
        model.transformer(IDS.flip(0))
    assert len(inner.calls) == len(outer.calls) == 2
    assert all(a["h.1.out"] is b["h.1.out"] for a, b in zip(inner.calls, outer.calls, strict=True))
    assert "logits" in outer.calls[0]
    assert "logits" not in outer.calls[1]


def test_a_store_is_a_mapping_of_the_last_call_and_says_why_a_name_is_missing() -> None:
    model = make(tiny_config("cross_attention"))
    with model.record("h.0.mlp.out", "h.0.crossattention.out") as store:
        assert len(store) == 0
        with pytest.raises(KeyError, match="the model was not called in this block and thread"):
            store["h.0.mlp.out"]
        model(IDS)
        first = store["h.0.mlp.out"]
        model(IDS[:, :3])
    assert store["h.0.mlp.out"].shape == (B, 3, 33)
    assert store.calls[0]["h.0.mlp.out"] is first
    assert list(store) == ["h.0.mlp.out"]
    assert "h.0.crossattention.out" not in store
    assert store.get("h.1.mlp.out") is None
    assert repr(store) == "Activations(2 calls; {h.0.mlp.out: [2, 3, 33]})"
    with pytest.raises(KeyError, match=r"the last call did not come there.*encoder_hidden_states"):
        store["h.0.crossattention.out"]
    with pytest.raises(KeyError, match=r"'h\.1\.mlp\.out' was not asked for; the record is of h\.0\."):
        store["h.1.mlp.out"]


def test_a_star_stays_within_a_part_of_a_name_and_two_do_not() -> None:
    model = make()

    def named(*patterns: str) -> list[str]:
        with model.record(*patterns) as store:
            return list(store.names)

    assert named("h.*.out") == ["h.0.out", "h.1.out", "h.2.out"]
    assert named("h.1.*.out") == ["h.1.attn.out", "h.1.mlp.out"]
    assert named("h.[02].m*") == ["h.0.mid", "h.2.mid"]
    assert named("h.?.mlp.p*", "embed") == ["embed", "h.0.mlp.pre", "h.1.mlp.pre", "h.2.mlp.pre"]
    assert named("*") == ["embed", "ln_f", "logits"]
    assert named("h.2.**") == [name for name in model.activation_names() if name.startswith("h.2.")]
    assert named("**.out") == [name for name in model.activation_names() if name.endswith(".out")]
    assert named("**") == named("**.**") == model.activation_names()


NO_NAMES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "nothing": (lambda model: model.record(), r"Nothing is named to be recorded.*\"\*\*\" is everything"),
    "misspelt": (
        lambda model: model.record("h.*.mlp.out", "h.1.attn.weigths"),
        r"No activation is called 'h\.1\.attn\.weigths'\. Did you mean h\.1\.attn\.weights or .*lists all 48",
    ),
    "beyond the layers": (lambda model: model.record("h.3.**"), r"No activation is called 'h\.3\.\*\*'"),
    "a list": (lambda model: model.record(["embed"]), "named by a string, but a list came"),
    "misspelt patch": (
        lambda model: model.patch({"embd": torch.zeros_like}),
        "No activation is called 'embd'. Did you mean embed",
    ),
    "no patch": (lambda model: model.patch({}), "patch needs a dictionary of names"),
    "a name alone": (lambda model: model.patch("embed"), "patch needs a dictionary of names"),
    "a number": (
        lambda model: model.patch({"embed": 0.0}),
        "The patch of 'embed' should be a tensor or a function of one, but it is a float",
    ),
    "twice": (
        lambda model: model.patch({"h.*.*.out": torch.zeros_like, "h.1.mlp.out": torch.ones_like}),
        r"h\.1\.mlp\.out is matched by two patterns of one patch",
    ),
}


@pytest.mark.parametrize("case", NO_NAMES)
def test_names_that_name_nothing_are_refused_before_the_model_runs(case: str) -> None:
    block, sentence = NO_NAMES[case]
    with pytest.raises(InputError, match=sentence), block(make()):
        pytest.fail("the block has begun")


def test_a_block_that_the_model_holds_twice_is_refused() -> None:
    model = make()
    model.transformer.h[1] = model.transformer.h[0]
    with pytest.raises(InputError, match=r"h\.0\.out and h\.1\.out are computed by one module"):
        model.record("h.*.out").__enter__()
    with model.record("h.2.out") as store:
        model(IDS)
    assert store["h.2.out"].shape == (B, T, 33)


# --------------------------------------------------------------------------- patching


def test_a_patch_is_seen_by_all_that_follows_and_by_nothing_before() -> None:
    model = make()
    names = model.activation_names()
    with model.record("**") as clean:
        model(IDS)
    with model.patch({"h.1.mid": lambda states: states.flip(-1)}), model.record("**") as store:
        output = model(IDS, output_hidden_states=True)
    here = names.index("h.1.mid")
    assert all(torch.equal(store[name], clean[name]) for name in names[:here])
    torch.testing.assert_close(store["h.1.mid"], clean["h.1.mid"].flip(-1))
    moved = {name for name in names[here:] if not torch.allclose(store[name], clean[name])}
    assert {"h.1.out", "h.2.attn.weights", "ln_f", "logits"} <= moved
    assert output.hidden_states[2] is store["h.2.in"]
    assert output.logits is store["logits"]


def test_patched_weights_and_streams_are_those_of_the_outputs() -> None:
    model = make()
    halves = {"h.1.attn.weights": lambda weights: weights / 2, "h.2.in": lambda states: states / 2}
    wanted = model(IDS, output_attentions=True).attentions[1] / 2
    with model.patch(halves), model.record("h.2.in") as store:
        output = model(IDS, output_attentions=True, output_hidden_states=True)
    assert torch.equal(output.attentions[1], wanted)
    assert output.hidden_states[2] is store["h.2.in"]


def test_blocks_nest_the_outer_patch_first_and_records_see_what_came_of_all() -> None:
    model = make()
    with model.record("embed") as clean:
        model(IDS)
    with (
        model.record("embed") as outside,
        model.patch({"embed": lambda states: states + 1}),
        model.record("embed") as between,
        model.patch({"embed": lambda states: states * 3}),
        model.record("embed") as inside,
    ):
        model(IDS)
    assert outside["embed"] is between["embed"]
    assert between["embed"] is inside["embed"]
    assert torch.equal(inside["embed"], (clean["embed"] + 1) * 3)


def test_a_function_may_change_its_copy_and_harms_no_record() -> None:
    model = make()
    with model.record("h.0.out") as clean:
        wanted = model(IDS).logits

    def silence(states: Tensor) -> Tensor:
        states[:, 1:] = 0
        return states

    with model.record("h.0.out", "h.1.in") as store, model.patch({"h.1.in": silence}):
        model(IDS).logits.sum().backward()
    assert torch.equal(store["h.0.out"], clean["h.0.out"])
    assert torch.equal(store["h.1.in"][:, 1:], torch.zeros(B, T - 1, 33))
    assert torch.equal(model(IDS).logits, wanted)
    with torch.inference_mode(), model.record("h.0.out", "h.1.in") as store, model.patch({"h.1.in": silence}):
        model(IDS)
    assert torch.equal(store["h.0.out"], clean["h.0.out"])


@pytest.mark.parametrize(
    ("replacement", "sentence"),
    [
        (
            lambda states: None,
            r"What the function for h\.1\.out returns should be a tensor, but it is a None",
        ),
        (lambda states: states[:1], r"for h\.1\.out returns should have the shape \[2, 5, 33\], but .* \[1,"),
        (lambda states: states.float(), "should have the dtype torch.float64, but it is torch.float32"),
        (lambda states: states.to("meta"), "should have the device cpu, but it is meta"),
        (torch.zeros(33), r"The patch of h\.1\.out should have the shape \[2, 5, 33\], but it is \[33\]"),
        (torch.zeros(B, T, 33), "The patch of .* should have the dtype torch.float64"),
    ],
)
def test_a_replacement_of_another_kind_is_refused(replacement: Any, sentence: str) -> None:
    model = make()
    with pytest.raises(InputError, match=sentence), model.patch({"h.1.out": replacement}):
        model(IDS)


def test_a_patch_that_no_call_came_to_is_refused_at_the_end() -> None:
    model = make(tiny_config("cross_attention"))
    with (
        pytest.raises(InputError, match=r"h\.0\.out was to be patched, and no call of the model came there"),
        model.patch({"h.0.out": torch.zeros_like}),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"h\.0\.crossattention\.query was to be patched.*encoder_hidden"),
        model.patch({"h.*.crossattention.*": torch.zeros_like}),
    ):
        model(IDS)
    with (
        pytest.raises(InputError, match=r"logits was to be patched.*loss_chunk_size"),
        model.patch({"logits": torch.zeros_like}),
    ):
        model(IDS, labels=IDS, loss_chunk_size=3)


def test_an_exception_inside_leaves_nothing_behind() -> None:
    model = make()
    wanted = model(IDS).logits
    with (
        pytest.raises(ZeroDivisionError),
        model.record("**") as store,
        model.patch({"embed": torch.zeros_like}),
    ):
        1 / 0  # noqa: B018  # not reached by a call, yet the first error is the one to see
    assert store.calls == []

    def fail(states: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), model.record("**"), model.patch({"h.1.out": fail}):
        model(IDS)
    assert torch.equal(model(IDS).logits, wanted)


def test_a_patch_of_one_model_does_not_touch_another() -> None:
    model = make()
    twin = copy.deepcopy(model)
    wanted = twin(IDS).logits
    with model.patch({"h.0.out": torch.zeros_like}), twin.record("h.0.out") as store:
        model(IDS)
        assert store.calls == []
        assert torch.equal(twin(IDS).logits, wanted)


def test_a_tensor_of_any_strides_may_be_the_patch() -> None:
    model = make()
    with model.record("**") as store:
        wanted = model(IDS, labels=IDS).loss
    for name, value in store.items():
        strided = value.detach().transpose(0, -1).contiguous().transpose(0, -1)
        with model.patch({name: strided}):
            torch.testing.assert_close(model(IDS, labels=IDS).loss, wanted)
