"""Beam search in Flax: the texts and scores of 4.34's PyTorch classes and of the PyTorch room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import random_checkpoint, tiny_config
from compiled import compiled_once
from flax_builder import build_flax
from gpt2kit.errors import InputError
from gpt2kit.flax import FlaxBeamSearchOutput, FlaxGPT2LMHeadModel
from gpt2kit.flax.generation import beams, hypotheses
from gpt2kit.flax.generation.search import Ends
from gpt2kit.flax.generation.top import top_k
from gpt2kit.generation import GenerationConfig, GenerationPlan, make_plan
from gpt2kit.generation.beams import Beams
from gpt2kit.generation.hypotheses import Hypotheses

FOLDER = Path(__file__).parents[2] / "golden" / "beams"
CASES = json.loads((FOLDER / "cases.json").read_text())
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
ARRAYS = np.load(FOLDER / "arrays.npz")
# The largest difference over all cases, 9.2e-5 (scores times a length of 15), times ten.
SCORE_TOLERANCE = 9.2e-4

IDS = np.array([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
ENDS = list(range(20, 40))
OPTIONS: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 7, "eos_token_id": ENDS}
# With a head of its own a model of random weights does not write the same token again and again.
SIZES: dict[str, Any] = {
    "n_positions": 37,
    "n_layer": 1,
    "tie_word_embeddings": False,
    "eos_token_id": None,
    "pad_token_id": 1,
}
PENALTIES = [0.0, 1.0, -1.3, 2.5]
STOPPING = [True, False, "never"]


# Each would compile a program of its own, and shows what another one shows.
REPEATED = {"embeds", "encoder", "no_cache", "one_prompt", "outputs", "outputs_ends", "outputs_no_cache"}


def is_served(case: dict[str, Any]) -> bool:
    """Tell of a recorded case whether the Flax room follows its options, without drawing."""
    refused = {"num_beam_groups", "force_words_ids"} & case["kwargs"].keys()
    return not (refused or case.get("halves") or "seed" in case)


SERVED = [name for name, case in CASES.items() if is_served(case) and name not in REPEATED]
# The loop runs in Python for most of them, so that another rule compiles nothing. These are compiled as a
# whole, which costs less where the shapes are others than those of all the rest.
COMPILED = {"rules", "left_padded_no_cache", "one_token", "five_beams", "no_prompt"}


@pytest.fixture(scope="module", autouse=True)
def programs_are_compiled_quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def recorded() -> dict[bool, FlaxGPT2LMHeadModel]:
    made = {}
    for cross in (False, True):
        config = tiny_config(**MANIFEST["model"], add_cross_attention=cross)
        made[cross] = build_flax(config, random_checkpoint(config, MANIFEST["weights_seed"]))
        made[cross].generation_config.eos_token_id = None  # as the recorder does
    return made


def build(**changes: Any) -> FlaxGPT2LMHeadModel:
    config = tiny_config(**{**SIZES, **changes})
    return build_flax(config, random_checkpoint(config, 5))


@pytest.fixture(scope="module")
def model() -> FlaxGPT2LMHeadModel:
    return build()


def generated(models: dict[bool, FlaxGPT2LMHeadModel], case: dict[str, Any], **more: Any) -> Any:
    kwargs = {
        k: v for k, v in case["kwargs"].items() if k not in ("output_attentions", "output_hidden_states")
    }
    kwargs = {"input_ids": None, **kwargs, **more}
    for name in ("input_ids", "attention_mask", "token_type_ids", "encoder_attention_mask"):
        if name in case:
            kwargs[name] = np.array(case[name])
    for name, argument in (("embeds_seed", "inputs_embeds"), ("encoder_seed", "encoder_hidden_states")):
        if name in case:
            noise = np.random.default_rng(case[name]).normal(size=(2, 5, 33))
            kwargs[argument] = noise.astype(np.float32) * 0.7
    return models["encoder_seed" in case].generate(**kwargs)


def assert_is_recorded(name: str, output: FlaxBeamSearchOutput) -> None:
    """Compare with 4.34's texts, which end where the longest does and hold the first of the end tokens."""
    case, found = CASES[name], np.array(output.sequences)
    expected = np.array(case["sequences"])
    ends, length = case["kwargs"]["eos_token_id"], len(case.get("input_ids", [[2]])[0])
    if isinstance(ends, list):
        found[:, length:][np.isin(found[:, length:], ends)] = ends[0]
    width = expected.shape[1]
    assert found[:, :width].tolist() == expected.tolist()
    pad = case["kwargs"]["pad_token_id"]
    assert set(found[:, width:].ravel().tolist()) <= {ends if pad is None else pad}
    scores = ARRAYS[f"{name}.sequences_scores"]
    np.testing.assert_allclose(output.scores, scores, rtol=0, atol=SCORE_TOLERANCE)


# ---------------------------------------------------------------------- what it finds


@pytest.mark.parametrize("name", SERVED)
def test_texts_and_scores_are_those_of_4_34s_pytorch_classes(
    name: str, recorded: dict[bool, FlaxGPT2LMHeadModel]
):
    output = generated(recorded, CASES[name], trace=name in COMPILED)
    assert type(output) is FlaxBeamSearchOutput
    assert_is_recorded(name, output)


def torch_model(**changes: Any) -> Any:
    torch = pytest.importorskip("torch", reason="the texts of the PyTorch room are compared")
    from gpt2kit.torch import GPT2LMHeadModel

    config = tiny_config(**{**SIZES, **changes})
    state = {name: torch.from_numpy(array) for name, array in random_checkpoint(config, 5).items()}
    return GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state).double().eval()


def both(mine: FlaxGPT2LMHeadModel, theirs: Any, ids: Any, mask: Any, **options: Any) -> list[Any]:
    """Return (sequences, scores) of the two rooms, those of PyTorch padded to the full length."""
    import torch

    kept = {"return_dict_in_generate": True, "output_scores": True}
    there = theirs.generate(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **options, **kept)
    with jax.enable_x64(True):
        key = {"prng_key": jax.random.PRNGKey(7)} if options.get("do_sample") else {}
        here = mine.generate(ids, attention_mask=mask, **options, **key)
        found = np.asarray(here.sequences), np.asarray(here.scores)
    missing = found[0].shape[1] - there.sequences.shape[1]
    texts = np.pad(there.sequences.numpy(), ((0, 0), (0, missing)), constant_values=1)
    return [found, (texts, there.sequences_scores.numpy())]


def test_texts_and_scores_are_those_of_the_pytorch_room():
    theirs = torch_model()
    generator = np.random.default_rng(3)
    with jax.enable_x64(True):
        mine = build_flax(theirs.config, random_checkpoint(theirs.config, 5), dtype=jnp.float64)
    mask = np.ones((3, 5), np.int64)
    mask[0, :2] = mask[2, :1] = 0
    lengths = set()
    for trial in range(24):
        ids = generator.integers(2, 101, (3, 5)) * mask
        options = {
            "num_beams": 3,
            "num_return_sequences": 3,
            "max_new_tokens": int(generator.integers(8, 12)),
            "eos_token_id": generator.choice(np.arange(2, 101), 20, replace=False).tolist(),
            "length_penalty": PENALTIES[trial % 4],
            "early_stopping": STOPPING[trial % 3],
            "repetition_penalty": float(generator.uniform(1.1, 1.9)),
        }
        (texts, scores), (expected, expected_scores) = both(mine, theirs, ids, mask, **options)
        assert texts.tolist() == expected.tolist()
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)  # PyTorch returns float32
        lengths |= set((texts != 1).sum(axis=1).tolist())
    assert len(lengths) > 5
    assert mine.programs.traced == 1


def test_with_the_same_noise_sampled_beams_write_the_texts_of_the_pytorch_room(
    monkeypatch: pytest.MonkeyPatch,
):
    theirs = torch_model()
    import torch

    with jax.enable_x64(True):
        mine = build_flax(theirs.config, random_checkpoint(theirs.config, 5), dtype=jnp.float64)
        keys, draws = jax.random.PRNGKey(7), []
        for _ in range(9):
            keys, draw = jax.random.split(keys)
            draws.append(np.array(jax.random.gumbel(draw, (2, 303), jnp.float64, mode="high")))
    steps = iter(draws)

    def multinomial(probabilities: Any, num_samples: int) -> Any:
        return (probabilities.log() + torch.from_numpy(next(steps))).topk(num_samples).indices

    monkeypatch.setattr(torch, "multinomial", multinomial)
    options = {
        "do_sample": True, "num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 9, "top_k": 40,
        "temperature": 1.3, "eos_token_id": ENDS[:9], "renormalize_logits": True, "repetition_penalty": 1.2,
    }  # fmt: skip
    found, expected = both(mine, theirs, IDS, np.ones_like(IDS), **options)
    assert found[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    assert len({tuple(text) for text in found[0].tolist()}) > 4


def test_candidates_are_drawn_without_replacement_as_likely_as_they_are():
    probabilities = np.array([0.4, 0.3, 0.2, 0.1, 0.0])
    with np.errstate(divide="ignore"):
        sums = np.log(probabilities)[None].astype(np.float32)
    count = 20_000
    keys = jax.random.split(jax.random.PRNGKey(3), count)
    totals, places = jax.jit(jax.vmap(lambda key: beams._drawn(key, sums, 2)))(keys)
    places = np.asarray(places)[:, 0]
    assert (np.asarray(totals)[:, 0] == sums[0][places]).all()
    assert (sums[0][places[:, 0]] >= sums[0][places[:, 1]]).all()  # the best first
    for a in range(5):
        for b in range(a + 1, 5):
            p, q = probabilities[a], probabilities[b]
            wanted = p * q / (1 - p) + q * p / (1 - q)
            found = ((places == [a, b]).all(axis=1)).mean()
            assert abs(found - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / count) + 1e-12


# ---------------------------------------------------------------------- step by step


def test_finished_texts_are_kept_as_lists_keep_them():
    """Totals are whole numbers, so that equal ones are frequent."""
    generator = np.random.default_rng(0)
    B, W, T = 3, 3, 11
    settle = jax.jit(hypotheses.settle)
    for trial in range(60):
        plan = Beams(W, length_penalty=PENALTIES[trial % 4], early_stopping=STOPPING[trial % 3])
        measure = hypotheses.measure_of(plan, T, T, np.float32)
        found = hypotheses.empty(jnp.zeros((B, W, T), jnp.int32), np.float32)
        lists = [Hypotheses(W, plan.length_penalty, plan.early_stopping, T) for _ in range(B)]
        for length in range(3, T):
            totals = np.round(generator.normal(size=(B, W)) * 2 - length).astype(np.float32)
            texts = generator.integers(0, 99, (B, W, T)).astype(np.int32)
            wanted = (generator.random((B, W)) < 0.3) & ~np.array([[one.done] for one in lists])
            found = hypotheses.add(found, totals, texts, wanted, measure.divisors[length])
            found = settle(found, totals.max(axis=1), length + 1, measure)
            for b, one in enumerate(lists):
                for q in np.flatnonzero(wanted[b]):
                    one.add(float(totals[b, q]), length, texts[b, q].tolist())
                one.settle(float(totals[b].max()), length + 1)
                kept = [text.text for text in one.found]
                assert np.asarray(found.texts)[b, W - len(kept) :].tolist() == kept
                assert (int(found.count[b]), bool(found.done[b])) == (len(kept), one.done)
        texts, scores = map(np.asarray, hypotheses.best_first(found))
        for b, one in enumerate(lists):
            order = sorted(range(len(one.found)), key=lambda n: (one.found[n].score, n), reverse=True)
            assert texts[b, : len(order)].tolist() == [one.found[n].text for n in order]
            np.testing.assert_allclose(
                scores[b, : len(order)], [one.found[n].score for n in order], rtol=1e-6
            )
            assert np.isnan(scores[b, len(order) :]).all()


class Table:
    """A model of the PyTorch room whose scores depend on the length and the last token alone."""

    config = None

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def prepare_inputs_for_generation(self, ids: Any, **kwargs: Any) -> dict[str, Any]:
        return {"input_ids": ids}

    def __call__(self, input_ids: Any, **kwargs: Any) -> Any:
        logits = self.scores[input_ids.shape[1]][input_ids[:, -1]][:, None]
        return SimpleNamespace(logits=logits, past_key_values=None)


def in_torch(scores: Any, ids: Any, plan: GenerationPlan) -> tuple[Any, Any]:
    torch = pytest.importorskip("torch", reason="the steps of the PyTorch room are compared")
    from gpt2kit.torch.generation.beams import beam_search
    from gpt2kit.torch.generation.logits import LogitsProcessorList
    from gpt2kit.torch.generation.prompt import Prompt
    from gpt2kit.torch.generation.record import Record
    from gpt2kit.torch.generation.search import Search
    from gpt2kit.torch.generation.stopping import StoppingCriteriaList

    rules, criteria, record = LogitsProcessorList(), StoppingCriteriaList(), Record(scores=[])
    how = Search(plan.max_length, rules, False, criteria, plan.pad_token_id, False, record)
    prompt = Prompt(torch.from_numpy(ids), ids.shape[1])
    output = beam_search(Table(torch.from_numpy(scores)), prompt, how, plan)
    return output.sequences.numpy(), output.sequences_scores.numpy()


def in_steps(advance: Any, scores: Any, ids: Any, plan: GenerationPlan, room: int) -> tuple[Any, Any]:
    B, T = ids.shape
    assert plan.beams is not None
    W = plan.beams.number
    ends = Ends(plan.max_length, plan.pad_token_id, np.array(plan.eos_token_ids, np.int32))
    measure = hypotheses.measure_of(plan.beams, plan.max_length, room, np.float64)
    text = jnp.asarray(np.pad(ids, ((0, 0), (0, room - T))), jnp.int32)
    state = beams._begin(text, jnp.int32(T), W, np.float64, jax.random.PRNGKey(0), False)
    while int(state.length) < plan.max_length and not bool(state.found.done.all()):
        length = int(state.length)
        logits = scores[length][np.asarray(state.texts)[:, :, length - 1]]  # [B, W, V]
        logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        sums = logits + np.asarray(state.totals)[:, :, None]
        state, _ = advance(state, sums.reshape(B, -1), ends, measure)
    texts, found = map(np.asarray, hypotheses.best_first(beams._close(state, measure)))
    return texts[:, : plan.returns].reshape(-1, room), found[:, : plan.returns].ravel()


@pytest.mark.parametrize("ends", [0, 1, 3])
def test_steps_are_those_of_the_pytorch_room_on_any_scores(ends: int):
    generator = np.random.default_rng(ends)
    V, W, T, room = 13, 3, 3, 14
    advance = jax.jit(lambda *state: beams.advance(*state, sampled=False))
    for trial in range(40):
        config = GenerationConfig(
            num_beams=W,
            num_return_sequences=int(generator.integers(1, W + 1)),
            max_new_tokens=int(generator.choice([1, 4, 8, 11])),
            eos_token_id=generator.choice(V, ends, replace=False).tolist() or None,
            pad_token_id=0,
            length_penalty=PENALTIES[trial % 4],
            early_stopping=STOPPING[trial % 3],
        )
        plan = make_plan(config, prompt_length=T, n_positions=50, vocab_size=V, batch_size=2)
        scores = generator.normal(size=(room + 1, V, V)) * 2
        ids = generator.integers(0, V, (2, T))
        expected, expected_scores = in_torch(scores, ids, plan)
        with jax.enable_x64(True):
            texts, found = in_steps(advance, scores, ids, plan, room)
        width = expected.shape[1]
        assert texts[:, :width].tolist() == expected.tolist()
        assert not texts[:, width:].any()
        np.testing.assert_allclose(found, expected_scores, rtol=1e-6)


def test_the_best_scores_are_found_without_sorting_the_rest():
    def kth(scores: Any) -> Any:
        return top_k(scores, 5)[0][:, -1:]

    scores = np.random.default_rng(0).normal(size=(2, 997)).astype(np.float32)
    assert np.asarray(jax.jit(kth)(scores)).tolist() == np.sort(scores)[:, -5:-4].tolist()
    program = jax.jit(kth).lower(scores).compile().as_text()
    assert "TopK" in program
    assert " sort(" not in program


# ---------------------------------------------------------------------- one program


def test_other_numbers_compile_nothing(model: FlaxGPT2LMHeadModel):
    model.generate(IDS, **OPTIONS, length_penalty=0.5)
    before = model.programs.traced
    first = model.generate(IDS, **OPTIONS)
    others = model.generate(IDS[:, 1:], **OPTIONS, length_penalty=2.0, early_stopping="never")
    several = model.generate(IDS, **OPTIONS | {"num_return_sequences": 3, "max_new_tokens": 9})
    ended = model.generate(IDS, **OPTIONS | {"eos_token_id": list(range(40, 60))}, early_stopping=True)
    assert model.programs.traced == before
    shapes = [output.sequences.shape for output in (first, others, several, ended)]
    assert shapes == [(2, 12), (2, 11), (6, 14), (2, 12)]
    assert several.scores.shape == (6,)
    assert first.sequences.dtype == jnp.int32
    assert (np.asarray(first.sequences) != np.asarray(ended.sequences)).any()


def test_a_prompt_is_kept_once_and_nothing_of_the_cache_moves(model: FlaxGPT2LMHeadModel):
    """A cache is [B*H, places, K]: no array of keys has a row for each beam, and none is gathered."""
    rows, moved = set(), []
    jaxpr = jax.make_jaxpr(lambda ids: model.generate(ids, **OPTIONS).sequences)(IDS)

    def look(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                shape = getattr(variable.aval, "shape", ())
                if len(shape) == 3 and shape[2] == 11:
                    rows.add(shape[0])
                    moved.extend([equation] if equation.primitive.name == "gather" else [])
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else [value]:
                    if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                        look(getattr(inner, "jaxpr", inner))

    look(jaxpr.jaxpr)
    assert rows == {2 * 3}  # B*H, and not B*W*H
    assert not moved


def test_sampled_beams_follow_the_key(model: FlaxGPT2LMHeadModel):
    options = OPTIONS | {"do_sample": True, "top_k": 0}
    first = np.asarray(model.generate(IDS, **options, prng_key=jax.random.PRNGKey(3)).sequences)
    again = np.asarray(model.generate(IDS, **options, prng_key=jax.random.PRNGKey(3)).sequences)
    other = np.asarray(model.generate(IDS, **options, prng_key=jax.random.PRNGKey(5)).sequences)
    assert first.tolist() == again.tolist()
    assert (first != other).any()


def test_step_by_step_in_python_the_texts_are_the_same(model: FlaxGPT2LMHeadModel):
    options = OPTIONS | {"max_new_tokens": 4}
    compiled = model.generate(IDS, **options)
    traced = model.programs.traced
    in_python = model.generate(IDS, **options, trace=False)
    assert model.programs.traced == traced + 2  # what reads the prompt, and what reads a token
    assert compiled.sequences.tolist() == in_python.sequences.tolist()
    np.testing.assert_allclose(compiled.scores, in_python.scores, rtol=1e-5)


def test_it_is_a_part_of_the_callers_program(model: FlaxGPT2LMHeadModel):
    expected = model.generate(IDS, **OPTIONS, num_return_sequences=2)
    options = OPTIONS | {"num_return_sequences": 2}
    output = jax.jit(lambda params, ids: model.generate(ids, params=params, **options))(model.params, IDS)
    assert type(output) is FlaxBeamSearchOutput
    assert output.sequences.tolist() == expected.sequences.tolist()
    np.testing.assert_allclose(output.scores, expected.scores, rtol=1e-5)


def test_in_the_callers_program_a_text_that_cannot_be_written_is_minus_one_with_nan_for_a_score(
    model: FlaxGPT2LMHeadModel,
):
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])  # the second prompt ends in padding
    output = jax.jit(lambda mask: model.generate(IDS, attention_mask=mask, **OPTIONS))(mask)
    assert output.sequences[0].tolist() == model.generate(IDS, **OPTIONS).sequences[0].tolist()
    assert output.sequences[1].tolist() == [*IDS[1].tolist(), *[-1] * 7]
    assert np.isnan(output.scores).tolist() == [False, True]


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5}, r"group.*num_beam_groups"),
        ({"force_words_ids": [[41, 43]]}, r"constrained.*force_words_ids"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [3]}, r"prefix_allowed_tokens_fn"),
        ({"output_scores": True, "return_dict_in_generate": True}, r"output_scores"),
        ({"num_return_sequences": 4}, r"num_return_sequences"),
        ({"length_penalty": None}, r"length_penalty"),
        ({"length_penalty": 99.0}, r"length_penalty.*99"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    options: dict[str, Any], message: str, model: FlaxGPT2LMHeadModel
):
    before = model.programs.traced
    with pytest.raises(InputError, match=message):
        model.generate(IDS, **OPTIONS | options)
    assert model.programs.traced == before


def test_rules_that_leave_too_few_texts_are_refused(model: FlaxGPT2LMHeadModel):
    every = list(range(101))
    with pytest.raises(
        InputError, match=r"0 text\(s\) for the prompt in row 0, and num_return_sequences is 2"
    ):
        model.generate(IDS, **OPTIONS, num_return_sequences=2, suppress_tokens=every)


def test_scores_that_are_no_numbers_are_refused(model: FlaxGPT2LMHeadModel):
    broken = jax.tree.map(lambda leaf: leaf, model.params)
    broken["transformer"]["ln_f"] = {
        "scale": np.full(33, np.nan, np.float32),
        "bias": np.zeros(33, np.float32),
    }
    with pytest.raises(InputError, match="NaN for scores"):
        model.generate(IDS, **OPTIONS, params=broken)


def test_a_plan_without_beams_is_refused(model: FlaxGPT2LMHeadModel):
    plan = make_plan(GenerationConfig(max_new_tokens=3), prompt_length=5, n_positions=37, vocab_size=101)
    with pytest.raises(InputError, match="no beams"):
        beams.beam_search(model, None, None, plan)  # type: ignore[arg-type]
