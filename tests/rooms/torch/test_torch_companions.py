"""The models go with what people train them with: torch's optimizers and wrappers, accelerate, PEFT.

accelerate and PEFT are not among the packages that tests need; where one is missing, its test says so.
"""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from cases import tiny_config
from gpt2kit import GPT2LMHeadModel
from gpt2kit.errors import MissingDependencyError
from gpt2kit.torch import peft as bridge
from gpt2kit.torch.layers import Conv1D, GPT2Block
from gpt2kit.torch.peft import register

IDS = torch.tensor([[2, 3, 5, 7, 11], [13, 17, 19, 23, 29]])  # [B, T]


def build(**changes: Any) -> GPT2LMHeadModel:
    torch.manual_seed(1)
    return GPT2LMHeadModel(tiny_config(**changes)).eval()


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of one process, which talks to nobody."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Return the gradients of a step on IDS, whole, by name."""
    model(IDS, labels=IDS, use_cache=False).loss.backward()
    found = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        found[name.replace("module.", "")] = getattr(gradient, "full_tensor", lambda g=gradient: g)()
    return found


@pytest.mark.parametrize("wrapper", ["DistributedDataParallel", "fully_shard"])
def test_a_distributed_model_has_the_gradients_of_the_plain_one(wrapper: str, one_process: None) -> None:
    plain = build()
    if wrapper == "fully_shard":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (1,))
        model: Any = copy.deepcopy(plain)
        blocks = [module for module in model.modules() if isinstance(module, GPT2Block)]
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert len(blocks) == 3
        assert model.lm_head.weight is model.transformer.wte.weight
    else:
        model = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
    expected = gradients(plain)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        # Measured 0: one process adds nothing up; the rest is room for another build of torch.
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor", "LBFGS"])
def test_an_optimizer_of_torch_makes_the_loss_smaller(name: str) -> None:
    model = build()
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = model(IDS, labels=IDS).loss
        value.backward()
        return value

    first = loss().item()
    for _ in range(3):
        optimizer.step(loss)
    assert loss().item() < first
    assert model.lm_head.weight is model.transformer.wte.weight


def test_a_loop_of_accelerate_trains_and_saves(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True)
    batches = torch.utils.data.DataLoader(IDS.repeat(2, 1), batch_size=2)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    losses = []
    for _ in range(5):
        for batch in batches:
            loss = model(batch, labels=batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    plain = accelerator.unwrap_model(model)
    plain.save_pretrained(
        tmp_path, is_main_process=accelerator.is_main_process, save_function=accelerator.save
    )
    again = GPT2LMHeadModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(IDS).logits, plain(IDS).logits, rtol=0, atol=0)


# --------------------------------------------------------------------------- PEFT


def test_without_transformers_the_bridge_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformers.pytorch_utils", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(vars(bridge), "BridgeConv1D", raising=False)
    with pytest.raises(MissingDependencyError, match="pip install peft"):
        register(build())


def test_adapters_of_peft_learn_are_saved_and_merged(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    options = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    with pytest.raises(ValueError, match="Conv1D"):
        peft.get_peft_model(build(), options)
    model = peft.get_peft_model(register(build()), options)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 6
    assert all("lora_" in name for name in trainable)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(10):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    expected = model.eval()(IDS).logits
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(register(build()), tmp_path / "adapter").eval()
    copies = [again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for other in copies:
        torch.testing.assert_close(other(IDS).logits, expected, rtol=0, atol=0)
    merged = model.merge_and_unload()
    assert type(merged) is GPT2LMHeadModel
    merged.save_pretrained(tmp_path / "merged")
    # Measured 1.3e-7 on logits of order 1: one product in place of two, in float32.
    for other in (merged, GPT2LMHeadModel.from_pretrained(tmp_path / "merged")):
        torch.testing.assert_close(other(IDS).logits, expected, rtol=0, atol=1.5e-6)


def test_registering_changes_nothing_but_the_class() -> None:
    pytest.importorskip("transformers", reason="transformers, which PEFT brings, is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = register(build())
    layer = model.transformer.h[0].attn.c_attn
    assert isinstance(layer, Conv1D)
    assert repr(layer) == "BridgeConv1D(nf=99, nx=33)"
    torch.testing.assert_close(model(IDS).logits, build()(IDS).logits, rtol=0, atol=0)
    assert model.state_dict().keys() == build().state_dict().keys()
