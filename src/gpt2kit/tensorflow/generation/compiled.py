"""A search in arrays of fixed sizes: as one program that XLA compiles, or as a part of the caller's graph.

In a program of our own every length is one of few (`bucket`), and what may differ from call to call is an
argument: the prompt, its length, the numbers of the rules, the ends and the seed.
Dimensions: B prompts, R rows of text, T tokens of a prompt or a text that have room.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gpt2kit.generation import GenerationPlan
from gpt2kit.tensorflow.generation.bucket import bucket
from gpt2kit.tensorflow.generation.choice import check_choice
from gpt2kit.tensorflow.generation.processor import put_together, taken_apart
from gpt2kit.tensorflow.generation.prompt import Prompt
from gpt2kit.tensorflow.generation.reader import Reader
from gpt2kit.tensorflow.generation.record import TFGreedySearchDecoderOnlyOutput, TFSampleDecoderOnlyOutput
from gpt2kit.tensorflow.generation.search import Search, fixed_search

__all__ = ["Given", "compiled_search", "cut", "key_of", "prompt_of", "run"]


class Given(NamedTuple):
    """What a search is given, as arrays or as the arguments of a program.

    Attributes:
        prompt: What the texts begin with, laid out.
        how: The rules and the ends.
        measure: How finished texts are compared, in a beam search; what resemblance costs, in a contrastive
            one.
    """

    prompt: Prompt
    how: Search
    measure: Any = None


# What a search does: (reader, what is given, places of a text) -> tensors.
Fixed = Callable[[Reader, Given, int], Any]


def compiled_search(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> Any:
    """Run greedy search or sampling.

    Returns:
        The texts [R, up to max_length], or an output with them; in a graph they are as long as they may be.
    """

    def write(reader: Reader, given: Given, places: int) -> Any:
        return fixed_search(reader, given.prompt, given.how, places, plan.returns)

    kind = ("search", plan.returns)
    text = cut(*run(model, Given(prompt, how), plan, write, kind, tf.executing_eagerly()))  # [R, T]
    if how.record is None:
        return text
    output = TFSampleDecoderOnlyOutput if how.sampled else TFGreedySearchDecoderOnlyOutput
    return output(sequences=text)


def cut(text: Any, length: Any, worst: Any) -> Any:
    """Return texts without the places that nothing was written to; in a graph, as they are, [R, T].

    Args:
        text: [R, T]
        length: Tokens that were written.
        worst: The lowest score that a token of each row was chosen for, [R].

    Raises:
        InputError: some row could not be written.
    """
    if not tf.executing_eagerly():
        return text
    check_choice(float(np.min(worst.numpy())))
    return tf.constant(text.numpy()[:, : int(length)])  # [R, T]; nothing is compiled for a new length


def run(
    model: Any,
    given: Given,
    plan: GenerationPlan,
    write: Fixed,
    kind: tuple[Hashable, ...],
    compiled: bool,
    measured: Callable[[int], Any] = lambda places: (),
) -> Any:
    """Return what a search writes: by a program of our own, else step by step or in the caller's graph.

    Args:
        model: A language model, which keeps its programs.
        given: The prompt, the rules and the ends.
        plan: How long the texts may become.
        write: The search.
        kind: What it depends on besides its arguments.
        compiled: Whether it is a program of our own.
        measured: The measure, for texts of so many places.
    """
    prompt, how = given.prompt, given.how
    read = plan.capacity - 1  # the last token is never read
    pad = 0 if plan.pad_token_id is None else plan.pad_token_id  # without one, no row ends before the others
    how = replace(how, pad_token_id=pad)
    if not compiled:
        laid = prompt.laid_out(prompt.length, prompt.positions, read)
        reader = Reader(model, read, plan.use_cache)
        return write(reader, Given(laid, how, measured(plan.max_length)), plan.max_length)
    most = plan.n_positions
    places = bucket(plan.max_length, most)
    positions = bucket(prompt.positions, most)
    cache = max(bucket(read, most), positions)
    laid = prompt.laid_out(bucket(prompt.length, most), positions, cache)
    reader = Reader(model, cache, plan.use_cache)
    keys, numbers = zip(*map(taken_apart, (how.processors, how.warpers)), strict=True)

    def traced(found: dict[str, Any]) -> Any:
        rules: dict[str, Any] = {
            "processors": put_together(how.processors, found["processors"]),
            "warpers": put_together(how.warpers, found["warpers"]),
        }
        changed = replace(how, **found["ends"], **rules)
        return write(reader, Given(prompt_of(found), changed, found["measure"]), places)

    arguments = {
        "prompt": laid.arrays(),
        "processors": numbers[0],
        "warpers": numbers[1],
        "ends": {
            "max_length": np.int32(plan.max_length),
            "pad_token_id": np.int32(pad),
            "eos_token_ids": how.eos_token_ids,
            "seed": how.seed,
        },
        "measure": measured(places),
    }
    key = (*kind, keys, places, cache, plan.use_cache, how.sampled, key_of(model))
    return model.programs.run(key, traced, arguments)


def prompt_of(found: dict[str, Any]) -> Prompt:
    """Return the prompt among the arguments of a program, which are `Prompt.arrays` of it."""
    return Prompt(**(_NO_PROMPT | found["prompt"]))


_NO_PROMPT: dict[str, Any] = dict.fromkeys(
    ("ids", "length", "positions", "mask", "position_ids", "next_place")
)


def key_of(model: Any) -> Hashable:
    """Return what a model reads while it is traced: its configuration and its variables."""
    return model.config.to_json_string(use_diff=False), tuple(id(variable) for variable in model.variables)
