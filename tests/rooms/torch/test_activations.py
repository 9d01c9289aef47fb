"""Activations by name: recorded and patched on every kernel, in every class, and gone when the block ends."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cases import B, E, T, configs, make_inputs, random_checkpoint, tiny_config
from gpt2kit import GPT2Config, GPT2LMHeadModel, GPT2Model
from gpt2kit.errors import InputError
from gpt2kit.torch import taps
from gpt2kit.torch.answering import GPT2ForQuestionAnswering
from gpt2kit.torch.classification import GPT2ForSequenceClassification, GPT2ForTokenClassification
from gpt2kit.torch.double import GPT2DoubleHeadsModel

IDS = torch.from_numpy(make_inputs(tiny_config()).input_ids)


def make(config: GPT2Config | None = None, kernel: str = "auto") -> Any:
    """Make a float64 model in evaluation mode, of the weights that goldens are made of."""
    config = tiny_config() if config is None else config
    state = {name: torch.from_numpy(value) for name, value in random_checkpoint(config).items()}
    return GPT2LMHeadModel.from_pretrained(
        None, config=config, state_dict=state, torch_dtype="float64", attn_implementation=kernel
    )


def arguments(config: GPT2Config, padding: str | None = None) -> dict[str, Tensor]:
    """Return the arguments of a call, an encoder among them where there is cross-attention."""
    arrays = make_inputs(config, padding=padding).as_dict()
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Any:
    yield
    assert not taps._watching
    assert not taps._blocks()


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


# --------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("kernel", ["eager", "auto"])
def test_gradients_reach_recorded_tensors_and_patches_alike(kernel: str) -> None:
    config = tiny_config("cross_attention", n_layer=2)
    model, inputs = make(config, kernel), arguments(config, "left")
    names = [
        name
        for name in model.activation_names()
        if kernel == "eager" or not name.endswith(("scores", "weights"))
    ]
    with model.record(*names) as store:
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    for tensor in store.values():
        tensor.retain_grad()
    loss.backward()
    for name, tensor in store.items():
        own = tensor.detach().requires_grad_()
        with model.patch({name: own}):
            model(**inputs, labels=inputs["input_ids"]).loss.backward()
        assert own.grad.abs().max() > 0
        torch.testing.assert_close(own.grad, tensor.grad, rtol=1e-9, atol=1e-12)


def test_gradients_flow_through_a_function_to_what_it_uses() -> None:
    model = make()
    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with model.record("h.1.mlp.out") as store, model.patch({"h.1.mlp.out": lambda out: out * factor}):
        loss = model(IDS, labels=IDS).loss
    store["h.1.mlp.out"].retain_grad()
    loss.backward()
    wanted = (store["h.1.mlp.out"].grad * store["h.1.mlp.out"]).sum()
    torch.testing.assert_close(factor.grad, wanted)
    assert model.transformer.wte.weight.grad.abs().max() > 0


def test_checkpointing_records_once_and_patches_again_after_the_block_has_ended() -> None:
    model = make().train()
    scale = torch.linspace(0.5, 1.5, 33, dtype=torch.float64, requires_grad=True)
    runs: list[int] = []

    def scaled(states: Tensor) -> Tensor:
        runs.append(1)
        return states * scale

    def gradients() -> tuple[dict[str, Tensor], list[Tensor]]:
        model.zero_grad()
        scale.grad = None
        names = ("h.1.mid", "h.1.attn.weights", "h.2.mlp.act", "logits")
        with model.record(*names) as store, model.patch({"h.1.attn.out": scaled, "ln_f": scaled}):
            loss = model(IDS, labels=IDS, use_cache=False).loss + store["h.2.mlp.act"].sum()
        for tensor in store.values():
            tensor.retain_grad()
        backward = threading.Thread(target=loss.backward)  # as accelerators do, which have threads for it
        backward.start()
        backward.join()
        assert len(store.calls) == 1
        assert list(store) == ["h.1.attn.weights", "h.1.mid", "h.2.mlp.act", "logits"]
        found = {name: tensor.grad for name, tensor in store.items()} | {"scale": scale.grad}
        return found, [parameter.grad for parameter in model.parameters()]

    wanted = gradients()
    assert len(runs) == 2
    model.gradient_checkpointing_enable()
    given_back = gradients()
    assert len(runs) == 5  # the block of h.1.attn.out was run again
    torch.testing.assert_close(given_back, wanted)


def test_reentrant_checkpoints_are_refused_while_a_block_is_open() -> None:
    model = make().train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with (
        pytest.raises(InputError, match=r"reentrant gradient checkpointing.*without use_reentrant=True"),
        model.record("h.1.out"),
    ):
        model(IDS, use_cache=False)
    with make().record("h.1.out"):  # another model's block is none of its business
        model(IDS, labels=IDS, use_cache=False).loss.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_runs_again_sees_no_block_that_was_opened_after_its_forward(
    reentrant: bool,
) -> None:
    model = make().train()

    def gradients(loss: Tensor) -> list[Tensor]:
        model.zero_grad()
        loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    wanted = gradients(model(IDS, labels=IDS, use_cache=False).loss)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    losses = [model(IDS, labels=IDS, use_cache=False).loss for _ in range(2)]
    with model.record("h.*.mlp.act") as store:
        found = gradients(losses[0])
    torch.testing.assert_close(found, wanted)
    assert not store.calls
    with pytest.raises(InputError, match="no call"), model.patch({"h.1.mlp.act": torch.zeros_like}):
        found = gradients(losses[1])
    torch.testing.assert_close(found, wanted)


# --------------------------------------------------------------------------- caches and generation


def test_a_generation_is_recorded_call_by_call() -> None:
    model = make()
    with model.record("h.*.attn.weights", "h.1.attn.key", "logits") as store:
        text = model.generate(IDS, max_new_tokens=4, pad_token_id=0, eos_token_id=None)
    assert [tuple(call["h.0.attn.weights"].shape) for call in store.calls] == [
        (B, 3, T, T),
        *((B, 3, 1, S) for S in range(T + 1, T + 4)),
    ]
    assert all(call["logits"].shape == (B, 1, 101) for call in store.calls)
    with model.record("h.1.attn.key") as whole:
        attentions = model(text[:, :-1], output_attentions=True).attentions
    keys = torch.cat([call["h.1.attn.key"] for call in store.calls], dim=2)
    torch.testing.assert_close(keys, whole["h.1.attn.key"])
    for step, call in enumerate(store.calls[1:], start=T):
        torch.testing.assert_close(call["h.2.attn.weights"][:, :, 0], attentions[2][:, :, step, : step + 1])


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_patch_holds_in_every_step_of_a_generation(use_cache: bool) -> None:
    model = make()
    plain = model.generate(IDS, max_new_tokens=5, pad_token_id=0, eos_token_id=None, use_cache=use_cache)

    def only_token_7(logits: Tensor) -> Tensor:
        logits[..., 7] = 1e6
        return logits

    with model.patch({"logits": only_token_7}):
        text = model.generate(IDS, max_new_tokens=5, pad_token_id=0, eos_token_id=None, use_cache=use_cache)
    assert torch.equal(text[:, T:], torch.full((B, 5), 7))
    with model.patch({"h.1.attn.value": lambda value: -value}):
        text = model.generate(IDS, max_new_tokens=5, pad_token_id=0, eos_token_id=None, use_cache=use_cache)
        logits = model(text[:, :-1]).logits
    assert torch.equal(text[:, T:], logits[:, T - 1 :].argmax(-1))
    assert not torch.equal(text, plain)


@pytest.mark.parametrize(
    "way",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"prompt_lookup_num_tokens": 2},
        {"guidance_scale": 1.5},
    ],
    ids=lambda way: next(reversed(way)),
)
def test_every_way_of_decoding_is_recorded_unchanged_and_patched(way: dict[str, Any]) -> None:
    model = make()
    options = {"max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None, **way}
    wanted = model.generate(IDS[:1], **options)
    with model.record("h.1.attn.weights", "h.2.out", "logits") as store:
        text = model.generate(IDS[:1], **options)
    assert torch.equal(text, wanted)
    assert all(list(call) == ["h.1.attn.weights", "h.2.out", "logits"] for call in store.calls)
    states = 50 * model.transformer.wte.weight[7].detach()
    with model.patch({"ln_f": lambda normed: states.expand_as(normed).contiguous()}):
        assert model.generate(IDS[:1], **options)[0, T:].tolist() == [7, 7, 7, 7]


@torch.no_grad()
def test_patched_keys_and_values_go_into_the_cache() -> None:
    model = make()
    patch = {"h.1.attn.key": lambda key: key / 2, "h.0.attn.value": lambda value: -value}
    with model.patch(patch):
        wanted = model(IDS).logits
        past = model(IDS[:, :3]).past_key_values
        rest = model(IDS[:, 3:], past_key_values=past).logits
    torch.testing.assert_close(rest, wanted[:, 3:])
    with model.patch(patch):
        past = model(IDS[:, :3]).past_key_values
    mixed = model(IDS[:, 3:], past_key_values=past).logits
    assert (mixed - wanted[:, 3:]).abs().max() > 1e-3  # the past is patched, the present is not


# --------------------------------------------------------------------------- threads, tasks, compilers


def test_threads_do_not_see_each_others_blocks() -> None:
    model = make()
    wanted = {factor: model(inputs_embeds=model.transformer.wte(IDS) * factor).logits for factor in (1, 2, 3)}
    barrier = threading.Barrier(3, timeout=60)
    found: dict[int, tuple[Tensor, int]] = {}

    def work(factor: int) -> None:
        places = model.transformer.wpe.weight[:T]
        with (
            model.patch({"embed": lambda states: (states - places) * factor + places}),
            model.record("h.0.in") as store,
        ):
            barrier.wait()
            for _ in range(5):
                logits = model(IDS).logits
            barrier.wait()
        found[factor] = (logits, len(store.calls))

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (2, 3)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for _ in range(5):
        assert torch.equal(model(IDS).logits, wanted[1])
    barrier.wait()
    for thread in threads:
        thread.join()
    for factor in (2, 3):
        logits, calls = found[factor]
        torch.testing.assert_close(logits, wanted[factor])
        assert calls == 5


def test_tasks_do_not_see_each_others_blocks_and_may_end_in_any_order() -> None:
    model = make()

    async def work(word: str, turns: int) -> int:
        with model.record(word) as store:
            for _ in range(turns):
                model(IDS)
                await asyncio.sleep(0)
        assert list(store) == [word]
        return len(store.calls)

    async def both() -> list[int]:
        return await asyncio.gather(work("embed", 2), work("ln_f", 4))

    assert asyncio.run(both()) == [2, 4]


def test_blocks_of_generators_may_end_in_the_order_in_which_they_began() -> None:
    model = make()

    def held(word: str) -> Any:
        with model.record(word) as store:
            yield store

    first, second = held("embed"), held("ln_f")
    one, two = next(first), next(second)
    model(IDS)
    first.close()
    model(IDS)
    second.close()
    model(IDS)
    assert (len(one.calls), len(two.calls)) == (1, 2)


def test_a_block_is_seen_by_the_tasks_that_start_inside_it_until_it_ends() -> None:
    model, other = make(), make()
    plain = model(IDS).logits

    async def logits(when: asyncio.Event) -> Tensor:
        await when.wait()
        return model(IDS).logits

    async def work() -> None:
        inside, after = asyncio.Event(), asyncio.Event()
        with model.patch({"ln_f": torch.zeros_like}):
            early, late = asyncio.create_task(logits(inside)), asyncio.create_task(logits(after))
            inside.set()
            assert not (await early).any()
            assert not (await asyncio.to_thread(lambda: model(IDS).logits)).any()
        after.set()
        with other.record("ln_f"):  # so that places are looked at
            assert torch.equal(await late, plain)

    asyncio.run(work())


def test_a_block_that_another_thread_ends_has_ended() -> None:
    model, other = make(), make()
    plain = model(IDS).logits

    def held() -> Any:
        with model.patch({"ln_f": torch.zeros_like}):
            yield model(IDS).logits

    generator = held()
    assert not next(generator).any()
    ending = threading.Thread(target=generator.close)
    ending.start()
    ending.join()
    with other.record("ln_f"):
        assert torch.equal(model(IDS).logits, plain)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_model_runs_as_it_is_written_while_a_block_is_open(fullgraph: bool) -> None:
    model = make()
    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(1)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=fullgraph)
    wanted = compiled(IDS).logits
    with model.record("h.1.attn.weights"), model.patch({"h.1.mlp.out": torch.zeros_like}):
        eager = model(IDS).logits
    with model.record("h.1.attn.weights") as store, model.patch({"h.1.mlp.out": torch.zeros_like}):
        assert torch.equal(compiled(IDS).logits, eager)
    assert store["h.1.attn.weights"].shape == (B, 3, T, T)
    torch.testing.assert_close(compiled(IDS).logits, wanted)
    assert len(graphs) == 1


def test_nothing_is_looked_up_while_no_block_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_pass", "_of"):
        monkeypatch.setattr(taps, name, lambda *given: pytest.fail("looked for open blocks"))
    make().train()(IDS, labels=IDS)


# --------------------------------------------------------------------------- pruned heads


@pytest.mark.parametrize("kernel", ["eager", "auto", "sdpa"])
def test_a_pruned_model_keeps_its_names_on_every_kernel_and_through_a_folder(
    kernel: str, tmp_path: Path
) -> None:
    model = make(kernel=kernel)
    names = model.activation_names()
    model.prune_heads({0: [1], 2: [0, 2]})
    assert model.activation_names() == names
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path, torch_dtype="float64", attn_implementation=kernel)
    words = ("h.*.attn.mixed", "h.*.attn.query") + (("h.*.attn.weights",) if kernel != "sdpa" else ())
    with model.record(*words) as store:
        model(IDS)
    with again.record(*words) as other:
        again(IDS)
    assert [store[f"h.{layer}.attn.mixed"].shape[1] for layer in range(3)] == [2, 3, 1]
    assert list(store) == list(other)
    assert all(torch.equal(store[name], other[name]) for name in store)
    with again.patch({"h.*.attn.mixed": torch.zeros_like}), again.record("h.0.attn.out") as other:
        again(IDS)
    bias = again.transformer.h[0].attn.c_proj.bias
    torch.testing.assert_close(other["h.0.attn.out"], bias.expand(B, T, 33))


# --------------------------------------------------------------------------- properties

FEW = settings(max_examples=15, deadline=None)


@FEW
@given(configs(), st.data())
def test_patching_an_activation_with_its_own_value_changes_nothing(
    config: GPT2Config, data: st.DataObject
) -> None:
    model, inputs = make(config), arguments(config, "left")
    chosen = data.draw(
        st.lists(st.sampled_from(model.activation_names()), min_size=1, max_size=5, unique=True)
    )
    with model.record("**") as clean:
        model(**inputs)
    with model.record("**") as store, model.patch({name: clean[name] for name in chosen}):
        model(**inputs)
    assert all(torch.equal(store[name], clean[name]) for name in clean)
    with model.record("**") as store, model.patch({name: lambda value: value for name in chosen}):
        model(**inputs)
    for name in clean:  # a copy may lie in memory otherwise, and sums in another order round otherwise
        torch.testing.assert_close(store[name], clean[name])


@FEW
@given(configs(), st.data())
def test_patching_with_zeros_is_the_ablation_by_hand(config: GPT2Config, data: st.DataObject) -> None:
    model, inputs = make(config), arguments(config, "left")
    layer = data.draw(st.integers(0, config.n_layer - 1))
    part = data.draw(st.sampled_from(["attn", "mlp"]))
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in getattr(by_hand.transformer.h[layer], part).c_proj.parameters():
            parameter.zero_()
    with model.patch({f"h.{layer}.{part}.out": torch.zeros_like}):
        patched = model(**inputs).logits
    torch.testing.assert_close(patched, by_hand(**inputs).logits)


@FEW
@given(configs(), st.integers(0, 2**32 - 1), st.booleans())
def test_a_head_mask_is_a_patch_of_the_weights_gradients_included(
    config: GPT2Config, seed: int, one_dimension: bool
) -> None:
    model, inputs = make(config), arguments(config, "left")
    shape = (config.n_head,) if one_dimension else (config.n_layer, config.n_head)
    noise = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=noise, dtype=torch.float64, requires_grad=True)
    wanted = model(**inputs, head_mask=mask, output_attentions=True)
    by_layer = mask.expand(config.n_layer, config.n_head)
    crossing = ["attn", "crossattention"] if config.add_cross_attention else ["attn"]
    patch = {
        f"h.{layer}.{part}.weights": lambda weights, row=row: weights * row[:, None, None]
        for layer, row in enumerate(by_layer)
        for part in crossing
    }
    with model.patch(patch):
        output = model(**inputs, output_attentions=True)
    torch.testing.assert_close(output.logits, wanted.logits)
    torch.testing.assert_close(output.attentions, wanted.attentions)
    weights = torch.randn(output.logits.shape, generator=noise, dtype=torch.float64)
    (by_mask,) = torch.autograd.grad((wanted.logits * weights).sum(), mask)
    (by_patch,) = torch.autograd.grad((output.logits * weights).sum(), mask)
    torch.testing.assert_close(by_mask, by_patch)
