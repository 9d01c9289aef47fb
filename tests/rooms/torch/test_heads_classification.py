"""Classification of texts and of tokens: which token is read, which loss is meant, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cases import random_checkpoint, tiny_config
from drivers import TorchDriver
from gpt2kit import GPT2ForSequenceClassification, GPT2ForTokenClassification
from gpt2kit.checkpoint import HEADS
from gpt2kit.errors import ConfigError, InputError

IDS = torch.tensor([[2, 3, 5, 7, 11], [13, 17, 19, 23, 29]])
PAD = 100
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def make(cls: str = "GPT2ForSequenceClassification", num_labels: int = 7, **changes: Any) -> Any:
    config = tiny_config(num_labels=num_labels, **changes)
    return TorchDriver().build(config, random_checkpoint(config, seed=3, head=HEADS[cls]), cls=cls)


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three tokens of the first text and all of the second, and their mask."""
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    if side == "left":
        ids[0], mask[0] = torch.tensor([PAD, PAD, 2, 3, 5]), torch.tensor([0, 0, 1, 1, 1])
    else:
        ids[0], mask[0] = torch.tensor([2, 3, 5, PAD, PAD]), torch.tensor([1, 1, 1, 0, 0])
    return ids, mask


def alone() -> torch.Tensor:
    model = make()
    return torch.cat([model(IDS[:1, :3]).logits, model(IDS[1:]).logits])


# --------------------------------------------------------------------------- the last token


@pytest.mark.parametrize("pad_token_id", [None, PAD, 2])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float64])
def test_the_mask_tells_the_last_token_on_either_side(
    side: str, pad_token_id: int | None, dtype: torch.dtype
) -> None:
    ids, mask = padded(side)
    logits = make(pad_token_id=pad_token_id)(ids, attention_mask=mask.to(dtype)).logits
    torch.testing.assert_close(logits, alone(), **CLOSE)


def test_a_mask_that_hides_nothing_wins_over_the_padding_token() -> None:
    ids = IDS.clone()
    ids[0, 2] = PAD  # a token like any other, because the mask shows it
    logits = make(pad_token_id=PAD)(ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(logits[:1], make()(ids[:1]).logits, **CLOSE)


def test_without_a_mask_the_padding_token_tells_as_in_4_34() -> None:
    model = make(pad_token_id=PAD)
    right, _ = padded("right")
    torch.testing.assert_close(model(right).logits, alone(), **CLOSE)
    left, _ = padded("left")
    torch.testing.assert_close(model(left).logits[:1], make()(left[:1]).logits, **CLOSE)
    torch.testing.assert_close(
        model(IDS).logits, make()(IDS, attention_mask=torch.ones(2, 5)).logits, **CLOSE
    )


def test_one_row_needs_neither() -> None:
    torch.testing.assert_close(make()(IDS[1:]).logits, alone()[1:], **CLOSE)


def test_a_batch_whose_last_tokens_nothing_tells_is_refused_before_the_model_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make()
    monkeypatch.setattr(model.transformer, "forward", lambda *_, **__: pytest.fail("the model ran"))
    for given in ({"input_ids": IDS}, {"inputs_embeds": torch.zeros(2, 5, 33, dtype=torch.float64)}):
        with pytest.raises(InputError, match=r"last in each of 2 rows\?.*attention_mask.*pad_token_id"):
            model(**given)


def test_a_row_that_is_all_padding_is_refused_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    monkeypatch.setattr(model.transformer, "forward", lambda *_, **__: pytest.fail("the model ran"))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    with pytest.raises(InputError, match="hides all of a row"):
        model(IDS, attention_mask=mask)


def test_embeddings_are_read_by_the_mask_or_at_the_last_position(caplog: pytest.LogCaptureFixture) -> None:
    model = make(pad_token_id=PAD)
    ids, mask = padded("right")
    embeds = model.transformer.wte(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds, attention_mask=mask).logits, alone(), **CLOSE)
    with caplog.at_level(logging.WARNING):
        last = model(inputs_embeds=model.transformer.wte(IDS)).logits
    assert "Padding cannot be seen in inputs_embeds" in caplog.text
    torch.testing.assert_close(last, model(IDS).logits, **CLOSE)


@pytest.mark.parametrize("shown", [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]], ids=str)
def test_a_text_can_go_on_from_a_cache(shown: list[int]) -> None:
    model = make()
    mask = torch.tensor([shown, [1, 1, 1, 1, 1]])
    whole = model(IDS, attention_mask=mask).logits
    past = model(IDS[:, :3], attention_mask=mask[:, :3]).past_key_values
    rest = model(IDS[:, 3:], attention_mask=mask, past_key_values=past).logits
    torch.testing.assert_close(rest, whole, **CLOSE)
    mask[0] = torch.tensor([1, 1, 1, 0, 0])  # the last token is in the past, and its state is gone
    with pytest.raises(InputError, match="hides all of a row"):
        model(IDS[:, 3:], attention_mask=mask, past_key_values=past)


@pytest.mark.parametrize("ids", [IDS[0], IDS[:, None]])
def test_anything_but_rows_of_ids_is_refused(ids: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"input_ids should have the shape \[batch, positions\]"):
        make(pad_token_id=PAD)(ids)


# --------------------------------------------------------------------------- which loss


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [
        (1, torch.tensor([0.5, -2.0]), "regression"),
        (1, torch.tensor([[0.5], [-2.0]]), "regression"),
        (1, torch.tensor([3, 1]), "regression"),
        (7, torch.tensor([6, 0]), "single_label_classification"),
        (7, torch.tensor([6, 0], dtype=torch.int32), "single_label_classification"),
        (7, torch.tensor([[6], [0]]), "single_label_classification"),
        (7, torch.eye(7)[[6, 0]], "multi_label_classification"),
        (7, torch.eye(7)[[6, 0]].bool(), "multi_label_classification"),
    ],
    ids=str,
)
def test_the_first_labels_decide_the_problem_and_the_configuration_keeps_it(
    num_labels: int, labels: torch.Tensor, problem_type: str
) -> None:
    model = make(num_labels=num_labels, pad_token_id=PAD)
    output = model(IDS, labels=labels)
    assert model.config.problem_type == problem_type
    if problem_type == "regression":
        wanted = ((output.logits[:, 0] - labels.view(2).double()) ** 2).mean()
    elif problem_type == "single_label_classification":
        wanted = -output.logits.log_softmax(-1)[[0, 1], labels.view(2).long()].mean()
    else:
        wanted = F.binary_cross_entropy(output.logits.sigmoid(), labels.double())
    torch.testing.assert_close(output.loss, wanted)
    output.loss.backward()
    assert model.score.weight.grad.abs().sum() > 0


def test_the_problem_of_the_configuration_decides() -> None:
    whole_numbers = torch.tensor([[1, 0, 0, 1, 0, 0, 1], [0] * 7])
    several = make(problem_type="multi_label_classification", pad_token_id=PAD)(IDS, labels=whole_numbers)
    wanted = F.binary_cross_entropy_with_logits(several.logits, whole_numbers.double())
    torch.testing.assert_close(several.loss, wanted)
    regression = make(problem_type="regression", pad_token_id=PAD)(IDS, labels=whole_numbers)
    torch.testing.assert_close(regression.loss, ((regression.logits - whole_numbers) ** 2).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_labels", [1, 7])
def test_labels_of_a_regression_keep_their_digits_in_a_short_type(
    num_labels: int, dtype: torch.dtype
) -> None:
    """In bfloat16 1000.3 would be 1000, and its square is beyond float16."""
    model = make(num_labels=num_labels, problem_type="regression", pad_token_id=PAD).to(dtype)
    labels = torch.tensor([[1000.3] * num_labels, [-2.123] * num_labels])
    output = model(IDS, labels=labels)
    torch.testing.assert_close(output.loss, ((output.logits.float() - labels) ** 2).mean())
    output.loss.backward()
    assert model.score.weight.grad.isfinite().all()


def test_one_label_for_one_row_needs_no_axis() -> None:
    model = make(problem_type=None)
    assert torch.equal(
        model(IDS[:1], labels=torch.tensor(4)).loss, model(IDS[:1], labels=torch.tensor([4])).loss
    )
    regression = make(num_labels=1)
    assert torch.equal(
        regression(IDS[:1], labels=torch.tensor(0.5)).loss,
        regression(IDS[:1], labels=torch.tensor([0.5])).loss,
    )


def test_a_problem_that_was_assigned_and_is_none_is_refused() -> None:
    model = make(pad_token_id=PAD)
    model.config.problem_type = "ranking"
    with pytest.raises(InputError, match=r"problem_type='ranking'.*'regression'"):
        model(IDS, labels=torch.rand(2, 7))
    assert torch.isfinite(model(IDS).logits).all()


def test_a_refusal_says_where_the_problem_comes_from() -> None:
    model = make(pad_token_id=PAD)
    with pytest.raises(
        InputError, match=r"'multi_label_classification' wants .*num_labels=7 and torch.float32"
    ):
        model(IDS, labels=torch.tensor([0.0, 1.0]))
    model(IDS, labels=torch.tensor([0, 1]))
    with pytest.raises(
        InputError, match=r"'single_label_classification' wants .* None lets the next labels decide"
    ):
        model(IDS, labels=torch.rand(2, 7))
    model.config.problem_type = None
    assert model(IDS, labels=torch.rand(2, 7)).loss.isfinite()


def test_refused_labels_decide_nothing() -> None:
    model = make(pad_token_id=PAD)
    with pytest.raises(InputError):
        model(IDS, labels=torch.tensor([7, 0]))
    assert model.config.problem_type is None


def test_a_text_labelled_minus_100_does_not_count() -> None:
    model = make(pad_token_id=PAD)
    both = model(IDS, labels=torch.tensor([-100, 4]))
    torch.testing.assert_close(both.loss, F.cross_entropy(both.logits[1:], torch.tensor([4])))


SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"


@pytest.mark.parametrize(
    ("config", "labels", "sentence"),
    [
        ({}, torch.tensor([7, 0]), r"labels holds 7, .* 0 to 6 \(num_labels=7\).*-100"),
        ({}, torch.tensor([-1, 0]), "labels holds -1"),
        ({}, torch.tensor([1, 0, 2]), r"shape \[2\], but it is \[3\]"),
        ({}, torch.ones(2, 7, dtype=torch.long), r"shape \[2\].*one class for each row"),
        ({}, torch.tensor([0.0, 1.0]), r"labels should have the shape \[2, 7\], but it is \[2\]"),
        ({}, torch.full((2, 8), 0.5), r"\[2, 7\], but it is \[2, 8\]"),
        ({}, torch.full((2, 7), 1.5), "labels holds 1.5, and each should say from 0 to 1"),
        ({"problem_type": SINGLE}, torch.tensor([0.0, 1.0]), "whole numbers.*float32.*one class"),
        (
            {"problem_type": SINGLE, "num_labels": 1},
            torch.tensor([0, 0]),
            "leaves nothing to choose.*regression",
        ),
        ({"problem_type": SEVERAL}, torch.tensor([0, 1]), r"\[2, 7\]"),
        ({"problem_type": SEVERAL}, torch.full((2, 7), -100), "labels holds -100"),
        ({"problem_type": "regression"}, torch.tensor([0.0, 1.0]), r"\[2, 7\]"),
        ({"num_labels": 1}, torch.full((2, 7), 0.5), r"\[2\], but it is \[2, 7\]"),
    ],
    ids=str,
)
def test_labels_that_do_not_fit_are_refused_before_the_model_runs(
    config: dict[str, Any], labels: torch.Tensor, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(**({"pad_token_id": PAD} | config))
    monkeypatch.setattr(model.transformer, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=sentence):
        model(IDS, labels=labels)


def test_an_unknown_problem_is_refused_by_the_configuration() -> None:
    with pytest.raises(ConfigError, match="problem_type"):
        GPT2ForSequenceClassification(tiny_config(problem_type="ranking"))


# --------------------------------------------------------------------------- tokens


def test_each_token_is_scored_and_labelled() -> None:
    model = make("GPT2ForTokenClassification")
    labels = torch.tensor([[6, 0, -100, 3, 1], [2, -100, 5, 4, 0]])
    output = model(IDS, labels=labels)
    assert output.logits.shape == (2, 5, 7)
    counted = labels >= 0
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits[counted], labels[counted]))
    assert torch.equal(model(IDS, labels=labels.int()).loss, output.loss)
    assert not hasattr(output, "past_key_values")


def test_choices_of_tokens_are_scored_too() -> None:
    model = make("GPT2ForTokenClassification")
    together = model(IDS[:, None], labels=IDS[:, None] % 7)
    assert together.logits.shape == (2, 1, 5, 7)
    assert torch.equal(together.loss, model(IDS, labels=IDS % 7).loss)


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({}, 0.1),
        ({"hidden_dropout": 0.3}, 0.3),
        ({"hidden_dropout": 0.3, "classifier_dropout": 0.7}, 0.7),
        ({"hidden_dropout": 0.3, "classifier_dropout": None}, 0.3),
        ({"classifier_dropout": 0.0, "hidden_dropout": 0.3}, 0.0),
    ],
    ids=str,
)
def test_the_dropout_before_the_classifier_is_found_as_in_4_34(changes: dict[str, Any], rate: float) -> None:
    model = GPT2ForTokenClassification(tiny_config(**changes))
    assert model.dropout.p == rate
    if rate in (0.3, 0.7):
        model.classifier.weight.data.fill_(1.0)
        model.train()
        torch.manual_seed(0)
        kept = (model.dropout(torch.ones(10000)) != 0).double().mean()
        assert abs(float(kept) - (1 - rate)) < 0.03
        first, second = model(IDS).logits, model(IDS).logits
        assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["classifier_dropout", "hidden_dropout"])
def test_a_rate_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a number from 0 to 1"):
        tiny_config(**{name: 2})


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.full((2, 5), 7), r"labels holds 7, .*num_labels=7"),
        (torch.zeros(2, 4, dtype=torch.long), r"shape \[2, 5\], but it is \[2, 4\]"),
        (torch.zeros(10, dtype=torch.long), r"shape \[2, 5\], but it is \[10\]"),
        (torch.zeros(2, 5), "whole numbers"),
        (torch.zeros(2, 5, dtype=torch.bool), "whole numbers.*bool"),
    ],
    ids=str,
)
def test_labels_of_tokens_that_do_not_fit_are_refused_before_the_model_runs(
    labels: torch.Tensor, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("GPT2ForTokenClassification")
    monkeypatch.setattr(model.transformer, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=sentence):
        model(IDS, labels=labels)
