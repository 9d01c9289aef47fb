"""Contrastive search: each step against the formula, by every way that a prompt may come in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer
from gpt2kit.torch import ContrastiveSearchDecoderOnlyOutput, GPT2Cache, GPT2LMHeadModel
from gpt2kit.torch.generation.logits import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from gpt2kit.torch.generation.stopping import MaxLengthCriteria, StoppingCriteria, StoppingCriteriaList

IDS = torch.tensor([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
# So large a penalty, because the small model is sure of itself: with 0.6 it writes what greedy search does.
ASK = {"penalty_alpha": 0.9, "top_k": 5, "pad_token_id": 1}
KEPT = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_attentions": True,
    "output_hidden_states": True,
}


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
def by_the_formula(
    model: GPT2LMHeadModel, row: Tensor, new: int, alpha: float, k: int, **given: Any
) -> Tensor:
    """Write on from one row [1, T], reading the whole text anew for every candidate."""
    text = row
    for _ in range(new):
        out = model(text, output_hidden_states=True, **{n: f(text) for n, f in given.items()})
        confidence, candidates = out.logits[0, -1].softmax(-1).topk(k)
        context = out.hidden_states[-1][0]
        worth = []
        for p, candidate in zip(confidence, candidates, strict=True):
            longer = torch.cat((text, candidate.view(1, 1)), dim=1)
            state = model(longer, output_hidden_states=True, **{n: f(longer) for n, f in given.items()})
            likeness = torch.cosine_similarity(state.hidden_states[-1][0, -1:], context).max()
            worth.append((1 - alpha) * p - alpha * likeness)
        text = torch.cat((text, candidates[torch.stack(worth).argmax()].view(1, 1)), dim=1)
    return text


@pytest.mark.parametrize(("alpha", "k"), [(0.9, 5), (0.95, 3), (0.8, 13)])
def test_each_token_is_the_best_by_the_formula(model: GPT2LMHeadModel, alpha: float, k: int):
    expected = torch.cat([by_the_formula(model, row[None], 7, alpha, k) for row in IDS])
    found = model.generate(IDS, max_new_tokens=7, **(ASK | {"penalty_alpha": alpha, "top_k": k}))
    assert torch.equal(found, expected)
    assert not torch.equal(found, model.generate(IDS, max_new_tokens=7))


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_kernel_changes_no_token(model: GPT2LMHeadModel, kernel: str):
    other = build()
    other.set_attn_implementation(kernel)
    expected = model.generate(IDS, max_new_tokens=11, **ASK)
    assert torch.equal(other.generate(IDS, max_new_tokens=11, **ASK), expected)


def test_low_memory_changes_nothing_of_what_comes_back(model: GPT2LMHeadModel):
    together = model.generate(IDS, max_new_tokens=7, **ASK, **KEPT)
    alone = model.generate(IDS, max_new_tokens=7, low_memory=True, **ASK, **KEPT)
    assert type(alone) is ContrastiveSearchDecoderOnlyOutput
    assert torch.equal(alone.sequences, together.sequences)
    for name in ("scores", "attentions", "hidden_states"):
        torch.testing.assert_close(alone[name], together[name], rtol=0, atol=1e-10)


def test_what_is_kept_is_what_the_model_gives_for_the_text(model: GPT2LMHeadModel):
    out = model.generate(IDS, max_new_tokens=7, **ASK, **KEPT)
    with torch.no_grad():
        whole = model(out.sequences, output_attentions=True, output_hidden_states=True)
    for step in range(7):
        start, stop = (0, 5) if step == 0 else (4 + step, 5 + step)
        torch.testing.assert_close(out.scores[step], whole.logits[:, stop - 1], rtol=0, atol=1e-10)
        for layer in range(3):
            expected = whole.attentions[layer][:, :, start:stop, :stop]
            torch.testing.assert_close(out.attentions[step][layer], expected, rtol=0, atol=1e-10)
        for layer in range(4):
            expected = whole.hidden_states[layer][:, start:stop]
            torch.testing.assert_close(out.hidden_states[step][layer], expected, rtol=0, atol=1e-10)


def test_padding_on_the_left_changes_no_text_and_is_no_context(model: GPT2LMHeadModel):
    ask = ASK | {"penalty_alpha": 1.0, "top_k": 13}  # novelty alone, so that the padding would count
    for pad in (2, 7, 19):
        padded = torch.tensor([[pad, pad, pad, pad, 59], [5, 83, 7, 11, 29]])
        mask = torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
        together = model.generate(padded, attention_mask=mask, max_new_tokens=17, **ask)
        assert torch.equal(together[:1, 4:], model.generate(padded[:1, 4:], max_new_tokens=17, **ask))
        assert torch.equal(together[1:], model.generate(padded[1:], max_new_tokens=17, **ask))


@pytest.mark.parametrize("low_memory", [False, True])
def test_types_places_encoder_and_head_mask_reach_the_candidates(low_memory: bool):
    model = build(add_cross_attention=True)
    encoder = torch.randn(1, 7, 33, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    row, head_mask = IDS[:1], torch.tensor([0.5, 1.0, 0.0])
    types = torch.tensor([[1, 1, 2, 2, 3]])
    expected = by_the_formula(
        model,
        row,
        5,
        0.9,
        5,
        encoder_hidden_states=lambda text: encoder,
        head_mask=lambda text: head_mask,
        position_ids=lambda text: torch.arange(3, 3 + text.shape[1])[None],
        token_type_ids=lambda text: torch.nn.functional.pad(types, (0, text.shape[1] - 5), value=3),
    )
    out = model.generate(
        row,
        encoder_hidden_states=encoder,
        head_mask=head_mask,
        position_ids=torch.arange(3, 8)[None],
        token_type_ids=types,
        max_new_tokens=5,
        low_memory=low_memory,
        **ASK,
        **KEPT,
    )
    assert torch.equal(out.sequences, expected)
    assert [step[0].shape for step in out.cross_attentions] == [(1, 3, 5, 7)] + [(1, 3, 1, 7)] * 4


def test_embeddings_of_the_tokens_write_what_the_tokens_do_by_contrast_too(model: GPT2LMHeadModel):
    embeds = model.get_input_embeddings()(IDS)
    expected = model.generate(IDS, max_new_tokens=7, **ASK)
    assert torch.equal(model.generate(IDS, inputs_embeds=embeds, max_new_tokens=7, **ASK), expected)
    bare = model.generate(inputs_embeds=embeds, bos_token_id=2, max_new_tokens=7, **ASK)
    assert torch.equal(bare[:, 1:], expected[:, 5:])


def test_a_model_that_prepares_one_token_at_a_time_writes_the_same(model: GPT2LMHeadModel):
    class Mine(GPT2LMHeadModel):
        def prepare_inputs_for_generation(
            self, input_ids: Tensor, past_key_values: Any = None, **kwargs: Any
        ) -> dict[str, Any]:
            if past_key_values:
                input_ids = input_ids[:, -1:]
            return {"input_ids": input_ids, "past_key_values": past_key_values, "use_cache": True}

    mine = Mine(model.config).to(torch.float64).eval()
    mine.load_state_dict(model.state_dict())
    expected = model.generate(IDS, max_new_tokens=7, **ASK)
    assert torch.equal(mine.generate(IDS, max_new_tokens=7, **ASK), expected)


def test_the_last_position_of_the_model_is_used(model: GPT2LMHeadModel):
    assert model.generate(IDS, max_new_tokens=32, **ASK).shape == (2, 37)


def test_a_barred_token_is_no_candidate(model: GPT2LMHeadModel):
    allowed = [13, 17]
    barred = [token for token in range(101) if token not in allowed]
    text = model.generate(IDS, max_new_tokens=11, suppress_tokens=barred, **ASK)
    assert set(text[:, 5:].flatten().tolist()) <= set(allowed)
    with pytest.raises(InputError, match="barred every token"):
        model.generate(IDS, max_new_tokens=3, suppress_tokens=list(range(101)), **ASK)
    forced = model.generate(IDS, max_new_tokens=5, forced_eos_token_id=29, **ASK)
    assert forced[:, -1].tolist() == [29, 29]


def test_rows_end_one_by_one(model: GPT2LMHeadModel):
    plain = model.generate(IDS, max_new_tokens=11, **ASK)
    end = int(plain[1, 7])
    text = model.generate(IDS, max_new_tokens=11, eos_token_id=end, **ASK)
    stop = plain[0, 5:].tolist().index(end) + 6 if end in plain[0, 5:] else 16
    last = plain[1, 5:].tolist().index(end) + 6
    assert torch.equal(text[0, :stop], plain[0, :stop])
    assert torch.equal(text[1, :last], plain[1, :last])
    assert set(text[1, last:].tolist()) <= {1}


def test_a_prefix_function_is_not_asked_about_rows_that_have_ended(model: GPT2LMHeadModel):
    plain = model.generate(IDS, max_new_tokens=11, **ASK)
    end = int(plain[1, 6])

    def allowed(row: int, ids: Tensor) -> list[int]:
        assert end not in ids[5:].tolist()
        return list(range(101))

    text = model.generate(IDS, max_new_tokens=11, eos_token_id=end, prefix_allowed_tokens_fn=allowed, **ASK)
    assert int(text[1, 7]) == 1


class Listener(BaseStreamer):
    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, value: Any) -> None:
        self.got.append(value.tolist())

    def end(self) -> None:
        self.got.append("end")


def test_a_streamer_and_own_criteria_see_every_token(model: GPT2LMHeadModel):
    class Third(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
            return input_ids.shape[1] == 8

    listener = Listener()
    text = model.generate(
        IDS[:1],
        max_new_tokens=11,
        streamer=listener,
        stopping_criteria=StoppingCriteriaList([Third()]),
        **ASK,
    )
    assert text.shape == (1, 8)
    assert listener.got == [[text[0, :5].tolist()], *([token] for token in text[0, 5:].tolist()), "end"]


def test_by_hand_the_text_is_that_of_generate(model: GPT2LMHeadModel):
    by_hand = model.contrastive_search(
        IDS,
        top_k=5,
        penalty_alpha=0.9,
        logits_processor=LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3)]),
        stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(12)]),
        pad_token_id=1,
    )
    assert torch.equal(by_hand, model.generate(IDS, max_length=12, repetition_penalty=1.3, **ASK))
    assert torch.equal(
        model.contrastive_search(IDS, max_length=9, pad_token_id=1), model.generate(IDS, max_length=9)
    )


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"use_cache": False}, "requires `use_cache=True`"),
        ({"top_k": 102}, "top_k=102 candidates, but the vocabulary has 101"),
        ({"penalty_alpha": 1.5}, "from 0 to 1"),
        ({"past_key_values": "the first three"}, "Leave past_key_values out"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"assistant_model": "itself"}, "contrastive_search"),
        ({"prompt_lookup_num_tokens": 3}, "contrastive_search"),
    ],
)
def test_what_contrastive_search_cannot_honour_is_refused(
    model: GPT2LMHeadModel, kwargs: dict[str, Any], said: str
):
    if "past_key_values" in kwargs:
        with torch.no_grad():
            kwargs = {"past_key_values": model(IDS[:, :3]).past_key_values}
    if "assistant_model" in kwargs:
        kwargs = {"assistant_model": model}
    with pytest.raises(InputError, match=said):
        model.generate(IDS, max_new_tokens=3, **(ASK | kwargs))


def test_a_model_without_a_cache_is_refused_with_the_way_out():
    model = build().train()
    model.gradient_checkpointing_enable()
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        model.generate(IDS, max_new_tokens=3, **ASK)


# ---------------------------------------------------------------------- what it stands on


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("seen", [0, 3])
def test_a_mask_for_each_query_reads_branches_as_if_each_were_alone(seen: int, kernel: str):
    model = build()
    model.set_attn_implementation(kernel)
    with torch.no_grad():
        past = model(IDS[:, :seen]).past_key_values if seen else None
        mask = torch.ones(2, 5 - seen + 2, 7)
        mask[:, -1, 5] = 0  # the last of two branches does not see the other
        mask[:, -2, 6] = 1  # and what comes later is hidden whatever the mask says
        tokens = torch.cat((IDS[:, seen:], torch.tensor([[13, 19], [23, 31]])), dim=1)
        found = model(tokens, attention_mask=mask, past_key_values=past).logits
        first = model(torch.cat((IDS, torch.tensor([[13], [23]])), dim=1)).logits
        second = model(torch.cat((IDS, torch.tensor([[19], [31]])), dim=1)).logits
    torch.testing.assert_close(found[:, :-1], first[:, seen:], rtol=0, atol=1e-10)
    torch.testing.assert_close(found[:, -1], second[:, -1], rtol=0, atol=1e-10)
    with pytest.raises(InputError, match=r"attention_mask should have the shape \[2, 5, 5\]"):
        model(IDS, attention_mask=torch.ones(2, 4, 5))


def test_the_owner_of_a_cache_keeps_one_branch_without_copying_the_rest(model: GPT2LMHeadModel):
    with torch.no_grad():
        past = model(IDS, past_key_values=GPT2Cache.empty(model.config, 13)).past_key_values
        longer = model(IDS[:, :3], past_key_values=past).past_key_values
    expected = [[t[[0, 1], :, [7, 5]] for t in pair] for pair in longer.to_legacy()]
    expected = [[t.clone() for t in pair] for pair in expected]
    address = longer[0][0].data_ptr()
    kept = longer.keep_branch(5, torch.tensor([2, 0]))
    assert kept.get_seq_length() == 6
    for pair, wanted in zip(kept, expected, strict=True):
        for tensor, last in zip(pair, wanted, strict=True):
            assert torch.equal(tensor[:, :, 5], last)
    with torch.no_grad():
        again = model(IDS[:, :1], past_key_values=kept).past_key_values
    assert again[0][0].data_ptr() == address
