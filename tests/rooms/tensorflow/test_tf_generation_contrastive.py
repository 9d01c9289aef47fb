"""Contrastive search in TensorFlow: 4.34.0's tokens, the formula, and every way that a prompt may come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.tensorflow import TFGPT2LMHeadModel
from gpt2kit.tensorflow.generation.record import TFContrastiveSearchDecoderOnlyOutput
from tf_builder import build_tf

FOLDER = Path(__file__).parents[2] / "golden" / "decoding"
CASES = json.loads((FOLDER / "cases.json").read_text())
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
ARRAYS = np.load(FOLDER / "arrays.npz")
CONTRASTIVE = [name for name in CASES if name.startswith("contrastive")]

# Largest difference over all cases, 1.9e-5 at scores up to 43 (sums run in another order), times ten.
SCORE_TOLERANCE = 1.9e-4

IDS = np.array([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
# So large a penalty, because the small model is sure of itself: with 0.6 it writes what greedy search does.
ASK: dict[str, Any] = {"penalty_alpha": 0.9, "top_k": 5, "pad_token_id": 1}
KEPT = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_attentions": True,
    "output_hidden_states": True,
}


@pytest.fixture(scope="module")
def recorded() -> TFGPT2LMHeadModel:
    config = tiny_config(**MANIFEST["model"])
    return build_tf(config, random_checkpoint(config, MANIFEST["weights_seed"]))


def build(dtype: str = "float64", **changes: Any) -> TFGPT2LMHeadModel:
    config = tiny_config(**{"n_positions": 37, "eos_token_id": None, "pad_token_id": 1, **changes})
    return build_tf(config, random_checkpoint(config, 5), dtype)


@pytest.fixture(scope="module")
def model() -> TFGPT2LMHeadModel:
    return build()


@pytest.fixture(scope="module")
def small() -> TFGPT2LMHeadModel:
    """Return a model that compiles quickly."""
    return build("float32", n_layer=1)


def texts(model: TFGPT2LMHeadModel, ids: Any = IDS, **options: Any) -> list[list[int]]:
    found: list[list[int]] = model.generate(ids, **(ASK | {"max_new_tokens": 7} | options)).numpy().tolist()
    return found


# ---------------------------------------------------------------------- the texts of 4.34


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_contrastive_texts_and_scores_are_those_of_4_34(name: str, recorded: TFGPT2LMHeadModel):
    case = CASES[name]
    ids = np.array(case["input_ids"])
    output = recorded.generate(ids, **case["kwargs"], return_dict_in_generate=True, output_scores=True)
    assert type(output) is TFContrastiveSearchDecoderOnlyOutput
    assert output.sequences.numpy().tolist() == case["sequences"]
    scores = np.stack([step.numpy() for step in output.scores])
    np.testing.assert_allclose(scores, ARRAYS[name], rtol=0, atol=SCORE_TOLERANCE)
    for part in ("attentions", "hidden_states"):
        assert (part in output) == (part in case)
        if part not in case:
            continue
        assert [[list(tensor.shape) for tensor in step] for step in output[part]] == case[part]
        last = [step[-1].numpy() for step in output[part]]
        if part == "hidden_states":
            found = np.stack([state[:, -1] for state in last])
        else:
            found = np.stack([w[:, :, -1] @ np.arange(w.shape[-1], dtype=np.float32) for w in last])
        np.testing.assert_allclose(found, ARRAYS[f"{name}.{part}"], rtol=0, atol=SCORE_TOLERANCE)


def test_a_compiled_contrastive_text_is_that_of_4_34(recorded: TFGPT2LMHeadModel):
    case = CASES["contrastive_eos"]
    found = recorded.generate(np.array(case["input_ids"]), **case["kwargs"], jit_compile=True)
    assert found.numpy().tolist() == case["sequences"]


# ---------------------------------------------------------------------- programs


def test_another_penalty_or_length_compiles_no_contrastive_search_anew(small: TFGPT2LMHeadModel):
    first = texts(small, jit_compile=True, repetition_penalty=1.1)
    traced = small.programs.traced
    assert first == texts(small, repetition_penalty=1.1)
    padded = np.concatenate([[[1, 1], [1, 1]], IDS], axis=1)
    assert [row[2:] for row in texts(small, padded, jit_compile=True, repetition_penalty=1.1)] == first
    changed = {"penalty_alpha": 0.97, "repetition_penalty": 1.4, "max_new_tokens": 9}
    other = texts(small, IDS[:, 1:], jit_compile=True, **changed)
    assert other == texts(small, IDS[:, 1:], **changed)
    assert other != texts(small, IDS[:, 1:], **(changed | {"penalty_alpha": 0.2}))
    assert small.programs.traced == traced


def test_contrastive_search_is_a_part_of_the_callers_graph(small: TFGPT2LMHeadModel):
    program = tf.function(lambda ids: small.generate(ids, max_new_tokens=7, **ASK), autograph=False)
    assert program(tf.constant(IDS)).numpy().tolist() == texts(small)


# ---------------------------------------------------------------------- the formula


def by_the_formula(
    model: TFGPT2LMHeadModel, row: Any, new: int, alpha: float, k: int, **given: Any
) -> list[int]:
    """Write on from one row [1, T], reading the whole text anew for every candidate."""
    text = np.array(row)
    for _ in range(new):
        out = model(text, output_hidden_states=True, **{n: f(text) for n, f in given.items()})
        logits = out.logits[0, -1].numpy()
        likely = np.exp(logits - logits.max())
        confidence = likely / likely.sum()
        candidates = np.argsort(-confidence)[:k]
        context = out.hidden_states[-1][0].numpy()
        worth = []
        for candidate in candidates:
            longer = np.append(text, [[candidate]], axis=1)
            read = model(longer, output_hidden_states=True, **{n: f(longer) for n, f in given.items()})
            state = read.hidden_states[-1][0, -1].numpy()
            cosines = context @ state / np.linalg.norm(context, axis=1) / np.linalg.norm(state)
            worth.append((1 - alpha) * confidence[candidate] - alpha * cosines.max())
        text = np.append(text, [[candidates[np.argmax(worth)]]], axis=1)
    return text[0].tolist()


@pytest.mark.parametrize(("alpha", "k"), [(0.9, 5), (0.8, 3)])
def test_each_token_is_the_best_by_the_formula(model: TFGPT2LMHeadModel, alpha: float, k: int):
    expected = [by_the_formula(model, row[None], 5, alpha, k) for row in IDS]
    assert texts(model, penalty_alpha=alpha, top_k=k, max_new_tokens=5) == expected
    assert texts(model, penalty_alpha=None, top_k=None, max_new_tokens=5) != expected


def test_types_places_encoder_and_head_mask_reach_the_candidates():
    model = build(add_cross_attention=True)
    encoder = np.random.default_rng(3).normal(size=(1, 7, 33))
    row, head_mask, types = IDS[:1], np.array([0.5, 1.0, 0.0]), np.array([[1, 1, 2, 2, 3]])
    expected = by_the_formula(
        model, row, 3, 0.9, 5,
        encoder_hidden_states=lambda text: encoder,
        head_mask=lambda text: head_mask,
        position_ids=lambda text: np.arange(3, 3 + text.shape[1])[None],
        token_type_ids=lambda text: np.pad(types, [[0, 0], [0, text.shape[1] - 5]], constant_values=3),
    )  # fmt: skip
    more = {
        "encoder_hidden_states": encoder,
        "head_mask": head_mask,
        "position_ids": np.arange(3, 8)[None],
        "token_type_ids": types,
    }
    for low_memory in (False, True):
        out = model.generate(row, max_new_tokens=3, low_memory=low_memory, **more, **ASK, **KEPT)
        assert out.sequences.numpy().tolist() == [expected]
        assert [step[0].shape.as_list() for step in out.cross_attentions] == [[1, 3, 5, 7]] + [
            [1, 3, 1, 7]
        ] * 2


def test_what_is_kept_is_what_the_model_gives_for_the_text(model: TFGPT2LMHeadModel):
    for low_memory in (False, True):
        out = model.generate(IDS, max_new_tokens=5, low_memory=low_memory, **ASK, **KEPT)
        whole = model(out.sequences, output_attentions=True, output_hidden_states=True)
        for step in range(5):
            start, stop = (0, 5) if step == 0 else (4 + step, 5 + step)
            pairs = [(out.scores[step], whole.logits[:, stop - 1])]
            for found, expected in zip(out.attentions[step], whole.attentions, strict=True):
                pairs.append((found, expected[:, :, start:stop, :stop]))
            for found, expected in zip(out.hidden_states[step], whole.hidden_states, strict=True):
                pairs.append((found, expected[:, start:stop]))
            for found, expected in pairs:
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


# ---------------------------------------------------------------------- prompts and ends


def test_padding_on_the_left_changes_no_text_and_is_no_context(small: TFGPT2LMHeadModel):
    ask = {"penalty_alpha": 1.0, "top_k": 13, "max_new_tokens": 11}  # novelty alone: padding would count
    for pad in (2, 19):
        padded = np.array([[pad, pad, pad, pad, 59], [5, 83, 7, 11, 29]])
        mask = np.array([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
        together = texts(small, padded, attention_mask=mask, **ask)
        assert [together[0][4:]] == texts(small, padded[:1, 4:], **ask)
        assert together[1:] == texts(small, padded[1:], **ask)


def test_embeddings_of_the_tokens_write_what_the_tokens_do_by_contrast_too(small: TFGPT2LMHeadModel):
    embeds = tf.gather(small.transformer.wte.weight, IDS)
    expected = texts(small)
    assert texts(small, inputs_embeds=embeds) == expected
    bare = texts(small, None, inputs_embeds=embeds, bos_token_id=2)
    assert [row[1:] for row in bare] == [row[5:] for row in expected]


def test_a_barred_token_is_no_candidate_and_rows_end_one_by_one(small: TFGPT2LMHeadModel):
    barred = [token for token in range(101) if token not in (13, 17)]
    assert {token for row in texts(small, suppress_tokens=barred) for token in row[5:]} <= {13, 17}
    with pytest.raises(InputError, match="barred every token"):
        texts(small, suppress_tokens=list(range(101)))
    assert [row[-1] for row in texts(small, forced_eos_token_id=29)] == [29, 29]
    plain = texts(small)
    end = plain[1][6]
    assert end not in plain[0][5:]
    assert texts(small, eos_token_id=end) == [plain[0], plain[1][:7] + [1] * 5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_cache": False}, "requires `use_cache=True`"),
        ({"top_k": 102}, "top_k=102 candidates, but the vocabulary has 101"),
        ({"penalty_alpha": 1.5}, "from 0 to 1"),
        ({"past_key_values": "the first three"}, "Leave past_key_values out"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"prompt_lookup_num_tokens": 3}, "contrastive_search"),
        ({"low_memory": True, "jit_compile": True}, "Leave out low_memory"),
        (KEPT | {"jit_compile": True}, "Leave out jit_compile"),
    ],
)
def test_what_contrastive_search_cannot_honour_is_refused(
    small: TFGPT2LMHeadModel, options: dict[str, Any], said: str
):
    if "past_key_values" in options:
        options = {"past_key_values": small(IDS[:, :3], use_cache=True).past_key_values}
    with pytest.raises(InputError, match=said):
        texts(small, **options)


def test_the_last_candidates_have_places_too(small: TFGPT2LMHeadModel):
    places = np.arange(27, 32)[None]
    assert len(texts(small, position_ids=places, max_new_tokens=5)[0]) == 10  # the last at place 36
    with pytest.raises(LengthError, match="position_ids reach 31 and 6 new"):
        texts(small, position_ids=places, max_new_tokens=6)
    assert (
        len(
            texts(
                small,
                IDS[:, :2],
                position_ids=places[:, :2] + 3,
                max_new_tokens=6,
                penalty_alpha=None,
                top_k=None,
            )[0]
        )
        == 8
    )
