"""GPT2DoubleHeadsModel: choices, the summary in each of its settings, generation, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cases import random_checkpoint, tiny_config
from drivers import TorchDriver
from gpt2kit import GPT2DoubleHeadsModel, GPT2LMHeadModel
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.torch import SequenceSummary, double

IDS = torch.randint(1, 101, (2, 3, 5), generator=torch.Generator().manual_seed(5))  # [B, C, T]


def make(**changes: Any) -> Any:
    config = tiny_config(**changes)
    weights = random_checkpoint(config, seed=3, head="double")
    return TorchDriver().build(config, weights, cls="GPT2DoubleHeadsModel")


def language_model(**changes: Any) -> Any:
    return GPT2LMHeadModel.from_pretrained(
        None, config=tiny_config(**changes), state_dict=make(**changes).state_dict(), torch_dtype="float64"
    )


# --------------------------------------------------------------------------- choices


def test_each_choice_is_a_text_of_its_own() -> None:
    model = make()
    together = model(IDS, mc_token_ids=torch.tensor([[4, 2, 0], [1, 3, 4]]), output_hidden_states=True)
    assert together.logits.shape == (2, 3, 5, 101)
    assert together.mc_logits.shape == (2, 3)
    assert together.hidden_states[0].shape == (6, 5, 33)
    assert together.hidden_states[-1].shape == (2, 3, 5, 33)
    for row, places in enumerate(([4, 2, 0], [1, 3, 4])):
        alone = model(IDS[row], mc_token_ids=torch.tensor(places))
        torch.testing.assert_close(together.logits[row], alone.logits, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.mc_logits[row], alone.mc_logits, rtol=1e-12, atol=1e-12)


def test_padding_of_a_choice_changes_nothing_where_its_last_token_is_named() -> None:
    model = make()
    padded, mask = IDS.clone(), torch.ones_like(IDS)
    padded[0, 1, 3:], mask[0, 1, 3:] = 77, 0
    output = model(padded, attention_mask=mask, mc_token_ids=torch.tensor([[4, 2, 4], [4, 4, 4]]))
    alone = model(IDS[0, 1, None, :3])
    torch.testing.assert_close(output.mc_logits[0, 1], alone.mc_logits[0], rtol=1e-12, atol=1e-12)


def test_without_places_the_last_position_is_read() -> None:
    model = make()
    named = model(IDS, mc_token_ids=torch.full((2, 3), 4)).mc_logits
    assert torch.equal(model(IDS).mc_logits, named)


def test_the_losses_are_those_of_both_heads() -> None:
    model, right = make(), torch.tensor([2, 0])
    output = model(IDS, labels=IDS, mc_labels=right)
    torch.testing.assert_close(output.mc_loss, F.cross_entropy(output.mc_logits, right))
    texts = language_model()(IDS.view(6, 5), labels=IDS.view(6, 5))
    torch.testing.assert_close(output.loss, texts.loss, rtol=1e-12, atol=1e-12)
    one = model(IDS[0], mc_labels=torch.tensor(2))
    torch.testing.assert_close(one.mc_loss, F.cross_entropy(one.mc_logits[None], right[:1]))
    assert torch.equal(model(IDS, mc_labels=right[:, None]).mc_loss, output.mc_loss)
    assert torch.equal(model(IDS, mc_labels=right.int()).mc_loss, output.mc_loss)


def test_a_question_labelled_minus_100_does_not_count() -> None:
    model = make()
    output = model(IDS, mc_labels=torch.tensor([-100, 1]))
    torch.testing.assert_close(output.mc_loss, F.cross_entropy(output.mc_logits[1:], torch.tensor([1])))


def test_a_choice_has_one_score_whatever_number_of_labels_was_set() -> None:
    model = make(num_labels=7)
    assert model.config.num_labels == 1
    assert model(IDS).mc_logits.shape == (2, 3)


# --------------------------------------------------------------------------- the summary


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
@pytest.mark.parametrize(
    ("summary_type", "wanted"),
    [
        ("last", lambda h: h[..., 4, :]),
        ("first", lambda h: h[..., 0, :]),
        ("mean", lambda h: h.sum(-2) / 5),
        ("cls_index", lambda h: h[..., 4, :]),
    ],
)
def test_a_summary_reads_positions_whatever_stands_before_them(
    leading: tuple[int, ...], summary_type: str, wanted: Any
) -> None:
    summary = SequenceSummary(tiny_config(summary_type=summary_type, summary_use_proj=False))
    hidden = torch.randn(*leading, 5, 33)
    torch.testing.assert_close(summary(hidden), wanted(hidden))


@pytest.mark.parametrize("summary_type", ["last", "first", "mean"])
def test_choices_are_summarized_each_by_itself(summary_type: str) -> None:
    model = make(summary_type=summary_type)
    together = model(IDS).mc_logits
    assert together.shape == (2, 3)
    for row in range(2):
        torch.testing.assert_close(together[row], model(IDS[row]).mc_logits, rtol=1e-12, atol=1e-12)


def test_a_summary_is_a_layer_and_an_activation() -> None:
    hidden = torch.randn(2, 5, 33)
    summary = SequenceSummary(tiny_config(num_labels=7, summary_activation="tanh", summary_type="first"))
    wanted = torch.tanh(hidden[:, 0] @ summary.summary.weight.T + summary.summary.bias)
    torch.testing.assert_close(summary(hidden), wanted)
    assert SequenceSummary(tiny_config(summary_proj_to_labels=False)).summary.weight.shape == (33, 33)
    assert not list(SequenceSummary(tiny_config(summary_use_proj=False)).parameters())


@pytest.mark.parametrize("name", ["summary_first_dropout", "summary_last_dropout"])
def test_each_dropout_of_the_summary_works_in_training_only(name: str) -> None:
    summary = SequenceSummary(
        tiny_config(**{name: 0.5}, summary_use_proj=False, summary_activation="sigmoid", summary_type="mean")
    )
    hidden = torch.randn(1, 5, 33)
    kept = torch.sigmoid(hidden.mean(1))
    assert torch.equal(summary.eval()(hidden), kept)
    dropped = summary.train()(hidden)
    silent = torch.sigmoid(torch.zeros(())) if name == "summary_first_dropout" else torch.zeros(())
    assert 0 < int((dropped == silent).sum()) < 33
    torch.testing.assert_close(
        dropped[dropped != silent],
        (torch.sigmoid(2 * hidden.mean(1)) if name == "summary_first_dropout" else 2 * kept)[
            dropped != silent
        ],
    )


def test_the_first_dropout_stands_before_the_layer() -> None:
    summary = SequenceSummary(tiny_config(summary_first_dropout=0.5, summary_type="first")).train()
    hidden = torch.randn(1, 5, 33)
    torch.manual_seed(3)
    given = summary(hidden)
    torch.manual_seed(3)
    assert torch.equal(given, summary.summary(F.dropout(hidden[:, 0], 0.5)))


def test_attn_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double, "GPT2Model", lambda _: pytest.fail("the body was built"))
    with pytest.raises(ConfigError, match=r"summary_type='attn' was never defined.*'cls_index', 'last'"):
        GPT2DoubleHeadsModel(tiny_config(summary_type="attn"))
    with pytest.raises(ConfigError, match="attn"):
        SequenceSummary(tiny_config(summary_type="attn"))


@pytest.mark.parametrize("rate", [1.5, -0.1, "half"])
def test_a_rate_of_dropout_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(ConfigError, match="summary_last_dropout must be a number from 0 to 1"):
        tiny_config(summary_last_dropout=rate)


def test_places_that_a_summary_does_not_read_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model = make(summary_type="mean")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model(IDS, mc_token_ids=torch.zeros(2, 3, dtype=torch.long))
    assert [record.message for record in caplog.records] == [
        "mc_token_ids are not read, because summary_type='mean'. Set config.summary_type='cls_index' before "
        "the model is built to have them read."
    ]


# --------------------------------------------------------------------------- generation


@pytest.mark.parametrize("use_cache", [True, False])
def test_it_writes_what_the_language_model_writes(use_cache: bool) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "pad_token_id": 0, "use_cache": use_cache}
    prompt = IDS[:, 0]
    wanted = language_model().generate(prompt, **options)
    assert torch.equal(make().generate(prompt, **options), wanted)
    embeds = make().transformer.wte(prompt)
    assert torch.equal(
        make().generate(prompt, inputs_embeds=embeds, **options),
        language_model().generate(prompt, inputs_embeds=embeds, **options),
    )


@pytest.mark.parametrize("name", ["mc_token_ids", "mc_labels", "labels", "encoder_hidden_states"])
def test_what_a_generation_has_no_use_for_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        make().generate(IDS[:, 0], max_new_tokens=2, pad_token_id=0, **{name: torch.tensor([1, 0])})


def test_a_step_goes_on_from_the_cache() -> None:
    model = make()
    whole = model(IDS, mc_token_ids=torch.full((2, 3), 4))
    start = model(IDS[..., :3], use_cache=True)
    rest = model(IDS[..., 3:], past_key_values=start.past_key_values)
    torch.testing.assert_close(rest.logits, whole.logits[..., 3:, :], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rest.mc_logits, whole.mc_logits, rtol=1e-12, atol=1e-12)


def test_logits_to_keep_leaves_the_choices_alone() -> None:
    model, places = make(), torch.zeros(2, 3, dtype=torch.long)
    whole, last = model(IDS, mc_token_ids=places), model(IDS, mc_token_ids=places, logits_to_keep=2)
    torch.testing.assert_close(last.logits, whole.logits[..., -2:, :], rtol=1e-12, atol=1e-12)
    assert torch.equal(last.mc_logits, whole.mc_logits)


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mc_token_ids": torch.full((2, 3), 5)}, "mc_token_ids holds 5, .*its 5 positions .* 0 to 4"),
        ({"mc_token_ids": torch.full((2, 3), -1)}, "mc_token_ids holds -1"),
        ({"mc_token_ids": torch.zeros(2, 2, dtype=torch.long)}, r"shape \[2, 3\], but it is \[2, 2\]"),
        ({"mc_token_ids": torch.zeros(2, 3)}, "mc_token_ids should hold whole numbers.*float32"),
        ({"mc_labels": torch.tensor([0, 3])}, r"mc_labels holds 3, .* 0 to 2 \(3 choices\).*-100"),
        ({"mc_labels": torch.tensor([0, -1])}, "mc_labels holds -1"),
        ({"mc_labels": torch.tensor([0])}, r"mc_labels should have the shape \[2\], but it is \[1\]"),
        ({"mc_labels": torch.tensor([0.0, 1.0])}, "mc_labels should hold whole numbers"),
        ({"labels": IDS.view(6, 5)}, r"labels should have the shape \[2, 3, 5\]"),
        ({"labels": IDS + 90}, r"labels holds 1\d\d, .*vocab_size=101"),
        ({"labels": IDS.double()}, "labels should hold whole numbers"),
        ({"logits_to_keep": -1}, "logits_to_keep=-1"),
        ({"labels": IDS, "logits_to_keep": 1}, "a loss needs all"),
        ({"loss_chunk_size": 3, "mc_labels": torch.tensor([0, 1])}, "loss_chunk_size=3 .*needs labels"),
        ({"inputs_embeds": torch.zeros(6, 5, 33)}, "Both input_ids and inputs_embeds"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_before_the_model_runs(
    given: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    monkeypatch.setattr(model.transformer, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=sentence):
        model(IDS, **given)


def test_the_right_choice_of_a_single_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"mc_labels came for a single text.*\[C, T\]"):
        make()(IDS[0, 0], mc_labels=torch.tensor(0))


def test_an_unused_label_of_the_first_position_is_not_looked_at() -> None:
    labels = IDS.clone()
    labels[..., 0] = 5000
    assert torch.equal(make()(IDS, labels=labels).loss, make()(IDS, labels=IDS).loss)
