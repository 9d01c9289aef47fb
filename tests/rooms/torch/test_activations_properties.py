"""Activations by name: their gradients, those of pruned models, and what holds for every model."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from activation_cases import IDS, arguments, make
from cases import B, T, configs, tiny_config
from gpt2kit import GPT2Config, GPT2LMHeadModel
from gpt2kit.errors import InputError

# --------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("kernel", ["eager", "auto"])
def test_gradients_reach_recorded_tensors_and_patches_alike(kernel: str) -> None:
    config = tiny_config("cross_attention", n_layer=2)
    model, inputs = make(config, kernel), arguments(config, "left")
    names = [
        name
        for name in model.activation_names()
        if kernel == "eager" or not name.endswith(("scores", "weights"))
    ]
    with model.record(*names) as store:
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    for tensor in store.values():
        tensor.retain_grad()
    loss.backward()
    for name, tensor in store.items():
        own = tensor.detach().requires_grad_()
        with model.patch({name: own}):
            model(**inputs, labels=inputs["input_ids"]).loss.backward()
        assert own.grad.abs().max() > 0
        torch.testing.assert_close(own.grad, tensor.grad, rtol=1e-9, atol=1e-12)


def test_gradients_flow_through_a_function_to_what_it_uses() -> None:
    model = make()
    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with model.record("h.1.mlp.out") as store, model.patch({"h.1.mlp.out": lambda out: out * factor}):
        loss = model(IDS, labels=IDS).loss
    store["h.1.mlp.out"].retain_grad()
    loss.backward()
    wanted = (store["h.1.mlp.out"].grad * store["h.1.mlp.out"]).sum()
    torch.testing.assert_close(factor.grad, wanted)
    assert model.transformer.wte.weight.grad.abs().max() > 0


def test_checkpointing_records_once_and_patches_again_after_the_block_has_ended() -> None:
    model = make().train()
    scale = torch.linspace(0.5, 1.5, 33, dtype=torch.float64, requires_grad=True)
    runs: list[int] = []

    def scaled(states: Tensor) -> Tensor:
        runs.append(1)
        return states * scale

    def gradients() -> tuple[dict[str, Tensor], list[Tensor]]:
        model.zero_grad()
        scale.grad = None
        names = ("h.1.mid", "h.1.attn.weights", "h.2.mlp.act", "logits")
        with model.record(*names) as store, model.patch({"h.1.attn.out": scaled, "ln_f": scaled}):
            loss = model(IDS, labels=IDS, use_cache=False).loss + store["h.2.mlp.act"].sum()
        for tensor in store.values():
            tensor.retain_grad()
        backward = threading.Thread(target=loss.backward)  # as accelerators do, which have threads for it
        backward.start()
        backward.join()
        assert len(store.calls) == 1
        assert list(store) == ["h.1.attn.weights", "h.1.mid", "h.2.mlp.act", "logits"]
        found = {name: tensor.grad for name, tensor in store.items()} | {"scale": scale.grad}
        return found, [parameter.grad for parameter in model.parameters()]

    wanted = gradients()
    assert len(runs) == 2
    model.gradient_checkpointing_enable()
    given_back = gradients()
    assert len(runs) == 5  # the block of h.1.attn.out was run again
    torch.testing.assert_close(given_back, wanted)


def test_reentrant_checkpoints_are_refused_while_a_block_is_open() -> None:
    model = make().train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with (
        pytest.raises(InputError, match=r"reentrant gradient checkpointing.*without use_reentrant=True"),
        model.record("h.1.out"),
    ):
        model(IDS, use_cache=False)
    with make().record("h.1.out"):  # another model's block is none of its business
        model(IDS, labels=IDS, use_cache=False).loss.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_runs_again_sees_no_block_that_was_opened_after_its_forward(
    reentrant: bool,
) -> None:
    model = make().train()

    def gradients(loss: Tensor) -> list[Tensor]:
        model.zero_grad()
        loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    wanted = gradients(model(IDS, labels=IDS, use_cache=False).loss)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    losses = [model(IDS, labels=IDS, use_cache=False).loss for _ in range(2)]
    with model.record("h.*.mlp.act") as store:
        found = gradients(losses[0])
    torch.testing.assert_close(found, wanted)
    assert not store.calls
    with pytest.raises(InputError, match="no call"), model.patch({"h.1.mlp.act": torch.zeros_like}):
        found = gradients(losses[1])
    torch.testing.assert_close(found, wanted)


# --------------------------------------------------------------------------- pruned heads


@pytest.mark.parametrize("kernel", ["eager", "auto", "sdpa"])
def test_a_pruned_model_keeps_its_names_on_every_kernel_and_through_a_folder(
    kernel: str, tmp_path: Path
) -> None:
    model = make(kernel=kernel)
    names = model.activation_names()
    model.prune_heads({0: [1], 2: [0, 2]})
    assert model.activation_names() == names
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path, torch_dtype="float64", attn_implementation=kernel)
    words = ("h.*.attn.mixed", "h.*.attn.query") + (("h.*.attn.weights",) if kernel != "sdpa" else ())
    with model.record(*words) as store:
        model(IDS)
    with again.record(*words) as other:
        again(IDS)
    assert [store[f"h.{layer}.attn.mixed"].shape[1] for layer in range(3)] == [2, 3, 1]
    assert list(store) == list(other)
    assert all(torch.equal(store[name], other[name]) for name in store)
    with again.patch({"h.*.attn.mixed": torch.zeros_like}), again.record("h.0.attn.out") as other:
        again(IDS)
    bias = again.transformer.h[0].attn.c_proj.bias
    torch.testing.assert_close(other["h.0.attn.out"], bias.expand(B, T, 33))


# --------------------------------------------------------------------------- properties

FEW = settings(max_examples=15, deadline=None)


@FEW
@given(configs(), st.data())
def test_patching_an_activation_with_its_own_value_changes_nothing(
    config: GPT2Config, data: st.DataObject
) -> None:
    model, inputs = make(config), arguments(config, "left")
    chosen = data.draw(
        st.lists(st.sampled_from(model.activation_names()), min_size=1, max_size=5, unique=True)
    )
    with model.record("**") as clean:
        model(**inputs)
    with model.record("**") as store, model.patch({name: clean[name] for name in chosen}):
        model(**inputs)
    assert all(torch.equal(store[name], clean[name]) for name in clean)
    with model.record("**") as store, model.patch({name: lambda value: value for name in chosen}):
        model(**inputs)
    for name in clean:  # a copy may lie in memory otherwise, and sums in another order round otherwise
        torch.testing.assert_close(store[name], clean[name])


@FEW
@given(configs(), st.data())
def test_patching_with_zeros_is_the_ablation_by_hand(config: GPT2Config, data: st.DataObject) -> None:
    model, inputs = make(config), arguments(config, "left")
    layer = data.draw(st.integers(0, config.n_layer - 1))
    part = data.draw(st.sampled_from(["attn", "mlp"]))
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in getattr(by_hand.transformer.h[layer], part).c_proj.parameters():
            parameter.zero_()
    with model.patch({f"h.{layer}.{part}.out": torch.zeros_like}):
        patched = model(**inputs).logits
    torch.testing.assert_close(patched, by_hand(**inputs).logits)


@FEW
@given(configs(), st.integers(0, 2**32 - 1), st.booleans())
def test_a_head_mask_is_a_patch_of_the_weights_gradients_included(
    config: GPT2Config, seed: int, one_dimension: bool
) -> None:
    model, inputs = make(config), arguments(config, "left")
    shape = (config.n_head,) if one_dimension else (config.n_layer, config.n_head)
    noise = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=noise, dtype=torch.float64, requires_grad=True)
    wanted = model(**inputs, head_mask=mask, output_attentions=True)
    by_layer = mask.expand(config.n_layer, config.n_head)
    crossing = ["attn", "crossattention"] if config.add_cross_attention else ["attn"]
    patch = {
        f"h.{layer}.{part}.weights": lambda weights, row=row: weights * row[:, None, None]
        for layer, row in enumerate(by_layer)
        for part in crossing
    }
    with model.patch(patch):
        output = model(**inputs, output_attentions=True)
    torch.testing.assert_close(output.logits, wanted.logits)
    torch.testing.assert_close(output.attentions, wanted.attentions)
    weights = torch.randn(output.logits.shape, generator=noise, dtype=torch.float64)
    (by_mask,) = torch.autograd.grad((wanted.logits * weights).sum(), mask)
    (by_patch,) = torch.autograd.grad((output.logits * weights).sum(), mask)
    torch.testing.assert_close(by_mask, by_patch)
