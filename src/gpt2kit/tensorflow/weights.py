"""Weights between files and TensorFlow models: read one by one, written whole or not at all.

A weight has the official name as its path through the model's attributes, and its official shape, so the
table official name <-> own variable is `gpt2kit.checkpoint.tensor_specs` itself.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.checkpoint.check import LoadReport, check_tied, compare, refuse_missing, take_tied
from gpt2kit.checkpoint.formats import RawTensor
from gpt2kit.checkpoint.formats.tensor_file import DTYPES
from gpt2kit.checkpoint.layout import BASE_PREFIX, HEADS, Head, TensorSpec, tensor_specs
from gpt2kit.checkpoint.read import TF_NAME, Checkpoint, Format, open_checkpoint
from gpt2kit.checkpoint.write import refuse_shadowed, save_safetensors, save_tf
from gpt2kit.config import GPT2Config
from gpt2kit.config.base import CONFIG_NAME
from gpt2kit.errors import CheckpointError, InputError
from gpt2kit.generation import GENERATION_CONFIG_NAME, GenerationConfig
from gpt2kit.hub import HubOptions, locate_optional
from gpt2kit.tensorflow.fresh import draw_missing, loading

__all__ = ["fill", "load_model", "save_model", "table_of"]

# Names of dtypes in safetensors' words; a file has no others for weights.
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_FORMATS: dict[str, tuple[Format, ...]] = {
    "from_pt": ("safetensors", "pytorch"),
    "from_tf": ("tensorflow",),
    "from_flax": ("flax",),
}
# How a format is asked for that was not looked for.
_ASKED_BY: dict[Format, str] = {
    "safetensors": "leave out from_tf and from_flax",
    "pytorch": "pass from_pt=True",
    "flax": "pass from_flax=True",
    "tensorflow": "leave out from_pt and from_flax",
}
_ALIGNMENT = 64  # of memory that TensorFlow computes in
# What is taken and cannot be honoured: argument -> the values that ask for nothing, and the way out.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "load_weight_prefix": ((None,), "it names parts of models that are made of two, and there are none here"),
    "tf_to_pt_weight_rename": ((None,), "the names of GPT-2 are known; rename the tensors in the file"),
    "torch_dtype": ((None,), "weights are float32; give a policy of Keras as dtype for another"),
    "state_dict": ((None,), "make the model of its configuration and assign its weights"),
    "mirror": ((None,), "set HF_ENDPOINT"),
}


def load_model(
    cls: type[Any],
    name_or_path: str | os.PathLike[str],
    model_args: tuple[Any, ...],
    *,
    config: GPT2Config | str | os.PathLike[str] | None,
    ignore_mismatched_sizes: bool,
    hub: dict[str, Any],
    kwargs: dict[str, Any],
) -> Any:
    """Load a model; see `TFGPT2PreTrainedModel.from_pretrained`."""
    _refuse(name_or_path, kwargs)
    formats = _formats(kwargs)
    with_info = kwargs.pop("output_loading_info", False)
    names = ("subfolder", "proxies", "use_auth_token", "resume_download", "trust_remote_code")
    options = HubOptions.pop_from(hub | {name: kwargs.pop(name) for name in names if name in kwargs})
    own = {name: kwargs.pop(name) for name in ("name", "dtype", "trainable") if name in kwargs}
    if not isinstance(config, GPT2Config):
        place: Any = name_or_path if config is None else config
        config, kwargs = GPT2Config.from_pretrained(
            place, **_as_kwargs(options), return_unused_kwargs=True, **kwargs
        )
    assert isinstance(config, GPT2Config)
    if kwargs and cls.__init__.__qualname__.startswith("TFGPT2"):  # a subclass may take more
        raise TypeError(f"{cls.__name__}.from_pretrained got the unknown keyword {min(kwargs)!r}.")
    with open_checkpoint(name_or_path, options, formats=formats, asked_by=_ASKED_BY) as source:
        with loading():
            model = cls(config, *model_args, **own, **kwargs)
        report = fill(model, source, ignore_mismatched_sizes, allow_missing=with_info)
    variables = table_of(model)[1]
    draw_missing(model, {id(variables[name]) for name in report.found})
    report.log(cls.__name__, str(name_or_path), [f"TF{name}" for name in config.architectures or ()])
    if model.can_generate():
        model.generation_config = _generation_config(config, name_or_path, options)
    model.name_or_path = config.name_or_path = os.fspath(name_or_path)
    return (model, report.info()) if with_info else model


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
    return _FORMATS[asked[0]] if asked else ("safetensors", "tensorflow")


def fill(
    model: Any, source: Checkpoint, ignore_mismatched_sizes: bool = False, allow_missing: bool = False
) -> LoadReport:
    """Read the weights of a model, one after the other; what is missing stays as it is.

    Args:
        model: Whose weights are set.
        source: Where they are.
        ignore_mismatched_sizes: Leave what has another shape as it is.
        allow_missing: Leave what is missing even in the body.

    Raises:
        ShapeMismatchError: Other shapes, unless they are ignored.
        CheckpointError: A weight of the body is missing, unless that is allowed; or one is no float.
    """
    class_name = type(model).__name__
    specs, variables = table_of(model)
    report = compare(specs, source)
    take_tied(specs, report, source)
    if not ignore_mismatched_sizes:
        report.raise_if_mismatched(class_name)
    if not allow_missing:
        refuse_missing(
            class_name,
            report.missing,
            model.config,
            prefix="" if _head_of(model) == "none" else BASE_PREFIX,
            way_out="output_loading_info=True draws them at random and lists them",
        )
    check_tied(specs, source, report)
    for name, spelling in report.found.items():
        stored = source[spelling].dtype
        if stored not in _DTYPES.values():
            raise CheckpointError(
                f"The tensor {spelling} is of dtype {stored}, and weights are {', '.join(_DTYPES.values())}. "
                "Use a file of floating-point weights."
            )
        variables[name].assign(_read(source, spelling, variables[name].dtype))
    return report


def _read(source: Checkpoint, name: str, dtype: str) -> Any:
    """Read a tensor into memory that a variable takes over, where TensorFlow has both dtypes."""
    stored = source[name]
    if stored.dtype == "F16" and dtype != "float16":  # oneDNN tells of an error where it does not cast half
        return source.numpy(name).astype(dtype)
    if stored.dtype == "BF16" or not stored.nbytes:
        return source.numpy(name)
    room = np.empty(stored.nbytes + _ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    values = room[begin : begin + stored.nbytes].view(DTYPES[stored.dtype].numpy).reshape(stored.shape)
    source.read_into(name, values)
    return tf.experimental.dlpack.from_dlpack(values.__dlpack__())  # as stored; tf.constant copies twice


def table_of(model: Any) -> tuple[list[TensorSpec], dict[str, Any]]:
    """Return what a model consists of, and the variable of each official name; a tied head has none.

    Weights that a subclass added are under the names that Keras gives them, with dots.
    """
    head = _head_of(model)
    specs = list(tensor_specs(model.config, head=head))
    root = model.transformer if head == "none" else model
    variables = {spec.name: _follow(root, spec.name) for spec in specs if spec.tied_to is None}
    known = {id(variable) for variable in variables.values()}
    for variable in model.weights:
        if id(variable) not in known:
            name = variable.path.split("/", 1)[-1].replace("/", ".")
            specs.append(TensorSpec(name, "", tuple(variable.shape), "weight", ""))
            variables[name] = variable
    return specs, variables


def _follow(root: Any, name: str) -> Any:
    """Return what lies at a path of attributes and numbers."""
    return functools.reduce(
        lambda part, step: part[int(step)] if step.isdecimal() else getattr(part, step), name.split("."), root
    )


def _head_of(model: Any) -> Head:
    """Return the head of a model, by the class that it is or extends."""
    names = (cls.__name__.removeprefix("TF") for cls in type(model).__mro__)
    return next(HEADS[name] for name in names if name in HEADS)


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
    *,
    max_shard_size: int | str,
    safe_serialization: bool,
    dtype: str | None = None,
) -> None:
    """Save a model; see `TFGPT2PreTrainedModel.save_pretrained`. With a dtype, as the file shall have it."""
    folder = Path(save_directory)
    if folder.is_file():
        raise InputError(f"{folder} is a file; save_pretrained needs a folder. Pass another name.")
    if not safe_serialization:
        refuse_shadowed(folder, TF_NAME)
    _, variables = table_of(model)
    config = model.config
    config.torch_dtype = dtype or model.transformer.wte.weight.dtype
    config.architectures = [type(model).__name__.removeprefix("TF")]
    config.validate()
    beside = {CONFIG_NAME: config.to_json_string()}
    if model.generation_config is not None:
        model.generation_config.validate()  # what nothing reads is told of, and saved as it was loaded
        beside[GENERATION_CONFIG_NAME] = model.generation_config.to_json_string()
    tensors: Mapping[str, RawTensor] = {
        name: _raw(name, variable, dtype or variable.dtype) for name, variable in variables.items()
    }
    if safe_serialization:
        save_safetensors(folder, tensors, max_shard_size=max_shard_size, beside=beside)
    else:
        name = type(model).__name__
        save_tf(folder, tensors, class_name=name, max_shard_size=max_shard_size, beside=beside)


def _raw(name: str, variable: Any, dtype: str) -> RawTensor:
    """Describe a variable as bytes that are made when they are written."""
    if dtype not in _DTYPES:
        raise InputError(f"{name} has the dtype {dtype}, which files of weights cannot hold. Cast it first.")

    def data() -> memoryview:
        array = tf.cast(variable.value, dtype).numpy()  # [*]
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    return RawTensor(_DTYPES[dtype], tuple(variable.shape), data)
