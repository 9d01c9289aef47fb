"""Loading and saving in the PyTorch room: every argument, every spelling of a file, and what is refused."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cases import make_inputs, random_checkpoint, tiny_config
from gpt2kit import GPT2Config, GPT2LMHeadModel, GPT2Model, GPT2PreTrainedModel
from gpt2kit.checkpoint import save_safetensors
from gpt2kit.errors import (
    CheckpointError,
    ConfigError,
    GPT2KitError,
    HubError,
    InputError,
    ShapeMismatchError,
    StorageError,
)

CONFIG = tiny_config()
WEIGHTS = random_checkpoint(CONFIG)
IDS = torch.from_numpy(make_inputs(CONFIG).input_ids)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as other tools write it: config.json and model.safetensors."""
    place = tmp_path / "model"
    CONFIG.save_pretrained(place)
    save_safetensors(place, WEIGHTS)
    return place


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(IDS).logits
    return output


@pytest.fixture(scope="module")
def wanted() -> torch.Tensor:
    state = {name: torch.from_numpy(value) for name, value in WEIGHTS.items()}
    return logits(GPT2LMHeadModel.from_pretrained(None, config=CONFIG, state_dict=state))


# --------------------------------------------------------------------------- what is read


def test_a_loaded_model_is_in_evaluation_mode_tied_and_knows_its_place(
    folder: Path, wanted: torch.Tensor
) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    assert torch.equal(logits(model), wanted)
    assert not any(module.training for module in model.modules())
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.name_or_path == model.config.name_or_path == str(folder)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not hasattr(model, "hf_device_map")


def test_the_state_dict_of_a_tied_model_is_read(folder: Path, wanted: torch.Tensor) -> None:
    state = GPT2LMHeadModel.from_pretrained(folder).state_dict()
    assert "lm_head.weight" in state
    assert torch.equal(logits(GPT2LMHeadModel.from_pretrained(None, config=CONFIG, state_dict=state)), wanted)
    assert torch.equal(logits(GPT2LMHeadModel.from_pretrained(folder, state_dict=state)), wanted)
    halves = {**state, "lm_head.weight": state["lm_head.weight"].double()}
    assert torch.equal(
        logits(GPT2LMHeadModel.from_pretrained(None, config=CONFIG, state_dict=halves)), wanted
    )
    other = {**state, "lm_head.weight": state["lm_head.weight"].t().contiguous().t() + 1}
    with pytest.raises(CheckpointError, match="in the file the two differ"):
        GPT2LMHeadModel.from_pretrained(None, config=CONFIG, state_dict=other)


def _renamed(names: Any) -> Any:
    return lambda weights: {names(name): value for name, value in weights.items()}


SPELLINGS = {
    "official": lambda weights: weights,
    "without transformer.": _renamed(lambda name: name.removeprefix("transformer.")),
    "with lm_head": lambda weights: {**weights, "lm_head.weight": weights["transformer.wte.weight"].copy()},
    "head only": lambda weights: {
        ("lm_head.weight" if name == "transformer.wte.weight" else name): value
        for name, value in weights.items()
    },
    "with buffers": lambda weights: {
        **weights,
        **{
            f"transformer.h.{layer}.attn.{name}": weights["transformer.ln_f.bias"]
            for layer in range(3)
            for name in ("bias", "masked_bias")
        },
    },
}


@pytest.mark.parametrize("format_", ["safetensors", "bin", "safetensors in shards", "bin in shards"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_file_is_read(
    tmp_path: Path, wanted: torch.Tensor, spelling: str, format_: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights = SPELLINGS[spelling](WEIGHTS)
    CONFIG.save_pretrained(tmp_path)
    if format_.startswith("safetensors"):
        save_safetensors(tmp_path, weights, max_shard_size="20KB" if "shards" in format_ else "1GB")
    else:
        state = {name: torch.from_numpy(value) for name, value in weights.items()}
        names = sorted(state)
        parts = [names[::2], names[1::2]] if "shards" in format_ else [names]
        files = [f"pytorch_model-{i + 1:05d}-of-00002.bin" for i in range(2)] if len(parts) > 1 else []
        for part, file in zip(parts, files or ["pytorch_model.bin"], strict=True):
            torch.save({name: state[name] for name in part}, tmp_path / file)
        if files:
            index = {name: file for part, file in zip(parts, files, strict=True) for name in part}
            (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    model, info = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(logits(model), wanted)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    assert not caplog.records


def test_a_body_is_read_from_a_headed_file_and_back(
    folder: Path, tmp_path: Path, wanted: torch.Tensor
) -> None:
    body = GPT2Model.from_pretrained(folder)
    headed = GPT2LMHeadModel.from_pretrained(folder)
    assert torch.equal(body(IDS).last_hidden_state, headed.transformer(IDS).last_hidden_state)
    body.save_pretrained(tmp_path / "body")
    assert torch.equal(logits(GPT2LMHeadModel.from_pretrained(tmp_path / "body")), wanted)


def test_an_untied_head_is_read_and_a_missing_one_is_drawn_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("untied")
    weights = random_checkpoint(config)
    config.save_pretrained(tmp_path)
    save_safetensors(tmp_path, weights)
    model = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(model.lm_head.weight, torch.from_numpy(weights.pop("lm_head.weight")))
    assert not caplog.records
    save_safetensors(tmp_path, weights)
    model = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert 0.01 < model.lm_head.weight.std() < 0.03
    assert "newly initialized" in caplog.text
    assert "lm_head.weight" in caplog.text


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("asked", [None, "auto", "float16", torch.bfloat16, "torch.float64"])
def test_weights_come_in_the_dtype_that_is_asked_for(tmp_path: Path, stored: Any, asked: Any) -> None:
    state = {name: torch.from_numpy(value).to(stored) for name, value in WEIGHTS.items()}
    GPT2LMHeadModel.from_pretrained(
        None, config=tiny_config(), state_dict=state, torch_dtype=stored
    ).save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path, torch_dtype=asked)
    named = {None: torch.float32, "auto": stored, "float16": torch.float16, "torch.float64": torch.float64}
    dtype = named.get(asked, asked)
    assert model.dtype == dtype
    for name, tensor in model.state_dict().items():
        if name in state:
            assert torch.equal(tensor, state[name].to(dtype)), name


def test_auto_takes_the_dtype_of_the_file_where_the_configuration_has_none(folder: Path) -> None:
    save_safetensors(folder, {name: value.astype("float16") for name, value in WEIGHTS.items()})
    assert CONFIG.torch_dtype is None
    assert GPT2LMHeadModel.from_pretrained(folder, torch_dtype="auto").dtype == torch.float16
    assert GPT2LMHeadModel.from_pretrained(folder).dtype == torch.float32


@pytest.mark.parametrize(
    "device_map", ["auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"transformer": "cpu", "lm_head": "cpu"}]
)
def test_one_device_is_taken_in_every_form(folder: Path, device_map: Any, wanted: torch.Tensor) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder, device_map=device_map, low_cpu_mem_usage=True)
    assert set(model.hf_device_map) == {""}
    if model.device.type == "cpu":
        assert torch.equal(logits(model), wanted)


def test_a_default_device_is_where_the_weights_are_read_to(folder: Path) -> None:
    with torch.device("meta"):
        assert GPT2LMHeadModel.from_pretrained(folder).device.type == "meta"


def test_configuration_values_are_overridden_by_keywords(folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder, output_attentions=True, resid_pdrop=0.3)
    assert model.config.output_attentions is True
    assert model.transformer.h[0].mlp.dropout.p == 0.3
    assert len(model(IDS).attentions) == 3
    other = tiny_config(use_cache=False)
    assert GPT2LMHeadModel.from_pretrained(folder, config=other).config is other
    assert GPT2LMHeadModel.from_pretrained(folder, config=folder).config.n_layer == 3


def test_the_kernel_can_be_chosen_while_loading(folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    assert model.attn_implementation == model.transformer.attn_implementation == "eager"
    assert "attn_implementation" not in model.config.to_dict()


def test_a_subfolder_and_a_variant_are_found(folder: Path, wanted: torch.Tensor) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder.parent, subfolder="model")
    assert torch.equal(logits(model), wanted)
    model.save_pretrained(folder.parent / "other", variant="fp32")
    assert (folder.parent / "other" / "model.fp32.safetensors").exists()
    with pytest.raises(HubError, match="no weights"):
        GPT2LMHeadModel.from_pretrained(folder.parent / "other")
    assert torch.equal(
        logits(GPT2LMHeadModel.from_pretrained(folder.parent / "other", variant="fp32")), wanted
    )


def test_the_format_can_be_insisted_on(folder: Path, wanted: torch.Tensor) -> None:
    with pytest.raises(HubError, match=r"pytorch_model\.bin"):
        GPT2LMHeadModel.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(logits(GPT2LMHeadModel.from_pretrained(folder, use_safetensors=True)), wanted)


def test_arguments_that_change_nothing_are_taken(folder: Path, wanted: torch.Tensor) -> None:
    model = GPT2LMHeadModel.from_pretrained(
        folder,
        revision="main",
        token=False,
        trust_remote_code=False,
        resume_download=True,
        local_files_only=True,
        load_in_8bit=False,
        from_tf=False,
    )
    assert torch.equal(logits(model), wanted)


def test_a_subclass_keeps_its_own_parts_and_takes_the_rest(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class WithJudge(GPT2PreTrainedModel):
        def __init__(self, config: GPT2Config, width: int = 2) -> None:
            super().__init__(config)
            self.transformer = GPT2Model(config)
            self.judge = nn.Linear(config.n_embd, width)
            self.scale = nn.Parameter(torch.full((width,), 3.0))
            self.register_buffer("count", torch.tensor(5), persistent=False)
            self.post_init()

    model = WithJudge.from_pretrained(folder, 7)
    assert model.judge.weight.shape == (7, 33)
    assert 0.01 < model.judge.weight.std() < 0.03
    assert model.judge.bias.abs().max() == 0
    assert torch.equal(model.scale, torch.full((7,), 3.0))
    assert model.count == 5
    assert torch.equal(model.transformer.wte.weight, torch.from_numpy(WEIGHTS["transformer.wte.weight"]))
    assert caplog.text.count("newly initialized") == 1


# --------------------------------------------------------------------------- what is refused


def test_a_missing_weight_of_the_body_is_refused_by_name_or_drawn_and_listed(folder: Path) -> None:
    name = "transformer.h.1.mlp.c_fc.weight"
    save_safetensors(folder, {key: value for key, value in WEIGHTS.items() if key != name})
    with pytest.raises(CheckpointError, match=rf"lack {name}, without which .* output_loading_info=True"):
        GPT2LMHeadModel.from_pretrained(folder)
    model, info = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == [name]
    weight = model.transformer.h[1].mlp.c_fc.weight
    assert 0.01 < weight.std() < 0.03
    kept = model.transformer.h[1].mlp.c_fc.bias
    assert torch.equal(kept, torch.from_numpy(WEIGHTS["transformer.h.1.mlp.c_fc.bias"]))


def test_own_layers_inside_a_body_may_be_missing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    class WithAdapter(GPT2Model):
        def __init__(self, config: GPT2Config) -> None:
            super().__init__(config)
            self.h[0].adapter = nn.Linear(config.n_embd, 5)
            self.post_init()

    class Writer(GPT2LMHeadModel):
        def __init__(self, config: GPT2Config) -> None:
            super().__init__(config)
            self.transformer = WithAdapter(config)
            self.post_init()

    for cls, prefix in ((WithAdapter, ""), (Writer, "transformer.")):
        caplog.clear()
        model = cls.from_pretrained(folder)
        new = [f"{prefix}h.0.adapter.weight", f"{prefix}h.0.adapter.bias"]
        assert f"newly initialized: {new}" in caplog.text
        assert 0.01 < model.state_dict()[new[0]].std() < 0.03
        kept = model.state_dict()[f"{prefix}h.0.mlp.c_fc.weight"]
        assert torch.equal(kept, torch.from_numpy(WEIGHTS["transformer.h.0.mlp.c_fc.weight"]))
    save_safetensors(folder, {key: value for key, value in WEIGHTS.items() if "wpe" not in key})
    with pytest.raises(CheckpointError, match="lack wpe"):
        WithAdapter.from_pretrained(folder)


def test_cross_attention_may_be_missing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder, add_cross_attention=True)
    assert "newly initialized" in caplog.text
    block = model.transformer.h[0]
    assert 0.01 < block.crossattention.q_attn.weight.std() < 0.03
    assert 0.004 < block.crossattention.c_proj.weight.std() < 0.013  # 0.02 / sqrt(6)
    assert torch.equal(block.ln_cross_attn.weight, torch.ones(33))


def test_unexpected_weights_are_told_of_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_safetensors(folder, {**WEIGHTS, "score.weight": WEIGHTS["transformer.ln_f.bias"]})
    _, info = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert info["unexpected_keys"] == ["score.weight"]
    assert caplog.text.count("were not used") == 1


def test_a_head_that_a_body_does_not_want_is_no_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder, tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "untied")
    caplog.clear()
    _, info = GPT2Model.from_pretrained(tmp_path / "untied", output_loading_info=True)
    assert info["unexpected_keys"] == ["lm_head.weight"]
    assert "were not used" not in caplog.text


def test_other_shapes_are_refused_or_drawn_and_listed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        ShapeMismatchError, match=r"wte.weight is \[101, 33\] in the file and \[103, 33\]"
    ) as error:
        GPT2LMHeadModel.from_pretrained(folder, vocab_size=103)
    assert isinstance(error.value, RuntimeError)
    assert "size mismatch" in str(error.value)
    model, info = GPT2LMHeadModel.from_pretrained(
        folder, vocab_size=103, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert info["mismatched_keys"] == [("transformer.wte.weight", (101, 33), (103, 33))]
    assert "the shapes did not match" in caplog.text
    assert 0.01 < model.transformer.wte.weight.std() < 0.03


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "Flax and safetensors": (
        {"from_flax": True, "use_safetensors": True},
        InputError,
        "from_flax=True reads",
    ),
    "Flax that is not there": ({"from_flax": True}, OSError, "looked for flax_model.msgpack"),
    "8 bits": ({"load_in_8bit": True}, InputError, "load_in_8bit: there is no quantization yet"),
    "quantization": ({"quantization_config": {"bits": 4}}, InputError, "quantization_config"),
    "offloading": ({"offload_folder": "x"}, InputError, "offload_folder: a model lies on one device"),
    "memory plan": ({"max_memory": {0: "1GB"}}, InputError, "max_memory"),
    "flash": ({"use_flash_attention_2": True}, InputError, "attn_implementation='sdpa'"),
    "two devices": ({"device_map": {"a": 0, "b": "cpu"}}, InputError, "spreads the model over 2 places"),
    "no device": ({"device_map": "gpu"}, InputError, "device_map='gpu' is no device"),
    "a device that is not here": (
        {"device_map": torch.cuda.device_count()},
        InputError,
        "which PyTorch cannot use here. Give 'cpu'",
    ),
    "a device without values": (
        {"device_map": "meta"},
        InputError,
        "asks for meta, which PyTorch cannot use",
    ),
    "negative device": ({"device_map": -1}, InputError, "device_map=-1 is no device"),
    "no dtype": ({"torch_dtype": "float31"}, ConfigError, "torch_dtype='float31' is no dtype for weights"),
    "whole numbers": ({"torch_dtype": torch.int8}, ConfigError, "torch_dtype=torch.int8"),
    "kernel": ({"attn_implementation": "flash"}, ConfigError, "attn_implementation='flash' is not known"),
    "misspelt": ({"output_atentions": True}, TypeError, "output_atentions"),
}


@pytest.mark.parametrize("argument", REFUSED)
def test_arguments_that_cannot_be_honoured_are_refused_in_a_sentence(folder: Path, argument: str) -> None:
    given, kind, sentence = REFUSED[argument]
    with pytest.raises(kind, match=sentence):
        GPT2LMHeadModel.from_pretrained(folder, **given)


def test_no_place_needs_both_configuration_and_weights() -> None:
    with pytest.raises(InputError, match="needs both config= and state_dict="):
        GPT2LMHeadModel.from_pretrained(None, config=CONFIG)


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config.json"):
        GPT2LMHeadModel.from_pretrained(tmp_path)


# --------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("size", ["10GB", "20KB"])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, folder: Path, safe: bool, size: str) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path / "out", safe_serialization=safe, max_shard_size=size)
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert {"config.json", "generation_config.json"} < names
    stem = "model.safetensors" if safe else "pytorch_model.bin"
    assert (stem if size == "10GB" else f"{stem}.index.json") in names
    assert len(names) == 3 if size == "10GB" else len(names) > 5
    again, info = GPT2LMHeadModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert info["missing_keys"] == info["unexpected_keys"] == []
    assert torch.equal(logits(again), logits(model))
    assert again.generation_config.max_new_tokens == 3
    assert again.config.architectures == ["GPT2LMHeadModel"]
    assert again.config.torch_dtype == "float32"


def test_a_tied_head_is_saved_once_and_an_untied_one_as_itself(tmp_path: Path) -> None:
    from safetensors import safe_open

    for case, kept in (("default", False), ("untied", True)):
        GPT2LMHeadModel(tiny_config(case)).save_pretrained(tmp_path / case)
        with safe_open(tmp_path / case / "model.safetensors", framework="pt") as file:
            assert ("lm_head.weight" in file.keys()) is kept  # noqa: SIM118
            assert "transformer.wte.weight" in file.keys()  # noqa: SIM118
            assert file.metadata() == {"format": "pt"}


def test_generation_options_that_nothing_reads_are_saved_with_a_warning(folder: Path, tmp_path: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.7}', encoding="utf-8")
    with pytest.warns(UserWarning, match="only sampling reads it"):
        model = GPT2LMHeadModel.from_pretrained(folder)
    with pytest.warns(UserWarning, match="only sampling reads it"):
        model.save_pretrained(tmp_path / "out")
    values = json.loads((tmp_path / "out" / "generation_config.json").read_text(encoding="utf-8"))
    assert values["temperature"] == 0.7


def test_generation_options_that_cannot_work_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path
) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    model.generation_config.top_k = -3
    with pytest.raises(InputError, match="`top_k` has to be an integer"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("safe", [True, False])
def test_a_full_disk_at_the_last_file_leaves_weights_and_configuration_of_the_old_model(
    folder: Path, tmp_path: Path, wanted: torch.Tensor, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "out", safe_serialization=safe)
    model.resize_token_embeddings(107)
    real, calls = os.fsync, []

    def fill_up(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:  # weights, config.json, generation_config.json
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(StorageError, match="No space left"):
        model.save_pretrained(tmp_path / "out", safe_serialization=safe)
    monkeypatch.undo()
    assert torch.equal(logits(GPT2LMHeadModel.from_pretrained(tmp_path / "out")), wanted)


def test_a_quantized_file_is_refused(folder: Path) -> None:
    name = "transformer.h.1.mlp.c_fc.weight"
    save_safetensors(folder, {**WEIGHTS, name: WEIGHTS[name].astype("int8")})
    with pytest.raises(CheckpointError, match=r"holds whole numbers \(I8\), as quantized files do"):
        GPT2LMHeadModel.from_pretrained(folder)


def test_a_state_dict_of_ones_own_is_saved(tmp_path: Path, folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder)
    state = {
        name: torch.zeros_like(value) for name, value in model.state_dict().items() if "lm_head" not in name
    }
    model.save_pretrained(tmp_path / "out", state_dict=state)
    assert logits(GPT2LMHeadModel.from_pretrained(tmp_path / "out")).abs().max() == 0


def test_a_save_function_writes_the_pickle(tmp_path: Path, folder: Path) -> None:
    calls = []

    def save(state: Any, file: Any) -> None:
        calls.append(sorted(state))
        torch.save(state, file)

    model = GPT2LMHeadModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "out", save_function=save, safe_serialization=False)
    model.save_pretrained(tmp_path / "out2", save_function=save)  # as scripts for accelerate do
    assert len(calls) == 2
    for name in ("out", "out2"):
        assert (tmp_path / name / "pytorch_model.bin").is_file()
        assert not (tmp_path / name / "model.safetensors").exists()
    with pytest.raises(InputError, match="pass safe_serialization=False"):
        model.save_pretrained(tmp_path / "out3", save_function=save, safe_serialization=True)


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path: Path) -> None:
    GPT2LMHeadModel(CONFIG).save_pretrained(tmp_path / "out", is_main_process=False)
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_would_not_be_read_is_not_written(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"model\.safetensors, which would be read in place of the pytorch_model"
    ):
        GPT2LMHeadModel(CONFIG).save_pretrained(folder, safe_serialization=False)


def test_uploading_and_unknown_arguments_are_refused(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(CONFIG)
    for given in (
        {"push_to_hub": True},
        {"token": "x"},
        {"save_peft_format": False},
        {"safe_serialisation": True},
    ):
        with pytest.raises(InputError, match=next(iter(given))):
            model.save_pretrained(tmp_path / "out", **given)
    with pytest.raises(InputError, match="upload_folder"):
        model.push_to_hub("me/model")
    (tmp_path / "file").write_text("")
    with pytest.raises(GPT2KitError, match="is a file"):
        model.save_pretrained(tmp_path / "file")


def test_a_failed_save_leaves_the_old_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: Any
) -> None:
    model = GPT2LMHeadModel(CONFIG)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="space"):
        model.save_pretrained(folder)
    monkeypatch.undo()
    assert torch.equal(logits(GPT2LMHeadModel.from_pretrained(folder)), wanted)


# --------------------------------------------------------------------------- how much it takes

_MEASURE = """
import re, sys
from gpt2kit import GPT2LMHeadModel
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
GPT2LMHeadModel.from_pretrained(sys.argv[1])  # a small one first: imports and pools are not the weights
before = peak()
model = GPT2LMHeadModel.from_pretrained(sys.argv[2], torch_dtype=sys.argv[3])
print((peak() - before) / model.get_memory_footprint())
slow = ("torch._dynamo", "torch._inductor", "transformers", "accelerate")
print(sorted(name for name in sys.modules if name.startswith(slow)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loading_takes_hardly_more_memory_than_the_weights(folder: Path, tmp_path: Path, dtype: str) -> None:
    config = GPT2Config(vocab_size=20011, n_positions=127, n_embd=640, n_layer=11, n_head=10)  # 268 MB
    weights = random_checkpoint(config)
    config.save_pretrained(tmp_path / "large")
    save_safetensors(tmp_path / "large", weights)
    del weights
    command = [sys.executable, "-c", _MEASURE, str(folder), str(tmp_path / "large"), dtype]
    ratio, slow = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert 0.9 < float(ratio) < 1.2
    assert slow == "[]"


def test_no_warning_is_logged_by_a_plain_load(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    GPT2LMHeadModel.from_pretrained(folder)
    assert not caplog.records
