"""torch.compile: one graph for each kind of call, the same numbers, and no new graph for each length."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._pytree import tree_leaves

from cases import tiny_config
from gpt2kit import (
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

N = 5  # labels of the classifiers
CLASSES = (
    GPT2Model,
    GPT2LMHeadModel,
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2ForQuestionAnswering,
)


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch._dynamo.reset()


def make(cls: Any = GPT2LMHeadModel, kernel: str = "auto", **changes: Any) -> Any:
    torch.manual_seed(7)
    kind = "single_label_classification"
    model = (
        cls(tiny_config(**{"n_layer": 2, "num_labels": N, "problem_type": kind} | changes)).double().eval()
    )
    model.set_attn_implementation(kernel)
    return model


def compiled(model: Any, backend: str = "eager", **options: Any) -> tuple[Any, CompileCounterWithBackend]:
    """Return a model that fails where its graph would break, and the counter of its graphs."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, backend=counter, fullgraph=True, **options), counter


def ids(B: int, T: int) -> Tensor:
    return torch.randint(1, 101, (B, T), generator=torch.Generator().manual_seed(B * 100 + T))  # [B, T]


def arguments(cls: Any, B: int, T: int) -> dict[str, Tensor]:
    """Return ids, a mask and every label of a class."""
    mask = torch.ones(B, T, dtype=torch.long)  # [B, T]
    mask[0, :2] = 0
    labels: dict[Any, dict[str, Tensor]] = {
        GPT2LMHeadModel: {"labels": ids(B, T)},
        GPT2DoubleHeadsModel: {"labels": ids(B, T), "mc_labels": torch.tensor(1)},
        GPT2ForSequenceClassification: {"labels": torch.arange(B) % N},
        GPT2ForTokenClassification: {"labels": ids(B, T) % N},
        GPT2ForQuestionAnswering: {
            "start_positions": torch.arange(B) % T,
            "end_positions": torch.arange(B) % T + 1,
        },
    }
    return {"input_ids": ids(B, T), "attention_mask": mask} | labels.get(cls, {})


def assert_same(given: Any, wanted: Any) -> None:
    assert type(given) is type(wanted)
    given, wanted = tree_leaves(given), tree_leaves(wanted)
    assert len(given) == len(wanted) > 0
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def assert_same_gradients(model: Any, given: Any, wanted: Any) -> None:
    """Compare the gradients of the losses, or of the hidden states where there is none."""
    found = []
    for output in (given, wanted):
        model.zero_grad()
        losses = [value for name, value in output.items() if name in ("loss", "mc_loss")]
        sum(losses or [output.last_hidden_state.square().sum()]).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-10, atol=1e-10, msg=name)


# --------------------------------------------------------------------------- one graph


@pytest.mark.parametrize(("cls", "kernel"), [*((cls, "auto") for cls in CLASSES), (GPT2LMHeadModel, "eager")])
def test_forward_and_backward_are_one_graph_for_any_batch_and_length(cls: Any, kernel: str) -> None:
    model = make(cls, kernel, n_layer=1)
    fast, graphs = compiled(model, dynamic=True)
    for B, T in ((4, 7), (6, 12), (8, 9)):  # no size of the model's, which a compiler would take for the same
        given = arguments(cls, B, T)
        one, other = fast(**given), model(**given)
        assert_same(one, other)
        assert_same_gradients(model, one, other)
    assert graphs.frame_count == 1


def test_the_backward_pass_is_compiled_too() -> None:
    model = make()
    fast, graphs = compiled(model, "aot_eager")
    one, other = (call(**arguments(GPT2LMHeadModel, 4, 7)) for call in (fast, model))
    assert_same(one, other)
    assert_same_gradients(model, one, other)
    assert graphs.frame_count == 1


def test_decoding_makes_three_graphs_and_no_more() -> None:
    """One for the prompt, one for its cache, one for the steps' caches, which lie in memory otherwise."""
    model = make()
    fast, graphs = compiled(model, dynamic=True)
    with torch.no_grad():
        past = fast(ids(4, 6)).past_key_values
        for step in range(4):
            given = fast(ids(4, 1) + step, past_key_values=past)
            assert_same(given, model(ids(4, 1) + step, past_key_values=past))
            past = given.past_key_values
    assert graphs.frame_count == 3


def test_without_asking_for_it_the_second_length_makes_the_graph_dynamic() -> None:
    model = make()
    fast, graphs = compiled(model)
    for T in (5, 7, 11, 13):
        assert_same(fast(ids(2, T), use_cache=False), model(ids(2, T), use_cache=False))
    assert graphs.frame_count == 2


def test_every_argument_is_compiled() -> None:
    model = make(add_cross_attention=True, output_attentions=True, output_hidden_states=True)
    fast, graphs = compiled(model)
    with torch.no_grad():
        past = model(ids(2, 4), use_cache=True).past_key_values
    given = {
        "input_ids": ids(2, 5),
        "past_key_values": past.to_legacy(),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9]),
        "token_type_ids": ids(2, 5),
        "position_ids": torch.arange(5)[None],
        "head_mask": torch.rand(2, 3, dtype=torch.float64),
        "encoder_hidden_states": torch.randn(2, 7, 33, dtype=torch.float64),
        "encoder_attention_mask": torch.tensor([[0] + [1] * 6, [1] * 7]),
        "labels": ids(2, 5),
    }
    assert_same(fast(**given), model(**given))
    assert graphs.frame_count == 1


def test_dropout_and_gradient_checkpointing_are_compiled() -> None:
    model = make(embd_pdrop=0.1, resid_pdrop=0.1, attn_pdrop=0.1).train()
    model.gradient_checkpointing_enable()
    fast, graphs = compiled(model, "aot_eager")
    given = arguments(GPT2LMHeadModel, 2, 5) | {"use_cache": False}
    fast(**given).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert graphs.frame_count == 1


def test_the_loss_in_chunks_is_one_graph() -> None:
    model = make()
    fast, graphs = compiled(model, "aot_eager")
    given = {"input_ids": ids(2, 7), "labels": ids(2, 7), "use_cache": False}
    one, other = fast(**given, loss_chunk_size=5), model(**given)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-12, atol=0)
    assert_same_gradients(model, one, other)
    assert graphs.frame_count == 1


# --------------------------------------------------------------------------- compiled for this machine


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_computes_the_same(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, ids_of_two = make(n_layer=1).float(), ids(2, 5)
    with torch.no_grad():
        given, wanted = (
            call(ids_of_two, use_cache=False) for call in (torch.compile(model, fullgraph=True), model)
        )
    torch.testing.assert_close(given.logits, wanted.logits, rtol=1e-5, atol=1e-5)  # measured 6e-7
