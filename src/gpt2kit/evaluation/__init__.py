"""Evaluation without tensors: which windows to score, what the numbers mean, how tasks are read and counted.

Read in this order: window.py, likelihood.py, pair.py, then the tasks lambada.py, choice.py and wikitext.py,
which read files through jsonl.py. A room's own `scoring.py` computes the probabilities.
"""

from __future__ import annotations

from gpt2kit.evaluation.choice import ChoiceResult, Question, questions, rate_choices
from gpt2kit.evaluation.jsonl import Record, read_records
from gpt2kit.evaluation.lambada import LambadaResult, Protocol, passages, rate_passages, stop_word_ids
from gpt2kit.evaluation.likelihood import Likelihood, TextScore, count_words
from gpt2kit.evaluation.pair import Pair, encode_pair
from gpt2kit.evaluation.wikitext import undo_wikitext_tokens
from gpt2kit.evaluation.window import Window, batches, plan_windows

__all__ = [
    "ChoiceResult",
    "LambadaResult",
    "Likelihood",
    "Pair",
    "Protocol",
    "Question",
    "Record",
    "TextScore",
    "Window",
    "batches",
    "count_words",
    "encode_pair",
    "passages",
    "plan_windows",
    "questions",
    "rate_choices",
    "rate_passages",
    "read_records",
    "stop_word_ids",
    "undo_wikitext_tokens",
]
