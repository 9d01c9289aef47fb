"""Assisted decoding: a draft changes how fast a text is written, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer
from gpt2kit.torch import AssistedDecoderOnlyOutput, GPT2LMHeadModel, GPT2Model
from gpt2kit.torch.generation.draft import PromptLookup
from gpt2kit.torch.generation.logits import LogitsProcessor, LogitsProcessorList
from gpt2kit.torch.generation.prompt import make_prompt
from gpt2kit.torch.generation.search import Draft
from gpt2kit.torch.generation.stopping import StoppingCriteria, StoppingCriteriaList

IDS = torch.tensor([[17, 3, 59, 3, 71]])
KEPT = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_attentions": True,
    "output_hidden_states": True,
}


def build(seed: int = 5, noise: float = 0.0, **changes: Any) -> GPT2LMHeadModel:
    config = tiny_config(**{"n_positions": 37, "eos_token_id": None, "pad_token_id": 1, **changes})
    state = {name: torch.from_numpy(array) for name, array in random_checkpoint(config, seed).items()}
    model = GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state, torch_dtype=torch.float64)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(noise * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return build()


@pytest.fixture
def near() -> GPT2LMHeadModel:
    """A draft model that is right now and then."""
    return build(noise=0.02)


class Letters:
    """A tokenizer of one letter for each token."""

    def decode(self, ids: list[int], **kwargs: Any) -> str:
        return "".join(chr(97 + i % 26) for i in ids)


class Fifth(StoppingCriteria):
    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return input_ids.shape[1] == 10


class Listener(BaseStreamer):
    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, value: Any) -> None:
        self.got.append(value.tolist())

    def end(self) -> None:
        self.got.append("end")


OPTIONS: list[dict[str, Any]] = [
    {},
    {"eos_token_id": [49, 23]},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2, "eos_token_id": 95},
    {"do_sample": True, "top_k": 5},
    {"do_sample": True, "temperature": 1.5, "top_k": 0, "repetition_penalty": 1.3},
    {"do_sample": True, "top_p": 0.8, "eos_token_id": 18, "min_new_tokens": 4},
    {"guidance_scale": 1.5},
    {"stop_strings": "kk", "tokenizer": Letters()},
    {"stopping_criteria": StoppingCriteriaList([Fifth()])},
    {"prefix_allowed_tokens_fn": lambda row, ids: [2, 3, 5, 7, 18, 49, int(ids[-1])]},
    {"forced_eos_token_id": 29, "renormalize_logits": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "plain")
@pytest.mark.parametrize("drafted_by", ["near", "far", "itself", "look-up"])
def test_text_scores_and_states_are_those_without_a_draft(
    model: GPT2LMHeadModel, near: GPT2LMHeadModel, drafted_by: str, options: dict[str, Any]
):
    draft: dict[str, Any] = {"assistant_model": {"near": near, "itself": model}.get(drafted_by)}
    if drafted_by == "far":
        draft = {"assistant_model": build(7, n_layer=1, n_positions=17)}
    if drafted_by == "look-up":
        draft = {"prompt_lookup_num_tokens": 3}
    ask = {"max_new_tokens": 23, **KEPT, **options}
    torch.manual_seed(3)
    plain = model.generate(IDS, **ask)
    torch.manual_seed(3)
    found = model.generate(IDS, **ask, **draft)
    assert type(found) is AssistedDecoderOnlyOutput
    assert torch.equal(found.sequences, plain.sequences)
    for name in ("scores", "attentions", "hidden_states"):
        torch.testing.assert_close(found[name], plain[name], rtol=0, atol=1e-9)
    assert 0 <= found.accepted <= found.drafted
    if drafted_by == "itself" and "do_sample" not in options and "guidance_scale" not in options:
        assert found.accepted >= found.sequences.shape[1] - 5 - 7  # a few tokens of each check are its own
    if drafted_by == "itself":
        model.__dict__.pop("max_assistant_tokens")


def test_a_padded_prompt_its_types_and_places_reach_both(model: GPT2LMHeadModel, near: GPT2LMHeadModel):
    padded = torch.tensor([[0, 0, 17, 3, 59]])
    ask = {"attention_mask": torch.tensor([[0, 0, 1, 1, 1]]), "max_new_tokens": 17}
    types = {"token_type_ids": torch.tensor([[1, 1, 2, 2, 3]])}
    places = {"position_ids": torch.tensor([[1, 1, 4, 5, 6]])}
    for extra in ({}, types, places, types | places):
        plain = model.generate(padded, **ask, **extra)
        assert torch.equal(model.generate(padded, assistant_model=near, **ask, **extra), plain)
    found = model.generate(padded, assistant_model=model, return_dict_in_generate=True, **ask, **types)
    assert found.accepted == found.drafted > 0  # the draft read what the model reads
    model.__dict__.pop("max_assistant_tokens")


def test_an_encoder_is_what_both_look_at():
    model, plain_draft = build(add_cross_attention=True), build(noise=0.02)
    encoder = {
        "encoder_hidden_states": torch.randn(
            1, 7, 33, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        ),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
    }
    ask = {"max_new_tokens": 17, **KEPT, **encoder}
    plain = model.generate(IDS, **ask)
    for assistant in (model, plain_draft):
        found = model.generate(IDS, assistant_model=assistant, **ask)
        assert torch.equal(found.sequences, plain.sequences)
        assert [step[0].shape for step in found.cross_attentions] == [(1, 3, 5, 7)] + [(1, 3, 1, 7)] * 16
        assert assistant is plain_draft or found.accepted == found.drafted
    wide = build(7, add_cross_attention=True, n_embd=36)
    with pytest.raises(InputError, match="33 wide, and the cross-attention of assistant_model wants 36"):
        model.generate(IDS, assistant_model=wide, **ask)


def test_a_past_of_the_callers_stays_as_it_was(model: GPT2LMHeadModel, near: GPT2LMHeadModel):
    with torch.no_grad():
        past = model(IDS[:, :3]).past_key_values
    before = [[tensor.clone() for tensor in pair] for pair in past]
    expected = model.generate(IDS, max_new_tokens=11)
    for _ in range(2):
        found = model.generate(IDS, max_new_tokens=11, past_key_values=past, assistant_model=near)
        assert torch.equal(found, expected)
    for pair, old in zip(past, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, old, strict=True))


def test_a_streamer_gets_one_token_at_a_time(model: GPT2LMHeadModel):
    listener = Listener()
    text = model.generate(IDS, max_new_tokens=11, prompt_lookup_num_tokens=5, streamer=listener)
    assert listener.got == [IDS.tolist(), *([token] for token in text[0, 5:].tolist()), "end"]


def test_own_processors_see_each_text_once_and_in_order(model: GPT2LMHeadModel):
    class Counts(LogitsProcessor):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.seen.append(input_ids.shape[1])
            return scores

    counts = Counts()
    model.generate(
        IDS, max_new_tokens=11, prompt_lookup_num_tokens=5, logits_processor=LogitsProcessorList([counts])
    )
    assert counts.seen == list(range(5, 16))


def test_a_draft_that_runs_into_a_dead_end_is_cut_there(model: GPT2LMHeadModel, near: GPT2LMHeadModel):
    """What the model itself writes is allowed everywhere; what the draft writes soon is not."""
    plain = model.generate(IDS, max_new_tokens=17)[0].tolist()

    def allowed(row: int, ids: Tensor) -> list[int]:
        text = ids.tolist()
        return list(range(101)) if text == plain[: len(text)] else []

    ask = {"max_new_tokens": 17, "prefix_allowed_tokens_fn": allowed}
    found = model.generate(IDS, assistant_model=near, return_dict_in_generate=True, **ask)
    assert found.sequences[0].tolist() == plain
    assert found.drafted > found.accepted


# ---------------------------------------------------------------------- how many are drafted


def test_the_number_of_drafted_tokens_follows_its_schedule(model: GPT2LMHeadModel, near: GPT2LMHeadModel):
    asked: list[int] = []
    forward = near.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return forward(*args, **kwargs)

    near.forward = counting  # type: ignore[method-assign]
    drafts = {}
    for schedule in ("constant", "heuristic_transient", "heuristic"):
        out = model.generate(
            IDS,
            max_new_tokens=23,
            assistant_model=near,
            num_assistant_tokens=3,
            num_assistant_tokens_schedule=schedule,
            return_dict_in_generate=True,
        )
        drafts[schedule] = out.drafted
        assert hasattr(near, "max_assistant_tokens") is (schedule == "heuristic")
    assert sum(asked) == sum(drafts.values())
    assert drafts["heuristic"] == drafts["heuristic_transient"] != drafts["constant"]


def test_the_number_is_remembered_as_in_4_34_unless_the_call_says_one(model: GPT2LMHeadModel):
    itself = build()
    ask = {"max_new_tokens": 23, "assistant_model": itself, "return_dict_in_generate": True}
    model.generate(IDS, **ask)
    assert itself.max_assistant_tokens > 5.0  # it began with 5, and every draft was right
    itself.max_assistant_tokens = 1.0
    once = model.generate(IDS, num_assistant_tokens_schedule="constant", **ask)
    assert once.drafted == 11  # one at a time, and one that the model adds
    itself.__dict__.pop("max_assistant_tokens")
    itself.generation_config.num_assistant_tokens = 2
    itself.generation_config.num_assistant_tokens_schedule = "constant"
    assert model.generate(IDS, **ask).drafted == 15  # two at a time and one of the model's, seven times; one


def test_nothing_is_drafted_behind_an_end_token(model: GPT2LMHeadModel):
    text = model.generate(IDS, max_new_tokens=23)[0].tolist()
    end = next(token for token in text[8:] if token not in text[:8])
    ask = {"eos_token_id": end, "max_new_tokens": 23, "num_assistant_tokens": 31}
    found = model.generate(IDS, assistant_model=build(), return_dict_in_generate=True, **ask)
    assert found.sequences[0].tolist() == text[: text.index(end) + 1]
    assert found.drafted == found.accepted == text.index(end) - 4


def test_an_assistant_of_fewer_positions_drafts_as_far_as_it_reaches(model: GPT2LMHeadModel):
    short = build(n_positions=37)
    short.config.n_positions = 11
    short.transformer.wpe.weight = torch.nn.Parameter(short.transformer.wpe.weight[:11])
    plain = model.generate(IDS, max_new_tokens=32)
    found = model.generate(IDS, max_new_tokens=32, assistant_model=short, return_dict_in_generate=True)
    assert torch.equal(found.sequences, plain)
    assert 5 <= found.drafted <= 7


# ---------------------------------------------------------------------- drafts of the text itself


@pytest.mark.parametrize(
    ("text", "count", "longest", "most", "expected"),
    [
        ([5, 7, 11, 13, 5, 7], 3, 2, 9, [11, 13, 5]),
        ([5, 7, 11, 13, 5, 7], 3, 2, 2, [11, 13]),
        ([5, 7, 11, 9, 7, 13, 5, 7], 1, 2, 9, [11]),  # the longer ending first
        ([9, 7, 11, 9, 7, 13, 5, 7], 1, 2, 9, [11]),  # then the shorter, at its first place
        ([5, 7, 11, 13], 3, 2, 9, []),
        ([5, 5, 5], 7, 2, 9, [5]),
        ([5], 3, 2, 9, []),
        ([5, 7, 2, 11, 5, 7], 3, 2, 9, []),  # not beyond an end token
        ([5, 7, 11, 2, 5, 7], 3, 2, 9, [11]),
    ],
)
def test_the_text_drafts_what_followed_its_ending(
    model: GPT2LMHeadModel, text: list[int], count: int, longest: int, most: int, expected: list[int]
):
    draft = Draft(make_prompt(model, torch.tensor([text]), {}), 37)
    assert PromptLookup(count, longest, [2]).propose(draft, most).tolist() == [expected]


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"assistant_model": "other vocabulary"}, "vocabulary of 97 tokens and the model one of 101"),
        ({"assistant_model": "no head"}, "has to be a language model, such as GPT2LMHeadModel"),
        ({"inputs": IDS.repeat(2, 1)}, "one text at a time, but 2 were asked for"),
        ({"do_sample": True, "num_return_sequences": 3}, "one text at a time, but 3 were asked for"),
        ({"use_cache": False}, "requires `use_cache=True`"),
        ({"num_beams": 2}, "beam_search"),
        ({"prompt_lookup_num_tokens": 3}, "choose one"),
        ({"num_assistant_tokens": 0}, "at least 1"),
        ({"num_assistant_tokens_schedule": "sometimes"}, "one of heuristic, heuristic_transient, constant"),
        ({"assistant_model": None, "prompt_lookup_num_tokens": 0}, "at least 1"),
        ({"inputs_embeds": torch.zeros(1, 5, 33, dtype=torch.float64)}, "drafts from the tokens"),
        ({"dola_layers": "low"}, "dola_layers"),
    ],
)
def test_what_assisted_decoding_cannot_honour_is_refused(
    model: GPT2LMHeadModel, near: GPT2LMHeadModel, kwargs: dict[str, Any], said: str
):
    others = {"other vocabulary": build(7, vocab_size=97), "no head": GPT2Model(model.config)}
    ask: dict[str, Any] = {"inputs": IDS, "assistant_model": near, "max_new_tokens": 3, **kwargs}
    if isinstance(ask["assistant_model"], str):
        ask["assistant_model"] = others[ask["assistant_model"]]
    with pytest.raises(InputError, match=said):
        model.generate(**ask)


def test_a_model_that_prepares_only_one_token_cannot_check_a_draft(model: GPT2LMHeadModel):
    class Mine(GPT2LMHeadModel):
        def prepare_inputs_for_generation(
            self, input_ids: Tensor, past_key_values: Any = None, **kwargs: Any
        ) -> dict[str, Any]:
            ids = input_ids[:, -1:] if past_key_values else input_ids
            return {"input_ids": ids, "past_key_values": past_key_values, "use_cache": True}

    mine = Mine(model.config).to(torch.float64).eval()
    mine.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="Return all tokens"):
        mine.generate(IDS, max_new_tokens=11, assistant_model=model)
