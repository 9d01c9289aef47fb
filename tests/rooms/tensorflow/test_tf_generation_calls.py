"""`generate` in TensorFlow: what may be passed, what is compiled, what comes back, what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.generation import GenerationConfig
from gpt2kit.tensorflow import TFGPT2LMHeadModel
from gpt2kit.tensorflow.generation.bucket import bucket
from gpt2kit.tensorflow.generation.logits import (
    TFLogitsProcessor,
    TFLogitsProcessorList,
    TFRepetitionPenaltyLogitsProcessor,
)
from gpt2kit.tensorflow.generation.record import TFBeamSearchDecoderOnlyOutput, TFSampleDecoderOnlyOutput
from tf_builder import build_tf

IDS = np.array([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
OPTIONS: dict[str, Any] = {"max_new_tokens": 7}
KEPT = {"return_dict_in_generate": True}


@pytest.fixture(scope="module")
def model() -> TFGPT2LMHeadModel:
    config = tiny_config(n_positions=37, n_layer=1, eos_token_id=None, pad_token_id=1)
    return build_tf(config, random_checkpoint(config, 5))


def texts(model: TFGPT2LMHeadModel, ids: Any = IDS, **options: Any) -> list[list[int]]:
    found: list[list[int]] = model.generate(ids, **(OPTIONS | options)).numpy().tolist()
    return found


class Favourite(TFLogitsProcessor):
    """Make one token the likeliest at one length."""

    def __init__(self, token: int, length: int) -> None:
        self.token, self.length = token, length

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        is_it = tf.range(scores.shape[-1]) == self.token  # [V]
        return tf.where(is_it & tf.equal(cur_len, self.length), 1e4, scores)  # [R, V]


# ---------------------------------------------------------------------- programs


def test_a_bucket_holds_its_length_and_no_more_than_the_model_has():
    lengths = (1, 16, 17, 24, 25, 33, 48, 49, 128, 129, 800, 1100)
    sizes = [16, 16, 24, 24, 32, 48, 48, 64, 128, 192, 1000, 1100]
    assert [bucket(length, 1000) for length in lengths] == sizes


def test_prompts_of_one_bucket_and_other_numbers_compile_nothing_new(model: TFGPT2LMHeadModel):
    drawn = {"do_sample": True, "seed": [7, 0], "jit_compile": True}
    rules = {"repetition_penalty": 1.3, "temperature": 0.7, "encoder_repetition_penalty": 1.1}
    first = texts(model, **drawn, **rules)
    traced = model.programs.traced
    assert texts(model, **drawn, **rules) == first == texts(model, **(drawn | rules | {"jit_compile": False}))
    other = {"repetition_penalty": 1.7, "temperature": 1.9, "encoder_repetition_penalty": 0.8}
    for ids, new in ((IDS[:, :3], 7), (IDS[:, 1:], 5)):
        changed = drawn | other | {"seed": [11, 3], "max_new_tokens": new}
        assert texts(model, ids, **changed) == texts(model, ids, **(changed | {"jit_compile": False}))
    assert model.programs.traced == traced
    longer = np.tile(IDS, 4)  # another bucket
    assert len(texts(model, longer, **drawn, **rules)[0]) == 27
    assert model.programs.traced == traced + 1


def test_a_program_reads_the_weights_that_the_model_has_now():
    config = tiny_config(n_positions=37, n_layer=1, pad_token_id=1)
    model = build_tf(config, random_checkpoint(config, 5))
    before = texts(model, jit_compile=True)
    other = build_tf(config, random_checkpoint(config, 7))
    for variable, values in zip(model.variables, other.variables, strict=True):
        variable.assign(values)
    after = texts(model, jit_compile=True)
    assert model.programs.traced == 1
    assert after == texts(model) != before


def test_generate_is_a_part_of_the_callers_graph(model: TFGPT2LMHeadModel):
    program = tf.function(lambda ids: model.generate(ids, **OPTIONS), jit_compile=True)
    assert program(tf.constant(IDS)).numpy().tolist() == texts(model)
    plain = tf.function(lambda ids: model.generate(ids, **OPTIONS))  # without XLA
    assert plain(tf.constant(IDS)).numpy().tolist() == texts(model)


def test_a_graph_with_unknown_lengths_is_refused_with_the_way_out(model: TFGPT2LMHeadModel):
    signature = [tf.TensorSpec([None, None], tf.int32)]
    program = tf.function(lambda ids: model.generate(ids, **OPTIONS), signature, autograph=False)
    with pytest.raises(InputError, match=r"input_ids.*jit_compile=True"):
        program(tf.constant(IDS, tf.int32))


def test_own_processors_run_in_every_way(model: TFGPT2LMHeadModel):
    own = TFLogitsProcessorList([Favourite(43, 7)])
    plain = texts(model, logits_processor=own)
    assert [row[7] for row in plain] == [43, 43]
    assert texts(model, logits_processor=own, jit_compile=True) == plain


# ---------------------------------------------------------------------- what comes back


def test_draws_follow_the_seed_and_differ_from_step_to_step(model: TFGPT2LMHeadModel):
    drawn = {"do_sample": True, "temperature": 9.0, "top_k": 0, "num_return_sequences": 3}
    found = texts(model, **drawn, seed=[7, 1])
    assert found == texts(model, **drawn, seed=[7, 1]) != texts(model, **drawn, seed=[7, 2])
    assert len(found) == 6
    assert len({tuple(row[5:]) for row in found}) == 6
    assert all(len(set(row[5:])) > 3 for row in found)
    tf.random.set_seed(3)
    once = texts(model, **drawn)
    tf.random.set_seed(3)
    assert texts(model, **drawn) == once


def test_draws_follow_the_probabilities(model: TFGPT2LMHeadModel):
    options = {"do_sample": True, "max_new_tokens": 1, "top_k": 7, "temperature": 5.0}
    kept = {"return_dict_in_generate": True, "output_scores": True, "num_return_sequences": 4096}
    output = model.generate(IDS[:1], seed=[5, 0], **options, **kept)
    assert type(output) is TFSampleDecoderOnlyOutput
    p = tf.nn.softmax(output.scores[0][0]).numpy()
    counts = np.bincount(output.sequences.numpy()[:, -1], minlength=101)
    left = p > 0
    assert left.sum() == 7
    assert not counts[~left].any()
    chi_square = ((counts - 4096 * p)[left] ** 2 / (4096 * p[left])).sum()
    assert chi_square < 6 + 4 * np.sqrt(12)  # by chance in about one of a thousand seeds


def test_sampled_beams_are_the_same_compiled(model: TFGPT2LMHeadModel):
    drawn = {"do_sample": True, "num_beams": 2, "num_return_sequences": 2, "seed": [7, 1], "top_k": 11}
    found = texts(model, **drawn)
    assert len(found) == 4
    assert texts(model, **drawn, jit_compile=True) == found
    output = model.generate(IDS, **OPTIONS, num_beams=2, return_dict_in_generate=True)
    assert type(output) is TFBeamSearchDecoderOnlyOutput
    assert list(output) == ["sequences", "sequences_scores", "beam_indices"]


def test_a_copy_has_programs_of_its_own(model: TFGPT2LMHeadModel):
    assert copy.deepcopy(model.programs).traced == 0


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, r"group_beam_search.*PyTorch"),
        ({"num_beams": 2, "force_words_ids": [[5]]}, r"constrained_beam_search is not there"),
        ({"prompt_lookup_num_tokens": 3}, r"assisted_generation is not there"),
        ({"guidance_scale": 1.5}, r"`guidance_scale` cannot be followed"),
        ({"max_time": 1.0}, r"`max_time`.*max_new_tokens"),
        ({"stop_strings": ["a"]}, r"`stop_strings`.*eos_token_id"),
        ({"dola_layers": "low"}, r"`dola_layers`"),
        ({"streamer": object()}, r"A streamer has to have put\(\) and end\(\)"),
        ({"no_such_option": 1}, r"not used by the model: \['no_such_option'\]"),
        ({"seed": 7}, r"seed has to be two integers"),
        ({"jit_compile": 1}, r"jit_compile has to be True or False"),
        ({"input_ids": IDS}, r"Both `inputs` and `input_ids`"),
        ({"attention_mask": [[1, 1, 1, 1, 0]] * 2}, r"Pad on the left"),
        (KEPT | {"num_beams": 2, "output_attentions": True}, r"`output_attentions`"),
        (KEPT | {"output_scores": True, "jit_compile": True}, r"Leave out jit_compile"),
        ({"suppress_tokens": list(range(101))}, r"barred every"),
        (
            {"temperature": 0.5, "do_sample": True, "repetition_penalty": 1.2,
             "logits_processor": [TFRepetitionPenaltyLogitsProcessor(1.1)]},
            r"TFRepetitionPenaltyLogitsProcessor was passed",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_name(
    model: TFGPT2LMHeadModel, options: dict[str, Any], message: str
):
    with pytest.raises(InputError, match=message):
        texts(model, **options)


def test_ids_outside_the_vocabulary_and_too_long_texts_are_refused(model: TFGPT2LMHeadModel):
    with pytest.raises(InputError, match=r"input_ids hold 101.*vocab_size=101"):
        texts(model, [[5, 101]])
    with pytest.raises(InputError, match=r"integers of shape \[batch, tokens\]"):
        texts(model, [5, 7])
    with pytest.raises(LengthError, match="n_positions=37"):
        texts(model, max_new_tokens=33)


def test_options_changed_in_the_models_configuration_are_taken_and_told():
    config = tiny_config(n_layer=1, pad_token_id=1)
    model = TFGPT2LMHeadModel(config)
    model.generation_config = GenerationConfig.from_model_config(config)
    model.config.max_length = 9
    with pytest.warns(UserWarning, match=r"changed in `model.config`") as told:
        assert model.generate(IDS).shape == (2, 9)
    assert told[0].filename == __file__
