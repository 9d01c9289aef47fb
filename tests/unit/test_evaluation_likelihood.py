"""Perplexities by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gpt2kit.errors import InputError
from gpt2kit.evaluation import Likelihood, TextScore, count_words
from gpt2kit.evaluation.likelihood import perplexity


def score(*probabilities, text=None):
    values = np.log(np.array(probabilities))
    return TextScore.of(np.arange(len(probabilities)), values, None, text)


def test_the_perplexities_of_a_text_are_roots_of_its_probability():
    found = score(1 / 2, 1 / 3, 1 / 7, text="ä b")  # two words, four bytes
    assert (found.tokens, found.words, found.bytes) == (3, 2, 4)
    assert found.log_prob == pytest.approx(-math.log(42), rel=1e-15)
    assert found.perplexity == pytest.approx(42 ** (1 / 3))
    assert found.loss == pytest.approx(math.log(42) / 3)
    assert found.perplexity_per_word == pytest.approx(42 ** (1 / 2))
    assert found.perplexity_per_byte == pytest.approx(42 ** (1 / 4))
    assert found.bits_per_byte == pytest.approx(math.log2(42) / 4)


def test_the_total_of_several_texts_weighs_each_by_its_length():
    total = Likelihood.total([score(1 / 2, text="a"), score(1 / 3, 1 / 7, text="b c")])
    assert (total.tokens, total.words, total.bytes) == (3, 3, 4)
    assert total.perplexity == pytest.approx(42 ** (1 / 3))
    assert Likelihood.total([score(1 / 2, text="a"), score(1 / 2)]).words is None


def test_words_and_bytes_of_ids_are_not_made_up():
    found = score(1 / 2)
    for name, unit in (("perplexity_per_word", "words"), ("bits_per_byte", "bytes")):
        with pytest.raises(InputError, match=f"How many {unit}.*tokenizer"):
            getattr(found, name)
    assert set(found.to_dict()) == {"tokens", "log_prob", "loss", "perplexity"}


def test_nothing_scored_is_no_number_and_improbable_is_infinite():
    assert math.isnan(score(text="").perplexity)
    assert perplexity(800.0) == math.inf
    told = score(text="").to_dict()
    assert (told["perplexity"], told["perplexity_per_word"]) == (None, None)
    json.dumps(told, allow_nan=False)


def test_words_are_what_stands_between_white_space():
    assert count_words(" To  be,\nor not\tto be ") == 6
    assert count_words(" \n") == 0
