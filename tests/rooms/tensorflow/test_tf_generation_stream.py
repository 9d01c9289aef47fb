"""`generate(streamer=...)` in TensorFlow: the same texts, token by token, and one graph for many of them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer
from gpt2kit.tensorflow import TFGPT2LMHeadModel
from gpt2kit.tensorflow.generation.record import TFSampleDecoderOnlyOutput
from tf_builder import build_tf

IDS = np.array([[1, 1, 59, 3, 71], [5, 83, 7, 11, 29]])
PADDED: dict[str, Any] = {"attention_mask": (IDS != 1).astype(np.int32)}
DRAWN: dict[str, Any] = {"do_sample": True, "seed": [7, 2**31 - 1]}
KEPT: dict[str, Any] = {"return_dict_in_generate": True}


class Listener(BaseStreamer):
    """Keep what comes; lose patience after so many calls."""

    def __init__(self, patience: int = 1000) -> None:
        self.got: list[Any] = []
        self.ended = 0
        self.error: BaseException | None = None
        self.patience = patience

    def put(self, value: Any) -> None:
        if len(self.got) == self.patience:
            raise KeyboardInterrupt
        self.got.append(np.array(value))

    def end(self) -> None:
        self.ended += 1

    def fail(self, error: BaseException) -> None:
        self.error = error


@pytest.fixture(scope="module")
def model() -> TFGPT2LMHeadModel:
    config = tiny_config(n_positions=37, n_layer=1, eos_token_id=None, pad_token_id=1)
    return build_tf(config, random_checkpoint(config, 5))


@pytest.mark.parametrize(
    "options",
    [
        PADDED,
        DRAWN | {"num_return_sequences": 3, "top_k": 7, "repetition_penalty": 1.3},
        PADDED | {"token_type_ids": np.array([[0, 0, 2, 2, 3]] * 2), "no_repeat_ngram_size": 2},
        PADDED | {"use_cache": False},
        {"head_mask": np.array([[1.0, 0.0, 1.0]], np.float32)},
        {"inputs_embeds": np.random.default_rng(3).normal(size=(2, 3, 33)).astype(np.float32)},
    ],
    ids=["padded", "drawn", "types", "uncached", "heads", "embeds"],
)
def test_texts_are_those_without_a_streamer_and_it_gets_them_token_by_token(
    model: TFGPT2LMHeadModel, options: dict[str, Any]
):
    listener = Listener()
    wanted = model.generate(IDS, max_new_tokens=7, **options).numpy()
    text = model.generate(IDS, max_new_tokens=7, streamer=listener, **options).numpy()
    np.testing.assert_array_equal(text, wanted)
    assert (listener.ended, listener.error) == (1, None)
    np.testing.assert_array_equal(listener.got[0], IDS)
    np.testing.assert_array_equal(np.stack(listener.got[1:], axis=1), wanted[:, 5:])


def test_rows_that_end_are_filled_and_the_text_is_as_long_as_the_longest(model: TFGPT2LMHeadModel):
    whole = model.generate(IDS, max_new_tokens=7, **PADDED).numpy()
    ends = {"eos_token_id": [int(whole[0, 6]), int(whole[1, 8])]}
    wanted = model.generate(IDS, max_new_tokens=7, **PADDED, **ends).numpy()
    assert wanted.shape[1] < whole.shape[1]
    assert (wanted[:, -1] == 1).any()  # filled with padding
    listener = Listener()
    output = model.generate(IDS, max_new_tokens=7, streamer=listener, **PADDED, **ends, **KEPT)
    np.testing.assert_array_equal(output.sequences, wanted)
    np.testing.assert_array_equal(np.stack(listener.got[1:], axis=1), wanted[:, 5:])


def test_prompts_of_one_bucket_and_other_rules_trace_nothing_new(model: TFGPT2LMHeadModel):
    model.generate(IDS, max_new_tokens=7, streamer=Listener(), **PADDED)
    traced = model.programs.traced
    for ids, new, options in ((IDS[:, 2:], 7, {}), (IDS[:, 1:], 5, DRAWN | {"temperature": 1.7})):
        output = model.generate(ids, max_new_tokens=new, streamer=Listener(), **options, **KEPT)
        np.testing.assert_array_equal(output.sequences, model.generate(ids, max_new_tokens=new, **options))
    assert isinstance(output, TFSampleDecoderOnlyOutput)
    assert model.programs.traced == traced


def test_a_program_without_xla_writes_the_same(model: TFGPT2LMHeadModel):
    options = PADDED | {"num_beams": 3, "max_new_tokens": 5, "num_return_sequences": 2}
    step_by_step = model.generate(IDS, **options, **KEPT, output_scores=True)
    model.programs.jit_compile = False
    try:
        output = model.generate(IDS, jit_compile=True, **options, **KEPT)
    finally:
        model.programs.jit_compile = True
    np.testing.assert_array_equal(output.sequences, step_by_step.sequences)
    # The largest difference for four models was 5.7e-07: a graph adds up in another order.
    np.testing.assert_allclose(output.sequences_scores, step_by_step.sequences_scores, rtol=0, atol=6e-6)


def test_tokens_are_handed_on_before_the_next_is_computed(model: TFGPT2LMHeadModel):
    listener = Listener(patience=3)
    with pytest.raises(KeyboardInterrupt):
        model.generate(IDS, max_new_tokens=7, streamer=listener, **PADDED)
    assert (len(listener.got), listener.ended) == (3, 0)
    assert isinstance(listener.error, KeyboardInterrupt)


def test_a_streamer_learns_of_an_error(model: TFGPT2LMHeadModel):
    listener = Listener()
    with pytest.raises(InputError, match="barred every"):
        model.generate(IDS, max_new_tokens=7, streamer=listener, suppress_tokens=list(range(101)))
    assert isinstance(listener.error, InputError)
    assert (len(listener.got), listener.ended) == (1, 0)  # the prompt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streamer": print}, r"put\(\) and end\(\)"),
        ({"num_beams": 2}, r"no token is sure"),
        ({"penalty_alpha": 0.6, "top_k": 4}, r"contrastive_search"),
        ({"jit_compile": True}, r"Leave out jit_compile"),
        (KEPT | {"output_scores": True}, r"`output_scores`"),
        (KEPT | {"output_attentions": True}, r"`output_attentions`"),
        ({"past_key_values": [tf.zeros([2, 2, 3, 4, 11])]}, r"`past_key_values`.*whole text"),
    ],
)
def test_what_a_streamer_does_not_go_with_is_refused(
    model: TFGPT2LMHeadModel, options: dict[str, Any], message: str
):
    listener = Listener()
    with pytest.raises(InputError, match=message):
        model.generate(IDS, **({"max_new_tokens": 7, "streamer": listener} | options))
    assert (listener.got, listener.ended) == ([], 0)


def test_a_streamer_has_no_place_in_a_graph(model: TFGPT2LMHeadModel):
    write = tf.function(
        lambda ids: model.generate(ids, max_new_tokens=2, streamer=Listener()), autograph=False
    )
    with pytest.raises(InputError, match=r"tf\.function"):
        write(tf.constant(IDS))


# ---------------------------------------------------------------------- without a streamer


@pytest.mark.parametrize(
    "options",
    [PADDED | {"repetition_penalty": 1.3}, DRAWN | {"num_return_sequences": 3, "top_k": 7}],
    ids=["padded", "drawn"],
)
def test_a_long_text_is_written_by_the_graph_of_a_step_and_is_the_one_of_a_loop_that_keeps_scores(
    model: TFGPT2LMHeadModel, options: dict[str, Any]
):
    looped = model.generate(IDS, max_new_tokens=19, **options, **KEPT, output_scores=True)
    traced = model.programs.traced
    output = model.generate(IDS, max_new_tokens=19, **options, **KEPT)
    assert model.programs.traced == traced + 1
    assert type(output) is type(looped)
    np.testing.assert_array_equal(output.sequences, looped.sequences)
    text = model.generate(IDS[:, 1:], max_new_tokens=20, **(options | {"attention_mask": None}))
    assert text.shape == output.sequences.shape
    assert model.programs.traced == traced + 1


def test_a_short_text_and_one_of_which_more_is_kept_trace_nothing(model: TFGPT2LMHeadModel):
    traced = model.programs.traced
    model.generate(IDS, max_new_tokens=15)
    model.generate(IDS, max_new_tokens=16, use_cache=False)
    model.generate(IDS, max_new_tokens=16, **KEPT, output_hidden_states=True)
    past = model(IDS[:, :4], use_cache=True).past_key_values
    model.generate(IDS, max_new_tokens=16, past_key_values=past)
    assert model.programs.traced == traced


def test_rules_of_ones_own_get_tensors(model: TFGPT2LMHeadModel):
    seen = []

    def rule(input_ids: Any, scores: Any, cur_len: Any) -> Any:
        seen.append((tf.is_tensor(input_ids), input_ids.shape[1] == cur_len))
        return scores

    model.generate(IDS, max_new_tokens=16, logits_processor=[rule])
    assert seen == [(True, True)] * 16


def test_a_model_of_another_size_lets_go_of_its_programs_and_of_the_weights_in_them():
    config = tiny_config(n_positions=37, n_layer=1, eos_token_id=None, pad_token_id=1)
    changed = build_tf(config, random_checkpoint(config, 5))
    changed.generate(IDS, max_new_tokens=16)
    held = weakref.ref(next(iter(changed.programs._made.values())))
    changed.resize_token_embeddings(103)
    gc.collect()
    assert held() is None
    wanted = changed.generate(IDS, max_new_tokens=16, **KEPT, output_scores=True).sequences
    np.testing.assert_array_equal(changed.generate(IDS, max_new_tokens=16), wanted)
