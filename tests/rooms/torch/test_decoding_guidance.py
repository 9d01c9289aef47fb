"""Guidance by a negative prompt, and DoLa: scores that are a difference of two predictions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.torch import GPT2LMHeadModel, UnbatchedClassifierFreeGuidanceLogitsProcessor

IDS = torch.tensor([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
NEGATIVE = torch.tensor([[7, 13, 2], [19, 3, 3]])
KEPT = {"return_dict_in_generate": True, "output_scores": True}


def build(**changes: Any) -> GPT2LMHeadModel:
    config = tiny_config(**{"n_positions": 37, "eos_token_id": None, "pad_token_id": 1, **changes})
    state = {name: torch.from_numpy(array) for name, array in random_checkpoint(config, 5).items()}
    return GPT2LMHeadModel.from_pretrained(
        None, config=config, state_dict=state, torch_dtype=torch.float64
    ).eval()


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return build()


@torch.no_grad()
def guided(model: GPT2LMHeadModel, text: Tensor, other: Tensor, scale: float, prompt: int = 5) -> Tensor:
    """Return the scores by the formula, reading both texts whole, [B, V]."""
    given = model(text).logits[:, -1].log_softmax(-1)
    context = torch.cat((other.repeat_interleave(len(text) // len(other), 0), text[:, prompt:]), dim=1)
    rest = model(context).logits[:, -1].log_softmax(-1)
    return rest + scale * (given - rest)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("negative", [NEGATIVE, None])
@pytest.mark.parametrize("scale", [1.5, 0.0, 0.5, -1.0])
def test_every_step_is_led_away_by_the_formula(
    model: GPT2LMHeadModel, scale: float, negative: Tensor | None, use_cache: bool
):
    out = model.generate(
        IDS, guidance_scale=scale, negative_prompt_ids=negative, use_cache=use_cache, max_new_tokens=7, **KEPT
    )
    other = IDS[:, -1:] if negative is None else negative
    for step, scores in enumerate(out.scores):
        expected = guided(model, out.sequences[:, : 5 + step], other, scale)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-10)
        assert torch.equal(out.sequences[:, 5 + step], expected.argmax(-1))


@pytest.mark.parametrize(
    "way",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
        {"num_beams": 3, "do_sample": True, "top_k": 5},
        {"do_sample": True, "top_k": 5, "num_return_sequences": 3},
        {"penalty_alpha": 0.9, "top_k": 4},
    ],
    ids=lambda way: ",".join(way),
)
@pytest.mark.parametrize("negative", [NEGATIVE, None])
def test_rows_that_move_keep_their_own_other_context(
    model: GPT2LMHeadModel, way: dict[str, Any], negative: Tensor | None
):
    ask = {"max_new_tokens": 9, "pad_token_id": 1, "guidance_scale": 1.7, **way, **KEPT}
    torch.manual_seed(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnbatchedClassifierFreeGuidanceLogitsProcessor, "_kept", lambda *given: None)
        expected = model.generate(IDS, negative_prompt_ids=negative, **ask)
    torch.manual_seed(3)
    found = model.generate(IDS, negative_prompt_ids=negative, **ask)
    assert torch.equal(found.sequences, expected.sequences)
    for ours, theirs in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_padded_negative_prompt_is_the_one_without_padding(model: GPT2LMHeadModel):
    padded = torch.tensor([[0, 0, 2], [19, 3, 3]])
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    ask = {"guidance_scale": 1.5, "max_new_tokens": 9}
    together = model.generate(IDS, negative_prompt_ids=padded, negative_prompt_attention_mask=mask, **ask)
    alone = model.generate(IDS[:1], negative_prompt_ids=padded[:1, 2:], **ask)
    assert torch.equal(together[:1], alone)
    assert torch.equal(together[1:], model.generate(IDS[1:], negative_prompt_ids=padded[1:], **ask))


def test_a_scale_of_one_is_no_guidance(model: GPT2LMHeadModel):
    assert torch.equal(
        model.generate(IDS, guidance_scale=1, max_new_tokens=5), model.generate(IDS, max_length=10)
    )
    scores = torch.randn(2, 101, dtype=torch.float64)
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(1, model)
    assert torch.equal(processor(IDS, scores), scores.log_softmax(-1))


def test_a_step_reads_one_token_of_the_other_context(model: GPT2LMHeadModel):
    read: list[int] = []
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, _counting(model, read), NEGATIVE)
    text = IDS
    for _ in range(4):
        token = processor(text, model(text).logits[:, -1].detach()).argmax(-1, keepdim=True)
        text = torch.cat((text, token), dim=1)
    processor(text.flip(0), torch.zeros(2, 101, dtype=torch.float64))  # other texts after the same prompt
    assert read == [3, 1, 1, 1, 4]


def _counting(model: GPT2LMHeadModel, read: list[int]) -> Any:
    @torch.no_grad()
    def call(ids: Tensor, **kwargs: Any) -> Any:
        read.append(ids.shape[1])
        return model(ids, **kwargs)

    return call


@pytest.mark.parametrize(
    ("kwargs", "error", "said"),
    [
        ({"negative_prompt_ids": NEGATIVE}, InputError, "Pass guidance_scale"),
        ({"negative_prompt_ids": NEGATIVE, "guidance_scale": 1}, InputError, "Pass guidance_scale"),
        (
            {"negative_prompt_ids": NEGATIVE[:1], "guidance_scale": 2},
            InputError,
            r"1 row\(s\) and the prompt 2",
        ),
        (
            {"negative_prompt_ids": NEGATIVE + 99, "guidance_scale": 2},
            InputError,
            "negative_prompt_ids: .*outside",
        ),
        ({"negative_prompt_ids": [[3]], "guidance_scale": 2}, InputError, "negative_prompt_ids: .*tensor"),
        ({"negative_prompt_attention_mask": NEGATIVE, "guidance_scale": 2}, InputError, "did not come"),
        (
            {
                "negative_prompt_ids": NEGATIVE,
                "negative_prompt_attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
                "guidance_scale": 2,
            },
            InputError,
            "Pad on the left",
        ),
        ({"guidance_scale": math.inf}, InputError, "finite"),
        ({"guidance_scale": "much"}, InputError, "finite"),
        (
            {"negative_prompt_ids": torch.ones(2, 36, dtype=torch.long), "guidance_scale": 2},
            LengthError,
            "negative prompt of 36",
        ),
    ],
)
def test_guidance_that_cannot_be_given_is_refused(
    model: GPT2LMHeadModel, kwargs: dict[str, Any], error: type[Exception], said: str
):
    with pytest.raises(error, match=said):
        model.generate(IDS, max_new_tokens=3, **kwargs)


def test_the_longest_negative_prompt_that_fits_is_read(model: GPT2LMHeadModel):
    longest = torch.full((2, 35), 7)
    assert model.generate(IDS, negative_prompt_ids=longest, guidance_scale=2, max_new_tokens=3).shape == (
        2,
        8,
    )


# ---------------------------------------------------------------------- DoLa


@torch.no_grad()
def contrasted(model: GPT2LMHeadModel, text: Tensor, layers: list[int]) -> Tensor:
    """Return the scores of DoLa by its formula, [B, V]."""
    out = model(text, output_hidden_states=True)
    last = out.logits[:, -1].softmax(-1)
    distances, early = [], []
    for layer in layers:
        p = (out.hidden_states[layer][:, -1] @ model.lm_head.weight.T).softmax(-1)
        mean = (last + p) / 2
        kl = [(mean * (mean / q).log()).mean(-1) for q in (last, p)]
        distances.append(((kl[0] + kl[1]) / 2).mean())
        early.append(p.log())
    baseline = early[int(torch.stack(distances).argmax())]
    return (last.log() - baseline).masked_fill(last < 0.1 * last.amax(-1, keepdim=True), -math.inf)


@pytest.mark.parametrize(
    ("layers", "tied", "candidates"),
    [
        ("low", True, [2]),
        ("low", False, [0, 2]),
        ("high", True, [3, 5]),
        ("high", False, [3, 5]),
        ([1, 4], True, [1, 4]),
        ([6], False, [6]),
    ],
)
def test_dola_is_what_the_last_layer_adds_to_the_most_different_one(
    layers: Any, tied: bool, candidates: list[int]
):
    model = build(n_layer=7, tie_word_embeddings=tied)
    for way in ({}, {"do_sample": True, "top_k": 5}):
        torch.manual_seed(3)
        ask = {"max_new_tokens": 5, "output_hidden_states": True, **KEPT, **way}
        out = model.generate(IDS, dola_layers=layers, **ask)
        for step, scores in enumerate(out.scores):
            expected = contrasted(model, out.sequences[:, : 5 + step], candidates)
            scores = torch.where(scores == -math.inf, -math.inf, scores)
            if not way:
                torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9)
                assert torch.equal(out.sequences[:, 5 + step], expected.argmax(-1))
            assert bool((expected.gather(1, out.sequences[:, 5 + step, None]) > -math.inf).all())
        assert len(out.hidden_states[0]) == 8
    assert not torch.equal(out.sequences, model.generate(IDS, max_new_tokens=5))


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"dola_layers": [3]}, "layer 3, but what the last of 3 layers may be contrasted with is 0 to 2"),
        ({"dola_layers": []}, "'low', 'high' or a list"),
        ({"dola_layers": "middle"}, "'low', 'high' or a list"),
        ({"dola_layers": [-1]}, "at least 0"),
        ({"dola_layers": "low", "num_beams": 2}, "beam_search"),
        ({"dola_layers": "low", "prompt_lookup_num_tokens": 2}, "assisted_generation"),
        ({"dola_layers": "low", "penalty_alpha": 0.6, "top_k": 4}, "contrastive_search"),
    ],
)
def test_layers_that_dola_cannot_contrast_are_refused(
    model: GPT2LMHeadModel, kwargs: dict[str, Any], said: str
):
    with pytest.raises(InputError, match=said):
        model.generate(IDS[:1], max_new_tokens=3, **kwargs)


# ---------------------------------------------------------------------- scores of the chosen tokens


def test_transition_scores_are_the_log_probabilities_of_the_text(model: GPT2LMHeadModel):
    out = model.generate(IDS, max_new_tokens=5, **KEPT)
    found = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    with torch.no_grad():
        whole = model(out.sequences).logits.log_softmax(-1)
    expected = whole[:, 4:-1].gather(2, out.sequences[:, 5:, None]).squeeze(2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_transition_scores_of_beams_add_up_and_are_0_behind_the_end(model: GPT2LMHeadModel):
    ask = {
        "num_beams": 4,
        "num_return_sequences": 4,
        "length_penalty": 0.0,
        "eos_token_id": list(range(50, 75)),
    }
    out = model.generate(IDS, max_new_tokens=7, **KEPT, **ask)
    found = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    behind = out.beam_indices[:, : found.shape[1]] < 0
    assert behind.any()
    assert not found[behind].any()
    torch.testing.assert_close(found.sum(dim=1).float(), out.sequences_scores, rtol=0, atol=1e-5)


def test_transition_scores_of_nothing_or_of_other_texts_are_refused(model: GPT2LMHeadModel):
    out = model.generate(IDS, max_new_tokens=3, **KEPT)
    with pytest.raises(InputError, match="output_scores=True"):
        model.compute_transition_scores(out.sequences, None)
    with pytest.raises(InputError, match="beam_indices"):
        model.compute_transition_scores(out.sequences[:1], out.scores)
