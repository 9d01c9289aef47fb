"""Weights between files and trees of parameters: read one by one, written whole or not at all.

`gpt2kit.checkpoint.flax_names` is the table official name <-> path in the tree; a kernel's axes are reversed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2kit.checkpoint.check import LoadReport, check_tied, compare, refuse_missing, take_tied
from gpt2kit.checkpoint.flax_names import flax_shape, is_reversed, official_name
from gpt2kit.checkpoint.formats import RawTensor, copy_transposed
from gpt2kit.checkpoint.layout import BASE_PREFIX, TensorSpec, tensor_specs
from gpt2kit.checkpoint.read import FLAX_NAME, Checkpoint, Format, open_checkpoint
from gpt2kit.checkpoint.write import refuse_shadowed, save_flax, save_safetensors
from gpt2kit.config import GPT2Config
from gpt2kit.config.base import CONFIG_NAME
from gpt2kit.errors import CheckpointError, InputError
from gpt2kit.flax import tree
from gpt2kit.flax.tree import Tree
from gpt2kit.generation import GENERATION_CONFIG_NAME, GenerationConfig
from gpt2kit.hub import HubOptions, locate_optional

__all__ = ["load_model", "save_model"]

# Names of dtypes in safetensors' words.
DTYPES: dict[str, Any] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# What the PyTorch models take and these do not: argument -> the values that ask for nothing, and the way out.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "torch_dtype": (
        (None,),
        "parameters keep the dtype that they are stored in; cast them with to_bf16, to_fp16 or to_fp32, and "
        "give the dtype of the computation as dtype",
    ),
    "output_loading_info": ((False, None), "what is missing is logged, and _do_init=False returns the rest"),
    "adapter_kwargs": ((None, {}), "there are no adapters for Flax"),
}

_FORMATS: dict[str, tuple[Format, ...]] = {
    "from_pt": ("safetensors", "pytorch"),
    "from_tf": ("tensorflow",),
}
# How a format is asked for that was not looked for.
_ASKED_BY: dict[Format, str] = {
    "safetensors": "leave out from_tf",
    "pytorch": "pass from_pt=True",
    "flax": "leave out from_pt and from_tf",
    "tensorflow": "pass from_tf=True",
}

_logger = logging.getLogger(__name__)


# --------------------------------------------------------------------------- loading


def load_model(
    cls: type[Any],
    name_or_path: str | os.PathLike[str],
    dtype: Any,
    model_args: tuple[Any, ...],
    *,
    config: GPT2Config | str | os.PathLike[str] | None,
    ignore_mismatched_sizes: bool,
    hub: dict[str, Any],
    kwargs: dict[str, Any],
) -> Any:
    """Load a model; see `FlaxGPT2PreTrainedModel.from_pretrained`."""
    _refuse(name_or_path, kwargs)
    do_init = kwargs.pop("_do_init", True)
    formats = _formats(kwargs)
    names = ("subfolder", "proxies", "use_auth_token", "resume_download", "trust_remote_code")
    hub = hub | {name: kwargs.pop(name) for name in names if name in kwargs}
    options = HubOptions.pop_from(hub)
    if not isinstance(config, GPT2Config):
        place: Any = name_or_path if config is None else config
        config, kwargs = GPT2Config.from_pretrained(
            place, **_as_kwargs(options), return_unused_kwargs=True, **kwargs
        )
    assert isinstance(config, GPT2Config)
    with open_checkpoint(name_or_path, options, formats=formats, asked_by=_ASKED_BY) as source:
        model = cls(config, *model_args, dtype=dtype, _do_init=False, **kwargs)
        device = None if do_init else jax.devices("cpu")[0]
        params, report = read_params(
            model, source, device, ignore_mismatched_sizes, allow_missing=not do_init
        )
        _log_dtypes(cls.__name__, params, source, name_or_path)
    classes = [f"Flax{name}" for name in config.architectures or ()]
    report.log(cls.__name__, str(name_or_path), classes)
    if model.can_generate():
        model.generation_config = _generation_config(config, name_or_path, options)
    model.name_or_path = config.name_or_path = os.fspath(name_or_path)
    if not do_init:
        return model, params
    if report.missing or report.mismatched:
        params = model.init_weights(model.key, model.input_shape, params)
    model._is_initialized = True
    model.params = params
    return model


def _refuse(name_or_path: Any, kwargs: dict[str, Any]) -> None:
    """Take arguments that cannot be honoured out of the keywords, and refuse those that ask for something."""
    for name, (nothing, way_out) in _REFUSED.items():
        if name in kwargs and kwargs.pop(name) not in nothing:
            raise InputError(f"from_pretrained cannot honour {name}: {way_out}.")
    if name_or_path is None:
        raise InputError(
            "from_pretrained needs a folder or a name; a model without a file is made of its configuration."
        )


def _formats(kwargs: dict[str, Any]) -> tuple[Format, ...]:
    """Return which formats of weights may be opened."""
    asked = [name for name in _FORMATS if kwargs.pop(name, False)]
    if len(asked) > 1:
        raise InputError(f"{asked[0]}=True and {asked[1]}=True ask for two files; leave one of them out.")
    return _FORMATS[asked[0]] if asked else ("safetensors", "flax")


def read_params(
    model: Any,
    source: Checkpoint,
    device: Any = None,
    ignore_mismatched_sizes: bool = False,
    allow_missing: bool = False,
) -> tuple[Tree, LoadReport]:
    """Read the parameters of a model, one after the other.

    Args:
        model: Whose tree is filled; it needs no parameters of its own.
        source: Where the weights are.
        device: Where they shall be; None leaves that to JAX.
        ignore_mismatched_sizes: Leave out what has another shape.
        allow_missing: Leave out what is missing even in the body.

    Returns:
        The parameters that are there, and the report.

    Raises:
        ShapeMismatchError: Other shapes, unless they are ignored.
        CheckpointError: A weight of the body is missing, unless that is allowed.
    """
    class_name = type(model).__name__
    leaves = tree.flatten(model.params_shape_tree)
    specs = _specs(model.config, leaves)
    report = compare(specs, source)
    take_tied(specs, report, source)
    if not ignore_mismatched_sizes:
        report.raise_if_mismatched(class_name)
    if not allow_missing:
        refuse_missing(
            class_name,
            report.missing,
            model.config,
            prefix=BASE_PREFIX if model.base_model_prefix in model.params_shape_tree else "",
            way_out="_do_init=False returns what there is, and init_weights draws the rest",
        )
    check_tied(specs, source, report)
    found = {path: report.found.get(official_name(path)) for path in leaves}
    read = {
        path: _read(source, spelling, path, leaves[path].shape, device)
        for path, spelling in found.items()
        if spelling is not None
    }
    return tree.unflatten(read), report


def _specs(config: GPT2Config, leaves: dict[tree.Path, Any]) -> list[TensorSpec]:
    """List what the model wants, under official names; a tied head wants nothing."""
    own = [
        TensorSpec(official_name(path), "", flax_shape(path, leaf.shape), "weight", "")
        for path, leaf in leaves.items()
    ]
    names = {spec.name for spec in own}
    return own + [spec for spec in tensor_specs(config) if spec.tied_to in names]


def _read(source: Checkpoint, name: str, path: tree.Path, shape: Sequence[int], device: Any) -> Array:
    """Read one tensor; beside the array that is made, it is in memory once or twice for that time."""
    stored = source[name]
    if stored.dtype not in DTYPES:
        raise CheckpointError(
            f"The tensor {name} is of dtype {stored.dtype}, and weights are {', '.join(DTYPES)}. Use a "
            "file of floating-point weights."
        )
    values = np.empty(shape, DTYPES[stored.dtype])  # the shape of the leaf
    if is_reversed(path, shape):
        source.read_reversed_into(name, values)
    elif values.nbytes:
        source.read_into(name, values)
    if values.dtype == np.float64 and not jax.config.jax_enable_x64:
        values = values.astype(np.float32)
    # Without a copy JAX might go on using NumPy's memory, which cannot be donated; waiting for it frees that.
    return jax.block_until_ready(jax.device_put(values, device, may_alias=False))


def _log_dtypes(class_name: str, params: Tree, source: Checkpoint, place: str | os.PathLike[str]) -> None:
    """Warn of parameters that are not float32, as 4.34 does: they stay so."""
    if "F64" in {tensor.dtype for tensor in source.values()} and not jax.config.jax_enable_x64:
        _logger.warning(
            "The checkpoint at %s has float64 weights, and JAX, which was not told to use float64, makes "
            "them float32. To keep them, load it inside jax.enable_x64(True).",
            place,
        )
    dtypes = {leaf.dtype.name for leaf in tree.flatten(params).values()} - {"float32"}
    if dtypes:
        _logger.warning(
            "Some of the weights of %s are %s, as the checkpoint at %s has them. Use to_fp32 to change that.",
            class_name,
            " and ".join(sorted(dtypes)),
            place,
        )


def _generation_config(
    config: GPT2Config, name_or_path: str | os.PathLike[str], options: HubOptions
) -> GenerationConfig:
    """Return the options of generation; where there is no file of them, the configuration has them."""
    is_file = Path(name_or_path).is_file()
    if is_file or locate_optional(name_or_path, GENERATION_CONFIG_NAME, options) is None:
        return GenerationConfig.from_model_config(config)
    loaded: GenerationConfig = GenerationConfig.from_pretrained(
        os.fspath(name_or_path), **_as_kwargs(options)
    )
    return loaded


def _as_kwargs(options: HubOptions) -> dict[str, Any]:
    """Return hub options as the keywords that they came from."""
    return {name: value for name, value in vars(options).items() if value is not None}


# --------------------------------------------------------------------------- saving


def save_model(
    model: Any,
    save_directory: str | os.PathLike[str],
    params: Tree,
    *,
    max_shard_size: int | str,
    safe_serialization: bool,
) -> None:
    """Save a model; see `FlaxGPT2PreTrainedModel.save_pretrained`."""
    folder = Path(save_directory)
    if folder.is_file():
        raise InputError(f"{folder} is a file; save_pretrained needs a folder. Pass another name.")
    if not safe_serialization:
        refuse_shadowed(folder, FLAX_NAME)
    leaves = tree.flatten(params)
    config = model.config
    config.torch_dtype = next(leaf.dtype.name for path, leaf in leaves.items() if path[-2] == "wte")
    config.architectures = [type(model).__name__.removeprefix("Flax")]
    config.validate()
    beside = {CONFIG_NAME: config.to_json_string()}
    if model.generation_config is not None:
        model.generation_config.validate()  # what nothing reads is told of, and saved as it was loaded
        beside[GENERATION_CONFIG_NAME] = model.generation_config.to_json_string()
    if safe_serialization:
        official = {official_name(path): _raw(path, leaf, official=True) for path, leaf in leaves.items()}
        save_safetensors(folder, official, max_shard_size=max_shard_size, beside=beside)
    else:
        own = {tree.shown(path): _raw(path, leaf, official=False) for path, leaf in leaves.items()}
        save_flax(folder, own, max_shard_size=max_shard_size, beside=beside)


def _raw(path: tree.Path, leaf: Any, official: bool) -> RawTensor:
    """Describe a leaf as bytes that are made when they are written, with official axes or as it is."""
    dtype = np.dtype(leaf.dtype)
    if dtype not in _NAMES:
        raise InputError(
            f"{tree.shown(path)} has the dtype {dtype}, which files of weights cannot hold. Cast it first."
        )

    def data() -> memoryview:
        values = np.asarray(leaf)
        if official and is_reversed(path, values.shape):
            turned = np.empty(values.shape[::-1], values.dtype)
            copy_transposed(turned, values)
            values = turned
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data

    shape = tuple(leaf.shape)
    return RawTensor(_NAMES[dtype], flax_shape(path, shape) if official else shape, data)
