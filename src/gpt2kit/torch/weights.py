"""Weights between files and models: read straight into place, written whole or not at all.

In this room a parameter has the official name and shape, so the table official name <-> own parameter is the
state dict itself; `gpt2kit.checkpoint` knows the other spellings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from gpt2kit.checkpoint import Checkpoint, RawTensor, open_checkpoint, save_safetensors
from gpt2kit.checkpoint.check import LoadReport, check_tied, compare, refuse_missing, take_tied
from gpt2kit.checkpoint.formats import StoredTensor
from gpt2kit.checkpoint.layout import TensorSpec
from gpt2kit.checkpoint.read import BIN_NAME, SAFETENSORS_NAME, Format, with_variant
from gpt2kit.checkpoint.write import refuse_shadowed, save_shards
from gpt2kit.config import GPT2Config
from gpt2kit.config.base import CONFIG_NAME
from gpt2kit.errors import CheckpointError, ConfigError, InputError
from gpt2kit.generation import GENERATION_CONFIG_NAME, GenerationConfig
from gpt2kit.hub import HubOptions, locate_optional
from gpt2kit.torch.fresh import draw_missing, loading

__all__ = ["load_model", "save_model", "torch_dtype_of"]

# Names of dtypes in safetensors' words.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# What 4.34 takes and this library refuses: argument -> the values that ask for nothing, and the way out.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "load_in_8bit": ((False, None), "there is no quantization yet; use torch_dtype"),
    "load_in_4bit": ((False, None), "there is no quantization yet; use torch_dtype"),
    "quantization_config": ((None,), "there is no quantization yet; use torch_dtype"),
    "max_memory": ((None,), "a model lies on one device; give it as device_map"),
    "offload_folder": ((None,), "a model lies on one device; give it as device_map"),
    "offload_state_dict": ((False, None), "weights are read straight into place already"),
    "use_flash_attention_2": ((False, None), "choose attn_implementation='sdpa', which has such kernels"),
    "mirror": ((None,), "set HF_ENDPOINT"),
    "adapter_kwargs": ((None, {}), "adapters are loaded by the peft library"),
}
# Bytes that are converted at a time where a file has another dtype than the model: small beside any model.
_PIECE = 4 * 2**20


# --------------------------------------------------------------------------- loading


def load_model(
    cls: type[Any],
    name_or_path: str | os.PathLike[str] | None,
    model_args: tuple[Any, ...],
    *,
    config: GPT2Config | str | os.PathLike[str] | None,
    ignore_mismatched_sizes: bool,
    use_safetensors: bool | None,
    hub: dict[str, Any],
    kwargs: dict[str, Any],
) -> Any:
    """Load a model; see `GPT2PreTrainedModel.from_pretrained`."""
    for name, (nothing, way_out) in _REFUSED.items():
        if name in kwargs and kwargs.pop(name) not in nothing:
            raise InputError(f"from_pretrained cannot honour {name}: {way_out}.")
    if kwargs.pop("low_cpu_mem_usage", None) is False and kwargs.get("device_map") is not None:
        raise InputError("low_cpu_mem_usage=False cannot be honoured with device_map; leave one of them out.")
    state_dict = kwargs.pop("state_dict", None)
    foreign = [name for name in ("from_flax", "from_tf") if kwargs.pop(name, False)]
    formats = _formats(foreign, use_safetensors, state_dict)
    with_info = kwargs.pop("output_loading_info", False)
    wanted_dtype = kwargs.pop("torch_dtype", None)
    device = device_of(kwargs.pop("device_map", None))
    kernel = kwargs.pop("attn_implementation", None)
    variant = kwargs.pop("variant", None)
    names = ("subfolder", "proxies", "use_auth_token", "resume_download", "trust_remote_code")
    hub = hub | {name: kwargs.pop(name) for name in names if name in kwargs}
    options = HubOptions.pop_from(hub)
    if name_or_path is None and (config is None or state_dict is None):
        raise InputError(
            "from_pretrained(None) needs both config= and state_dict=; otherwise give a name or a folder."
        )

    if not isinstance(config, GPT2Config):
        place: Any = name_or_path if config is None else config
        config, kwargs = GPT2Config.from_pretrained(
            place, **_as_kwargs(options), return_unused_kwargs=True, **kwargs
        )
    assert isinstance(config, GPT2Config)
    with ExitStack() as stack:
        source: Checkpoint | _StateDict = (
            stack.enter_context(
                open_checkpoint(
                    name_or_path, options, use_safetensors=use_safetensors, variant=variant, formats=formats
                )
            )
            if state_dict is None and name_or_path is not None
            else _StateDict(state_dict)
        )
        dtype = _wanted_dtype(wanted_dtype, config, source)
        with loading():
            model = cls(config, *model_args, **kwargs)
        report = fill(model, source, dtype, device, ignore_mismatched_sizes, allow_missing=with_info)
        report.log(cls.__name__, str(name_or_path), config.architectures)
    _finish(model, name_or_path, options, device, kernel)
    return (model, report.info()) if with_info else model


def _formats(foreign: list[str], use_safetensors: bool | None, state_dict: Any) -> tuple[Format, ...]:
    """Return which formats of weights may be opened."""
    if not foreign:
        return ("safetensors", "pytorch")
    others = {f"{name}=True": True for name in foreign[1:]}
    others |= {"use_safetensors=True": bool(use_safetensors), "state_dict": state_dict is not None}
    for other, is_asked in others.items():
        if is_asked:
            raise InputError(
                f"{foreign[0]}=True reads the file of that framework, and {other} asks for other weights. "
                "Leave one of them out."
            )
    return ("flax",) if foreign[0] == "from_flax" else ("tensorflow",)


def fill(
    model: Any,
    source: Checkpoint | _StateDict,
    dtype: torch.dtype,
    device: torch.device | None,
    ignore_mismatched_sizes: bool = False,
    allow_missing: bool = False,
) -> LoadReport:
    """Read the weights of a model that was built under `loading()` into their final memory.

    Args:
        model: Built without drawn weights.
        source: Where the weights are.
        dtype: Of all floating-point weights of the model.
        device: Where they shall be; None leaves them where they are.
        ignore_mismatched_sizes: Draw what has another shape.
        allow_missing: Draw what is missing even in the body.

    Raises:
        ShapeMismatchError: Other shapes, unless they are ignored.
        CheckpointError: A weight of the body is missing, unless that is allowed.
    """
    specs = _specs(model)
    report = compare(specs, source)
    take_tied(specs, report, source)
    if not ignore_mismatched_sizes:
        report.raise_if_mismatched(type(model).__name__)
    if not allow_missing:
        _refuse_missing(model, report)
    check_tied(specs, source, report)  # type: ignore[arg-type]  # a state dict answers as a checkpoint does
    drawn = {*report.missing, *(name for name, _, _ in report.mismatched)}
    draw_missing(model, drawn)
    scratch = torch.empty(_PIECE, dtype=torch.uint8, device="cpu")
    with torch.no_grad():
        for name, tensor in _own_tensors(model).items():
            spelling = report.found.get(name)
            target = _placed(tensor, dtype, device, keep=spelling is None)
            if spelling is not None:
                _read(source, spelling, target, scratch)
            if target is not tensor:
                tensor.data = target
    report.missing = _without(report.missing, model._keys_to_ignore_on_load_missing)
    report.unexpected = _without(report.unexpected, model._keys_to_ignore_on_load_unexpected)
    return report


def _specs(model: Any) -> list[TensorSpec]:
    """List what the model wants, under its own names; a tied head wants nothing."""
    tied_keys = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    table = f"{model.base_model_prefix}.wte.weight"
    return [
        TensorSpec(name, "", tuple(tensor.shape), "weight", "", table if name in tied_keys else None)
        for name, tensor in model.state_dict(keep_vars=True).items()
    ]


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return name -> parameter or buffer, tied ones once, buffers that are not saved included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _refuse_missing(model: Any, report: LoadReport) -> None:
    """Refuse a file that lacks weights of the body; layers that a subclass adds may be new."""
    refuse_missing(
        type(model).__name__,
        _without(report.missing, model._keys_to_ignore_on_load_missing),
        model.config,
        prefix="" if model.base_model is model else f"{model.base_model_prefix}.",
        way_out="output_loading_info=True draws them at random and lists them",
    )


def _without(names: list[str], patterns: Sequence[str] | None) -> list[str]:
    """Leave out the names that one of the patterns matches."""
    return [name for name in names if not any(re.search(pattern, name) for pattern in patterns or ())]


def _placed(tensor: Tensor, dtype: torch.dtype, device: torch.device | None, keep: bool) -> Tensor:
    """Return memory of the final dtype and device, with the values if they are to be kept."""
    dtype = dtype if tensor.is_floating_point() else tensor.dtype
    device = tensor.device if device is None else device
    if tensor.dtype == dtype and tensor.device == device:
        return tensor
    return (
        tensor.detach().to(device, dtype) if keep else torch.empty(tensor.shape, dtype=dtype, device=device)
    )


def _read(source: Checkpoint | _StateDict, name: str, target: Tensor, scratch: Tensor) -> None:
    """Read one tensor into place; only another dtype or device takes a detour, in pieces of the scratch."""
    if isinstance(source, _StateDict):
        target.copy_(source.tensors[name])
        return
    stored = _dtype_of(source[name])
    if target.is_floating_point() and not stored.is_floating_point:
        raise CheckpointError(
            f"The tensor {name} holds whole numbers ({source[name].dtype}), as quantized files do. Use a "
            "file of floating-point weights."
        )
    if stored == target.dtype and target.device.type == "cpu" and target.is_contiguous():
        source.read_into(name, _bytes(target))
        return
    flat, piece = target.view(-1), scratch.view(stored)
    for start in range(0, flat.numel(), piece.numel()):
        part = piece[: flat.numel() - start]
        source.read_into(name, _bytes(part), offset=start * stored.itemsize)
        flat[start : start + part.numel()].copy_(part)


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    return memoryview(tensor.detach().view(-1).view(torch.uint8).numpy())


def _dtype_of(stored: StoredTensor) -> torch.dtype:
    """Return torch's dtype for one of a file."""
    if stored.dtype not in DTYPES:
        raise CheckpointError(
            f"The tensor {stored.name} has the dtype {stored.dtype}; known are {', '.join(DTYPES)}. "
            "Convert the file."
        )
    return DTYPES[stored.dtype]


class _StateDict(Mapping[str, StoredTensor]):
    """A state dict that answers as a checkpoint does."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> StoredTensor:
        tensor = self.tensors[name]
        return StoredTensor(name, _NAMES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def read_into(self, name: str, buffer: np.ndarray[Any, Any], offset: int = 0) -> None:
        """Copy a piece of a tensor's bytes, for comparing two of them."""
        values = self.tensors[name].detach().reshape(-1).view(torch.uint8)  # [bytes]
        buffer[:] = values[offset : offset + len(buffer)].cpu().numpy()

    def numpy(self, name: str) -> np.ndarray[Any, Any]:
        """Return the values, for comparing two of different dtypes."""
        return self.tensors[name].detach().to("cpu", torch.float64).numpy()


def _wanted_dtype(wanted: Any, config: GPT2Config, source: Mapping[str, StoredTensor]) -> torch.dtype:
    """Return the dtype of the model: torch's default unless something else is asked for."""
    if wanted is None:
        return torch.get_default_dtype()
    if wanted != "auto":
        return torch_dtype_of(wanted)
    if config.torch_dtype is not None:
        return torch_dtype_of(config.torch_dtype)
    stored = (DTYPES.get(tensor.dtype, torch.bool) for tensor in source.values())
    return next((dtype for dtype in stored if dtype.is_floating_point), torch.get_default_dtype())


def torch_dtype_of(value: torch.dtype | str) -> torch.dtype:
    """Return a floating-point dtype that was given as itself or by name ("float16", "torch.float16").

    Raises:
        ConfigError: No such dtype, or not a floating-point one.
    """
    dtype = getattr(torch, str(value).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(
            f"torch_dtype={value!r} is no dtype for weights; give float32, float16, bfloat16, float64 or "
            "'auto'."
        )
    return dtype


def device_of(device_map: Any) -> torch.device | None:
    """Return the one device that a device_map asks for; None where none was given.

    Raises:
        InputError: More than one device, or something that names none.
    """
    if isinstance(device_map, Mapping):
        places = set(map(str, device_map.values()))
        if len(places) != 1:
            raise InputError(
                f"device_map={dict(device_map)!r} spreads the model over {len(places)} places, and a "
                "model lies on one device. Give that device, or 'auto'."
            )
        device_map = next(iter(device_map.values()))
    if device_map is None:
        return None
    if isinstance(device_map, str) and device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(device_map, bool) or (isinstance(device_map, int) and device_map < 0):
        raise InputError(
            f"device_map={device_map!r} is no device; give 'auto', 'cpu', 'cuda', 'cuda:1' or a number."
        )
    try:
        device = torch.device(f"cuda:{device_map}" if isinstance(device_map, int) else device_map)
    except (RuntimeError, TypeError):
        raise InputError(
            f"device_map={device_map!r} is no device; give 'auto', 'cpu', 'cuda', 'cuda:1' or a number."
        ) from None
    try:
        torch.empty(1, device=device).cpu()  # the meta device has no values to give
    except (RuntimeError, AssertionError):
        raise InputError(
            f"device_map={device_map!r} asks for {device}, which PyTorch cannot use here. Give 'cpu', or "
            "'auto' for whatever there is."
        ) from None
    return device


def _as_kwargs(options: HubOptions) -> dict[str, Any]:
    """Return hub options as the keywords that they came from."""
    return {name: value for name, value in vars(options).items() if value is not None}


def _finish(
    model: Any,
    name_or_path: str | os.PathLike[str] | None,
    options: HubOptions,
    device: torch.device | None,
    kernel: str | None,
) -> None:
    """Set what a loaded model has besides its weights."""
    model.tie_weights()
    model.eval()
    for module in model.modules():
        module._is_initialized = True
    if name_or_path is not None:
        model.name_or_path = model.config.name_or_path = os.fspath(name_or_path)
    if device is not None:
        model.hf_device_map = {"": device}
    if kernel is not None:
        model.set_attn_implementation(kernel)
    if model.can_generate() and name_or_path is not None:
        # Most checkpoints have no such file; then the model's configuration holds the options.
        written = locate_optional(name_or_path, GENERATION_CONFIG_NAME, options) is not None
        model.generation_config = (
            GenerationConfig.from_pretrained(os.fspath(name_or_path), **_as_kwargs(options))
            if written
            else GenerationConfig.from_model_config(model.config)
        )


# --------------------------------------------------------------------------- saving


def save_model(
    model: Any,
    save_directory: str | os.PathLike[str],
    *,
    state_dict: Mapping[str, Tensor] | None,
    save_function: Callable[..., Any],
    max_shard_size: int | str,
    safe_serialization: bool,
    variant: str | None,
) -> None:
    """Save a model; see `GPT2PreTrainedModel.save_pretrained`."""
    folder = Path(save_directory)
    if folder.is_file():
        raise InputError(f"{folder} is a file; save_pretrained needs a folder. Pass another name.")
    if safe_serialization and save_function is not torch.save:
        raise InputError("save_function writes pickles; pass safe_serialization=False with it.")
    name = with_variant(SAFETENSORS_NAME if safe_serialization else BIN_NAME, variant)
    if not safe_serialization:
        refuse_shadowed(folder, name, with_variant(SAFETENSORS_NAME, variant))
    tensors = _to_save(model, state_dict)
    model.config.torch_dtype = model.dtype
    model.config.architectures = [type(model).__name__]
    model.config.validate()
    beside = {CONFIG_NAME: model.config.to_json_string()}
    if model.generation_config is not None:
        model.generation_config.validate()  # what nothing reads is told of, and saved as it was loaded
        beside[GENERATION_CONFIG_NAME] = model.generation_config.to_json_string()
    if safe_serialization:
        raw = {key: _raw(key, tensor) for key, tensor in tensors.items()}
        save_safetensors(folder, raw, max_shard_size=max_shard_size, name=name, beside=beside)
        return

    def write(file: IO[bytes], names: Sequence[str]) -> None:
        save_function({key: tensors[key] for key in names}, file)

    sizes = {key: tensor.numel() * tensor.element_size() for key, tensor in tensors.items()}
    save_shards(folder, sizes, write, max_shard_size=max_shard_size, name=name, beside=beside)


def _to_save(model: Any, state_dict: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return name -> tensor of what goes into the file: a tied head is there once, under the embeddings."""
    tensors = dict(model.state_dict() if state_dict is None else state_dict)
    for name in model._keys_to_ignore_on_save or ():
        tensors.pop(name, None)
    table = tensors.get(f"{model.base_model_prefix}.wte.weight")
    for name in model._tied_weights_keys or ():
        if table is not None and name in tensors and tensors[name].data_ptr() == table.data_ptr():
            del tensors[name]
    return tensors


def _raw(name: str, tensor: Tensor) -> RawTensor:
    """Return a tensor as bytes in safetensors' words."""
    if tensor.dtype not in _NAMES:
        raise InputError(
            f"{name} has the dtype {tensor.dtype}, which safetensors cannot hold. Convert the model first."
        )
    return RawTensor(_NAMES[tensor.dtype], tuple(tensor.shape), _bytes(tensor.detach().cpu().contiguous()))
