"""Greedy search and sampling by a graph of one step: each token can be handed on when it is chosen.

That is how a streamer is served, and how a text is written of which nothing but the tokens is kept. The
prompt is read operation by operation, so that the first token comes at once. What follows is read by a
graph of one step, which is traced before the second token; XLA, which would compile it for seconds, does not.
Dimensions: B prompts, R rows of text, T tokens so far, or that have room, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer, GenerationConfig, GenerationMode, GenerationPlan
from gpt2kit.tensorflow.generation.bucket import bucket
from gpt2kit.tensorflow.generation.choice import check_choice, chosen, padding
from gpt2kit.tensorflow.generation.compiled import key_of, prompt_of
from gpt2kit.tensorflow.generation.prompt import Prompt
from gpt2kit.tensorflow.generation.reader import Layers, Reader, repeated
from gpt2kit.tensorflow.generation.record import (
    Record,
    TFGreedySearchDecoderOnlyOutput,
    TFSampleDecoderOnlyOutput,
)
from gpt2kit.tensorflow.generation.search import Search

__all__ = ["check_streamer", "pays", "stream"]

# Tracing a step takes as long as some 20 tokens are faster by; it is done once for a model and a bucket.
_MANY = 16


def check_streamer(
    streamer: Any, config: GenerationConfig, prompt: Prompt, plan: GenerationPlan, compiled: bool
) -> None:
    """Refuse what does not go together with a streamer.

    Raises:
        InputError: the option by its name, and the way out.
    """
    if not callable(getattr(streamer, "put", None)) or not callable(getattr(streamer, "end", None)):
        raise InputError(
            f"A streamer has to have put() and end(), but a {type(streamer).__name__} came. Subclass "
            "gpt2kit.generation.BaseStreamer."
        )
    if compiled:
        raise InputError(
            "The tokens of a compiled program come all at once, and a `streamer` wants them one by one. "
            "Leave out jit_compile and tf.function."
        )
    if plan.beams is not None:
        raise InputError("`streamer` cannot be used with beam search: no token is sure before the end.")
    if plan.mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise InputError(
            f"A `streamer` gets the tokens of greedy search and sampling, and this is {plan.mode}."
        )
    for name in ("output_scores", "output_attentions", "output_hidden_states"):
        if getattr(config, name):
            raise InputError(
                f"A search with a `streamer` does not keep what `{name}` asks for: leave out one."
            )
    if prompt.past is not None:
        raise InputError(
            "`past_key_values` do not go with a `streamer`, whose cache begins with the prompt. Pass the "
            "whole text without them."
        )


def pays(prompt: Prompt, how: Search, plan: GenerationPlan) -> bool:
    """Tell whether a text that nobody waits for is sooner done here, and is all that is asked for."""
    asked = how.record or Record()
    nothing_kept = asked.scores is None and asked.attentions is None and asked.hidden_states is None
    return nothing_kept and prompt.past is None and plan.use_cache and plan.max_new_tokens >= _MANY


class _Nobody(BaseStreamer):
    """Who listens where nobody does."""

    def put(self, value: Any) -> None:
        """Pass over it."""

    def end(self) -> None:
        """Pass over it."""


def stream(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan, streamer: Any = None) -> Any:
    """Write on from a prompt, and hand on every token.

    Args:
        model: A language model, which keeps the graph of a step.
        prompt: What the text begins with.
        how: The rules and the ends.
        plan: How long the text may become.
        streamer: Gets the prompt, [B, T], then the tokens of each step, [R]; None where nobody waits.

    Returns:
        The tokens [R, T + new], or an output with them.
    """
    streamer = _Nobody() if streamer is None else streamer
    with _told_of_errors(streamer):
        text = _written(_Steps(model, prompt, plan), how, streamer)  # [R, T + new]
    if how.record is None:
        return text
    kind = TFSampleDecoderOnlyOutput if how.sampled else TFGreedySearchDecoderOnlyOutput
    return kind(sequences=text)


def _written(steps: _Steps, how: Search, streamer: Any) -> Any:
    """Run the loop, and return the text, [R, T + new]."""
    streamer.put(steps.prompt.ids)
    scores = steps.first()  # [R, V]
    text = steps.text  # [R, T]
    ended = np.zeros(len(text), bool)  # [R]
    while True:
        T = text.shape[1]
        so_far = tf.constant(text)  # [R, T]; rules are made of TensorFlow's operations
        scores = how.warpers(so_far, how.processors(so_far, scores, T), T)  # [R, V]
        tokens, values = (x.numpy() for x in chosen(scores, how.sampled, how.seed, T))  # [R] each
        check_choice(float(values[~ended].min()))
        if ended.any():
            tokens = np.where(ended, padding(how.pad_token_id), tokens).astype(np.int32)  # [R]
        text = np.concatenate([text, tokens[:, None]], axis=1)  # [R, T + 1]
        streamer.put(tokens)
        ended |= np.isin(tokens, how.eos_token_ids)  # [R]
        if ended.all() or text.shape[1] >= how.max_length:
            streamer.end()
            return tf.constant(text)  # [R, T + new]
        scores = steps.next(text)  # [R, V]


class _Steps:
    """The scores of one token after the other, read off a model.

    Attributes:
        prompt: What the texts begin with, laid out.
        text: The prompts of all rows, [R, T].
    """

    def __init__(self, model: Any, prompt: Prompt, plan: GenerationPlan) -> None:
        most, read = plan.n_positions, plan.capacity - 1  # the last token is never read
        cache = max(bucket(read, most), prompt.positions)
        self.prompt = prompt.laid_out(prompt.length, prompt.positions, cache)
        self.rows = self.prompt.repeat(plan.returns)
        self.text = np.asarray(self.rows.ids)  # [R, T]
        self.reader = Reader(model, cache, plan.use_cache)
        self.returns = plan.returns
        self.places = bucket(plan.max_length, most)
        self.past: Layers = ()
        self.key = ("step", self.places, cache, plan.use_cache, key_of(model))
        tokens = bucket(prompt.length, most)  # of the graph, so that the next prompt needs no other
        self.arguments = self.rows.laid_out(tokens, bucket(prompt.positions, most), cache).arrays()

    def first(self) -> Any:
        """Return the scores of what may follow the prompt, [R, V]."""
        scores, past = self.reader.first(self.prompt)  # [B, V]
        self.past = repeated(past, self.returns)
        return tf.repeat(scores, self.returns, axis=0)  # [R, V]

    def next(self, text: Any) -> Any:
        """Return the scores of what may follow a text, [R, V], of which the last token has not been read."""
        T = text.shape[1]
        room = np.pad(text, [[0, 0], [0, self.places - T]])  # [R, places]
        given = {"prompt": self.arguments, "past": self.past, "text": room, "length": np.int32(T)}

        reader = self.reader

        def step(found: dict[str, Any]) -> Any:
            return reader.next(prompt_of(found), found["past"], found["text"], found["length"])

        scores, self.past = reader.model.programs.run(self.key, step, given, jit_compile=False)  # [R, V]
        return scores


def _told_of_errors(streamer: Any) -> AbstractContextManager[Any]:
    """Return the context that tells a streamer of an error; a streamer of another library is not told."""
    return streamer if isinstance(streamer, BaseStreamer) else nullcontext()
