"""`generate` in Flax: what may be passed, what comes back, what is refused."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cases import random_checkpoint, tiny_config
from compiled import compiled_once
from flax_builder import build_flax, params_of
from gpt2kit.errors import InputError, LengthError
from gpt2kit.flax import (
    FlaxGPT2LMHeadModel,
    FlaxGreedySearchOutput,
    FlaxLogitsProcessor,
    FlaxLogitsProcessorList,
    FlaxRepetitionPenaltyLogitsProcessor,
    FlaxSampleOutput,
    FlaxTemperatureLogitsWarper,
    FlaxTopKLogitsWarper,
)
from gpt2kit.generation import GenerationConfig

IDS = np.array([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
ONE = IDS[:1]
OPTIONS: dict[str, Any] = {"max_new_tokens": 7}


def build(**changes: Any) -> FlaxGPT2LMHeadModel:
    sizes = {"n_positions": 37, "n_layer": 1, "eos_token_id": None, "pad_token_id": 1}
    config = tiny_config(**{**sizes, **changes})
    return build_flax(config, random_checkpoint(config, 5))


@pytest.fixture(scope="module", autouse=True)
def programs_are_compiled_quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def model() -> FlaxGPT2LMHeadModel:
    return build()


def texts(model: FlaxGPT2LMHeadModel, ids: Any = IDS, **options: Any) -> np.ndarray[Any, Any]:
    return np.asarray(model.generate(ids, **(OPTIONS | options)).sequences)


def likeliest(model: FlaxGPT2LMHeadModel, sequences: Any, length: int, **inputs: Any) -> Any:
    """Return the tokens that one call of the model on the whole text would choose after the prompt."""
    logits = jax.jit(lambda ids: model(ids, **inputs).logits)(sequences[:, :-1])
    return np.asarray(logits[:, length - 1 :].argmax(-1))


# ---------------------------------------------------------------------- the same text by every way


def test_greedy_text_is_the_likeliest_token_of_the_whole_text_each_time(model: FlaxGPT2LMHeadModel):
    found = texts(model)
    assert isinstance(model.generate(IDS, **OPTIONS), FlaxGreedySearchOutput)
    assert found.shape == (2, 12)
    assert (found[:, :5] == IDS).all()
    assert (found[:, 5:] == likeliest(model, found, 5)).all()


def test_loop_in_python_program_and_a_program_of_the_callers_write_the_same(model: FlaxGPT2LMHeadModel):
    expected = texts(model)
    assert (texts(model, trace=False) == expected).all()
    own = jax.jit(lambda ids, params: model.generate(ids, params=params, **OPTIONS).sequences)
    assert (np.asarray(own(IDS, model.params)) == expected).all()
    # With all arguments inside, the program in a program is as it is alone.
    assert (np.asarray(jax.jit(lambda: model.generate(IDS, **OPTIONS).sequences)()) == expected).all()


def test_draws_are_the_same_by_every_way(model: FlaxGPT2LMHeadModel):
    options = OPTIONS | {"do_sample": True, "num_return_sequences": 3, "temperature": 1.3}
    key = jax.random.PRNGKey(11)
    expected = texts(model, prng_key=key, **options)
    assert (texts(model, prng_key=key, trace=False, **options) == expected).all()
    own = jax.jit(lambda ids, key: model.generate(ids, prng_key=key, **options).sequences)
    assert (np.asarray(own(IDS, key)) == expected).all()


def test_mapped_over_prompts_every_prompt_has_its_own_text(model: FlaxGPT2LMHeadModel):
    mapped = jax.vmap(lambda ids: model.generate(ids[None], **OPTIONS).sequences[0])(jnp.asarray(IDS))
    assert (np.asarray(mapped) == texts(model)).all()


def test_spread_over_devices_the_text_is_the_same():
    model = build(vocab_size=102)  # what the devices divide
    mesh = Mesh(np.array(jax.devices()[:6]).reshape(2, 3), ("data", "model"))

    def part(path: Any, leaf: Any) -> Any:
        axes = ("model",) if leaf.ndim == 2 and leaf.shape[0] % 3 == 0 else ()
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    params = jax.tree_util.tree_map_with_path(part, model.params)
    rows = jax.device_put(jnp.asarray(IDS), NamedSharding(mesh, PartitionSpec("data")))
    spread = model.generate(rows, params=params, **OPTIONS).sequences
    assert len(spread.devices()) == 6
    assert (np.asarray(spread) == texts(model)).all()


def test_padding_on_the_left_changes_no_text(model: FlaxGPT2LMHeadModel):
    padded = np.array([[0, 0, 17, 3, 59], [5, 83, 7, 11, 29]])
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    together = texts(model, padded, attention_mask=mask)
    alone = texts(model, padded[:1, 2:], trace=False)
    assert (together[:1, 2:] == alone).all()
    assert (together[1:] == texts(model, padded[1:], trace=False)).all()


def test_other_arguments_of_the_model_reach_every_step():
    model = build(add_cross_attention=True)
    noise = np.random.default_rng(3)
    extras = {
        "encoder_hidden_states": noise.normal(size=(2, 7, 33)).astype(np.float32),
        "encoder_attention_mask": np.array([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]),
        "head_mask": np.array([0.5, 1.0, 0.0], np.float32),
    }
    types = np.array([[1, 1, 2, 2, 3], [4, 4, 4, 5, 5]])
    found = texts(model, position_ids=np.arange(3, 8)[None], token_type_ids=types, **extras)
    all_types = np.concatenate([types, np.repeat(types[:, -1:], 6, axis=1)], axis=1)
    places = np.arange(3, 14)[None]
    wanted = likeliest(model, found, 5, position_ids=places, token_type_ids=all_types, **extras)
    assert (found[:, 5:] == wanted).all()
    slow = texts(model, position_ids=np.arange(3, 8)[None], token_type_ids=types, use_cache=False, **extras)
    assert (slow == found).all()
    drawn = texts(
        model, position_ids=np.arange(3, 8)[None], token_type_ids=types, trace=False,
        do_sample=True, top_k=1, num_return_sequences=2, **extras,
    )  # fmt: skip
    assert (drawn[::2] == found).all()
    assert (drawn[1::2] == found).all()


def test_a_narrow_computation_writes_what_its_own_forward_chooses(model: FlaxGPT2LMHeadModel):
    model = build_flax(model.config, random_checkpoint(model.config, 5), dtype=jnp.bfloat16)
    found = texts(model, ONE, trace=False)
    logits = jax.jit(lambda ids: model(ids).logits.astype(jnp.float32))(found[:, :-1])
    scores = np.asarray(logits)[:, 4:]
    chosen = np.take_along_axis(scores, found[:, 5:, None], axis=-1)[..., 0]
    # A score near 9 has 2**-5 between neighbours in bfloat16: two of them may change places, not more.
    assert (scores.max(-1) - chosen <= 2 * 2.0**-5).all()


def test_double_precision_has_a_program_of_its_own():
    model = build()
    config, weights = model.config, random_checkpoint(model.config, 5)
    single = texts(model)
    with jax.enable_x64(True):
        double = build_flax(config, weights, dtype=jnp.float64)
        assert (texts(double, params=params_of(config, weights, jnp.float64)) == single).all()
        assert (texts(model) == single).all()
        assert model.programs.traced == 2


# ---------------------------------------------------------------------- ends, padding, several texts


def test_the_loop_ends_with_its_last_row(model: FlaxGPT2LMHeadModel):
    free = texts(model)
    ends = [int(free[0, 6]), int(free[1, 7])]
    calls = []

    class Count(FlaxLogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
            jax.debug.callback(lambda n: calls.append(int(n)), cur_len)
            return scores

    found = texts(model, eos_token_id=ends, logits_processor=[Count()])
    jax.effects_barrier()
    stop = [next(i for i in range(5, 12) if free[row, i] in ends) for row in range(2)]
    for row in range(2):
        assert (found[row, : stop[row] + 1] == free[row, : stop[row] + 1]).all()
        assert (found[row, stop[row] + 1 :] == 1).all()
    assert calls == list(range(5, max(stop) + 1))


def test_several_texts_of_a_prompt_stand_below_each_other(model: FlaxGPT2LMHeadModel):
    output = model.generate(IDS, do_sample=True, num_return_sequences=3, top_k=0, **OPTIONS)
    assert isinstance(output, FlaxSampleOutput)
    found = np.asarray(output.sequences)
    assert (found[:, :5] == np.repeat(IDS, 3, axis=0)).all()
    assert len({tuple(row) for row in found[:3].tolist()}) > 1
    with pytest.raises(InputError, match="num_return_sequences"):
        model.generate(IDS, num_return_sequences=3, **OPTIONS)


def test_a_key_draws_the_same_texts_and_another_key_others(model: FlaxGPT2LMHeadModel):
    options = {"do_sample": True, "num_return_sequences": 3, "top_k": 0}
    first = texts(model, **options)
    assert (texts(model, prng_key=jax.random.PRNGKey(0), **options) == first).all()
    assert (texts(model, prng_key=jax.random.key(0), **options) == first).all()
    assert (texts(model, prng_key=jax.random.PRNGKey(1), **options) != first).any()
    with pytest.raises(InputError, match="prng_key has to be a key"):
        model.generate(IDS, prng_key=7, **options, **OPTIONS)


def test_draws_follow_the_probabilities_that_the_rules_leave(model: FlaxGPT2LMHeadModel):
    n = 4096
    found = texts(
        model, ONE, do_sample=True, num_return_sequences=n, temperature=0.7, top_k=7, max_new_tokens=1,
        prng_key=jax.random.PRNGKey(3),
    )[:, 5]  # fmt: skip
    scores = np.asarray(jax.jit(lambda ids: model(ids).logits)(ONE))[0, -1].astype(np.float64) / 0.7
    kept = np.argsort(scores)[-7:]
    p = np.exp(scores[kept] - scores.max())
    p /= p.sum()
    counts = np.array([(found == token).sum() for token in kept])
    assert counts.sum() == n
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi_square < 22.5  # 6 degrees of freedom: by chance in one of a thousand keys


# ---------------------------------------------------------------------- rules of the user's own


class Raise(FlaxLogitsProcessor):
    """Make one token the likeliest."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        assert isinstance(self.token, int)  # what a rule holds is there while it is compiled
        return scores.at[:, self.token].add(1e3)


def test_a_rule_of_ones_own_is_honoured_with_what_it_holds_now():
    model = build()
    rule = Raise(7)
    assert (texts(model, logits_processor=[rule])[:, 5:] == 7).all()
    traced = model.programs.traced
    assert (texts(model, logits_processor=FlaxLogitsProcessorList([Raise(7)]))[:, 5:] == 7).all()
    assert model.programs.traced == traced  # it holds the same
    rule.token = 11
    assert (texts(model, logits_processor=[rule])[:, 5:] == 11).all()
    assert (texts(model, logits_processor=[rule], trace=False)[:, 5:] == 11).all()


def test_a_rule_that_cannot_be_told_from_others_is_compiled_each_time():
    model = build()
    for token in (7, 11):
        found = texts(
            model, logits_processor=[lambda ids, scores, cur_len, n=token: scores.at[:, n].add(1e3)]
        )
        assert (found[:, 5:] == token).all()


def test_a_rule_of_ours_may_be_passed_and_its_numbers_compile_nothing():
    model = build()
    first = texts(model, do_sample=True, top_k=0, logits_processor=[FlaxTemperatureLogitsWarper(1e-4)])
    assert (first == texts(model)).all()
    traced = model.programs.traced
    texts(model, do_sample=True, top_k=0, logits_processor=[FlaxTemperatureLogitsWarper(1.5)])
    assert model.programs.traced == traced


def test_rules_that_cannot_be_used_are_refused(model: FlaxGPT2LMHeadModel):
    rules = [FlaxTopKLogitsWarper(3), FlaxTemperatureLogitsWarper(0.5)]
    texts(model, logits_processor=rules, trace=False)  # greedy search has no warpers of its own

    class Wide(FlaxLogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
            return scores[:1]

    class Curious(FlaxLogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any, cur_len: Any, mood: Any) -> Any:
            return scores

    with pytest.raises(InputError, match=r"shape \[2, 101\], but Wide returned \[1, 101\]"):
        model.generate(IDS, logits_processor=[Wide()], **OPTIONS)
    with pytest.raises(InputError, match=r"Curious needs the arguments \['mood'\]"):
        model.generate(IDS, logits_processor=[Curious()], **OPTIONS)
    with pytest.raises(InputError, match="Put it into a list"):
        model.generate(IDS, logits_processor=Wide(), **OPTIONS)
    own = [FlaxRepetitionPenaltyLogitsProcessor(1.5)]
    with pytest.raises(InputError, match="FlaxRepetitionPenaltyLogitsProcessor was passed, but the options"):
        model.generate(IDS, logits_processor=own, repetition_penalty=1.2, **OPTIONS)


# ---------------------------------------------------------------------- what is told and what is refused


def test_warnings_and_remarks_are_told_once(model: FlaxGPT2LMHeadModel, caplog: pytest.LogCaptureFixture):
    with pytest.warns(UserWarning, match="default `max_length`") as told, caplog.at_level(logging.WARNING):
        model.generate(IDS, trace=False, eos_token_id=97, pad_token_id=None)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert [record.message for record in caplog.records] == [
        "Setting `pad_token_id` to `eos_token_id`:97 for open-end generation."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(IDS, trace=False, **OPTIONS)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "group_beam_search is not there"),
    ({"num_beams": 4, "force_words_ids": [[5]]}, "constrained_beam_search is not there"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive_search is not there.*penalty_alpha"),
    ({"prompt_lookup_num_tokens": 3}, "assisted_generation is not there"),
    ({"assistant_model": object()}, "`assistant_model` cannot be followed"),
    ({"guidance_scale": 1.5}, "`guidance_scale` cannot be followed"),
    ({"negative_prompt_ids": IDS}, "`negative_prompt_ids` cannot be followed"),
    ({"prefix_allowed_tokens_fn": lambda row, ids: [3]}, "Write a FlaxLogitsProcessor"),
    ({"max_time": 3.0}, "`max_time` cannot be followed.*max_new_tokens"),
    ({"stop_strings": ["a"]}, "`stop_strings` cannot be followed"),
    ({"stopping_criteria": [1]}, "`stopping_criteria` cannot be followed"),
    ({"streamer": object()}, "`streamer` cannot be followed"),
    ({"dola_layers": "low"}, "`dola_layers` is not there"),
    ({"output_scores": True, "return_dict_in_generate": True}, "`output_scores` has no place"),
    ({"output_attentions": True}, "`output_attentions` has no place"),
    ({"output_hidden_states": True}, "`output_hidden_states` has no place"),
    ({"temprature": 0.7}, r"not used by the model: \['temprature'\]"),
    ({"inputs_embeds": np.zeros((2, 5, 33), np.float32), "use_cache": False}, "leave out one of them"),
    ({"generation_config": {"do_sample": True}}, "GenerationConfig"),
    ({"attention_mask": np.array([[1, 1, 1, 1, 0]] * 2)}, "ends in padding"),
    ({"attention_mask": np.ones((2, 4))}, r"shape \[2, 5\], but it is \[2, 4\]"),
    ({"head_mask": np.ones((2, 2, 3, 5, 5))}, "one for all new tokens"),
    ({"temperature": 0.0, "do_sample": True}, "temperature"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[next(iter(case)) for case, _ in REFUSED])
def test_what_cannot_be_honoured_is_refused_before_anything_is_compiled(
    model: FlaxGPT2LMHeadModel, options: dict[str, Any], message: str
):
    traced = model.programs.traced
    with pytest.raises(InputError, match=f"(?s){message}"):
        model.generate(IDS, **(OPTIONS | options))
    assert model.programs.traced == traced


def test_prompts_that_cannot_be_read_are_refused(model: FlaxGPT2LMHeadModel):
    for ids, message in (
        (np.array([[3, 101]]), "hold 101, which is outside 0 to 100"),
        (np.array([[3.0]]), "have to be integers"),
        (np.zeros((2, 0), int), "hold no token"),
        ([[3, 5]], "array of JAX or NumPy"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(ids, **OPTIONS)
    with pytest.raises(InputError, match="bos_token_id hold 101, which is outside 0 to 100"):
        model.generate(None, bos_token_id=101, **OPTIONS)
    with pytest.raises(LengthError, match="n_positions=37"):
        model.generate(IDS, max_new_tokens=33)
    with pytest.raises(LengthError, match="position_ids reach 7"):
        model.generate(IDS, position_ids=np.arange(3, 8)[None], max_new_tokens=31)
    with pytest.raises(InputError, match="params do not fit"):
        model.generate(IDS, params={"transformer": {}}, **OPTIONS)
    assert texts(model, IDS, max_new_tokens=32, trace=False).shape == (2, 37)  # all positions there are


def test_a_row_without_a_token_is_refused_or_marked_where_nothing_can_be_refused(model: FlaxGPT2LMHeadModel):
    nothing = {"suppress_tokens": list(range(101))}
    with pytest.raises(InputError, match="barred every token"):
        model.generate(IDS, **nothing, **OPTIONS)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, model.params)
    with pytest.raises(InputError, match="NaN for scores"):
        model.generate(IDS, params=broken, **OPTIONS)
    mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    own = jax.jit(lambda ids, mask: model.generate(ids, attention_mask=mask, **OPTIONS).sequences)
    found = np.asarray(own(IDS, mask))
    assert (found[0] == texts(model)[0]).all()
    assert found[1].tolist() == [*IDS[1].tolist(), *[-1] * 7]  # it ends in padding


def test_options_come_from_the_call_then_from_the_configuration_then_from_the_model():
    model = build()
    assert (texts(model, generation_config=GenerationConfig(max_new_tokens=3, pad_token_id=1)).shape) == (
        2,
        12,
    )
    model.generation_config = GenerationConfig(max_new_tokens=3)
    assert np.asarray(model.generate(IDS, trace=False).sequences).shape == (2, 8)
    model = build()
    model.config.do_sample = True
    with pytest.warns(UserWarning, match=r"changed in `model\.config`") as told:
        output = model.generate(IDS, trace=False, **OPTIONS)
    assert told[0].filename == __file__
    assert isinstance(output, FlaxSampleOutput)


def test_copies_of_a_model_compile_for_themselves():
    model = build()
    expected = texts(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.programs.traced == 0
        assert (texts(twin) == expected).all()
        assert twin.programs.traced == 1
