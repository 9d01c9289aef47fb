"""Beam search in Flax as one compiled program: several texts of each prompt side by side, the best are kept.

Plain and sampled beam search are one loop here, with the texts and the scores of the PyTorch room. All shapes
are fixed: a prompt that has ended goes on beside the others, writing padding.

Dimensions: B prompts, W beams of each, Q candidates of a prompt, T tokens of a text that have room, V
vocabulary. The rows of text are the beams of all prompts, B*W.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gpt2kit.errors import InputError
from gpt2kit.flax.generation import hypotheses
from gpt2kit.flax.generation.branches import Branches, BranchReader
from gpt2kit.flax.generation.bucket import bucket
from gpt2kit.flax.generation.hypotheses import Hypotheses, Measure
from gpt2kit.flax.generation.processor import FlaxLogitsProcessorList
from gpt2kit.flax.generation.program import loop, run
from gpt2kit.flax.generation.prompt import Prompt, is_traced
from gpt2kit.flax.generation.record import FlaxBeamSearchOutput
from gpt2kit.flax.generation.search import Ends, Search, begun, check_choice, ended_by
from gpt2kit.flax.generation.top import top_k
from gpt2kit.flax.mask import score_dtype
from gpt2kit.generation import GenerationPlan

__all__ = ["beam_search"]

_NEVER = -jnp.inf
# A beam that must not be chosen while another can be: in the first step all beams of a prompt are the same.
_LAST = -1e9


def beam_search(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> FlaxBeamSearchOutput:
    """Write on from a prompt by several beams.

    Args:
        model: Keeps the compiled programs.
        prompt: What the texts begin with, laid out.
        how: The rules, the ends and the parameters.
        plan: The numbers of the beams.

    Returns:
        The best texts of each prompt, [B * returns, max_length], and their scores, [B * returns].

    Raises:
        InputError: the rules leave fewer texts than are to be returned, or scores are no numbers.
    """
    if plan.beams is None:
        raise InputError(f"This plan has no beams: it is one of {plan.mode}. Make it with num_beams above 1.")
    W = plan.beams.number
    steps = plan.max_new_tokens - 1  # the last tokens are never read
    if not is_traced(prompt, how.params, how.prng_key):
        steps = bucket(steps, plan.n_positions)
    places = prompt.position_ids.shape[1] + W * steps  # the prompt in its bucket, and what is written
    reader = BranchReader(replace(how.reader, places=places), W)
    measure = hypotheses.measure_of(plan.beams, plan.max_length, how.places, score_dtype(model.dtype))
    compiled_in = (reader, how.places, how.sampled, how.trace)
    arguments = (how.params, prompt, how.ends, measure, how.processors, how.warpers, how.prng_key)
    texts, scores, count, broken = run(model, _search, compiled_in, arguments, how.trace)
    if not is_traced(broken):
        _check(np.asarray(count), np.asarray(broken), plan.returns)
    return _returned(texts, scores, plan)


def _search(
    reader: BranchReader,
    places: int,
    sampled: bool,
    trace: bool,
    params: Any,
    prompt: Prompt,
    ends: Ends,
    measure: Measure,
    processors: FlaxLogitsProcessorList,
    warpers: FlaxLogitsProcessorList,
    key: Array,
) -> tuple[Array, Array, Array, Array]:
    """Return the texts [B, W, T] and scores [B, W], the best first; their count and the faults, [B] each."""
    scores, branches = reader.first(params, prompt)  # [B, V]
    B, W, V = len(scores), reader.beams, scores.shape[-1]
    scores = jnp.broadcast_to(scores[:, None], (B, W, V))  # [B, W, V]
    text = begun(prompt, places, ends.pad_token_id)  # [B, T]
    beams = _begin(text, jnp.asarray(prompt.length, jnp.int32), W, scores.dtype, key, sampled)
    last_seen = lax.dynamic_slice_in_dim(prompt.mask, prompt.positions - 1, 1, axis=1)[:, 0]  # [B]
    beams = replace(beams, broken=jnp.asarray(last_seen) == 0)  # after padding nothing can be written

    def chosen(beams: Beams, scores: Array) -> tuple[Beams, Array]:
        rows = beams.texts.reshape(B * W, places)  # [B*W, T]
        totals = beams.totals.reshape(B * W, 1)  # [B*W, 1]
        scores = _log_probabilities(scores.reshape(B * W, V))  # [B*W, V]
        sums = processors(rows, scores, beams.length) + totals  # [B*W, V]
        # A beam that was lost stays so, whatever the rules of sampling make of scores that are all barred.
        sums = jnp.where(totals == _NEVER, _NEVER, warpers(rows, sums, beams.length))  # [B*W, V]
        return advance(beams, sums.reshape(B, W * V), ends, measure, sampled)

    def goes_on(state: tuple[Beams, Array, Branches]) -> Array:
        return (state[0].length < ends.max_length) & ~state[0].found.done.all()

    def step(state: tuple[Beams, Array, Branches]) -> tuple[Beams, Array, Branches]:
        beams, sources, branches = state
        scores, branches = reader.next(params, prompt, branches, beams.texts, beams.length, sources)
        return *chosen(beams, scores), branches

    beams, _, _ = loop(goes_on, step, (*chosen(beams, scores), branches), trace)
    found = _close(beams, measure)
    texts, totals = hypotheses.best_first(found)  # [B, W, T], [B, W]
    totals = jnp.where(beams.broken[:, None], jnp.nan, totals)  # [B, W]
    new = jnp.arange(places) >= prompt.length  # [T]
    texts = jnp.where(jnp.isnan(totals)[:, :, None] & new, -1, texts)  # [B, W, T]
    return texts, totals, found.count, beams.broken


def _returned(texts: Array, scores: Array, plan: GenerationPlan) -> FlaxBeamSearchOutput:
    """Return as many of the texts [B, W, T] and their scores [B, W] as were asked for, as long as asked for.

    This is done outside of the program, so that it serves every number of them, and by NumPy where it can.
    """
    on_one = not is_traced(texts) and len(texts.devices()) == 1
    every = (jax.device_get(texts), jax.device_get(scores)) if on_one else (texts, scores)
    best = every[0][:, : plan.returns, : plan.max_length]  # [B, returns, max_length]
    sequences = best.reshape(-1, plan.max_length)  # [B * returns, max_length]
    scores = every[1][:, : plan.returns].reshape(-1)  # [B * returns]
    if on_one:
        sequences, scores = jax.device_put((sequences, scores), next(iter(texts.devices())))
    return FlaxBeamSearchOutput(sequences=sequences, scores=scores)


def _check(count: Any, broken: Any, returns: int) -> None:
    """Refuse what cannot be returned.

    Within a program of the caller's nothing can be refused: there the new tokens of such a text are -1, and
    its score is NaN.

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


def _log_probabilities(logits: Array) -> Array:
    """Return log softmax of [B*W, V]."""
    return logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)  # [B*W, V]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beams:
    """The state of a beam search between two steps.

    Attributes:
        length: Tokens of a text so far, [].
        texts: The texts, padding behind them, [B, W, T].
        totals: Log-probability of each, [B, W].
        found: The finished texts.
        broken: Whether the scores of a prompt were no numbers, [B].
        key: What the next draw is made of.
    """

    length: Array
    texts: Array
    totals: Array
    found: Hypotheses
    broken: Array
    key: Array


def _begin(texts: Array, length: Array, W: int, dtype: jnp.dtype, key: Array, sampled: bool) -> Beams:
    """Return the state before the first step: W times the same text of each prompt, [B, T]."""
    B = len(texts)
    others = jnp.where(jnp.arange(W) == 0, 0.0, 0.0 if sampled else _LAST)  # [W]
    texts = jnp.repeat(texts[:, None], W, axis=1)  # [B, W, T]
    return Beams(
        length=length,
        texts=texts,
        totals=jnp.broadcast_to(others.astype(dtype), (B, W)),  # [B, W]
        found=hypotheses.empty(texts, dtype),
        broken=jnp.zeros(B, bool),  # [B]
        key=key,
    )


def advance(beams: Beams, sums: Array, ends: Ends, measure: Measure, sampled: bool) -> tuple[Beams, Array]:
    """Choose the next texts, and take those that have ended into the lists.

    Args:
        beams: The texts so far.
        sums: Log-probability of each text with each next token, after all rules, [B, W*V].
        ends: What ends a text.
        measure: How finished texts are compared.
        sampled: Whether candidates are drawn, or the likeliest are taken.

    Returns:
        The next state, and for each of its texts the beam of the same prompt that it goes on from, [B, W].
    """
    W = beams.texts.shape[1]
    V = sums.shape[1] // W
    is_open = ~beams.found.done  # [B]
    broken = beams.broken | (is_open & jnp.isnan(sums.max(axis=1)))  # [B]
    key, draw = jax.random.split(beams.key)
    Q = min(2 * W if sampled else max(2, 1 + len(ends.eos_token_ids)) * W, W * V)
    totals, places = _drawn(draw, sums, Q) if sampled else top_k(sums, Q)  # [B, Q] each
    sources, tokens = places // V, places % V  # [B, Q] each
    ended = ended_by(tokens, ends)  # [B, Q]

    best = totals[:, 0]  # [B]
    alive = is_open & (best > _NEVER)  # [B]
    wanted = ended[:, :W] & alive[:, None]  # [B, W]
    texts = _written(beams, sources[:, :W], tokens[:, :W])  # [B, W, T]
    divisor = measure.divisors[beams.length]  # []
    found = hypotheses.add(beams.found, totals[:, :W], texts, wanted, divisor)
    found = hypotheses.settle(found, best, beams.length + 1, measure)
    found = replace(found, done=found.done | ~alive | broken)

    going = jnp.argsort(ended, axis=1, stable=True)[:, :W]  # [B, W]; ended ones come last
    totals = jnp.where(ended, _NEVER, totals)  # [B, Q]; if too few go on, a beam is lost
    totals, tokens, sources = (jnp.take_along_axis(x, going, axis=1) for x in (totals, tokens, sources))
    closed = ~is_open[:, None]  # [B, 1]
    sources = jnp.where(closed, jnp.arange(W), sources)  # [B, W]
    return Beams(
        length=beams.length + 1,
        texts=_written(beams, sources, jnp.where(closed, ends.pad_token_id, tokens)),  # [B, W, T]
        totals=jnp.where(closed, 0.0, totals),  # [B, W]
        found=found,
        broken=broken,
        key=key,
    ), sources


def _drawn(key: Array, sums: Array, Q: int) -> tuple[Array, Array]:
    """Draw so many of the candidates [B, W*V] without replacement; their totals and places, [B, Q] each.

    The Q largest sums of a log-probability and its own Gumbel noise are such a draw.

    Source:
        Kool, van Hoof and Welling 2019, "Stochastic Beams and Where to Find Them", section 2.3.
    """
    noise = jax.random.gumbel(key, sums.shape, sums.dtype, mode="high")  # [B, W*V]
    places = top_k(sums + noise, Q)[1]  # [B, Q]
    totals, order = top_k(jnp.take_along_axis(sums, places, axis=1), Q)  # [B, Q] each
    return totals, jnp.take_along_axis(places, order, axis=1)  # [B, Q] each


def _written(beams: Beams, sources: Array, tokens: Array) -> Array:
    """Return texts that go on from these beams by these tokens, [B, W, T]."""
    texts = jnp.take_along_axis(beams.texts, sources[:, :, None], axis=1)  # [B, W, T]
    here = jnp.arange(texts.shape[-1]) == beams.length  # [T]
    return jnp.where(here, tokens[:, :, None], texts)  # [B, W, T]


def _close(beams: Beams, measure: Measure) -> Hypotheses:
    """Take the texts that are still open into the lists."""
    wanted = ~beams.found.done[:, None] & (beams.totals > _NEVER)  # [B, W]
    divisor = measure.divisors[beams.length]  # []
    return hypotheses.add(beams.found, beams.totals, beams.texts, wanted, divisor)
