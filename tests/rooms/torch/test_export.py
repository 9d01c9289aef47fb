"""Models as TorchScript and as exported programs: any class, any kernel, other sizes than those shown."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cases import SIZES, random_checkpoint, tiny_config
from gpt2kit import (
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)
from gpt2kit.errors import InputError
from gpt2kit.torch import GPT2Cache

CLASSES = (
    GPT2Model,
    GPT2LMHeadModel,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2ForQuestionAnswering,
)
KERNELS = ("eager", "sdpa")
ANY = torch.export.Dim.DYNAMIC
L, H, K = 2, 3, 11

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning"),
    # The exporter's own.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def make(cls: Any = GPT2LMHeadModel, kernel: str = "auto", **changes: Any) -> Any:
    """Make a float64 model in evaluation mode, of two layers unless told otherwise."""
    config = tiny_config(**{"n_layer": L, "num_labels": 5} | changes)
    if cls in (GPT2Model, GPT2LMHeadModel):
        state = {name: torch.from_numpy(values) for name, values in random_checkpoint(config).items()}
        if cls is GPT2Model:
            state.pop("lm_head.weight", None)
        model = cls.from_pretrained(None, config=config, state_dict=state, torch_dtype="float64")
    else:
        torch.manual_seed(7)
        model = cls(config).double().eval()
    model.set_attn_implementation(kernel)
    return model


def ids(B: int, T: int) -> Tensor:
    return torch.randint(1, 101, (B, T), generator=torch.Generator().manual_seed(B * 100 + T))  # [B, T]


def mask(B: int, S: int) -> Tensor:
    shown = torch.ones(B, S, dtype=torch.long)  # [B, S]
    shown[0, :1] = 0
    return shown


def past(B: int, S: int) -> tuple[tuple[Tensor, Tensor], ...]:
    generator = torch.Generator().manual_seed(S)
    return tuple(
        tuple(torch.randn(B, H, S, K, dtype=torch.float64, generator=generator) for _ in range(2))
        for _ in range(L)
    )  # L pairs of [B, H, S, K]


def everything(B: int, T: int, S: int, E: int) -> dict[str, Any]:
    """Return every argument of a forward of B sequences, of T positions after S others."""
    generator = torch.Generator().manual_seed(T)
    return {
        "input_ids": ids(B, T),
        "past_key_values": past(B, S),
        "attention_mask": mask(B, S + T),
        "token_type_ids": ids(B, T).flip(1),
        "position_ids": torch.arange(T).repeat(B, 1),
        "head_mask": torch.rand(L, H, generator=generator, dtype=torch.float64),
        "encoder_hidden_states": torch.randn(B, E, 33, generator=generator, dtype=torch.float64),
        "encoder_attention_mask": mask(B, E),
        "labels": ids(B, T),
    }


def assert_same(given: Any, wanted: Any) -> None:
    given, wanted = tree_leaves(given), tree_leaves(wanted)
    assert len(given) == len(wanted) > 0
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, equal_nan=True)


def saved_and_loaded(module: Any, package: Any) -> Any:
    file = io.BytesIO()
    package.save(module, file)
    file.seek(0)
    return package.load(file)


# --------------------------------------------------------------------------- TorchScript


@pytest.mark.parametrize("cls", CLASSES)
def test_a_traced_model_serves_other_batches_and_lengths_after_a_file(cls: Any) -> None:
    """No warning of the tracer is let pass: warnings are errors here."""
    model = make(cls, torchscript=True, n_layer=1)
    traced = torch.jit.trace(
        model, example_kwarg_inputs={"input_ids": ids(2, 5), "attention_mask": mask(2, 5)}
    )
    traced = saved_and_loaded(traced, torch.jit)
    for B, T in ((2, 5), (3, 13), (1, 2)):
        given = {"input_ids": ids(B, T), "attention_mask": mask(B, T)}
        wanted = model(**given)
        assert type(wanted) is tuple
        assert_same(traced(**given), wanted)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_model_traced_by_ids_alone_serves_other_sizes(kernel: str) -> None:
    model = make(kernel=kernel, torchscript=True)
    assert model.lm_head.weight is not model.transformer.wte.weight
    traced = torch.jit.trace(model, ids(2, 5))
    for B, T in ((3, 13), (1, 1)):
        assert_same(traced(ids(B, T)), model(ids(B, T)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shown", [1, 3])
def test_a_model_traced_with_a_past_serves_any_number_of_new_positions(kernel: str, shown: int) -> None:
    """One that was traced by a single new token has to hide the later ones of several."""
    model = make(kernel=kernel, torchscript=True)
    traced = torch.jit.trace(model, (ids(2, shown), past(2, 4)))
    for B, T, S in ((2, 1, 4), (3, 1, 7), (2, 5, 3), (1, 2, 11), (2, 3, 0)):
        assert_same(traced(ids(B, T), past(B, S)), model(ids(B, T), past(B, S)))


def test_every_argument_is_traced() -> None:
    model = make(
        torchscript=True, add_cross_attention=True, output_attentions=True, output_hidden_states=True
    )
    traced = torch.jit.trace(model, example_kwarg_inputs=everything(2, 5, 4, 7))
    for sizes in ((2, 5, 4, 7), (3, 2, 7, 5), (1, 1, 3, 11)):
        assert_same(traced(**everything(*sizes)), model(**everything(*sizes)))


def test_a_pruned_model_is_traced_with_a_mask_over_all_heads() -> None:
    model = make(torchscript=True)
    model.prune_heads({0: [1], 1: [0, 2]})
    traced = torch.jit.trace(
        model, example_kwarg_inputs={"input_ids": ids(2, 5), "head_mask": torch.ones(L, H)}
    )
    head_mask = torch.tensor([[0.5, 1.0, 2.0], [1.0, 0.3, 1.0]])
    assert_same(traced(input_ids=ids(3, 7), head_mask=head_mask), model(ids(3, 7), head_mask=head_mask))


def test_an_empty_past_is_not_traced() -> None:
    model = make(torchscript=True)
    with pytest.raises(InputError, match="An empty past cannot be traced"):
        torch.jit.trace(model, (ids(2, 3), past(2, 0)))


def test_what_does_not_fit_is_refused_in_a_trace_as_elsewhere() -> None:
    model = make(torchscript=True)
    with pytest.raises(
        InputError, match=r"attention_mask should have the shape \[2, 5\], but it is \[2, 4\]"
    ):
        torch.jit.trace(model, example_kwarg_inputs={"input_ids": ids(2, 5), "attention_mask": mask(2, 4)})


# --------------------------------------------------------------------------- torch.export


@pytest.mark.parametrize(("cls", "kernel"), [*((cls, "auto") for cls in CLASSES), (GPT2LMHeadModel, "eager")])
def test_an_exported_model_serves_other_batches_and_lengths_after_a_file(cls: Any, kernel: str) -> None:
    model = make(cls, kernel, n_layer=1)
    sizes = {0: ANY, 1: ANY}
    program = torch.export.export(
        model,
        (ids(2, 5),),
        {"attention_mask": mask(2, 5)},
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
    )
    exported = saved_and_loaded(program, torch.export).module()
    for B, T in ((2, 5), (3, 13), (5, 2)):
        given, wanted = (
            exported(ids(B, T), attention_mask=mask(B, T)),
            model(ids(B, T), attention_mask=mask(B, T)),
        )
        assert type(given) is type(wanted)
        assert list(given) == list(wanted)
        assert_same(given, wanted)


def test_a_model_is_exported_without_a_cache_or_with_a_loss() -> None:
    model = make()
    sizes = {0: ANY, 1: ANY}
    program = torch.export.export(
        model,
        (ids(2, 5),),
        {"labels": ids(2, 5), "use_cache": False},
        dynamic_shapes={"input_ids": sizes, "labels": sizes, "use_cache": None},
    ).module()
    given = program(ids(3, 7), labels=ids(3, 7), use_cache=False)
    assert list(given) == ["loss", "logits"]
    assert_same(given, model(ids(3, 7), labels=ids(3, 7), use_cache=False))


@pytest.mark.parametrize(("kernel", "as_cache"), [("sdpa", True), ("eager", False)])
def test_a_step_of_decoding_is_exported_for_any_past_after_a_file(
    kernel: str, as_cache: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(kernel=kernel)
    wrap = GPT2Cache if as_cache else tuple
    pair = ({0: ANY, 2: ANY},) * 2
    program = torch.export.export(
        model,
        (ids(2, 1),),
        {"past_key_values": wrap(past(2, 4)), "attention_mask": mask(2, 5)},
        dynamic_shapes={
            "input_ids": {0: ANY},
            "past_key_values": [pair] * L if as_cache else (pair,) * L,
            "attention_mask": {0: ANY, 1: ANY},
        },
    )
    loaded = saved_and_loaded(program, torch.export).module()
    told = [record.msg for record in caplog.records if "weights_only" in str(record.msg)]
    assert not told  # that the past had to be read as a pickle that may run code
    for B, S in ((2, 4), (3, 12), (5, 2)):
        given = loaded(ids(B, 1), past_key_values=wrap(past(B, S)), attention_mask=mask(B, S + 1))
        assert isinstance(given.past_key_values, GPT2Cache)
        assert_same(given, model(ids(B, 1), past_key_values=past(B, S), attention_mask=mask(B, S + 1)))


def test_every_argument_is_exported() -> None:
    model = make(add_cross_attention=True)
    rows, pair = {0: ANY, 1: ANY}, ({0: ANY, 2: ANY},) * 2
    program = torch.export.export(
        model,
        (),
        everything(2, 5, 4, 7),
        dynamic_shapes={
            name: {"past_key_values": (pair,) * L, "head_mask": None}.get(name, rows)
            for name in everything(2, 5, 4, 7)
        },
    ).module()
    for sizes in ((2, 5, 4, 7), (3, 3, 7, 5)):
        assert_same(program(**everything(*sizes)), model(**everything(*sizes)))


def test_exported_programs_write_the_text_that_generate_writes() -> None:
    model = make(eos_token_id=None)
    pair = ({0: ANY, 2: ANY},) * 2
    first = torch.export.export(model, (ids(2, 5),), dynamic_shapes=({0: ANY, 1: ANY},)).module()
    step = torch.export.export(
        model,
        (ids(2, 1), GPT2Cache(past(2, 4))),
        dynamic_shapes={"input_ids": {0: ANY}, "past_key_values": [pair] * L},
    ).module()
    text = ids(3, 4)  # [B, S]
    output = first(text)
    for _ in range(6):
        token = output.logits[:, -1:].argmax(-1)  # [B, 1]
        text = torch.cat((text, token), dim=1)  # [B, S]
        output = step(token, output.past_key_values)
    assert text.equal(model.generate(ids(3, 4), max_new_tokens=6))


def test_the_configuration_that_is_traced_gives_tuples_and_the_other_outputs() -> None:
    for torchscript in (True, False):
        model = GPT2Model(GPT2Config(**SIZES, torchscript=torchscript)).eval()
        assert (type(model(ids(1, 3))) is tuple) is torchscript
