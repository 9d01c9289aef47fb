"""`model.score`: equal to the definition computed naively, whatever form the texts come in."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the PyTorch room is not installed")

from cases import CASES, random_checkpoint, tiny_config  # noqa: E402
from drivers import TorchDriver  # noqa: E402
from gpt2kit import AutoTokenizer, GPT2LMHeadModel, Likelihood  # noqa: E402
from gpt2kit.errors import InputError, LengthError  # noqa: E402
from gpt2kit.evaluation.pair import Pair  # noqa: E402
from gpt2kit.reference import gpt2  # noqa: E402
from gpt2kit.torch import scoring  # noqa: E402

# Sums of another order than the reference's; measured 2.2e-14 over 40 seeds of each case, of values up to 36.
CLOSE = 3e-13
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "pocket.json").read_text(encoding="utf-8"))


def make(case="default", dtype="float64", kernel="auto", **changes):
    config = tiny_config(case, **changes)
    weights = random_checkpoint(config)
    return TorchDriver().build(config, weights, dtype, kernel).eval(), config, weights


@pytest.fixture(scope="module")
def tiny():
    return make()


def draw(*lengths, V=101, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, V, length).tolist() for length in lengths]


def log_probs_of(config, weights, ids):
    """log p(ids[t] | ids[:t]) for t = 1 ..., from the equations on a page."""
    if config.tie_word_embeddings:
        weights = weights | {"lm_head.weight": weights["transformer.wte.weight"]}
    logits = gpt2(config, weights, np.array([ids[:-1]])).logits[0]  # [T, V]
    logits = logits - logits.max(-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))  # [T, V]
    return log_probs[np.arange(len(ids) - 1), ids[1:]]


def naive(config, weights, ids, window, stride):
    """The sliding window by its definition, window after window, token after token."""
    found, start = {}, 0
    while len(found) < len(ids) - 1:
        text = ids[start : start + window + 1]
        for place, value in enumerate(log_probs_of(config, weights, text), start=start + 1):
            found.setdefault(place, value)
        start += stride
    return [found[place] for place in range(1, len(ids))]


@pytest.mark.parametrize("case", [case for case in CASES if "cross" not in case])
def test_the_scores_of_a_short_text_are_those_of_the_equations(case):
    model, config, weights = make(case)
    (ids,) = draw(11)
    score = model.score(ids)
    np.testing.assert_allclose(score.log_probs, log_probs_of(config, weights, ids), rtol=CLOSE, atol=CLOSE)
    assert score.ids.tolist() == ids[1:]
    assert score.log_prob == pytest.approx(sum(score.log_probs), rel=1e-12)
    assert score.greedy is None


@pytest.mark.parametrize(("window", "stride"), [(13, 1), (13, 6), (13, 13), (7, 3), (5, 5), (1, 1), (2, 1)])
@pytest.mark.parametrize("length", [2, 13, 14, 15, 61])
def test_the_scores_of_a_long_text_are_those_of_the_definition(tiny, window, stride, length):
    model, config, weights = tiny
    (ids,) = draw(length)
    score = model.score(ids, window=window, stride=stride)
    np.testing.assert_allclose(
        score.log_probs, naive(config, weights, ids, window, stride), rtol=CLOSE, atol=CLOSE
    )


def test_window_and_stride_are_the_model_and_its_half_by_default(tiny):
    (ids,) = draw(61)
    given = tiny[0].score(ids, window=13, stride=6).log_probs
    np.testing.assert_array_equal(tiny[0].score(ids).log_probs, given)


def test_the_average_is_the_models_own_loss(tiny):
    (ids,) = draw(13)
    loss = tiny[0](torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    assert tiny[0].score(ids).loss == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5])
@pytest.mark.parametrize("positions", [2048, 17])
def test_a_text_has_the_same_scores_in_any_batch(tiny, batch_size, positions, monkeypatch):
    monkeypatch.setitem(scoring.POSITIONS_AT_ONCE, "cpu", positions)
    texts = draw(5, 2, 61, 1, 13, 0, 14, 3)
    together = tiny[0].score(texts, batch_size=batch_size, greedy=True)
    assert [score.tokens for score in together] == [4, 1, 60, 0, 12, 0, 13, 2]
    for ids, score in zip(texts, together, strict=True):
        (alone,) = tiny[0].score([ids], greedy=True)
        np.testing.assert_allclose(score.log_probs, alone.log_probs, rtol=CLOSE, atol=CLOSE)
        np.testing.assert_array_equal(score.greedy, alone.greedy)


def test_logits_in_small_parts_are_the_same(tiny, monkeypatch):
    (ids,) = draw(61)
    whole = tiny[0].score(ids, greedy=True)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 303)  # three positions of 101
    parts = tiny[0].score(ids, greedy=True)
    np.testing.assert_allclose(parts.log_probs, whole.log_probs, rtol=CLOSE, atol=CLOSE)
    np.testing.assert_array_equal(parts.greedy, whole.greedy)


def test_no_more_logits_are_made_than_are_scored_or_may_be_held(tiny, monkeypatch):
    model = tiny[0]
    made = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: made.append(output.numel()))
    try:
        monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 5 * 101)
        model.score(draw(61)[0])
    finally:
        hook.remove()
    assert sum(made) == 60 * 101  # each token once, though windows overlap
    assert max(made) <= 5 * 101


def test_ids_may_come_in_every_form(tiny):
    model = tiny[0]
    first, second = draw(5, 5)
    wanted = [model.score(first).log_probs, model.score(second).log_probs]
    single = (first, tuple(first), np.array(first, np.int32), torch.tensor(first))
    for ids in single:
        np.testing.assert_array_equal(model.score(ids).log_probs, wanted[0])
    several = (
        [first, second],
        np.array([first, second]),
        torch.tensor([first, second]),
        [torch.tensor(first), np.array(second)],
    )
    for ids in several:
        found = model.score(ids)
        assert isinstance(found, list)
        for score, log_probs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(score.log_probs, log_probs, rtol=CLOSE, atol=CLOSE)
    assert model.score([]) == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_is_left_out(tiny, side):
    model = tiny[0]
    texts = draw(7, 3)
    rows, masks = [], []
    for ids in texts:
        pad = 7 - len(ids)
        rows.append([97] * pad + ids if side == "left" else ids + [97] * pad)
        masks.append([0] * pad + [1] * len(ids) if side == "left" else [1] * len(ids) + [0] * pad)
    found = model.score(torch.tensor(rows), attention_mask=torch.tensor(masks))
    for ids, score in zip(texts, found, strict=True):
        np.testing.assert_allclose(score.log_probs, model.score(ids).log_probs, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("length", [3, 13, 37])
def test_a_prefix_makes_the_first_token_count(tiny, length):
    model = tiny[0]
    (ids,) = draw(length)
    score = model.score(ids, prefix_token_id=97)
    assert score.ids.tolist() == ids
    np.testing.assert_array_equal(score.log_probs, model.score([97, *ids]).log_probs)


@pytest.mark.parametrize(("before", "after"), [(1, 4), (5, 7), (37, 3), (37, 13), (37, 23), (0, 5)])
def test_a_context_is_read_and_not_scored(tiny, before, after):
    """Where both fit into the model there is one window; else the last one of the whole reaches back."""
    model, config, weights = tiny
    context, ids = draw(before, after)
    score = model.score(ids, context=context, stride=13)
    assert score.tokens == after - (before == 0)
    if before + after <= 14:
        wanted = log_probs_of(config, weights, context + ids)[-score.tokens :]
        np.testing.assert_allclose(score.log_probs, wanted, rtol=CLOSE, atol=CLOSE)
    elif after <= 13:
        wanted = log_probs_of(config, weights, (context + ids)[-14:])[-after:]
        np.testing.assert_allclose(score.log_probs, wanted, rtol=CLOSE, atol=CLOSE)
    else:
        start = before + 13 - 14  # the first window ends 13 tokens behind the context
        wanted = log_probs_of(config, weights, (context + ids)[start : start + 14])[-13:]
        np.testing.assert_allclose(score.log_probs[:13], wanted, rtol=CLOSE, atol=CLOSE)


def test_one_context_serves_several_texts_and_a_prefix_stands_before_it(tiny):
    model = tiny[0]
    context, first, second = draw(3, 4, 5)
    found = model.score([first, second], context=context, prefix_token_id=97)
    for score, ids in zip(found, (first, second), strict=True):
        alone = model.score(ids, context=[97, *context])
        np.testing.assert_allclose(score.log_probs, alone.log_probs, rtol=CLOSE, atol=CLOSE)


def test_greedy_tells_the_tokens_that_greedy_decoding_writes(tiny):
    model = tiny[0]
    prompt = torch.tensor(draw(3))
    ids = model.generate(prompt, max_new_tokens=7, eos_token_id=None, pad_token_id=0)[0].tolist()
    assert model.score(ids[3:], context=ids[:3], greedy=True).greedy.all()
    ids[5] = (ids[5] + 1) % 101
    greedy = model.score(ids[3:], context=ids[:3], greedy=True).greedy
    assert (greedy[:2].all(), greedy[2]) == (True, False)


def test_barred_tokens_are_no_answers_and_keep_their_probability(tiny):
    model = tiny[0]
    logits = model(torch.tensor(draw(5))).logits[0, -1]
    best, second = logits.topk(2).indices.tolist()
    pairs = [Pair(np.array([*draw(5)[0], each]), 5) for each in (best, second)]
    plain = scoring.score_pairs(model, pairs, greedy=True)
    barred = scoring.score_pairs(model, pairs, greedy=True, barred_ids=[best])
    assert [bool(score.greedy[0]) for score in plain] == [True, False]
    assert [bool(score.greedy[0]) for score in barred] == [False, True]
    assert [score.log_prob for score in barred] == [score.log_prob for score in plain]


def test_progress_counts_tokens_up_to_all(tiny):
    told = []
    tiny[0].score(draw(61, 5), batch_size=1, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (64, 64)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) > 2


def test_neither_the_mode_nor_gradients_nor_the_cache_are_touched(tiny):
    model = tiny[0]
    score = model.score(draw(5)[0])
    assert not model.training
    assert torch.is_grad_enabled()
    assert score.log_probs.dtype == np.float64


def test_an_eager_kernel_and_half_weights_score_too():
    (ids,) = draw(29)
    exact = make()[0].score(ids).log_probs
    np.testing.assert_allclose(make(kernel="eager")[0].score(ids).log_probs, exact, rtol=CLOSE, atol=CLOSE)
    # bfloat16 has 8 bits: measured 0.48 over 20 seeds, of values up to 36; ten times would prove nothing.
    np.testing.assert_allclose(make(dtype="bfloat16")[0].score(ids).log_probs, exact, rtol=0, atol=1.0)


def test_probabilities_of_half_weights_are_computed_in_float32():
    model = make(dtype="bfloat16")[0]
    (ids,) = draw(11)
    logits = model(torch.tensor([ids[:-1]])).logits[0]
    wanted = logits.float().log_softmax(-1)[range(10), ids[1:]].tolist()
    np.testing.assert_allclose(model.score(ids).log_probs, wanted, rtol=1e-6)  # bfloat16: 4e-3


def test_a_model_with_two_heads_scores_by_its_language_head(tiny):
    from gpt2kit import GPT2DoubleHeadsModel

    model, config, _ = tiny
    double = GPT2DoubleHeadsModel(config).double().eval()
    double.transformer.load_state_dict(model.transformer.state_dict())
    (ids,) = draw(29)
    np.testing.assert_array_equal(double.score(ids).log_probs, model.score(ids).log_probs)


def test_models_that_return_tuples_and_attentions_score_all_the_same(tiny):
    (ids,) = draw(29)
    model = make(return_dict=False, output_attentions=True, output_hidden_states=True)[0]
    np.testing.assert_array_equal(model.score(ids).log_probs, tiny[0].score(ids).log_probs)


# ---------------------------------------------------------------------- texts


@pytest.fixture(scope="module")
def pocket():
    return GPT2LMHeadModel.from_pretrained("pocket"), AutoTokenizer.from_pretrained("pocket")


def test_the_pocket_model_has_the_recorded_loss_by_disjoint_windows(pocket):
    model, tokenizer = pocket
    score = model.score(GOLDEN["excerpt"], tokenizer=tokenizer, stride=256)
    assert score.loss == pytest.approx(GOLDEN["excerpt_loss"], abs=1e-4)
    assert score.bytes == len(GOLDEN["excerpt"].encode())
    assert score.bits_per_byte == pytest.approx(-score.log_prob / math.log(2) / score.bytes)
    assert model.score(GOLDEN["excerpt"], tokenizer=tokenizer, stride=64).loss < score.loss


def test_texts_are_tokenized_without_additions_and_counted(pocket):
    model, tokenizer = pocket
    ids = tokenizer("To be, or not to be", add_special_tokens=False)["input_ids"]
    score = model.score("To be, or not to be", tokenizer=tokenizer)
    beside = model.score(ids, tokenizer=tokenizer)
    assert score.ids.tolist() == ids[1:]
    assert (score.words, score.bytes) == (beside.words, beside.bytes) == (6, 19)
    assert model.score(ids).words is None
    total = Likelihood.total(model.score(["To be,", " or not"], tokenizer=tokenizer))
    assert (total.words, total.bytes) == (4, 13)


def test_a_text_behind_a_context_is_tokenized_with_it(pocket):
    model, tokenizer = pocket
    score = model.score("to be", context="To be, or not ", tokenizer=tokenizer)
    whole = model.score("To be, or not to be", tokenizer=tokenizer)
    np.testing.assert_allclose(score.log_probs, whole.log_probs[-score.tokens :], atol=1e-5)
    assert (score.words, score.bytes) == (2, 5)
    first = model.score("To be", context="", tokenizer=tokenizer, prefix_token_id=0)
    np.testing.assert_allclose(
        first.log_probs, model.score("To be", tokenizer=tokenizer, prefix_token_id=0).log_probs, atol=1e-5
    )


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ("To be", {}, "tokenizer"),
        (["To be"], {"tokenizer": len, "attention_mask": [[1]]}, "attention_mask belongs"),
        ([[1, 2], "To be"], {}, "whole numbers"),
        ([[1, 101]], {}, r"Text 0 holds the id 101, outside 0 to 100"),
        ([1, -1], {}, "the id -1"),
        ([0.5, 0.7], {}, "whole numbers"),
        (torch.zeros(2, 3, 5, dtype=torch.long), {}, r"\[2, 3, 5\]"),
        ({"input_ids": [1, 2]}, {}, "mapping"),
        (7, {}, "int came"),
        ([1, 2], {"window": 17}, "window=17"),
        ([1, 2], {"stride": 14}, "stride=14"),
        ([1, 2], {"batch_size": 0}, "batch_size"),
        ([1, 2], {"attention_mask": [1, 1, 1]}, "as long as the ids"),
        ([1, 2, 3], {"attention_mask": [1, 0, 1]}, "zeros between ones"),
        ([[1, 2]], {"context": [[1], [2]]}, "2 contexts came with 1"),
        ([[1, 2]], {"context": "To be"}, "same form"),
        ([1, 2], {"prefix_token_id": 101}, "the id 101"),
        ([1, 2], {"prefix_token_id": 1.5}, "prefix_token_id must be .*got 1.5"),
        ([1, 2], {"prefix_token_id": True}, "prefix_token_id must be .*got True"),
        ([1, 2], {"prefix_token_id": [97]}, r"prefix_token_id must be .*got \[97\]"),
        ([1, 2], {"batch_size": True}, "batch_size must be .*got True"),
        ([[1, 2]], {"attention_mask": [[0.0, -1e9]]}, "attention_mask should hold 1 .* -1000000000.0"),
        ([1, [2]], {}, "whole numbers in one row"),
        ([[[1, 2], [3]]], {}, "whole numbers in one row"),
        ([[1, 2], [3, 4]], {"context": [[5]]}, "not in a list"),
        ("To be", {"tokenizer": "gpt2"}, "tokenizer should be .*'gpt2'"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(tiny, texts, options, said):
    with pytest.raises(InputError, match=said):
        tiny[0].score(texts, **options)


def test_a_window_beyond_the_model_is_a_length_error(tiny):
    with pytest.raises(LengthError, match="n_positions=13"):
        tiny[0].score([1, 2], window=14)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_that_are_no_numbers_are_refused(dtype):
    """Else the choice that is no number would be the most probable one."""
    model = make(dtype=dtype)[0]
    with torch.no_grad():
        model.transformer.wte.weight[5] = torch.nan
    with pytest.raises(InputError, match=f"no numbers.*{dtype}"):
        model.score([[1, 2], [3, 4]])


def test_tokens_are_barred_as_answers_or_not_at_all(tiny):
    with pytest.raises(InputError, match=r"barred_ids.*greedy=True"):
        scoring.score_pairs(tiny[0], [Pair(np.array([1, 2]), 1)], barred_ids=[1])


def test_random_scores_of_a_model_in_training_are_refused():
    model = make(resid_pdrop=0.1)[0].train()
    with pytest.raises(InputError, match="eval"):
        model.score([1, 2])
    assert make()[0].train().score([1, 2]).tokens == 1  # without dropout nothing is random


# ---------------------------------------------------------------------- a foreign checkpoint

needs_material = pytest.mark.skipif(
    "GPT2KIT_MATERIAL" not in os.environ, reason="GPT2KIT_MATERIAL names no folder of weights"
)


@needs_material
def test_a_trained_nanogpt_checkpoint_has_its_published_validation_loss():
    """1.5061 nats over blocks of 8; which ones is not told. Disjoint ones and all lie on either side."""
    folder = Path(os.environ["GPT2KIT_MATERIAL"]) / "weights" / "gpt-by-hand-words"
    model = GPT2LMHeadModel.from_pretrained(folder)
    ids = np.fromfile(folder / "val.bin", np.uint16)
    every_block = Likelihood.total(model.score(np.lib.stride_tricks.sliding_window_view(ids, 9))).loss
    disjoint = model.score(ids, stride=8).loss
    assert (disjoint, every_block) == pytest.approx((1.4992, 1.5349), abs=1e-4)
    assert disjoint < 1.5061 < every_block
