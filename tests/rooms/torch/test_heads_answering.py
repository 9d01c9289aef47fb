"""GPT2ForQuestionAnswering: spans inside and outside of the sequence, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cases import random_checkpoint, tiny_config
from drivers import TorchDriver
from gpt2kit.errors import InputError

IDS = torch.tensor([[2, 3, 5, 7, 11], [13, 17, 19, 23, 29]])


def make(**changes: Any) -> Any:
    config = tiny_config(**changes)
    weights = random_checkpoint(config, seed=3, head="question_answering")
    return TorchDriver().build(config, weights, cls="GPT2ForQuestionAnswering")


def spans(*pairs: tuple[int, int]) -> dict[str, torch.Tensor]:
    start, end = zip(*pairs, strict=True)
    return {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}


def test_start_and_end_are_scored_at_every_position() -> None:
    model = make()
    output = model(IDS, output_hidden_states=True)
    both = output.hidden_states[-1] @ model.qa_outputs.weight.T + model.qa_outputs.bias
    torch.testing.assert_close(output.start_logits, both[..., 0])
    torch.testing.assert_close(output.end_logits, both[..., 1])
    assert output.start_logits.is_contiguous()
    assert output.end_logits.is_contiguous()


def test_the_loss_is_the_mean_of_both_ends() -> None:
    output = make()(IDS, **spans((1, 2), (0, 4)))
    start = F.cross_entropy(output.start_logits, torch.tensor([1, 0]))
    end = F.cross_entropy(output.end_logits, torch.tensor([2, 4]))
    torch.testing.assert_close(output.loss, (start + end) / 2)


@pytest.mark.parametrize("beyond", [5, 6, 5000])
def test_an_end_beyond_the_sequence_does_not_count(beyond: int) -> None:
    output = make()(IDS, **spans((1, 2), (3, beyond)))
    start = F.cross_entropy(output.start_logits, torch.tensor([1, 3]))
    end = F.cross_entropy(output.end_logits[:1], torch.tensor([2]))
    torch.testing.assert_close(output.loss, (start + end) / 2)


def test_positions_may_stand_in_a_column_or_be_small_integers() -> None:
    model, plain = make(), spans((1, 2), (0, 9))
    loss = model(IDS, **plain).loss
    assert torch.equal(model(IDS, **{name: value[:, None] for name, value in plain.items()}).loss, loss)
    assert torch.equal(model(IDS, **{name: value.int() for name, value in plain.items()}).loss, loss)


def test_a_position_below_0_counts_as_0_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model = make()
    with caplog.at_level(logging.WARNING):
        losses = [model(IDS, **spans((-1, 2), (0, -100))).loss for _ in range(2)]
    assert torch.equal(losses[0], model(IDS, **spans((0, 2), (0, 0))).loss)
    assert len(caplog.records) == 1
    assert "counts as position 0" in caplog.text


def test_padding_changes_nothing_for_what_it_does_not_hold() -> None:
    model = make()
    ids, mask = torch.tensor([[99, 99, 2, 3, 5]]), torch.tensor([[0, 0, 1, 1, 1]])
    output, alone = model(ids, attention_mask=mask), model(IDS[:1, :3])
    torch.testing.assert_close(output.start_logits[:, 2:], alone.start_logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.end_logits[:, 2:], alone.end_logits, rtol=1e-12, atol=1e-12)


def test_it_has_two_outputs_whatever_number_of_labels_was_set() -> None:
    assert make(num_labels=7).qa_outputs.weight.shape == (2, 33)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"start_positions": torch.tensor([1, 2])}, "start_positions came without end_positions"),
        ({"end_positions": torch.tensor([1, 2])}, "end_positions came without start_positions"),
        (spans((1, 2)), r"start_positions should have the shape \[2\], but it is \[1\]"),
        (
            spans((1, 2), (0, 1)) | {"end_positions": torch.zeros(2, 3, dtype=torch.long)},
            r"end_positions should have the shape \[2\], but it is \[2, 3\]",
        ),
        (
            spans((1, 2), (0, 1)) | {"end_positions": torch.full((2,), 0.5)},
            "end_positions should hold whole numbers",
        ),
    ],
    ids=str,
)
def test_spans_that_make_no_sense_are_refused_before_the_model_runs(
    given: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    monkeypatch.setattr(model.transformer, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=sentence):
        model(IDS, **given)
