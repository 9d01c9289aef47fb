"""Beam search in TensorFlow: several texts of each prompt side by side, of which the best are kept.

Plain and sampled beam search are one loop here, with the texts and the scores of the PyTorch room. All shapes
are fixed, so that the loop runs step by step as well as in a compiled program: a prompt that has ended goes
on beside the others, writing padding.

Dimensions: B prompts, W beams of each, Q candidates of a prompt, T tokens of a text that have room, V
vocabulary. The rows of text are the beams of all prompts, B*W.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationPlan
from gpt2kit.tensorflow.generation import hypotheses
from gpt2kit.tensorflow.generation.choice import check_choice, gumbel
from gpt2kit.tensorflow.generation.compiled import Given, run
from gpt2kit.tensorflow.generation.hypotheses import Hypotheses, Measure
from gpt2kit.tensorflow.generation.prompt import Prompt
from gpt2kit.tensorflow.generation.reader import Reader, repeated
from gpt2kit.tensorflow.generation.record import TFBeamSampleDecoderOnlyOutput, TFBeamSearchDecoderOnlyOutput
from gpt2kit.tensorflow.generation.search import Search, begun, ended_by
from gpt2kit.tensorflow.mask import score_dtype

__all__ = ["beam_search"]

_NEVER = -float("inf")
# A beam that must not be chosen while another can be: in the first step all beams of a prompt are the same.
_LAST = -1e9


def beam_search(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan, compiled: bool) -> Any:
    """Write on from a prompt by several beams.

    Args:
        model: Keeps the compiled programs.
        prompt: What the texts begin with.
        how: The rules and the ends.
        plan: The numbers of the beams.
        compiled: Whether this is a program or a part of a graph.

    Returns:
        The best texts of each prompt, [B * returns, up to max_length], or an output with them.

    Raises:
        InputError: the rules leave fewer texts than are to be returned, or scores are no numbers.
    """
    assert plan.beams is not None
    W = plan.beams.number

    def write(reader: Reader, given: Given, places: int) -> Any:
        return _search(reader, given, places, W)

    def measured(places: int) -> Measure:
        assert plan.beams is not None
        dtype = score_dtype(model.compute_dtype)
        return hypotheses.measure_of(plan.beams, plan.max_length, places, dtype)

    own = compiled and tf.executing_eagerly()
    found = run(model, Given(prompt, how), plan, write, ("beams", W), own, measured)
    if tf.executing_eagerly():
        _check(found.count.numpy(), found.broken.numpy(), plan.returns)
    sequences, rows = _texts(found, plan)  # [B * returns, T] each
    if how.record is None:
        return sequences
    kind = TFBeamSampleDecoderOnlyOutput if how.sampled else TFBeamSearchDecoderOnlyOutput
    best = tf.reshape(found.scores[:, : plan.returns], (-1,))  # [B * returns]
    scores = None if how.record.scores is None else tuple(how.record.scores)
    return kind(sequences=sequences, sequences_scores=best, scores=scores, beam_indices=rows)


class _Found(NamedTuple):
    """What a search gives.

    Attributes:
        texts: The texts and behind them the rows that their new tokens came from, [B, W, 2*T].
        scores: Their scores, the best first, [B, W].
        count: How many texts there are, [B].
        broken: Whether the scores of a prompt were no numbers, [B].
    """

    texts: Any
    scores: Any
    count: Any
    broken: Any


def _texts(found: _Found, plan: GenerationPlan) -> tuple[Any, Any]:
    """Return as many texts and rows as were asked for, as long as the longest, [B * returns, T] each.

    Outside of a graph they are cut by NumPy, so that nothing is compiled for a new length.
    """
    places = found.texts.shape[-1] // 2
    texts = found.texts.numpy() if tf.executing_eagerly() else found.texts  # [B, W, 2*T]
    texts = texts[:, : plan.returns]  # [B, returns, 2*T]
    sequences, rows = texts[..., :places], texts[..., places:]  # [B, returns, T] each
    longest = plan.max_length
    if tf.executing_eagerly():
        longest = plan.prompt_length + int((rows >= 0).sum(axis=-1).max())
    sequences, rows = (
        tf.reshape(each[..., :longest], (-1, longest))  # [B * returns, T]
        for each in (sequences, rows)
    )
    return sequences, rows


class _Beams(NamedTuple):
    """The state of a beam search between two steps.

    Attributes:
        length: Tokens of a text so far, [].
        new: How many of them are new, [].
        texts: The texts with padding behind them, then the row that each new token came from and -1 behind
            them, [B, W, 2*T].
        totals: Log-probability of each, [B, W].
        found: The finished texts.
        broken: Whether the scores of a prompt were no numbers, [B].
    """

    length: Any
    new: Any
    texts: Any
    totals: Any
    found: Hypotheses
    broken: Any


def _search(reader: Reader, given: Given, places: int, W: int) -> _Found:
    """Return W texts of each prompt."""
    prompt, how, measure = given
    measure = Measure(*measure)
    scores, past = reader.first(prompt)  # [B, V]
    B, V = scores.shape
    rows, past, scores = prompt.repeat(W), repeated(past, W), tf.repeat(scores, W, axis=0)  # [B*W, V]
    beams = _begin(begun(prompt, places, how.pad_token_id), prompt, W, scores.dtype, how.sampled)

    def chosen(beams: _Beams, scores: Any) -> tuple[_Beams, Any]:
        texts = tf.reshape(beams.texts[..., :places], (B * W, places))  # [B*W, T]
        totals = tf.reshape(beams.totals, (B * W, 1))  # [B*W, 1]
        scores = how.processors(texts, tf.nn.log_softmax(scores), beams.length)  # [B*W, V]
        sums = how.warpers(texts, scores + totals, beams.length)  # [B*W, V]
        if how.record is not None and how.record.scores is not None:
            how.record.scores.append(sums if how.sampled else scores)
        # A beam that was lost stays so, whatever the rules of sampling make of scores that are all barred.
        sums = tf.where(totals == _NEVER, tf.constant(_NEVER, sums.dtype), sums)  # [B*W, V]
        return _advance(beams, tf.reshape(sums, (B, W * V)), how, measure)

    def goes_on(beams: _Beams, sources: Any, past: Any) -> Any:
        return (beams.length < how.max_length) & ~tf.reduce_all(beams.found.done)

    def step(beams: _Beams, sources: Any, past: Any) -> tuple[_Beams, Any, Any]:
        origin = tf.reshape(tf.range(B)[:, None] * W + sources, (-1,))  # [B*W]
        past = tf.nest.map_structure(lambda states: tf.gather(states, origin), past)  # [B*W, H, C, K]
        texts = tf.reshape(beams.texts[..., :places], (B * W, places))  # [B*W, T]
        scores, past = reader.next(rows, past, texts, beams.length)  # [B*W, V]
        return *chosen(beams, scores), past

    beams, _, _ = tf.while_loop(goes_on, step, (*chosen(beams, scores), past))
    open_ones = ~beams.found.done[:, None] & (beams.totals > _NEVER)  # [B, W]
    divisor = tf.gather(measure.divisors, beams.length)  # []
    found = hypotheses.add(beams.found, beams.totals, beams.texts, open_ones, divisor)
    texts, totals = hypotheses.best_first(found)  # [B, W, 2*T], [B, W]
    nan = tf.constant(float("nan"), totals.dtype)
    totals = tf.where(beams.broken[:, None], nan, totals)  # [B, W]
    new = tf.range(2 * places) >= prompt.length  # [2*T]
    texts = tf.where(tf.math.is_nan(totals)[:, :, None] & new, -1, texts)  # [B, W, 2*T]
    return _Found(texts, totals, found.count, beams.broken)


def _check(count: Any, broken: Any, returns: int) -> None:
    """Refuse what cannot be returned; in a caller's graph the new tokens of such a text are -1.

    Args:
        count: Texts of each prompt, [B].
        broken: Whether its scores were no numbers, [B].
        returns: Texts that were asked for.
    """
    if broken.any():
        check_choice(float("nan"))
    lacking = np.flatnonzero(count < returns)  # [rows]
    if len(lacking):
        row = int(lacking[0])
        raise InputError(
            f"The rules leave {int(count[row])} text(s) for the prompt in row {row}, and "
            f"num_return_sequences is {returns}: at some step they bar every token. Loosen the rules, which "
            "gpt2kit.generation.make_plan(...) lists in their order, or ask for fewer."
        )


def _begin(text: Any, prompt: Prompt, W: int, dtype: Any, sampled: bool) -> _Beams:
    """Return the state before the first step: W times the same text of each prompt, [B, T]."""
    B = text.shape[0]
    others = tf.where(tf.range(W) == 0, 0.0, 0.0 if sampled else _LAST)  # [W]
    texts = tf.concat([text, tf.fill(text.shape, -1)], axis=1)  # [B, 2*T]
    texts = tf.repeat(texts[:, None], W, axis=1)  # [B, W, 2*T]
    return _Beams(
        length=tf.convert_to_tensor(prompt.length, tf.int32),
        new=tf.zeros((), tf.int32),
        texts=texts,
        totals=tf.broadcast_to(tf.cast(others, dtype), (B, W)),  # [B, W]
        found=hypotheses.empty(texts, dtype),
        broken=tf.gather(prompt.mask, prompt.positions - 1, axis=1) == 0,  # [B]; after padding, nothing
    )


def _advance(beams: _Beams, sums: Any, how: Search, measure: Measure) -> tuple[_Beams, Any]:
    """Choose the next texts, and take those that have ended into the lists.

    Args:
        beams: The texts so far.
        sums: Log-probability of each text with each next token, after all rules, [B, W*V].
        how: What ends a text, and whether candidates are drawn or the likeliest are taken.
        measure: How finished texts are compared.

    Returns:
        The next state, and for each of its texts the beam of the same prompt that it goes on from, [B, W].
    """
    W, V = beams.texts.shape[1], sums.shape[1] // beams.texts.shape[1]
    never = tf.constant(_NEVER, sums.dtype)
    is_open = ~beams.found.done  # [B]
    broken = beams.broken | (is_open & tf.reduce_any(tf.math.is_nan(sums), axis=1))  # [B]
    Q = min(2 * W if how.sampled else max(2, 1 + how.eos_token_ids.shape[0]) * W, W * V)
    totals, candidates = _drawn(sums, Q, how, beams.length) if how.sampled else tf.math.top_k(sums, Q)
    sources, tokens = candidates // V, candidates % V  # [B, Q] each
    ended = ended_by(tokens, how.eos_token_ids)  # [B, Q]

    best = totals[:, 0]  # [B]
    alive = is_open & (best > never)  # [B]
    texts = _written(beams, sources[:, :W], tokens[:, :W])  # [B, W, 2*T]
    divisor = tf.gather(measure.divisors, beams.length)  # []
    wanted = ended[:, :W] & alive[:, None]  # [B, W]
    found = hypotheses.add(beams.found, totals[:, :W], texts, wanted, divisor)
    found = hypotheses.settle(found, best, beams.length + 1, measure)
    found = found._replace(done=found.done | ~alive | broken)

    going = tf.argsort(tf.cast(ended, tf.int32), axis=1, stable=True)[:, :W]  # [B, W]; ended ones last
    totals = tf.where(ended, never, totals)  # [B, Q]; if too few go on, a beam is lost
    totals, tokens, sources = (
        tf.gather(x, going, axis=1, batch_dims=1)  # [B, W] each
        for x in (totals, tokens, sources)
    )
    closed = ~is_open[:, None]  # [B, 1]
    sources = tf.where(closed, tf.range(W), sources)  # [B, W]
    return _Beams(
        length=beams.length + 1,
        new=beams.new + 1,
        texts=_written(beams, sources, tf.where(closed, how.pad_token_id, tokens)),  # [B, W, 2*T]
        totals=tf.where(closed, tf.zeros((), totals.dtype), totals),  # [B, W]
        found=found,
        broken=broken,
    ), sources


def _drawn(sums: Any, Q: int, how: Search, step: Any) -> tuple[Any, Any]:
    """Draw so many of the candidates [B, W*V] without replacement; their totals and places, [B, Q] each.

    The Q largest sums of a log-probability and its own Gumbel noise are such a draw.

    Source:
        Kool, van Hoof and Welling 2019, "Stochastic Beams and Where to Find Them", section 2.3.
    """
    noise = gumbel(sums.shape, how.seed, step, sums.dtype)  # [B, W*V]
    places = tf.math.top_k(sums + noise, Q).indices  # [B, Q]
    totals, order = tf.math.top_k(tf.gather(sums, places, axis=1, batch_dims=1), Q)  # [B, Q] each
    return totals, tf.gather(places, order, axis=1, batch_dims=1)  # [B, Q] each


def _written(beams: _Beams, sources: Any, tokens: Any) -> Any:
    """Return texts that go on from these beams by these tokens, and the rows these came from, [B, W, 2*T]."""
    texts = tf.gather(beams.texts, sources, axis=1, batch_dims=1)  # [B, W, 2*T]
    B, W, both = texts.shape
    rows = tf.range(B)[:, None] * W + sources  # [B, W]
    columns = tf.range(both)  # [2*T]
    texts = tf.where(columns == beams.length, tokens[:, :, None], texts)  # [B, W, 2*T]
    return tf.where(columns == both // 2 + beams.new, rows[:, :, None], texts)  # [B, W, 2*T]
