"""`generate` in PyTorch: what may be passed, what comes back, what is refused."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import CASES, random_checkpoint, tiny_config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.generation import GenerationConfig
from gpt2kit.torch import GPT2Cache, GPT2LMHeadModel, set_seed
from gpt2kit.torch.generation.logits import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper
from gpt2kit.torch.generation.record import GreedySearchDecoderOnlyOutput, SampleDecoderOnlyOutput
from gpt2kit.torch.generation.stopping import MaxLengthCriteria, StoppingCriteria, StoppingCriteriaList

IDS = torch.tensor([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
ONE = IDS[:1]


def build(**changes: Any) -> GPT2LMHeadModel:
    config = tiny_config(**{"n_positions": 37, "eos_token_id": None, "pad_token_id": 1, **changes})
    state = {name: torch.from_numpy(array) for name, array in random_checkpoint(config, 5).items()}
    return GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state).eval()


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return build()


# ---------------------------------------------------------------------- the same text by every way


def test_greedy_text_is_the_likeliest_token_of_the_whole_text_each_time(model: GPT2LMHeadModel):
    text = IDS
    with torch.no_grad():
        for _ in range(11):
            text = torch.cat((text, model(text).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(model.generate(IDS, max_new_tokens=11), text)


@pytest.mark.parametrize("switch", ["upcast", "inverse_layer", "untied"])
def test_cache_or_not_the_text_is_the_same(switch: str):
    model = build(**CASES[switch])
    kept = model.generate(IDS, max_new_tokens=7)
    assert torch.equal(model.generate(IDS, max_new_tokens=7, use_cache=False), kept)


def test_padding_on_the_left_changes_no_text(model: GPT2LMHeadModel):
    padded = torch.tensor([[0, 0, 17, 3, 59], [5, 83, 7, 11, 29]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    together = model.generate(padded, attention_mask=mask, max_new_tokens=7)
    alone = model.generate(padded[:1, 2:], max_new_tokens=7)
    assert torch.equal(together[:1, 2:], alone)
    assert torch.equal(together[1:], model.generate(padded[1:], max_new_tokens=7))


def test_a_mask_of_ones_is_no_mask(model: GPT2LMHeadModel):
    kwargs = {"max_new_tokens": 7, "return_dict_in_generate": True, "output_scores": True}
    bare = model.generate(IDS, **kwargs)
    masked = model.generate(IDS, attention_mask=torch.ones_like(IDS), **kwargs)
    assert torch.equal(torch.stack(bare.scores), torch.stack(masked.scores))


@pytest.mark.parametrize("seen", [1, 3, 4])
@pytest.mark.parametrize("plain_tuple", [True, False])
def test_a_past_of_any_length_goes_on_with_the_same_text(
    model: GPT2LMHeadModel, seen: int, plain_tuple: bool
):
    with torch.no_grad():
        past = model(IDS[:, :seen]).past_key_values
    past = past.to_legacy() if plain_tuple else past
    expected = model.generate(IDS, max_new_tokens=7)
    for _ in range(2):  # the past is a value: using it does not use it up
        assert torch.equal(model.generate(IDS, past_key_values=past, max_new_tokens=7), expected)


def test_a_past_and_the_one_new_token_go_on_with_the_same_text(model: GPT2LMHeadModel):
    with torch.no_grad():
        past = model(IDS[:, :4]).past_key_values
    expected = model.generate(IDS, max_new_tokens=7)[:, 4:]
    assert torch.equal(model.generate(IDS[:, 4:], past_key_values=past, max_new_tokens=7), expected)
    mask = torch.ones(2, 5)
    found = model.generate(IDS[:, 4:], past_key_values=past, attention_mask=mask, max_new_tokens=7)
    assert torch.equal(found, expected)


def test_a_past_is_repeated_for_several_texts(model: GPT2LMHeadModel):
    with torch.no_grad():
        past = model(IDS[:, :4]).past_key_values
    kwargs = {"max_new_tokens": 7, "do_sample": True, "num_return_sequences": 3}
    set_seed(3)
    expected = model.generate(IDS, **kwargs)
    set_seed(3)
    assert torch.equal(model.generate(IDS, past_key_values=past, **kwargs), expected)


def test_embeddings_of_the_tokens_write_what_the_tokens_do(model: GPT2LMHeadModel):
    embeds = model.get_input_embeddings()(IDS)
    expected = model.generate(IDS, max_new_tokens=7)
    assert torch.equal(model.generate(IDS, inputs_embeds=embeds, max_new_tokens=7), expected)
    without_cache = model.generate(IDS, inputs_embeds=embeds, max_new_tokens=7, use_cache=False)
    assert torch.equal(without_cache, expected)


def test_positions_of_the_callers_are_kept_and_go_on(model: GPT2LMHeadModel):
    shifted = torch.arange(3, 8)[None]
    text = IDS
    with torch.no_grad():
        for step in range(5):
            places = torch.arange(3, 8 + step)[None].expand(2, -1)
            logits = model(text, position_ids=places).logits
            text = torch.cat((text, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    for use_cache in (True, False):
        found = model.generate(IDS, position_ids=shifted, max_new_tokens=5, use_cache=use_cache)
        assert torch.equal(found, text)
    with pytest.raises(LengthError, match="position_ids reach 7"):
        model.generate(IDS, position_ids=shifted, max_new_tokens=31)


def test_token_types_follow_the_last_one(model: GPT2LMHeadModel):
    types = torch.tensor([[1, 1, 2, 2, 3], [4, 4, 4, 5, 5]])
    text, all_types = IDS, types
    with torch.no_grad():
        for _ in range(5):
            logits = model(text, token_type_ids=all_types).logits
            text = torch.cat((text, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
            all_types = torch.cat((all_types, types[:, -1:]), dim=1)
    assert torch.equal(model.generate(IDS, token_type_ids=types, max_new_tokens=5), text)


def test_an_encoder_and_a_head_mask_reach_every_step():
    model = build(add_cross_attention=True)
    encoder = torch.randn(2, 7, 33, generator=torch.Generator().manual_seed(3))
    encoder_mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    extras = {"encoder_hidden_states": encoder, "encoder_attention_mask": encoder_mask}
    extras["head_mask"] = torch.tensor([0.5, 1.0, 0.0])
    text = IDS
    with torch.no_grad():
        for _ in range(5):
            text = torch.cat((text, model(text, **extras).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(model.generate(IDS, max_new_tokens=5, **extras), text)
    sampled = model.generate(IDS, max_new_tokens=5, do_sample=True, top_k=1, num_return_sequences=2, **extras)
    assert torch.equal(sampled[::2], text)
    assert torch.equal(sampled[1::2], text)


def test_gradient_checkpointing_while_training_only_costs_the_cache():
    model = build()
    expected = model.generate(IDS, max_new_tokens=5)
    model.gradient_checkpointing_enable()
    assert torch.equal(model.train().generate(IDS, max_new_tokens=5), expected)


def test_a_subclass_may_prepare_inputs_as_4_34_did():
    class Mine(GPT2LMHeadModel):
        def prepare_inputs_for_generation(
            self, input_ids: Tensor, past_key_values: Any = None, **kwargs: Any
        ) -> dict[str, Any]:
            if past_key_values:
                input_ids = input_ids[:, -1:]
            return {
                "input_ids": input_ids,
                "past_key_values": past_key_values,
                "use_cache": kwargs["use_cache"],
            }

    original = build()
    mine = Mine(original.config).eval()
    mine.load_state_dict(original.state_dict())
    assert torch.equal(mine.generate(IDS, max_new_tokens=7), original.generate(IDS, max_new_tokens=7))


def test_a_subclass_may_begin_with_a_past_of_its_own():
    prefix = torch.tensor([[2, 3, 5], [7, 11, 13]])  # [B, T]

    class Prefixed(GPT2LMHeadModel):
        def prepare_inputs_for_generation(
            self, input_ids: Tensor, past_key_values: Any = None, **kwargs: Any
        ) -> dict[str, Any]:
            if past_key_values is None:
                past = self(prefix, use_cache=True).past_key_values
                return {"input_ids": input_ids, "past_key_values": past, "use_cache": True}
            return super().prepare_inputs_for_generation(input_ids, past_key_values, **kwargs)

    original = build()
    prefixed = Prefixed(original.config).eval()
    prefixed.load_state_dict(original.state_dict())
    whole = original.generate(torch.cat([prefix, IDS], dim=1), max_new_tokens=5)
    assert torch.equal(prefixed.generate(IDS, max_new_tokens=5), whole[:, 3:])
    assert not torch.equal(whole[:, 3:], original.generate(IDS, max_new_tokens=5))


# ---------------------------------------------------------------------- what comes back


def test_the_outputs_are_those_of_4_34(model: GPT2LMHeadModel):
    kwargs = {"max_new_tokens": 3, "return_dict_in_generate": True}
    greedy = model.generate(IDS, **kwargs, output_scores=True)
    assert type(greedy) is GreedySearchDecoderOnlyOutput
    assert list(greedy) == ["sequences", "scores"]
    assert type(model.generate(IDS, **kwargs, do_sample=True)) is SampleDecoderOnlyOutput


def test_the_text_can_be_used_like_any_tensor(model: GPT2LMHeadModel):
    text = model.generate(ONE, max_new_tokens=7)
    assert text.dtype == torch.long
    assert not text.is_inference()
    model(text, labels=text).loss.backward()
    model.zero_grad()


def test_a_text_that_ends_early_holds_no_more_memory_than_it_shows(model: GPT2LMHeadModel):
    first = int(model.generate(ONE, max_new_tokens=1)[0, -1])
    text = model.generate(ONE, max_new_tokens=30, eos_token_id=first)
    assert text.shape == (1, 6)
    assert text.untyped_storage().nbytes() == 6 * 8


def test_no_prompt_begins_with_bos(model: GPT2LMHeadModel):
    text = model.generate(max_new_tokens=3, bos_token_id=97)
    assert text.shape == (1, 4)
    assert text[0, 0] == 97
    with pytest.raises(InputError, match="`bos_token_id` has to be defined"):
        model.generate(max_new_tokens=3, bos_token_id=None)


def test_the_seed_decides_the_draw(model: GPT2LMHeadModel):
    texts = []
    for seed in (3, 3, 5):
        set_seed(seed)
        texts.append(model.generate(ONE, do_sample=True, top_k=0, temperature=2.0, max_new_tokens=20))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


# ---------------------------------------------------------------------- options


def test_the_models_own_options_hold_where_the_call_says_nothing():
    model = build()
    model.generation_config.max_new_tokens = 3
    assert model.generate(IDS).shape == (2, 8)
    assert model.generate(IDS, max_new_tokens=2).shape == (2, 7)
    assert model.generate(IDS, generation_config=GenerationConfig(max_new_tokens=4)).shape == (2, 9)
    assert model.generation_config.max_new_tokens == 3
    model = build()
    model.config.max_length = 7
    with pytest.warns(UserWarning, match=r"changed in `model\.config`") as told:
        assert model.generate(IDS).shape == (2, 7)
    assert told[0].filename == __file__


def test_the_default_length_warns_the_caller(model: GPT2LMHeadModel):
    with pytest.warns(UserWarning, match="default `max_length`") as caught:
        assert model.generate(IDS).shape == (2, 20)
    assert caught[0].filename == __file__


def test_an_option_of_sampling_in_greedy_search_warns(model: GPT2LMHeadModel):
    with pytest.warns(UserWarning, match="do_sample=True"):
        model.generate(ONE, temperature=0.7, max_new_tokens=2)


def test_options_changed_in_the_models_configuration_are_taken_over():
    model = build()
    model.config.pad_token_id = 3
    with pytest.warns(UserWarning, match=r"model\.generation_config"):
        model.generate(IDS, max_new_tokens=2)
    assert model.generation_config.pad_token_id == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(IDS, max_new_tokens=2)


def test_none_switches_the_end_token_off():
    model = build(eos_token_id=18)
    assert model.generate(ONE, max_new_tokens=7, pad_token_id=0).shape == (1, 6)
    assert model.generate(ONE, max_new_tokens=7, eos_token_id=None).shape == (1, 12)


def test_padding_with_the_end_token_is_logged(model: GPT2LMHeadModel, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="gpt2kit"):
        model.generate(ONE, max_new_tokens=2, eos_token_id=97, pad_token_id=None)
    assert "Setting `pad_token_id` to `eos_token_id`:97" in caplog.text


def test_the_prefix_function_decides_what_may_follow(model: GPT2LMHeadModel):
    seen = []

    def allowed(row: int, ids: Tensor) -> list[int]:
        seen.append((row, ids.shape))
        return [row + 2, row + 7]

    text = model.generate(IDS, max_new_tokens=3, prefix_allowed_tokens_fn=allowed)[:, 5:]
    assert set(text[0].tolist()) <= {2, 7}
    assert set(text[1].tolist()) <= {3, 8}
    assert seen[:2] == [(0, (5,)), (1, (5,))]
    with pytest.raises(InputError, match="allows no token"):
        model.generate(IDS, max_new_tokens=3, prefix_allowed_tokens_fn=lambda row, ids: [])


# ---------------------------------------------------------------------- the user's own code


class Only(LogitsProcessor):
    """Allow one token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        input_ids.view(-1)  # the layout that 4.34 gave
        only = torch.full_like(scores, -float("inf"))
        only[:, self.token] = 0
        return only


def test_own_processors_come_after_the_options_and_before_sampling(model: GPT2LMHeadModel):
    text = model.generate(IDS, logits_processor=LogitsProcessorList([Only(13)]), max_new_tokens=3)
    assert (text[:, 5:] == 13).all()
    plain_list = model.generate(IDS, logits_processor=[Only(13)], max_new_tokens=3, do_sample=True)
    assert (plain_list[:, 5:] == 13).all()


@pytest.mark.parametrize(
    ("answer", "came"),
    [
        (lambda scores: scores[:1], r"\[1, 101\]"),
        (lambda scores: scores[:, 0], r"\[2\]"),
        (lambda scores: torch.cat((scores, scores), dim=1), r"\[2, 202\]"),
        (lambda scores: None, "a NoneType"),
    ],
)
def test_scores_of_another_shape_are_refused(model: GPT2LMHeadModel, answer: Any, came: str):
    with pytest.raises(InputError, match=rf"scores of the shape \[2, 101\], but returned {came}"):
        model.generate(IDS, logits_processor=[lambda _, scores: answer(scores)], max_new_tokens=3)


class Spy(LogitsProcessor):
    """Keep the first scores that it sees."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen = scores.clone() if self.seen is None else self.seen
        return scores


def test_own_processors_see_what_the_options_made_before_it_is_normalized_and_warped(model: GPT2LMHeadModel):
    spy = Spy()
    options = {"suppress_tokens": [13], "renormalize_logits": True, "temperature": 0.5, "do_sample": True}
    model.generate(IDS, logits_processor=[spy], max_new_tokens=2, **options)
    with torch.no_grad():
        expected = model(IDS).logits[:, -1]
    expected[:, 13] = -float("inf")
    torch.testing.assert_close(spy.seen, expected)


def test_a_processor_that_the_options_make_already_is_refused(model: GPT2LMHeadModel):
    from gpt2kit.torch.generation.logits import RepetitionPenaltyLogitsProcessor

    own = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])
    model.generate(ONE, logits_processor=own, max_new_tokens=2)
    with pytest.raises(InputError, match="RepetitionPenaltyLogitsProcessor"):
        model.generate(ONE, logits_processor=own, repetition_penalty=1.2, max_new_tokens=2)
    with pytest.raises(InputError, match="MaxLengthCriteria"):
        model.generate(ONE, stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(7)]), max_new_tokens=9)


class After(StoppingCriteria):
    """End after a number of tokens: all rows, or only those told."""

    def __init__(self, length: int, rows: list[bool] | None = None) -> None:
        self.length, self.rows, self.calls = length, rows, 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool | Tensor:
        self.calls += 1
        over = input_ids.shape[1] >= self.length
        return over if self.rows is None else torch.tensor(self.rows) & over


def test_own_criteria_end_all_rows_or_some(model: GPT2LMHeadModel):
    own = After(8)
    assert model.generate(IDS, stopping_criteria=[own], max_new_tokens=20).shape == (2, 8)
    assert own.calls == 3
    whole = model.generate(IDS, max_new_tokens=7)
    text = model.generate(IDS, stopping_criteria=[After(8, [True, False])], max_new_tokens=7)
    assert torch.equal(text[1], whole[1])
    assert text[0].tolist() == [*whole[0, :8].tolist(), 1, 1, 1, 1]


class Done(LogitsProcessor):
    """Bar every token for a text that ends in padding."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill((input_ids[:, -1] == 1)[:, None], -float("inf"))


@pytest.mark.parametrize("way", [{}, {"penalty_alpha": 0.6, "top_k": 3}])
def test_scores_of_a_row_that_has_ended_are_not_looked_at(model: GPT2LMHeadModel, way: Any):
    ask = {"stopping_criteria": [After(8, [True, False])], "max_new_tokens": 7, **way}
    plain = model.generate(IDS, **ask)
    assert torch.equal(model.generate(IDS, logits_processor=[Done()], **ask), plain)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("way", ["greedy_search", "sample"])
def test_gradients_flow_through_the_scores_of_a_search_by_hand(
    model: GPT2LMHeadModel, way: str, use_cache: bool
):
    torch.manual_seed(3)
    ask = {"max_length": 9, "use_cache": use_cache, "pad_token_id": 1, "eos_token_id": None}
    output = getattr(model, way)(IDS, return_dict_in_generate=True, output_scores=True, **ask)
    torch.stack(output.scores).log_softmax(dim=-1)[..., 3].sum().backward()
    found = model.transformer.wpe.weight.grad
    model.zero_grad()
    logits = model(output.sequences[:, :-1]).logits[:, 4:]  # [B, new, V]
    logits.log_softmax(dim=-1)[..., 3].sum().backward()
    torch.testing.assert_close(found, model.transformer.wpe.weight.grad, rtol=1e-4, atol=1e-4)
    model.zero_grad()


@pytest.mark.parametrize(
    "way", [{}, {"do_sample": True}, {"penalty_alpha": 0.6, "top_k": 3}, {"prompt_lookup_num_tokens": 2}]
)
def test_one_text_alone_needs_no_padding_token_whatever_may_end_it(model: GPT2LMHeadModel, way: Any):
    ask = {"pad_token_id": None, "eos_token_id": None, "max_new_tokens": 7, **way}
    assert model.generate(IDS[:1], stopping_criteria=[After(8, [True])], **ask).shape == (1, 8)
    assert model.generate(IDS[:1], stopping_criteria=[After(99, [True])], **ask).shape == (1, 12)


def test_time_ends_the_text_after_the_token_being_made(model: GPT2LMHeadModel):
    assert model.generate(IDS, max_time=1e-9, max_new_tokens=20).shape == (2, 6)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"inputs": IDS, "input_ids": IDS}, "two names of the same"),
        ({"inputs": torch.zeros(1, 0, dtype=torch.long)}, "hold no token"),
        ({"inputs": IDS[0]}, r"shape \[batch, tokens\]"),
        ({"inputs": IDS.float()}, "integers"),
        ({"inputs": IDS.tolist()}, "return_tensors='pt'"),
        ({"inputs": {"input_ids": IDS}}, r"Unpack it: generate\(\*\*inputs\)"),
        ({"inputs": IDS, "generation_config": {"top_k": 3}}, r"GenerationConfig\(\*\*options\)"),
        ({"inputs": IDS, "logits_processor": Only(13)}, "each logits processor is wanted, but Only came"),
        ({"inputs": IDS, "stopping_criteria": After(8)}, "Put it into a list"),
        ({"inputs": IDS, "prefix_allowed_tokens_fn": lambda row, ids: [5, 101]}, r"\[5, 101\] in row 0"),
        ({"inputs": IDS, "prefix_allowed_tokens_fn": lambda row, ids: [5, -1]}, r"\[5, -1\] in row 0"),
        ({"inputs": IDS, "prefix_allowed_tokens_fn": lambda row, ids: None}, "row 0 it returned None"),
        ({"inputs": IDS, "prefix_allowed_tokens_fn": lambda row, ids: ["a"]}, r"returned \['a'\]"),
        ({"inputs": IDS, "prefix_allowed_tokens_fn": lambda row, ids: [[5]]}, r"returned \[\[5\]\]"),
        ({"inputs": IDS, "prefix_allowed_tokens_fn": lambda row, ids: [0.5]}, r"returned \[0.5\]"),
        ({"inputs": IDS, "attention_mask": [[1] * 5] * 2}, "attention_mask should be a tensor, .* a list"),
        ({"inputs": IDS, "token_type_ids": [[1] * 5] * 2}, "token_type_ids should be a tensor"),
        ({"inputs": IDS, "position_ids": range(5)}, "position_ids should be a tensor"),
        ({"inputs": IDS, "inputs_embeds": [0.5]}, "inputs_embeds should be a tensor"),
        ({"inputs": IDS, "past_key_values": "x"}, "a pair .key, value. for each layer"),
        ({"inputs": IDS, "past_key_values": 3}, "a pair .key, value. for each layer"),
        ({"inputs": IDS, "past_key_values": [(IDS, IDS)]}, "a pair .key, value. for each layer"),
        ({"inputs": torch.tensor([[3, 101]])}, r"hold 101, which is outside 0 to 100"),
        ({"inputs": torch.tensor([[3, -1]])}, "hold -1"),
        ({"inputs": IDS, "inputs_embeds": torch.zeros(3, 5, 33)}, "3 rows and input_ids 2"),
        ({"inputs": IDS, "attention_mask": torch.ones(2, 4)}, r"\[2, 5\].*\[2, 4\]"),
        ({"inputs": IDS, "attention_mask": torch.tensor([[1, 1, 1, 1, 0]] * 2)}, "padding_side = 'left'"),
        ({"inputs": torch.tensor([[3, 5, 1], [3, 5, 7]])}, "padding_side = 'left'"),  # 1 is the padding
        ({"inputs": IDS, "position_ids": torch.ones(2, 4, dtype=torch.long)}, "position_ids"),
        ({"inputs": IDS, "token_type_ids": torch.ones(2, 4, dtype=torch.long)}, "token_type_ids"),
        ({"inputs": IDS, "max_new_tokens": 33}, "n_positions=37"),
        ({"inputs": IDS, "temprature": 0.5}, r"`model_kwargs` are not used by the model: \['temprature'\]"),
        ({"inputs": IDS, "labels": IDS}, "labels"),
        ({"inputs": IDS, "to_dict": 3}, "to_dict"),
        ({"inputs": IDS, "synced_gpus": True}, "synced_gpus"),
        ({"inputs": IDS, "assistant_model": object()}, "has to be a language model"),
        ({"inputs": IDS, "negative_prompt_ids": IDS}, "negative_prompt_ids"),
        ({"inputs": IDS, "do_sample": True, "temperature": -1.0}, "temperature"),
        ({"inputs": IDS, "do_sample": True, "top_p": 0.0}, "top_p"),
        ({"inputs": IDS, "num_return_sequences": 2}, "greedy"),
        ({"inputs": IDS, "stop_strings": "x"}, "tokenizer"),
        ({"inputs": IDS, "suppress_tokens": list(range(101))}, "barred every token"),
        ({"inputs": IDS, "suppress_tokens": list(range(101)), "do_sample": True}, "barred every token"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_a_sentence(
    model: GPT2LMHeadModel, kwargs: dict[str, Any], said: str
):
    with pytest.raises(InputError, match=said):
        model.generate(**{"max_new_tokens": 3} | kwargs)


def test_a_past_that_does_not_fit_the_tokens_is_refused(model: GPT2LMHeadModel):
    with torch.no_grad():
        past = model(IDS).past_key_values
    with pytest.raises(InputError, match="whole text"):
        model.generate(IDS[:, :3], past_key_values=past, max_new_tokens=3)
    embeds = model.get_input_embeddings()(IDS)
    with pytest.raises(InputError, match="only tokens can follow"):
        model.generate(inputs_embeds=embeds, past_key_values=past, max_new_tokens=3)


def test_scores_that_are_no_numbers_are_refused_or_removed_on_request():
    model = build()
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = float("nan")
    for options in ({}, {"do_sample": True}):
        with pytest.raises(InputError, match="NaN"):
            model.generate(IDS, max_new_tokens=3, **options)
        assert model.generate(IDS, max_new_tokens=3, remove_invalid_values=True, **options).shape == (2, 8)


# ---------------------------------------------------------------------- rules made by hand


def test_greedy_search_and_sample_take_ready_made_rules(model: GPT2LMHeadModel):
    stop = StoppingCriteriaList([MaxLengthCriteria(9)])
    assert torch.equal(model.greedy_search(IDS, stopping_criteria=stop), model.generate(IDS, max_length=9))
    assert model.greedy_search(IDS, max_length=7).shape == (2, 7)
    assert model.greedy_search(IDS).shape == (2, 37)
    warm = LogitsProcessorList([TemperatureLogitsWarper(1.7)])
    set_seed(3)
    found = model.sample(
        IDS, stopping_criteria=stop, logits_warper=warm, return_dict_in_generate=True, output_scores=True
    )
    set_seed(3)
    expected = model.generate(IDS, max_length=9, do_sample=True, top_k=0, temperature=1.7)
    assert torch.equal(found.sequences, expected)
    assert len(found.scores) == 4
    with pytest.raises(InputError, match="foo"):
        model.greedy_search(IDS, foo=3)


def test_the_cache_has_room_for_the_whole_text_at_once(
    model: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch
):
    copies = []
    monkeypatch.setattr(GPT2Cache, "_moved", lambda *arguments: copies.append(arguments) or 1 / 0)
    model.generate(IDS, max_new_tokens=32)
    assert not copies
