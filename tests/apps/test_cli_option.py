"""The generation options of the command line: how a sentence of the library names them there."""

from __future__ import annotations

import pytest

from gpt2kit.cli.option import as_typed


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("`top_k` is -1.", "--top-k is -1."),
        ("ask for at most max_new_tokens=40.", "ask for at most --max-new-tokens=40."),
        ("pass `do_sample=True` or leave `temperature` out", "pass --do-sample or leave --temperature out"),
        ("requires `use_cache=True`, not use_cache=False", "requires --use-cache, not --no-use-cache"),
        ("pass `num_beams>1`", "pass --num-beams above 1"),
        ("`max_new_tokens` (=3) and `max_length`(=5)", "--max-new-tokens (=3) and --max-length(=5)"),
        ("`negative_prompt_ids` of the assistant_model", "--negative-prompt of the --assistant-model"),
    ],
)
def test_options_are_named_as_they_are_typed(said, typed):
    assert as_typed(said) == typed


@pytest.mark.parametrize(
    "said",
    [
        "the model has n_positions=5",
        "the temperature is high",
        "correct generation_config.json, or `model.config`",
        "models/top_k, top_k.json and my_top_k are files",
    ],
)
def test_what_is_no_option_stays_as_it_is(said):
    assert as_typed(said) == said


def test_of_two_names_the_one_that_was_given_is_told():
    said = "leave `force_words_ids` out"
    assert as_typed(said) == "leave --force-words-ids out"
    assert as_typed(said, {"force_word"}) == "leave --force-word out"
    assert as_typed(said, {"force_word", "force_words_ids"}) == "leave --force-words-ids out"
