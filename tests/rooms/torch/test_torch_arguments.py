"""The arguments of a forward pass: honoured by every class on every kernel, or refused by a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import B, E, T, make_inputs, random_checkpoint, tiny_config
from gpt2kit import GPT2LMHeadModel, GPT2Model
from gpt2kit.checkpoint import HEADS
from gpt2kit.errors import InputError
from gpt2kit.reference import gpt2
from gpt2kit.torch.answering import GPT2ForQuestionAnswering
from gpt2kit.torch.classification import GPT2ForSequenceClassification, GPT2ForTokenClassification
from gpt2kit.torch.double import GPT2DoubleHeadsModel

KERNELS = ("eager", "sdpa", "auto")
CLASSES = (
    GPT2Model,
    GPT2LMHeadModel,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2ForQuestionAnswering,
)
WITH_PAST = CLASSES[:4]  # the outputs of the other two have no field for it
IDS = torch.from_numpy(make_inputs(tiny_config()).input_ids)
STATES = torch.linspace(-1, 1, B * E * 33, dtype=torch.float64).view(B, E, 33)


def make(
    case: str = "default", cls: type[Any] = GPT2LMHeadModel, kernel: str = "auto", **changes: Any
) -> Any:
    """Make a float64 model in evaluation mode, of random weights."""
    config = tiny_config(case, **{"pad_token_id": 0, **changes})
    if cls is GPT2DoubleHeadsModel:
        config.num_labels = 1
    weights = random_checkpoint(config, head=HEADS[cls.__name__])
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    return cls.from_pretrained(
        None, config=config, state_dict=state, torch_dtype="float64", attn_implementation=kernel
    )


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors of an output, nested tuples laid flat."""
    return [value] if isinstance(value, Tensor) else [each for part in value for each in tensors_of(part)]


# --------------------------------------------------------------------------- every class, every kernel


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("flag", ["output_attentions", "output_hidden_states"])
def test_a_flag_of_a_call_and_of_the_configuration_do_the_same(cls: type[Any], flag: str) -> None:
    field = flag.removeprefix("output_")
    by_call = make(cls=cls)(IDS, **{flag: True})
    by_config = make(cls=cls, **{flag: True})
    assert len(by_call[field]) == (3 if field == "attentions" else 4)
    assert list(by_config(IDS)) == list(by_call)
    for mine, other in zip(by_config(IDS)[field], by_call[field], strict=True):
        torch.testing.assert_close(mine, other)
    assert field not in by_config(IDS, **{flag: False})


@pytest.mark.parametrize("cls", CLASSES)
def test_a_tuple_holds_what_the_object_holds(cls: type[Any]) -> None:
    everything = {"output_attentions": True, "output_hidden_states": True}
    model = make(cls=cls)
    wanted = model(IDS, **everything)
    for given in (
        model(IDS, **everything, return_dict=False),
        make(cls=cls, return_dict=False)(IDS, **everything),
    ):
        assert type(given) is tuple
        for mine, other in zip(tensors_of(given), tensors_of(wanted.to_tuple()), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("cls", WITH_PAST)
def test_the_cache_can_be_left_out_by_a_call_and_by_the_configuration(cls: type[Any]) -> None:
    assert "past_key_values" in make(cls=cls)(IDS)
    assert "past_key_values" not in make(cls=cls)(IDS, use_cache=False)
    assert "past_key_values" not in make(cls=cls, use_cache=False)(IDS)
    assert "past_key_values" in make(cls=cls, use_cache=False)(IDS, use_cache=True)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_misspelt_keyword_is_refused_by_every_class(cls: type[Any]) -> None:
    with pytest.raises(TypeError, match="output_attention"):
        make(cls=cls)(IDS, output_attention=True)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("by_query", [False, True])
def test_an_encoder_and_its_mask_are_honoured_by_every_kernel(kernel: str, by_query: bool) -> None:
    model = make("cross_attention_all_switches", kernel=kernel)
    arrays = make_inputs(model.config, padding="left", token_types=True).as_dict()
    if by_query:
        arrays["encoder_attention_mask"] = np.tri(T, E, 1)[None].repeat(B, 0)
    wanted = gpt2(model.config, random_checkpoint(model.config), **arrays)
    inputs = {name: torch.from_numpy(value) for name, value in arrays.items()}
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].double().requires_grad_()
    output = model(**inputs)
    torch.testing.assert_close(output.logits, torch.from_numpy(wanted.logits), rtol=1e-10, atol=1e-10)
    output.logits.sum().backward()
    unseen = inputs["encoder_attention_mask"].reshape(B, -1, E).amax(1) == 0  # [B, E]
    gradients = inputs["encoder_hidden_states"].grad
    assert gradients[~unseen].abs().amax(-1).min() > 0
    assert gradients[unseen].abs().sum() == 0


def test_one_encoder_serves_a_whole_batch() -> None:
    model = make("cross_attention")
    wanted = model(IDS, encoder_hidden_states=STATES[:1].expand(B, E, 33)).logits
    mask = torch.ones(1, E)
    given = model(IDS, encoder_hidden_states=STATES[:1], encoder_attention_mask=mask).logits
    torch.testing.assert_close(given, wanted)


def test_a_head_mask_silences_heads_of_cross_attention_too() -> None:
    model = make("cross_attention")
    arrays = make_inputs(model.config, head_mask=True).as_dict()
    wanted = gpt2(model.config, random_checkpoint(model.config), **arrays)
    inputs = {name: torch.from_numpy(value) for name, value in arrays.items()}
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].double()
    output = model(**inputs, output_attentions=True)
    torch.testing.assert_close(output.logits, torch.from_numpy(wanted.logits), rtol=1e-10, atol=1e-10)
    for mine, other in zip(output.cross_attentions, wanted.cross_attentions, strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(other), rtol=1e-10, atol=1e-10)


def test_a_mask_of_ids_of_three_dimensions_has_their_shape() -> None:
    model = make()
    stacked = torch.stack([IDS, IDS.flip(0), IDS])  # [3, B, T]
    mask = torch.ones_like(stacked)
    mask[0, 0, :2] = mask[1, 1, :1] = 0
    logits = model(stacked, attention_mask=mask).logits
    for ids, shown, given in zip(stacked, mask, logits, strict=True):
        torch.testing.assert_close(given, model(ids, attention_mask=shown).logits)


# --------------------------------------------------------------------------- heads that were pruned

HEADS_LEFT = {0: [1], 2: [0, 2]}  # layer -> heads to prune; 2, 3 and 1 are left


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_pruned_model_of_every_class_survives_a_folder(cls: type[Any], kernel: str, tmp_path: Path) -> None:
    model = make(cls=cls, kernel=kernel)
    mask = torch.ones(3, 3)
    mask[0, 1] = mask[2, 0] = mask[2, 2] = 0
    model.set_attn_implementation("eager")
    wanted = model(IDS, head_mask=mask, return_dict=False)[0]
    model.prune_heads(HEADS_LEFT)
    model.set_attn_implementation(kernel)
    torch.testing.assert_close(model(IDS, return_dict=False)[0], wanted)
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path, torch_dtype="float64", attn_implementation=kernel)
    assert again.config.pruned_heads == HEADS_LEFT
    assert torch.equal(again(IDS, return_dict=False)[0], model(IDS, return_dict=False)[0])


def test_pruning_leaves_cross_attention_whole_and_its_mask_over_all_heads() -> None:
    model = make("cross_attention")
    model.prune_heads({layer: [1] for layer in range(3)})
    mask = torch.tensor([0.5, 0.7, 1.3], dtype=torch.float64)
    output = model(IDS, encoder_hidden_states=STATES, head_mask=mask, output_attentions=True)
    assert [weights.shape[1] for weights in output.attentions] == [2, 2, 2]
    assert [weights.shape[1] for weights in output.cross_attentions] == [3, 3, 3]
    row = output.cross_attentions[0].sum(-1)[0, :, 0]
    torch.testing.assert_close(row, mask)
    short = mask[[0, 2]]
    torch.testing.assert_close(model(IDS, head_mask=mask).logits, model(IDS, head_mask=short).logits)
    with pytest.raises(InputError, match=r"head_mask should have the shape \[3\].*but it is \[2\]"):
        model(IDS, encoder_hidden_states=STATES, head_mask=short)


def test_a_head_mask_as_wide_as_some_layers_only_is_refused() -> None:
    model = make()
    model.prune_heads(HEADS_LEFT)
    for mask in (torch.ones(2), torch.ones(3, 2), torch.ones(3, B, 2, T, T)):
        with pytest.raises(InputError, match=r"head_mask should have the shape \[3\]"):
            model(IDS, head_mask=mask)


# --------------------------------------------------------------------------- what is refused


def past_of(S: int = 2, **changed: Any) -> tuple[tuple[Tensor, ...], ...]:
    """Return a past of the tiny model; `at` (layer, number) gets a tensor of another shape."""
    pairs = [[torch.zeros(B, 3, S, 11, dtype=torch.float64) for _ in range(2)] for _ in range(3)]
    if changed:
        layer, number = changed["at"]
        pairs[layer][number] = torch.zeros(changed["shape"], dtype=torch.float64)
    return tuple(tuple(pair) for pair in pairs)


PASTS: dict[str, tuple[Any, str]] = {
    "other layers": (past_of()[:2], "has 2 layers and the model has 3"),
    "no layers": ((), "has 0 layers and the model has 3"),
    "one tensor a layer": (tuple(pair[:1] for pair in past_of()), r"a pair \(key, value\) for each layer"),
    "four tensors a layer": (tuple(pair * 2 for pair in past_of()), r"a pair \(key, value\) for each layer"),
    "no tensors": (((1, 2),) * 3, r"a pair \(key, value\) for each layer"),
    "merged heads": (((torch.zeros(B, 2, 33),) * 2,) * 3, r"a pair \(key, value\) for each layer"),
    "other sequences": (((torch.zeros(7, 3, 2, 11),) * 2,) * 3, "holds 7 sequences and the input 2"),
    "other sequences in one layer": (
        past_of(at=(1, 0), shape=(1, 3, 2, 11)),
        r"past_key_values\[1\] should have the shape \[2, 3, 2, 11\], but it is \[1, 3, 2, 11\]",
    ),
    "other heads": (past_of(at=(2, 1), shape=(B, 1, 2, 11)), r"\[2\] should .* but it is \[2, 1, 2, 11\]"),
    "other width": (past_of(at=(0, 0), shape=(B, 3, 2, 7)), r"\[0\] should .* but it is \[2, 3, 2, 7\]"),
    "other length": (past_of(at=(2, 0), shape=(B, 3, 1, 11)), r"\[2\] should .* but it is \[2, 3, 1, 11\]"),
    "value longer": (past_of(at=(0, 1), shape=(B, 3, 5, 11)), r"\[0\] should .* but it is \[2, 3, 5, 11\]"),
    "some layers empty": (past_of(0, at=(1, 0), shape=(B, 3, 2, 11)), r"\[1\] should .* \[2, 3, 0, 11\]"),
}


@pytest.mark.parametrize("case", PASTS)
def test_a_past_that_is_not_of_this_model_and_batch_is_refused(case: str) -> None:
    given, sentence = PASTS[case]
    with pytest.raises(InputError, match=sentence):
        make()(IDS, past_key_values=given)


@pytest.mark.parametrize("cls", WITH_PAST)
def test_the_past_of_a_model_fits_it_and_an_empty_one_too(cls: type[Any]) -> None:
    model = make(cls=cls)
    past = model(IDS[:, :3]).past_key_values
    whole = model(IDS).past_key_values
    for given in (past, past.to_legacy()):
        longer = model(IDS[:, 3:], past_key_values=given).past_key_values
        torch.testing.assert_close(longer[2][1], whole[2][1])
    torch.testing.assert_close(model(IDS, past_key_values=past_of(0)).past_key_values[2][1], whole[2][1])


def test_the_past_of_a_pruned_model_has_the_heads_that_are_left() -> None:
    model = make()
    whole = model(IDS[:, :3]).past_key_values
    model.prune_heads(HEADS_LEFT)
    past = model(IDS[:, :3]).past_key_values
    torch.testing.assert_close(model(IDS[:, 3:], past_key_values=past).logits, model(IDS).logits[:, 3:])
    with pytest.raises(InputError, match=r"past_key_values\[0\] should have the shape \[2, 2, 3, 11\], but"):
        model(IDS[:, 3:], past_key_values=whole)


ELSEWHERE: dict[str, Any] = {
    "input_ids": IDS,
    "inputs_embeds": torch.zeros(B, T, 33, dtype=torch.float64),
    "attention_mask": torch.ones(B, T),
    "token_type_ids": IDS,
    "position_ids": torch.arange(T)[None],
    "head_mask": torch.ones(3, 3),
    "encoder_hidden_states": STATES,
    "encoder_attention_mask": torch.ones(B, E),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_tensor_on_another_device_is_refused_by_its_name(name: str) -> None:
    given = {"input_ids": IDS} if name != "inputs_embeds" else {}
    given |= {"encoder_hidden_states": STATES} if name.startswith("encoder") else {}
    model = make("cross_attention")
    here = given | {name: ELSEWHERE[name]}
    there = given | {name: ELSEWHERE[name].to("meta")}
    model(**here)
    with pytest.raises(InputError, match=f"^{name} is on meta and the model on cpu"):
        model(**there)
    with pytest.raises(InputError, match=r"^input(s_embeds|_ids) is on cpu and the model on meta"):
        model.to("meta")(**here)


def test_a_past_on_another_device_is_refused_in_whichever_layer() -> None:
    pairs = [list(pair) for pair in past_of()]
    pairs[2][1] = pairs[2][1].to("meta")
    with pytest.raises(InputError, match=r"^past_key_values is on meta and the model on cpu"):
        make()(IDS, past_key_values=pairs)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a list": (
        {"input_ids": IDS.tolist()},
        "input_ids should be a tensor, but it is a list.*return_tensors=",
    ),
    "an array": (
        {"attention_mask": np.ones((B, T))},
        "attention_mask should be a tensor, but it is a ndarray",
    ),
    "ids of floats": ({"input_ids": IDS.float()}, r"input_ids should hold ids.*its dtype is torch\.float32"),
    "types of booleans": ({"token_type_ids": IDS > 3}, r"token_type_ids should hold ids.*torch\.bool"),
    "places of floats": ({"position_ids": torch.ones(B, T)}, "position_ids should hold ids"),
    "embeddings of integers": (
        {"input_ids": None, "inputs_embeds": torch.ones(B, T, 33, dtype=torch.long)},
        r"inputs_embeds should hold floating-point numbers.*torch\.int64",
    ),
    "encoder of integers": (
        {"encoder_hidden_states": torch.ones(B, E, 33, dtype=torch.long)},
        "encoder_hidden_states should hold floating-point numbers",
    ),
    "encoder of no positions": (
        {"encoder_hidden_states": STATES[:, :0]},
        r"encoder_hidden_states should have the shape \[2, positions, 33\], but it is \[2, 0, 33\]",
    ),
    "encoder of another batch": (
        {"encoder_hidden_states": STATES.repeat(2, 1, 1)},
        r"encoder_hidden_states should have the shape \[2,.*but it is \[4, 7, 33\]",
    ),
    "encoder mask of other queries": (
        {"encoder_hidden_states": STATES, "encoder_attention_mask": torch.ones(B, 4, E)},
        r"encoder_attention_mask should have the shape \[2, 7\] or \[2, 5, 7\], but it is \[2, 4, 7\]",
    ),
    "mask the other way round": (
        {"attention_mask": torch.ones(T, B)},
        r"attention_mask should have the shape \[2, 5\], but it is \[5, 2\]",
    ),
    "mask of one number": (
        {"input_ids": IDS[:1, :1], "attention_mask": torch.ones(())},
        "attention_mask should",
    ),
    "head mask of other layers": ({"head_mask": torch.ones(2, 3)}, r"head_mask .*but it is \[2, 3\]"),
    "head mask of another batch": ({"head_mask": torch.ones(3, 7, 3, T, T)}, r"but it is \[3, 7, 3, 5, 5\]"),
    "head mask of other queries": ({"head_mask": torch.ones(3, B, 3, 4, T)}, r"but it is \[3, 2, 3, 4, 5\]"),
    "head mask of other keys": ({"head_mask": torch.ones(3, B, 3, T, E)}, r"but it is \[3, 2, 3, 5, 7\]"),
    "head mask of three axes": ({"head_mask": torch.ones(3, 3, 1)}, r"but it is \[3, 3, 1\]"),
    "head mask of keys that the encoder does not have": (
        {"head_mask": torch.ones(3, B, 3, T, T), "encoder_hidden_states": STATES},
        r"head_mask should have the shape \[3\], \[3, 3\] or \[3, 2, 3, 5, 1\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("kernel", ["eager", "auto"])
def test_arguments_of_another_kind_or_size_are_refused(case: str, kernel: str) -> None:
    given, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        make("cross_attention", kernel=kernel)(**({"input_ids": IDS} | given))
