"""Changes to a PyTorch model: tokens, heads, ties, checkpointing; and what it tells about itself."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cases import make_inputs, random_checkpoint, tiny_config
from gpt2kit import GPT2LMHeadModel, GPT2Model
from gpt2kit.errors import InputError

IDS = torch.from_numpy(make_inputs(tiny_config()).input_ids)


def make(case: str = "default", **changes: Any) -> Any:
    config = tiny_config(case, **changes)
    state = {name: torch.from_numpy(value) for name, value in random_checkpoint(config).items()}
    return GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state, torch_dtype="float64")


# --------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("case", ["default", "untied"])
@pytest.mark.parametrize("size", [97, 113])
def test_resizing_keeps_the_rows_that_stay_and_draws_the_rest(case: str, size: int, tmp_path: Path) -> None:
    model = make(case)
    old = model.transformer.wte.weight.detach().clone()
    head = model.lm_head.weight.detach().clone()
    table = model.resize_token_embeddings(size)
    kept = min(size, 101)
    assert table is model.get_input_embeddings()
    assert table.weight.shape == model.lm_head.weight.shape == (size, 33)
    assert torch.equal(table.weight[:kept], old[:kept])
    assert torch.equal(model.lm_head.weight[:kept], head[:kept])
    assert (model.lm_head.weight is table.weight) is (case == "default")
    assert model.config.vocab_size == model.vocab_size == model.lm_head.out_features == size
    assert table.weight.dtype == torch.float64
    if size > 101:
        assert 0.01 < table.weight[101:].std() < 0.03
        assert 0.01 < model.lm_head.weight[101:].std() < 0.03
    ids = IDS.clamp(max=size - 1)
    assert model(ids).logits.shape[-1] == size
    model.save_pretrained(tmp_path)
    assert torch.equal(
        GPT2LMHeadModel.from_pretrained(tmp_path, torch_dtype="float64")(ids).logits, model(ids).logits
    )


def test_resizing_pads_to_a_multiple() -> None:
    model = make()
    assert model.resize_token_embeddings(pad_to_multiple_of=64).weight.size(0) == 128
    assert model.resize_token_embeddings(130, pad_to_multiple_of=7).weight.size(0) == 133
    same = model.get_input_embeddings()
    assert model.resize_token_embeddings() is same
    assert model.resize_token_embeddings(133) is same


@pytest.mark.parametrize(
    "given", [{"new_num_tokens": 0}, {"pad_to_multiple_of": 1.5}, {"pad_to_multiple_of": 0}]
)
def test_sizes_that_are_none_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        make().resize_token_embeddings(**given)


def test_a_frozen_table_stays_frozen_when_resized() -> None:
    model = make()
    model.transformer.wte.weight.requires_grad_(False)
    assert not model.resize_token_embeddings(103).weight.requires_grad


def test_embeddings_can_be_exchanged_and_tied_again() -> None:
    model = make()
    table = nn.Embedding(101, 33, dtype=torch.float64)
    model.set_input_embeddings(table)
    assert model.transformer.wte is model.get_input_embeddings() is table
    assert model.lm_head.weight is not table.weight
    model.tie_weights()
    assert model.lm_head.weight is table.weight
    head = nn.Linear(33, 101, bias=False)
    model.set_output_embeddings(head)
    assert model.get_output_embeddings() is model.lm_head is head
    body = model.transformer
    assert body.get_output_embeddings() is None
    with pytest.raises(InputError, match="GPT2Model has no output embeddings"):
        body.set_output_embeddings(head)


# --------------------------------------------------------------------------- heads


def test_pruned_heads_are_gone_and_change_what_a_zero_mask_changes() -> None:
    model = make()
    mask = torch.ones(3, 3)
    mask[0, 1] = mask[2, 0] = mask[2, 2] = 0
    wanted = model(IDS, head_mask=mask).logits
    model.prune_heads({0: [1], 2: [0, 2]})
    torch.testing.assert_close(model(IDS).logits, wanted)
    torch.testing.assert_close(model(IDS, output_attentions=True).logits, wanted)
    torch.testing.assert_close(model(IDS, head_mask=torch.ones(3, 3)).logits, wanted)
    blocks = model.transformer.h
    assert [tuple(block.attn.c_attn.weight.shape) for block in blocks] == [(33, 66), (33, 99), (33, 33)]
    assert [tuple(block.attn.c_proj.weight.shape) for block in blocks] == [(22, 33), (33, 33), (11, 33)]
    assert [layer[0].shape[1] for layer in model(IDS).past_key_values] == [2, 3, 1]
    assert [weights.shape[1] for weights in model(IDS, output_attentions=True).attentions] == [2, 3, 1]


def test_pruning_adds_up_and_is_kept_through_save_and_load(tmp_path: Path) -> None:
    model = make()
    model.prune_heads({1: [0]})
    model.prune_heads({1: [0, 2], 0: [1]})
    assert model.config.pruned_heads == {1: [0, 2], 0: [1]}
    assert model.transformer.h[1].attn.pruned_heads == {0, 2}
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path, torch_dtype="float64")
    assert again.config.pruned_heads == {1: [0, 2], 0: [1]}
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    again.prune_heads({1: [0]})
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_head_mask_over_all_heads_fits_a_pruned_model() -> None:
    model = make()
    mask = torch.tensor([0.5, 0.7, 1.3])
    with_zero = mask.expand(3, 3).clone()
    with_zero[1, 0] = 0
    wanted = model(IDS, head_mask=with_zero).logits
    model.prune_heads({1: [0]})
    torch.testing.assert_close(model(IDS, head_mask=mask).logits, wanted)


@pytest.mark.parametrize(
    ("heads", "sentence"),
    [
        ({3: [0]}, "There is no layer 3: layers are numbered 0 to 2"),
        ({0: [3]}, "There is no head 3: heads are numbered 0 to 2"),
        ({0: [0, 1, 2]}, "would leave layer 0 without any head"),
    ],
)
def test_heads_that_cannot_be_pruned_are_refused(heads: dict[int, list[int]], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make().prune_heads(heads)


# --------------------------------------------------------------------------- gradient checkpointing


@pytest.mark.parametrize("options", [None, {"use_reentrant": True}])
def test_checkpointing_changes_no_gradient_and_returns_no_cache(
    options: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = make().train()
    assert not model.is_gradient_checkpointing
    model(IDS, labels=IDS).loss.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable(options)
    assert model.is_gradient_checkpointing
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        model.zero_grad()
        output = model(IDS, labels=IDS, output_attentions=True, output_hidden_states=True)
        assert output.past_key_values is None
        assert len(output.attentions) == 3
        output.loss.backward()
    assert caplog.text.count("incompatible with gradient checkpointing") == 1
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name])
    assert model.eval()(IDS).past_key_values is not None
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert model.train()(IDS).past_key_values is not None


def test_the_configuration_switches_checkpointing_on_and_forgets_it() -> None:
    config = tiny_config(gradient_checkpointing=True)
    model = GPT2LMHeadModel(config)
    assert model.is_gradient_checkpointing
    assert "gradient_checkpointing" not in config.to_dict()


def test_a_frozen_model_lets_gradients_through_to_its_embeddings() -> None:
    model = make().train().requires_grad_(False)
    model.enable_input_require_grads()
    assert model(IDS).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(IDS).logits.requires_grad


# --------------------------------------------------------------------------- what it tells of itself


@pytest.mark.parametrize(("case", "extra"), [("default", 0), ("untied", 101 * 33)])
def test_parameters_are_counted(case: str, extra: int) -> None:
    model = make(case)
    block = 2 * 2 * 33 + (33 * 99 + 99) + (33 * 33 + 33) + (33 * 132 + 132) + (132 * 33 + 33)
    total = 101 * 33 + 13 * 33 + 3 * block + 2 * 33 + extra
    assert model.num_parameters() == total
    tables = 101 * 33 + 13 * 33
    assert model.num_parameters(exclude_embeddings=True) == total - tables
    model.transformer.wpe.weight.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == total - 13 * 33
    assert model.get_memory_footprint() == 8 * total
    assert model.get_memory_footprint(return_buffers=False) == 8 * total


def test_the_attributes_that_other_libraries_ask_for() -> None:
    model = make()
    body = model.transformer
    assert model.base_model is body
    assert body.base_model is body
    assert (model.base_model_prefix, model.main_input_name, model.framework) == (
        "transformer",
        "input_ids",
        "pt",
    )
    assert (model.dtype, model.device) == (torch.float64, torch.device("cpu"))
    assert model.supports_gradient_checkpointing
    assert model._no_split_modules == ["GPT2Block"]
    assert model._tied_weights_keys == ["lm_head.weight"]
    assert model._keys_to_ignore_on_save is None
    assert model._skip_keys_device_placement == "past_key_values"
    assert GPT2LMHeadModel.can_generate()
    assert not GPT2Model.can_generate()
    assert body.generation_config is None
    assert model.generation_config.eos_token_id == 97
    assert model(**model.dummy_inputs).logits.shape == (3, 5, 101)
    model.add_model_tags("one")
    model.add_model_tags(["two", "one"])
    assert model.model_tags == ["one", "two"]


def test_names_and_shapes_of_the_state_dict_are_those_of_the_table() -> None:
    from gpt2kit.checkpoint import tensor_specs

    for case in ("default", "untied", "cross_attention", "n_inner"):
        model = make(case)
        specs = {spec.name: spec.shape for spec in tensor_specs(model.config)}
        assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == specs
        assert list(model.state_dict()) == list(specs)
        assert not list(model.buffers())


def test_what_is_gone_says_so() -> None:
    for method in ("parallelize", "deparallelize"):
        with pytest.raises(InputError, match=f"{method} is gone"):
            getattr(make(), method)()


def test_a_copy_is_a_model_of_its_own() -> None:
    model = make()
    twin = copy.deepcopy(model)
    assert twin.lm_head.weight is twin.transformer.wte.weight
    wanted = model(IDS).logits
    with torch.no_grad():
        twin.transformer.ln_f.weight.zero_()
    assert torch.equal(model(IDS).logits, wanted)


# --------------------------------------------------------------------------- generation's arguments


def test_a_step_of_generation_gets_what_the_past_has_not_seen() -> None:
    model = make()
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    first = model.prepare_inputs_for_generation(IDS, attention_mask=mask, use_cache=True, token_type_ids=IDS)
    assert torch.equal(first["input_ids"], IDS)
    assert first["position_ids"].tolist() == [[1, 0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert first["use_cache"] is True
    past = model(IDS[:, :3]).past_key_values
    then = model.prepare_inputs_for_generation(
        IDS, past_key_values=past, attention_mask=mask, token_type_ids=IDS
    )
    assert torch.equal(then["input_ids"], IDS[:, 3:])
    assert torch.equal(then["token_type_ids"], IDS[:, 3:])
    assert then["position_ids"].tolist() == [[2, 3], [3, 4]]
    longer = model.prepare_inputs_for_generation(IDS[:, :2], past_key_values=past)
    assert torch.equal(longer["input_ids"], IDS[:, 1:2])
    embeds = torch.zeros(2, 3, 33)
    assert "input_ids" not in model.prepare_inputs_for_generation(IDS[:, :0], inputs_embeds=embeds)
    kept = model.prepare_inputs_for_generation(IDS, head_mask=torch.ones(3), encoder_hidden_states=embeds)
    assert kept["head_mask"] is not None
    assert kept["encoder_hidden_states"] is embeds
