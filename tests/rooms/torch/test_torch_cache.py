"""The cache of the PyTorch room: 4.34's tuple, and a value, whatever it shares."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from cases import B, T, make_inputs, random_checkpoint, tiny_config
from gpt2kit import GPT2LMHeadModel
from gpt2kit.errors import LengthError
from gpt2kit.torch import GPT2Cache

CONFIG = tiny_config()
IDS = torch.from_numpy(make_inputs(CONFIG, length=13).input_ids)  # [B, P]


@pytest.fixture(scope="module")
def model() -> Any:
    state = {name: torch.from_numpy(value) for name, value in random_checkpoint(CONFIG).items()}
    return GPT2LMHeadModel.from_pretrained(None, config=CONFIG, state_dict=state, torch_dtype="float64")


@pytest.fixture(scope="module")
def wanted(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_it_is_the_tuple_of_4_34(model: Any) -> None:
    past = model(IDS[:, :T]).past_key_values
    assert isinstance(past, tuple)
    assert len(past) == 3
    for key, value in past:
        assert key.shape == value.shape == (B, 3, T, 11)
    (key, _value), *_ = past
    assert key is past[0][0]
    assert past.get_seq_length() == T
    assert type(past.to_legacy()) is tuple
    assert GPT2Cache.from_legacy(past) is past


@pytest.mark.parametrize("gradients", [False, True])
def test_token_by_token_gives_what_one_call_gives(model: Any, wanted: torch.Tensor, gradients: bool) -> None:
    with torch.set_grad_enabled(gradients):
        past, logits = None, []
        for t in range(13):
            output = model(IDS[:, t : t + 1], past_key_values=past)
            past = output.past_key_values
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), wanted)


@torch.no_grad()
def test_a_past_may_be_continued_many_times_and_stays_what_it_was(model: Any, wanted: torch.Tensor) -> None:
    past = model(IDS[:, :3]).past_key_values
    past = model(IDS[:, 3:4], past_key_values=past).past_key_values  # now it has room to go on in
    before = copy.deepcopy(past.to_legacy())
    other = IDS.flip(1)
    first = model(IDS[:, 4:6], past_key_values=past)
    second = model(other[:, :2], past_key_values=past)
    third = model(IDS[:, 4:6], past_key_values=past)
    torch.testing.assert_close(first.logits, wanted[:, 4:6])
    torch.testing.assert_close(third.logits, first.logits)
    assert (second.logits - first.logits).abs().max() > 1e-3
    for pair, old in zip(past, before, strict=True):
        assert torch.equal(pair[0], old[0])
        assert torch.equal(pair[1], old[1])
    for branch, ids in ((first, IDS[:, 6:]), (third, IDS[:, 6:])):
        torch.testing.assert_close(model(ids, past_key_values=branch.past_key_values).logits, wanted[:, 6:])


@torch.no_grad()
def test_going_on_writes_in_place_and_a_second_continuation_copies(model: Any) -> None:
    past = model(IDS[:, :3], past_key_values=GPT2Cache.empty(CONFIG)).past_key_values
    first = model(IDS[:, 3:5], past_key_values=past).past_key_values
    second = model(IDS[:, 3:5], past_key_values=past).past_key_values
    assert first[0][0].data_ptr() == past[0][0].data_ptr()
    assert second[0][0].data_ptr() != past[0][0].data_ptr()


@torch.no_grad()
@pytest.mark.parametrize("capacity", [None, 1, 5, 13])
def test_an_empty_cache_of_any_capacity_changes_nothing(
    model: Any, wanted: torch.Tensor, capacity: int | None
) -> None:
    past = GPT2Cache.empty(CONFIG, capacity=capacity)
    assert (len(past), past.get_seq_length()) == (3, 0)
    logits = []
    for start, stop in ((0, 4), (4, 5), (5, 13)):
        output = model(IDS[:, start:stop], past_key_values=past)
        past = output.past_key_values
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), wanted)
    torch.testing.assert_close(
        model(IDS, past_key_values=GPT2Cache.empty(CONFIG, capacity), use_cache=False).logits, wanted
    )


def test_an_empty_cache_longer_than_the_model_is_refused() -> None:
    with pytest.raises(LengthError, match=r"14 positions was asked for, and the model has n_positions=13"):
        GPT2Cache.empty(CONFIG, capacity=14)


@pytest.mark.parametrize("kind", [tuple, list])
def test_plain_tuples_and_lists_are_taken(model: Any, wanted: torch.Tensor, kind: type) -> None:
    past = kind(kind(pair) for pair in model(IDS[:, :4]).past_key_values)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(model(IDS[:, 4:], past_key_values=past).logits, wanted[:, 4:])


@torch.no_grad()
def test_reordering_takes_sequences_of_the_batch(model: Any, wanted: torch.Tensor) -> None:
    past = model(IDS[:, :4], past_key_values=GPT2Cache.empty(CONFIG)).past_key_values
    for swapped in (
        past.reorder(torch.tensor([1, 0, 1])),
        model._reorder_cache(past, torch.tensor([1, 0, 1])),
    ):
        rest = model(IDS[[1, 0, 1], 4:], past_key_values=swapped).logits
        torch.testing.assert_close(rest, wanted[[1, 0, 1], 4:])
    plain = model._reorder_cache(past.to_legacy(), torch.tensor([1, 0]))
    assert torch.equal(plain[0][0], past[0][0][[1, 0]])


@torch.no_grad()
def test_reordering_in_place_moves_what_lies_behind_the_start_alone(model: Any) -> None:
    past = model(IDS[[0, 1, 1]], past_key_values=GPT2Cache.empty(CONFIG, capacity=11)).past_key_values
    before = [tensor.clone() for pair in past for tensor in pair]
    room = past.room
    past.reorder_(torch.tensor([1, 1, 0]), 4)
    assert past.room is room
    for old, new in zip(before, (tensor for pair in past for tensor in pair), strict=True):
        assert torch.equal(new[:, :, :4], old[:, :, :4])
        assert torch.equal(new[:, :, 4:], old[[1, 1, 0], :, 4:])
    past.reorder_(torch.tensor([0, 1, 2]), 0)
    past.reorder_(torch.tensor([2, 1, 0]), past.get_seq_length())
    assert torch.equal(past[0][0][:, :, 4:], before[0][[1, 1, 0], :, 4:])


@torch.no_grad()
@pytest.mark.parametrize("length", [4, -2])
def test_cropping_forgets_the_last_positions(model: Any, wanted: torch.Tensor, length: int) -> None:
    past = model(IDS[:, :6], past_key_values=GPT2Cache.empty(CONFIG)).past_key_values
    short = past.crop(length)
    assert (short.get_seq_length(), past.get_seq_length()) == (4, 6)
    torch.testing.assert_close(model(IDS[:, 4:], past_key_values=short).logits, wanted[:, 4:])
    torch.testing.assert_close(model(IDS[:, 6:], past_key_values=past).logits, wanted[:, 6:])


def test_a_cache_made_in_inference_mode_goes_on_outside_of_it(model: Any, wanted: torch.Tensor) -> None:
    with torch.inference_mode():
        past = model(IDS[:, :3], past_key_values=GPT2Cache.empty(CONFIG)).past_key_values
    with torch.no_grad():
        torch.testing.assert_close(model(IDS[:, 3:], past_key_values=past).logits, wanted[:, 3:])
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS[:, 3:], past_key_values=past).logits, wanted[:, 3:])


def test_gradients_flow_through_the_past(model: Any) -> None:
    table = model.transformer.wpe.weight
    whole = torch.autograd.grad(model(IDS[:, :7]).logits.sum(), table)[0]
    past, total = None, 0.0
    for start, stop in ((0, 4), (4, 6), (6, 7)):
        output = model(IDS[:, start:stop], past_key_values=past)
        past, total = output.past_key_values, total + output.logits.sum()
    torch.testing.assert_close(torch.autograd.grad(total, table)[0], whole)


def test_a_past_made_without_gradients_is_not_written_to_by_a_call_with_them(model: Any) -> None:
    mask = torch.ones(3, dtype=torch.float64, requires_grad=True)
    frozen = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        past = frozen(IDS[:, :4], past_key_values=GPT2Cache.empty(CONFIG)).past_key_values
    first = frozen(IDS[:, 4:5], past_key_values=past, head_mask=mask)
    with torch.no_grad():  # goes on in the room that the first call would have written to
        frozen(IDS[:, 4:7], past_key_values=past)
    second = frozen(IDS[:, 5:6], past_key_values=first.past_key_values, head_mask=mask)
    (first.logits.sum() + second.logits.sum()).backward()
    assert mask.grad.abs().min() > 0


@torch.no_grad()
def test_a_copy_and_a_pickle_hold_the_tensors_alone(model: Any) -> None:
    past = model(IDS[:, :3], past_key_values=GPT2Cache.empty(CONFIG)).past_key_values
    for other in (copy.deepcopy(past), pickle.loads(pickle.dumps(past))):
        assert type(other) is GPT2Cache
        assert torch.equal(other[2][1], past[2][1])
        model(IDS[:, 3:4], past_key_values=other)
    assert past.get_seq_length() == 3


@torch.no_grad()
def test_a_cache_and_an_output_are_read_from_a_file_as_safely_as_tensors(model: Any, tmp_path: Path) -> None:
    output = model(IDS, output_hidden_states=True)
    torch.save(output, tmp_path / "output.pt")
    again = torch.load(tmp_path / "output.pt")  # weights_only, torch's default
    assert type(again) is type(output)
    assert list(again) == list(output)
    assert type(again.past_key_values) is GPT2Cache
    assert torch.equal(again.past_key_values[2][1], output.past_key_values[2][1])
    assert torch.equal(again.hidden_states[1], output.hidden_states[1])


def test_torchs_trees_see_the_tensors_of_an_output() -> None:
    import torch.utils._pytree as pytree

    state = {name: torch.from_numpy(value) for name, value in random_checkpoint(CONFIG).items()}
    output = GPT2LMHeadModel.from_pretrained(None, config=CONFIG, state_dict=state)(IDS)
    leaves, spec = pytree.tree_flatten(output)
    assert len(leaves) == 1 + 3 * 2
    again = pytree.tree_unflatten(leaves, spec)
    assert type(again) is type(output)
    assert type(again.past_key_values) is GPT2Cache
    doubled = pytree.tree_map(lambda tensor: tensor * 2, output)
    assert torch.equal(doubled.logits, output.logits * 2)
