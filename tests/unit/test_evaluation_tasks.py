"""How files of tasks are read and counted, with a tokenizer and no model."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from gpt2kit import GPT2TokenizerFast
from gpt2kit.errors import InputError
from gpt2kit.evaluation import (
    Likelihood,
    Pair,
    Protocol,
    Question,
    TextScore,
    encode_pair,
    passages,
    questions,
    rate_choices,
    rate_passages,
    read_records,
    stop_word_ids,
    undo_wikitext_tokens,
)
from gpt2kit.evaluation.choice import FIELDS as CHOICE
from gpt2kit.evaluation.lambada import FIELDS as LAMBADA

EOT = 50256


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained("gpt2")


def texts(tokenizer, pair):
    ids = pair.ids.tolist()
    return tokenizer.decode(ids[: pair.first]), tokenizer.decode(ids[pair.first :])


# ---------------------------------------------------------------------- pairs


def test_a_pair_is_the_text_as_a_whole_cut_where_the_context_ends(tokenizer):
    pair = encode_pair(tokenizer, "To be, or not", " to be")
    assert pair.ids.tolist() == tokenizer.encode("To be, or not to be")
    assert texts(tokenizer, pair) == ("To be, or not", " to be")


def test_white_space_at_the_end_of_the_context_goes_to_the_continuation(tokenizer):
    assert texts(tokenizer, encode_pair(tokenizer, "To be, or not ", "to be")) == ("To be, or not", " to be")
    assert texts(tokenizer, encode_pair(tokenizer, " \n", "Who", EOT)) == ("<|endoftext|>", " \nWho")


def test_an_empty_context_is_the_prefix_token(tokenizer):
    assert encode_pair(tokenizer, "", "Who", EOT).ids.tolist() == [EOT, *tokenizer.encode("Who")]
    begins_with_it = encode_pair(tokenizer, "", "<|endoftext|>Who", EOT)
    assert begins_with_it.ids.tolist() == [EOT, *tokenizer.encode("Who")]
    assert begins_with_it.first == 1


@pytest.mark.parametrize(
    ("context", "continuation", "prefix", "said"),
    [
        ("", "Who", None, "prefix_token_id"),
        ("", "", EOT, "empty continuation"),
        ("", "<|endoftext|>", EOT, "nothing else"),
        ("Who", "", None, "adds no token"),
    ],
)
def test_a_pair_without_anything_to_score_is_refused(tokenizer, context, continuation, prefix, said):
    with pytest.raises(InputError, match=said):
        encode_pair(tokenizer, context, continuation, prefix)


# ---------------------------------------------------------------------- JSON lines


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "no JSON object"),
        ('{"txt": "a"}', 'no "text".*"txt"'),
        ("{}", "has nothing"),
        ('{"text": 7}', '"text" should be a string, and it is 7'),
        ("[" * 100_000, "not JSON.*too deep"),
    ],
)
def test_a_malformed_line_is_told_with_its_number(line, said):
    records = read_records(f'{{"text": "a"}}\n\n{line}\n', "some.jsonl", LAMBADA)
    assert next(records).fields == {"text": "a"}
    with pytest.raises(InputError, match=f"^some.jsonl, line 3: .*{said}"):
        next(records)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": True}, '"label" should be a whole number'),
        ({"choices": "ab"}, '"choices" should be a list of strings'),
        ({"choices": ["a", 7]}, '"choices" should be a list of strings'),
        ({"choices": ["a"]}, "two or more, and there are 1"),
        ({"label": 2}, "numbered from 0 to 1"),
        ({"label": -1}, "numbered from 0 to 1"),
        ({"choices": ["a", ""]}, "choice 1 is empty"),
        ({"context": ""}, "prefix_token_id"),
        ({"choices": ["a", "b\ud800"]}, "lone surrogate"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told_with_its_number(tokenizer, change, said):
    line = json.dumps({"context": "Who", "choices": ["a", "b"], "label": 0} | change)
    with pytest.raises(InputError, match=f"^f, line 1: .*{said}"):
        list(questions(read_records(line, "f", CHOICE), tokenizer))


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_a_file_without_lines_is_empty(content):
    with pytest.raises(InputError, match="f is empty"):
        list(read_records(content, "f", LAMBADA))


# ---------------------------------------------------------------------- LAMBADA


def lambada(tokenizer, text, protocol):
    records = read_records(json.dumps({"text": text}), "f", LAMBADA)
    (pair,) = passages(records, tokenizer, protocol, EOT)
    return texts(tokenizer, pair)


def test_the_last_word_is_all_of_its_tokens_for_lm_eval_and_the_last_one_for_openai(tokenizer):
    text = "“Who is there?” asked Bernardo"
    assert lambada(tokenizer, text, Protocol.lm_eval) == ("“Who is there?” asked", " Bernardo")
    assert lambada(tokenizer, text, Protocol.openai) == ('\n"Who is there?" asked Bern', "ardo")
    assert lambada(tokenizer, f" {text} \n", Protocol.openai) == lambada(tokenizer, text, Protocol.openai)
    assert lambada(tokenizer, "Nay", Protocol.lm_eval) == ("<|endoftext|>", " Nay")


@pytest.mark.parametrize(
    ("text", "protocol"), [("", "openai"), (" ", "openai"), ("", "lm-eval"), ("Who ", "lm-eval")]
)
def test_a_passage_with_nothing_to_predict_is_told_with_its_line(tokenizer, text, protocol):
    with pytest.raises(InputError, match=r"^f, line 1: the passage"):
        lambada(tokenizer, text, Protocol(protocol))


@pytest.mark.parametrize("protocol", Protocol)
def test_half_a_character_is_told_with_its_line(tokenizer, protocol):
    with pytest.raises(InputError, match=r"^f, line 1: .*lone surrogate"):
        lambada(tokenizer, "Who is \ud800", protocol)


def answer(log_probs, greedy):
    values = np.array(log_probs, float)
    return TextScore.of(np.arange(len(values)), values, np.array(greedy))


def test_an_answer_is_right_where_all_of_its_tokens_are():
    scores = [answer([-1, -2], [True, True]), answer([-3, -4], [True, False]), answer([-5], [True])]
    result = rate_passages(scores, Protocol.lm_eval)
    assert (result.passages, result.right) == (3, 2)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.accuracy_error == pytest.approx(np.std([1, 0, 1], ddof=1) / math.sqrt(3))
    assert result.perplexity == pytest.approx(math.exp((3 + 7 + 5) / 3))  # of words, not of tokens


def test_answers_that_nobody_compared_are_not_wrong_answers():
    with pytest.raises(InputError, match="greedy=True"):
        rate_passages([TextScore.of(np.arange(1), np.array([-1.0]))], Protocol.openai)


def test_stop_words_are_tokens_behind_a_space_in_any_case(tokenizer):
    barred = stop_word_ids(tokenizer, ["the", "Don"])
    assert {tokenizer.decode([index]) for index in barred} == {" the", " The", " THE", " Don", " don", " DON"}


@pytest.mark.skipif("GPT2KIT_MATERIAL" not in os.environ, reason="GPT2KIT_MATERIAL names no folder of texts")
def test_openais_file_has_5153_passages_under_both_protocols(tokenizer):
    content = Path(os.environ["GPT2KIT_MATERIAL"], "text", "lambada_test.jsonl").read_text(encoding="utf-8")
    for protocol in Protocol:
        pairs = list(passages(read_records(content, "f", LAMBADA), tokenizer, protocol, EOT))
        assert len(pairs) == 5153
        scored = sum(len(pair.ids) - pair.first for pair in pairs)
        assert scored == 5153 if protocol is Protocol.openai else scored > 6000
        assert max(len(pair.ids) for pair in pairs) < 1024


# ---------------------------------------------------------------------- multiple choice


def test_choices_stand_behind_the_context_and_a_delimiter(tokenizer):
    line = json.dumps({"context": "Who is", "choices": ["there", "it"], "label": 1, "note": "left alone"})
    (asked,) = questions(read_records(line, "f", CHOICE), tokenizer)
    assert [texts(tokenizer, pair) for pair in asked.pairs] == [("Who is", " there"), ("Who is", " it")]
    assert (asked.lengths, asked.label) == ((5, 2), 1)  # without the delimiter
    (other,) = questions(read_records(line, "f", CHOICE), tokenizer, delimiter=": ")
    assert texts(tokenizer, other.pairs[0]) == ("Who is", ": there")


def test_the_answer_is_the_most_probable_choice_or_that_for_its_length():
    pair = Pair(np.arange(3), 1)
    asked = [Question((pair, pair), (2, 7), 1), Question((pair, pair, pair), (1, 1, 1), 0)]
    log_probs = [-3.0, -5.0, -2.0, -2.0, -9.0]
    result = rate_choices(asked, [Likelihood(value, 1) for value in log_probs])
    assert (result.questions, result.right, result.right_normalized) == (2, 1, 2)  # a tie goes to the first
    told = result.to_dict()
    assert (told["accuracy"], told["accuracy_normalized"]) == (0.5, 1.0)
    assert told["accuracy_error"] == pytest.approx(0.5)


def test_each_choice_has_one_score():
    pair = Pair(np.arange(3), 1)
    for count in (1, 3):
        with pytest.raises(InputError, match=f"2 choices.*{count} scores"):
            rate_choices([Question((pair, pair), (1, 1), 0)], [Likelihood(-1.0, 1)] * count)


# ---------------------------------------------------------------------- WikiText


@pytest.mark.parametrize(
    ("tokens", "written"),
    [
        (" 1 @,@ 234 @.@ 5 ; two @-@ thirds ! ", "1,234.5; two-thirds!"),
        (' the " Teddy \'s Story " was good , he said . ', 'the "Teddy\'s Story" was good, he said.'),
        (" ( first ) [ second ] ", "(first) [second]"),
        (" = = A heading = = \n \n 2000 – 2005 ", "== A heading ==\n\n2000–2005"),
        (" the boys ' school did n't ", "the boys' school didn't"),
    ],
)
def test_wikitext_is_written_as_people_write(tokens, written):
    assert undo_wikitext_tokens(tokens) == written
