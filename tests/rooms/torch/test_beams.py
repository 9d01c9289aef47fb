"""Beam search in PyTorch: what it finds, what it costs, what it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer, GenerationConfig, PhrasalConstraint, make_plan
from gpt2kit.torch import GPT2Cache, GPT2LMHeadModel
from gpt2kit.torch.generation.beams import beam_search
from gpt2kit.torch.generation.logits import LogitsProcessor
from gpt2kit.torch.generation.stopping import StoppingCriteria

IDS = torch.tensor([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
ENDS = list(range(20, 40))
SOON = [4, 5, 50, 77, 89]  # likely in the second row, not in the first
GROUPS = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5}
KEPT = {"return_dict_in_generate": True, "output_scores": True}


def build(dtype: torch.dtype = torch.float32, **changes: Any) -> GPT2LMHeadModel:
    config = tiny_config(**{"n_positions": 37, "eos_token_id": None, "pad_token_id": 1, **changes})
    state = {name: torch.from_numpy(array) for name, array in random_checkpoint(config, 5).items()}
    return GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state).to(dtype).eval()


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return build()


@contextmanager
def rows_read(model: GPT2LMHeadModel) -> Iterator[list[tuple[int, int]]]:
    """Collect the shape [rows, positions] of every call of the model."""
    found: list[tuple[int, int]] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(tuple(args[0].shape))

    handle = model.transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def log_probability(model: GPT2LMHeadModel, text: Tensor, prompt_length: int) -> float:
    with torch.no_grad():
        scores = model(text[None]).logits[0].log_softmax(-1)
    return float(sum(scores[place - 1, text[place]] for place in range(prompt_length, len(text))))


# ---------------------------------------------------------------------- what it finds


def test_with_as_many_beams_as_there_are_beginnings_the_best_texts_of_all_are_found():
    model = build(torch.float64, vocab_size=5, bos_token_id=2, eos_token_id=None)
    prompt = torch.tensor([3, 0, 4])
    texts = [torch.cat((prompt, torch.tensor(new))) for new in itertools.product(range(5), repeat=3)]
    totals = torch.tensor([log_probability(model, text, 3) for text in texts], dtype=torch.float64)
    best = totals.topk(25)
    output = model.generate(
        prompt[None], max_new_tokens=3, num_beams=25, num_return_sequences=25, length_penalty=0.7, **KEPT
    )
    assert output.sequences.tolist() == [texts[place].tolist() for place in best.indices]
    torch.testing.assert_close(output.sequences_scores, (best.values / 6**0.7).float())


def test_a_score_is_the_texts_log_probability_over_its_whole_length(model: GPT2LMHeadModel):
    output = model.generate(
        IDS,
        num_beams=3,
        max_new_tokens=11,
        eos_token_id=ENDS,
        num_return_sequences=3,
        length_penalty=-1.3,
        **KEPT,
    )
    lengths = set()
    for row, text in enumerate(output.sequences):
        places = [place for place in range(5, len(text)) if int(text[place]) in ENDS]
        stop = places[0] + 1 if places else len(text)
        lengths.add(stop)
        assert text[stop:].tolist() == [1] * (len(text) - stop)
        length = stop - 1 if places else stop  # the end token counts in the sum and not in the length
        score = log_probability(model, text[:stop], 5) * length**1.3
        assert float(output.sequences_scores[row]) == pytest.approx(score, rel=1e-5)
    assert len(lengths) > 1


@pytest.mark.parametrize(
    "options",
    [{}, {"eos_token_id": ENDS}, GROUPS | {"eos_token_id": ENDS}, {"force_words_ids": [[41, 43]]}],
    ids=["plain", "ends", "groups", "words"],
)
def test_cache_padding_and_neighbours_change_nothing(options: dict[str, Any]):
    model = build(torch.float64)
    options = {"num_beams": 4, "max_new_tokens": 9, "num_return_sequences": 2} | options
    padded = torch.tensor([[0, 0, 17, 3, 59], [5, 83, 7, 11, 29], [0, 59, 3, 71, 2]])
    mask = (padded != 0).long()
    together = model.generate(padded, attention_mask=mask, length_penalty=0.0, **options)
    uncached = model.generate(padded, attention_mask=mask, length_penalty=0.0, use_cache=False, **options)
    assert torch.equal(together, uncached)
    for row in range(3):
        alone = model.generate(padded[row][mask[row] == 1][None], length_penalty=0.0, **options)
        pair = together[2 * row : 2 * row + 2, int((mask[row] == 0).sum()) :]
        width = min(pair.shape[1], alone.shape[1])
        assert torch.equal(pair[:, :width], alone[:, :width])
        assert set(pair[:, width:].flatten().tolist()) <= {1}


def test_a_past_goes_on_with_the_same_texts(model: GPT2LMHeadModel):
    options = {"num_beams": 3, "max_new_tokens": 7, "num_return_sequences": 3}
    wanted = model.generate(IDS, **options)
    for past in (GPT2Cache.empty(model.config), None):
        with torch.no_grad():
            seen = model(IDS[:, :3], past_key_values=past, use_cache=True).past_key_values
        before = [tensor.clone() for pair in seen for tensor in pair]
        assert torch.equal(model.generate(IDS, past_key_values=seen, **options), wanted)
        assert all(torch.equal(a, b) for a, b in zip(before, (t for p in seen for t in p), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_searched_too(dtype: torch.dtype):
    model = build(dtype)
    output = model.generate(IDS, num_beams=3, max_new_tokens=5, **KEPT)
    assert output.scores[0].dtype == dtype
    assert output.sequences.shape == (2, 10)


def test_the_rows_that_tokens_came_from_add_up_to_the_scores_of_the_texts(model: GPT2LMHeadModel):
    for options in ({"num_beams": 3}, GROUPS, GROUPS | {"num_beam_groups": 4}):
        output = model.generate(
            IDS,
            max_new_tokens=9,
            eos_token_id=ENDS,
            num_return_sequences=3,
            length_penalty=0.0,
            **options,
            **KEPT,
        )
        for text, rows, score in zip(
            output.sequences, output.beam_indices, output.sequences_scores, strict=True
        ):
            steps = [row for row in rows.tolist() if row >= 0]
            chosen = [output.scores[n][row, text[5 + n]] for n, row in enumerate(steps)]
            assert float(sum(chosen)) == pytest.approx(float(score), abs=1e-4)


def test_the_token_that_ended_a_text_is_written(model: GPT2LMHeadModel):
    texts = model.generate(
        IDS, num_beams=3, max_new_tokens=11, eos_token_id=ENDS, num_return_sequences=3, length_penalty=-1.0
    )
    written = {int(token) for token in texts[:, 5:].flatten() if int(token) in ENDS}
    assert written
    assert written - {ENDS[0]}  # 4.34 writes the first of the list, whichever it was


def test_sampling_goes_on_where_nearly_all_drawn_tokens_end_a_text(model: GPT2LMHeadModel):
    torch.manual_seed(3)
    texts = model.generate(
        IDS, do_sample=True, num_beams=3, max_new_tokens=9, eos_token_id=list(range(3, 101)), pad_token_id=1
    )
    assert texts.shape[0] == 2


@pytest.mark.parametrize("sampled", [False, True])
def test_an_encoder_reaches_every_beam_and_its_attentions_come_back(sampled: bool):
    model = build(add_cross_attention=True)
    states = torch.randn(2, 7, 33, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    kept = {"output_attentions": True, "return_dict_in_generate": True, "max_new_tokens": 3}
    output = model.generate(
        IDS, encoder_hidden_states=states, encoder_attention_mask=mask, num_beams=3, do_sample=sampled, **kept
    )
    assert [len(step) for step in output.cross_attentions] == [3, 3, 3]
    assert [step[0].shape for step in output.cross_attentions] == [(6, 3, 5, 7), (6, 3, 1, 7), (6, 3, 1, 7)]
    assert output.cross_attentions[2][1][3:, :, :, 4:].abs().max() == 0
    assert output.cross_attentions[2][1][:3, :, :, 4:].min() > 0
    if not sampled:
        alone = model.generate(IDS[1:], encoder_hidden_states=states[1:, :4], num_beams=3, max_new_tokens=3)
        assert torch.equal(output.sequences[1:], alone)


# ---------------------------------------------------------------------- what it costs


def test_a_prompt_is_read_once_and_rows_that_have_ended_leave(model: GPT2LMHeadModel):
    options = {
        "num_beams": 3,
        "max_new_tokens": 11,
        "eos_token_id": SOON,
        "early_stopping": True,
        "min_new_tokens": 3,
    }
    with rows_read(model) as seen:
        fast = model.generate(IDS, **options)
    assert seen[0] == (2, 5)
    assert set(seen[1:]) == {(6, 1), (3, 1)}
    with rows_read(model) as seen:
        recorded = model.generate(IDS, **options, **KEPT)
    assert set(seen[1:]) == {(6, 1)}
    assert torch.equal(fast, recorded.sequences)


@pytest.mark.parametrize("options", [{"num_beams": 4}, GROUPS], ids=["plain", "groups"])
def test_rows_that_leave_one_by_one_change_nothing_for_the_others(
    model: GPT2LMHeadModel, options: dict[str, Any]
):
    draw = torch.Generator().manual_seed(3)
    numbers: set[int] = set()
    for _ in range(5):
        prompts = torch.randint(2, 101, (5, 7), generator=draw)
        ends = torch.randint(2, 101, (31,), generator=draw).tolist()
        asked = options | {"max_new_tokens": 17, "eos_token_id": ends, "early_stopping": True}
        with rows_read(model) as seen:
            fast = model.generate(prompts, num_return_sequences=4, **asked)
        assert torch.equal(fast, model.generate(prompts, num_return_sequences=4, **asked, **KEPT).sequences)
        numbers |= {rows for rows, _ in seen}
    assert numbers == {5, 4, 8, 12, 16, 20}


def test_rows_leave_without_changing_what_others_draw(model: GPT2LMHeadModel):
    draw = torch.Generator().manual_seed(3)
    left = 0
    for seed in range(7):
        prompts = torch.randint(2, 101, (3, 5), generator=draw)
        ends = torch.randint(2, 101, (31,), generator=draw).tolist()
        asked = {"num_beams": 3, "do_sample": True, "top_k": 0, "temperature": 5.0, "early_stopping": True}
        asked |= {"max_new_tokens": 13, "eos_token_id": ends, "num_return_sequences": 3}
        torch.manual_seed(seed)
        with rows_read(model) as seen:
            fast = model.generate(prompts, **asked)
        torch.manual_seed(seed)
        assert torch.equal(model.generate(prompts, **asked, **KEPT).sequences, fast)
        left += len({rows for rows, _ in seen[1:]}) > 1
    assert left > 3


def test_only_positions_that_differ_are_moved(model: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch):
    moves: list[tuple[int, int]] = []
    original = GPT2Cache.reorder_

    def note(self: GPT2Cache, rows: Tensor, start: int) -> None:
        moves.append((start, self.get_seq_length()))
        original(self, rows, start)

    monkeypatch.setattr(GPT2Cache, "reorder_", note)
    model.generate(IDS, num_beams=3, max_new_tokens=11)
    assert len(moves) == 10
    assert all(start >= 5 for start, _ in moves)
    assert any(start > 5 for start, _ in moves)


# ---------------------------------------------------------------------- rules, ends and code of the caller's


class Both(LogitsProcessor):
    """Keep the shapes that a rule sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append((*input_ids.shape, *scores.shape))
        return scores


def test_a_rule_of_the_callers_sees_every_beam_at_every_step(model: GPT2LMHeadModel):
    rule = Both()
    model.generate(IDS, num_beams=3, max_new_tokens=3, logits_processor=[rule])
    assert rule.seen == [(6, length, 6, 101) for length in (5, 6, 7)]
    rule = Both()
    model.generate(IDS, **GROUPS, max_new_tokens=2, logits_processor=[rule])
    assert rule.seen == [(4, length, 4, 101) for length in (5, 5, 6, 6)]


def test_each_beam_favours_the_tokens_of_its_own_prompt(model: GPT2LMHeadModel):
    options = {"num_beams": 3, "max_new_tokens": 7, "encoder_repetition_penalty": 30.0}
    together = model.generate(IDS, **options)
    alone = torch.cat([model.generate(IDS[row : row + 1], **options) for row in (0, 1)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, model.generate(IDS, num_beams=3, max_new_tokens=7))


def test_guidance_follows_each_beam():
    model = build(torch.float64)
    negative = torch.tensor([[7, 13, 2], [19, 3, 3]])
    options = {"num_beams": 3, "max_new_tokens": 7, "guidance_scale": 1.7, "eos_token_id": ENDS}
    together = model.generate(IDS, negative_prompt_ids=negative, **options)
    for row in (0, 1):
        alone = model.generate(
            IDS[row : row + 1], negative_prompt_ids=negative[row : row + 1], use_cache=False, **options
        )
        assert together[row, : alone.shape[1]].tolist() == alone[0].tolist()


class Stop(StoppingCriteria):
    """End as `answer` says: at a length, all rows or some."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return self.answer(input_ids)


@pytest.mark.parametrize("ends", [None, [97]])
def test_a_text_that_a_criterion_ends_gets_no_end_token(model: GPT2LMHeadModel, ends: Any):
    stop = Stop(lambda ids: ids.shape[1] >= 8)
    texts = model.generate(IDS, num_beams=3, max_new_tokens=11, eos_token_id=ends, stopping_criteria=[stop])
    assert texts.shape == (2, 8)
    assert torch.equal(texts, model.generate(IDS, num_beams=3, max_new_tokens=3))


def test_a_criterion_may_end_single_beams(model: GPT2LMHeadModel):
    token = int(model.generate(IDS, num_beams=3, max_new_tokens=4)[0, 8])
    stop = Stop(lambda ids: ids[:, -1] == token)
    texts = model.generate(
        IDS, num_beams=3, max_new_tokens=11, stopping_criteria=[stop], num_return_sequences=3, pad_token_id=1
    )
    same = model.generate(IDS, num_beams=3, max_new_tokens=11, num_return_sequences=3)
    assert not torch.equal(texts[:3], same[:3])
    for text in texts.tolist():
        ended = [place for place in range(5, len(text)) if text[place] == token]
        if ended:
            assert set(text[ended[0] + 1 :]) <= {1}


def test_stop_strings_and_time_end_beams(model: GPT2LMHeadModel):
    class Letters:
        def decode(self, ids: list[int], **kwargs: Any) -> str:
            return "".join(chr(200 + token) for token in ids)

    token = int(model.generate(IDS[:1], num_beams=3, max_new_tokens=4)[0, 8])
    text = model.generate(
        IDS[:1], num_beams=3, max_new_tokens=11, stop_strings=chr(200 + token), tokenizer=Letters()
    )[0].tolist()
    assert token not in text[5:-1]
    assert model.generate(IDS, num_beams=3, max_new_tokens=20, max_time=1e-9).shape == (2, 6)


# ---------------------------------------------------------------------- a prefix function


def trie(row: int, ids: Tensor) -> list[int]:
    """Allow a few texts: 41 43 97, 41 47 97 or 53 97 for the first prompt, 59 61 for the second."""
    allowed = {
        0: {(): [41, 53], (41,): [43, 47], (41, 43): [97], (41, 47): [97], (53,): [97]},
        1: {(): [59], (59,): [61], (59, 61): [97]},
    }
    return allowed[row].get(tuple(ids[5:].tolist()), [])


def test_a_prefix_function_is_asked_about_living_beams_of_its_prompt(model: GPT2LMHeadModel):
    options = {"max_new_tokens": 6, "eos_token_id": 97, "prefix_allowed_tokens_fn": trie}
    texts = model.generate(IDS, num_beams=3, **options)
    assert texts[0].tolist()[5:] in (
        [41, 43, 97, 1],
        [41, 47, 97, 1],
        [41, 43, 97],
        [41, 47, 97],
        [53, 97, 1],
    )
    assert texts[1].tolist()[5:] == [59, 61, 97]
    asked: set[tuple[int, ...]] = set()

    def note(row: int, ids: Tensor) -> list[int]:
        asked.add((row, *ids[5:].tolist()))
        return trie(row, ids)

    for sampled in (False, True):
        torch.manual_seed(1)
        model.generate(IDS, num_beams=3, do_sample=sampled, **(options | {"prefix_allowed_tokens_fn": note}))
    texts_so_far = {(0,), (0, 41), (0, 53), (0, 41, 43), (0, 41, 47), (1,), (1, 59), (1, 59, 61)}
    assert asked <= texts_so_far  # nothing about a text that has ended, or that is not allowed
    for sampled in (False, True):  # a row that has ended is not asked about
        torch.manual_seed(1)
        alone = model.generate(IDS, do_sample=sampled, **options)
        assert alone[1].tolist()[5:8] == [59, 61, 97]
    grouped = model.generate(IDS, num_beams=4, num_beam_groups=4, diversity_penalty=9.0, **options)
    assert 97 in grouped[0].tolist()


@pytest.mark.parametrize("sampled", [False, True])
def test_a_beam_that_may_not_go_on_is_dropped_where_scores_are_renormalized_too(
    model: GPT2LMHeadModel, sampled: bool
):
    stopped = set()

    def dead_end(row: int, ids: Tensor) -> list[int]:
        if len(ids) == 6 and row not in stopped:  # the first beam of each prompt
            stopped.add(row)
            return []
        return [41] if len(ids) == 5 else [43]

    options = {
        "num_beams": 2,
        "do_sample": sampled,
        "max_new_tokens": 3,
        "prefix_allowed_tokens_fn": dead_end,
    }
    texts = model.generate(IDS, renormalize_logits=True, **options)
    assert texts[:, 5:].tolist() == [[41, 43, 43]] * 2


def test_a_prefix_function_gets_the_number_of_the_prompt(model: GPT2LMHeadModel):
    for options in ({"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}, GROUPS):
        asked: set[int] = set()

        def note(row: int, ids: Tensor, asked: set[int] = asked) -> list[int]:
            asked.add(row)
            return [3, 5, 7, 11]

        model.generate(IDS, max_new_tokens=2, prefix_allowed_tokens_fn=note, **options)
        assert asked == {0, 1}


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 3}, GROUPS])
def test_a_prefix_function_that_allows_nothing_is_refused_at_once(
    model: GPT2LMHeadModel, options: dict[str, Any]
):
    steps = []

    def nothing(row: int, ids: Tensor) -> list[int]:
        steps.append(len(ids))
        return [] if row == 1 and len(ids) == 7 else [3, 5]

    with pytest.raises(InputError, match=r"in row 1"):
        model.generate(IDS, max_new_tokens=9, prefix_allowed_tokens_fn=nothing, **options)
    assert max(steps) == 7


def test_one_alternative_that_no_rule_bars_is_enough(model: GPT2LMHeadModel):
    words = {"num_beams": 4, "force_words_ids": [[[13, 17], [19]]]}
    texts = model.generate(IDS, max_new_tokens=9, suppress_tokens=[17], **words)
    assert all(19 in text for text in texts[:, 5:].tolist())


def test_more_texts_than_the_rules_leave_are_refused(model: GPT2LMHeadModel):
    def one_way_out(row: int, ids: Tensor) -> list[int]:
        if len(ids) == 5 or not row:
            return [3, 5, 7, 97]
        return [97] if ids[-1] == 5 else []

    options = {"num_beams": 3, "max_new_tokens": 9, "eos_token_id": 97, "suppress_tokens": [97]}
    with pytest.raises(InputError, match=r"row 1 at new token 2; 0 text"):
        model.generate(IDS, prefix_allowed_tokens_fn=one_way_out, **options)
    options["suppress_tokens"] = None
    with pytest.raises(InputError, match=r"row 1 at new token 3; 1 text.*num_return_sequences is 3"):
        model.generate(IDS, prefix_allowed_tokens_fn=one_way_out, num_return_sequences=3, **options)


# ---------------------------------------------------------------------- constraints


@pytest.mark.parametrize(
    ("words", "any_of"),
    [([[41, 43]], ["41 43"]), ([[[41, 43], [9, 13, 7]]], ["41 43", "9 13 7"]), ([[9]], ["9"])],
)
def test_what_is_forced_is_written(model: GPT2LMHeadModel, words: Any, any_of: list[str]):
    texts = model.generate(IDS, num_beams=4, max_new_tokens=12, force_words_ids=words)
    for text in texts.tolist():
        written = f" {' '.join(map(str, text[5:]))} "
        assert any(f" {word} " in written for word in any_of)


def test_texts_that_lack_a_word_come_last_and_are_told(model: GPT2LMHeadModel):
    options = {"num_beams": 4, "max_new_tokens": 11, "eos_token_id": ENDS, "num_return_sequences": 2}
    with pytest.warns(UserWarning, match=r"row\(s\) \[0\]: no beam got so far"):
        texts = model.generate(IDS, force_words_ids=[[41, 43], [9]], **options).tolist()
    assert {9, 41, 43} <= set(texts[0])
    assert not {9, 41, 43} <= set(texts[1])


def test_constraints_count_what_a_prompt_ends_with(model: GPT2LMHeadModel):
    phrase = PhrasalConstraint([71, 13])
    text = model.generate(IDS[:1], num_beams=3, max_new_tokens=1, constraints=[phrase])
    assert text[0].tolist() == [17, 3, 59, 3, 71, 13]
    with pytest.raises(InputError, match="at least 2 tokens after the prompt in row 1"):
        model.generate(IDS, num_beams=3, max_new_tokens=1, constraints=[phrase])


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "multiple of `num_beam_groups`"),
        ({"num_beams": 2, "num_beam_groups": 4, "diversity_penalty": 1.0}, "multiple of `num_beam_groups`"),
        ({"num_beams": 4, "num_beam_groups": 2}, "`diversity_penalty` above 0"),
        (
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": -1.0},
            "`diversity_penalty` has to be a number above 0",
        ),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "`num_beam_groups` above 1"),
        (GROUPS | {"do_sample": True}, "needs `do_sample=False`"),
        ({"num_beams": 3, "num_return_sequences": 4}, "larger than `num_beams`"),
        ({"num_beams": 3, "early_stopping": "always"}, "True, False or 'never'"),
        ({"num_beams": 3, "length_penalty": None}, "`length_penalty` has to be a number"),
        ({"num_beams": 3, "length_penalty": "long"}, "`length_penalty` has to be a number"),
        ({"force_words_ids": [[5]]}, "need `num_beams` above 1"),
        ({"num_beams": 3, "force_words_ids": [[5]], "do_sample": True}, "`do_sample=True`"),
        (GROUPS | {"force_words_ids": [[5]]}, "num_beam_groups=2"),
        ({"num_beams": 3, "constraints": [PhrasalConstraint([5])], "do_sample": True}, "do_sample"),
        (GROUPS | {"constraints": [PhrasalConstraint([5])]}, "num_beam_groups"),
        ({"num_beams": 3, "constraints": []}, "nothing that has to be written"),
        ({"num_beams": 3, "constraints": [[5]]}, "Constraint objects"),
        ({"num_beams": 3, "force_words_ids": []}, "nothing that has to be written"),
        ({"num_beams": 3, "force_words_ids": [5, 7]}, "List"),
        ({"num_beams": 3, "force_words_ids": [[]]}, "List"),
        ({"num_beams": 3, "force_words_ids": [[5, "7"]]}, "has to be an integer"),
        ({"num_beams": 3, "force_words_ids": [[5, -7]]}, "integers from 0"),
        ({"num_beams": 3, "force_words_ids": [[5, 101]]}, r"\[101\].*vocabulary ends at 100"),
        ({"num_beams": 3, "force_words_ids": [[[5, 7], [5, 7, 11]]]}, "beginning of another"),
        ({"num_beams": 3, "force_words_ids": [[[5, 7], [5, 7]]]}, "comes twice"),
        ({"num_beams": 3, "force_words_ids": [[13, 17], [19, 23]]}, "at least 4 tokens.*max_new_tokens is 3"),
        ({"num_beams": 3, "force_words_ids": [[13, 17]], "suppress_tokens": [17]}, "`suppress_tokens` bars"),
        ({"num_beams": 3, "force_words_ids": [[13, 17]], "bad_words_ids": [[13]]}, "`bad_words_ids` bars"),
        ({"num_beams": 3, "streamer": BaseStreamer()}, "`streamer` cannot be used with beam search"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_runs(
    model: GPT2LMHeadModel, kwargs: dict[str, Any], said: str
):
    with rows_read(model) as seen, pytest.raises(InputError, match=said):
        model.generate(IDS, **{"max_new_tokens": 3} | kwargs)
    assert seen == []


def test_scores_that_are_no_numbers_are_refused():
    model = build()
    with torch.no_grad():
        model.transformer.ln_f.weight[3] = float("nan")
    for options in ({}, {"eos_token_id": 97}, {"do_sample": True}, GROUPS):
        with pytest.raises(InputError, match="NaN"):
            model.generate(IDS, **{"num_beams": 3, "max_new_tokens": 3} | options)


def test_rules_that_bar_everything_are_refused(model: GPT2LMHeadModel):
    for options in ({}, {"do_sample": True}, GROUPS):
        with pytest.raises(InputError, match=r"bar every token for the prompt in row 0 at new token 1"):
            model.generate(
                IDS, max_new_tokens=3, suppress_tokens=list(range(101)), **{"num_beams": 3} | options
            )


def test_a_plan_without_beams_is_no_plan_of_a_beam_search(model: GPT2LMHeadModel):
    plan = make_plan(GenerationConfig(max_new_tokens=3), prompt_length=5, n_positions=37, vocab_size=101)
    with pytest.raises(InputError, match=r"greedy_search.*num_beams above 1"):
        beam_search(model, None, None, plan)
