"""What every GPT-2 model can do besides its forward pass: start, load, save, be resized and pruned."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NoReturn, Self

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.generation import GenerationConfig
from gpt2kit.torch import fresh, surgery
from gpt2kit.torch.builder import BuilderMixin
from gpt2kit.torch.layers import KERNELS
from gpt2kit.torch.taps import ActivationMixin

__all__ = ["GPT2PreTrainedModel"]

_logger = logging.getLogger(__name__)


class GPT2PreTrainedModel(ActivationMixin, BuilderMixin, nn.Module):
    """Base of the GPT-2 models: a configuration, and weights that can be made, loaded, saved and changed.

    A subclass builds its layers in `__init__` and calls `self.post_init()` at the end. It holds its body
    under the name `transformer`, or is a body itself.

    Args:
        config: The configuration; it is checked here.

    Source:
        transformers v4.34.0, modeling_utils.py, PreTrainedModel, and modeling_gpt2.py, GPT2PreTrainedModel.
    """

    config_class = GPT2Config
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    framework = "pt"
    is_parallelizable = False
    model_parallel = False
    device_map: Any = None
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["GPT2Block"]
    _skip_keys_device_placement = "past_key_values"
    _tied_weights_keys: list[str] | None = None
    _keys_to_ignore_on_save: list[str] | None = None
    _keys_to_ignore_on_load_missing: list[str] | None = None
    _keys_to_ignore_on_load_unexpected: list[str] | None = None

    config: GPT2Config
    generation_config: Any  # a GenerationConfig, or None where the class cannot generate

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        if not isinstance(config, GPT2Config):
            raise ConfigError(
                f"{type(self).__name__} needs a GPT2Config, but a {type(config).__name__} came. To load a "
                f"model by its "
                f"name or folder, call {type(self).__name__}.from_pretrained(...)."
            )
        config.validate()
        self.config = config
        self.name_or_path = config.name_or_path
        self.warnings_issued: dict[str, bool] = {}
        self.model_tags: list[str] | None = None
        self.generation_config = GenerationConfig.from_model_config(config) if self.can_generate() else None
        self.attn_implementation = _checked_kernel(getattr(config, "attn_implementation", "auto"))

    # ------------------------------------------------------------------ what it is

    @property
    def base_model(self) -> Any:
        """The body: `self.transformer`, or the model itself if it is one."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating-point parameter."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        return next(self.parameters()).device

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Arguments that the forward pass takes, those of 4.34."""
        return {"input_ids": torch.tensor([[7, 6, 0, 0, 1], [1, 2, 3, 0, 0], [0, 0, 0, 4, 5]])}  # [B, T]

    @classmethod
    def can_generate(cls) -> bool:
        """Tell whether the model has `generate`."""
        return hasattr(cls, "generate")

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the parameters; shared ones count once.

        Args:
            only_trainable: Leave out those that take no gradient.
            exclude_embeddings: Leave out token and position embeddings.
        """
        tables = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if not (only_trainable and not parameter.requires_grad)
            and not (exclude_embeddings and id(parameter) in tables)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the bytes of all parameters, and of the buffers unless they are left out."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    # ------------------------------------------------------------------ starting

    def post_init(self) -> None:
        """Do what must follow when all layers are built: prune, initialise, tie, switch checkpointing on."""
        self.init_weights()
        if getattr(self.config, "gradient_checkpointing", False):
            self.gradient_checkpointing_enable()
            delattr(self.config, "gradient_checkpointing")  # the model's state now, and not saved, as in 4.34

    def init_weights(self) -> None:
        """Prune as the configuration says, draw the weights that were not drawn yet, and tie the head."""
        if self.config.pruned_heads:
            self.prune_heads(self.config.pruned_heads)
        if not fresh.is_loading():
            self.apply(self._initialize_weights)
        self.tie_weights()

    def _initialize_weights(self, module: nn.Module) -> None:
        """Initialise a module once; a model inside a model has done so already."""
        if not getattr(module, "_is_initialized", False):
            self._init_weights(module)
            module._is_initialized = True

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the weights of one module; a subclass with parts of its own extends this."""
        fresh.draw(module, self.config.initializer_range, self.config.n_layer)

    # ------------------------------------------------------------------ embeddings

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return self.base_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put other token embeddings in their place."""
        self.base_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the layer that turns hidden states into logits; None where there is none."""
        return None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Refuse: only a model with a language model head has output embeddings."""
        raise InputError(f"{type(self).__name__} has no output embeddings to set.")

    def tie_weights(self) -> None:
        """Let the head use the weight of the token embeddings, if the configuration says so.

        With config.torchscript it gets a copy, because TorchScript cannot share a parameter.
        """
        head: Any = self.get_output_embeddings()
        if head is None or not self.config.tie_word_embeddings:
            return
        table: Any = self.get_input_embeddings()
        head.weight = nn.Parameter(table.weight.clone()) if self.config.torchscript else table.weight
        if hasattr(head, "out_features"):
            head.out_features = table.weight.size(0)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
    ) -> nn.Module:
        """Change the number of tokens, in the embeddings, the head and the configuration.

        Added rows are drawn as fresh weights are; where tokens are taken away, the last rows go.

        Args:
            new_num_tokens: The new vocabulary size, usually len(tokenizer); None keeps it.
            pad_to_multiple_of: Round it up to a multiple of this.

        Returns:
            The token embeddings.

        Raises:
            InputError: A size that is no positive number.
        """
        return surgery.resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of)

    def enable_input_require_grads(self) -> None:
        """Let gradients reach the embeddings' output, so that adapters on a frozen model can be trained."""

        def require_grad(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            output.requires_grad_(True)

        self._require_grads_hook = self.get_input_embeddings().register_forward_hook(require_grad)

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        self._require_grads_hook.remove()

    # ------------------------------------------------------------------ heads, kernels, checkpointing

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Remove attention heads for good, and remember it in config.pruned_heads.

        Args:
            heads_to_prune: For the number of a layer, the numbers of its heads: {1: [0, 2], 2: [2]}.

        Raises:
            InputError: No such layer or head, or a layer would be left without any.
        """
        surgery.prune_heads(self, heads_to_prune)

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Choose the attention kernel.

        Args:
            attn_implementation: "eager" writes the equations out; "sdpa" is torch's fused kernel; "auto"
                takes the fused one unless a call asks for attentions or gives a head mask.

        Raises:
            ConfigError: Another name.
        """
        kernel = _checked_kernel(attn_implementation)
        for module in self.modules():
            if isinstance(module, GPT2PreTrainedModel):
                module.attn_implementation = kernel

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Keep no activations of the blocks in training: less memory, and each block is computed twice.

        Args:
            gradient_checkpointing_kwargs: For torch.utils.checkpoint.checkpoint, such as {"use_reentrant":
                True}.
        """
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True
                module.checkpointing_options = dict(gradient_checkpointing_kwargs or {})

    def gradient_checkpointing_disable(self) -> None:
        """Keep the activations of the blocks in training, which is faster."""
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether `gradient_checkpointing_enable` is in force."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Add tags for a model card; each is kept once."""
        tags = [tags] if isinstance(tags, str) else tags
        self.model_tags = list(dict.fromkeys([*(self.model_tags or []), *tags]))

    def _warn_once(self, message: str) -> None:
        """Log a warning the first time that this model has reason to."""
        if not self.warnings_issued.get(message):
            self.warnings_issued[message] = True
            _logger.warning(message)

    # ------------------------------------------------------------------ loading and saving

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: GPT2Config | str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        ignore_mismatched_sizes: bool = False,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        use_safetensors: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder, a name on the hub, or "pocket"; it is returned in evaluation mode.

        The weights are read straight into their place, so this takes hardly more memory than the model
        itself.

        Args:
            pretrained_model_name_or_path: A folder on this disk wins over a name; None with config= and
                state_dict=.
            *model_args: For the constructor of a subclass, after the configuration.
            config: A configuration in place of the checkpoint's, or where to find one.
            cache_dir: Where downloads are kept.
            ignore_mismatched_sizes: Draw weights whose shape does not fit, instead of refusing them.
            force_download: Download again what is already there.
            local_files_only: Never ask the network.
            token: For private repositories; True is the one of `huggingface-cli login`.
            revision: Branch, tag or commit.
            use_safetensors: True takes only safetensors, False only pytorch_model.bin; None the first of
                them.
            **kwargs: torch_dtype ("auto", a dtype or its name; float32 by default), device_map ("auto" or one
                device), attn_implementation, state_dict (weights in place of the checkpoint's), variant,
                subfolder, from_flax (read flax_model.msgpack; Flax is not needed), from_tf (read tf_model.h5;
                TensorFlow is not needed), output_loading_info
                (return a pair of model and what was missing, unexpected or of another shape),
                low_cpu_mem_usage (always so), proxies, resume_download, use_auth_token, trust_remote_code
                (nothing of a repository is ever executed); and values that take the place of those in the
                configuration.

        Raises:
            HubError: No such name, file or network.
            CheckpointError: A file that is damaged or unsafe, or one without a weight of the body.
            ShapeMismatchError: Weights of other shapes.
            TypeError: An unknown keyword.
        """
        from gpt2kit.torch.weights import load_model

        hub = {
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
            "revision": revision,
        }
        return load_model(
            cls,
            pretrained_model_name_or_path,
            model_args,
            config=config,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            use_safetensors=use_safetensors,
            hub=hub,
            kwargs=kwargs,
        )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        save_function: Callable[..., Any] = torch.save,
        push_to_hub: bool = False,
        max_shard_size: int | str = "10GB",
        safe_serialization: bool | None = None,
        variant: str | None = None,
        token: str | bool | None = None,
        save_peft_format: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write weights, config.json and generation_config.json into a folder.

        Every file is written aside and then renamed, so that a full disk or an interruption loses nothing
        old.

        Args:
            save_directory: The folder; it is made if it is not there.
            is_main_process: False writes nothing: another process does.
            state_dict: Weights in place of the model's own.
            save_function: Called as torch.save is, to write pickles.
            push_to_hub: Refused; see below.
            max_shard_size: Size at which the weights are cut into several files, such as "500MB".
            safe_serialization: Write model.safetensors; False writes pytorch_model.bin, a pickle. None writes
                a pickle only where a save_function of yours asks for it.
            variant: Put this into the name of the weights' file: model.<variant>.safetensors.
            token: Refused with push_to_hub.
            save_peft_format: Only True: this library has no adapters of its own.
            **kwargs: None is known.

        Raises:
            InputError: An argument that cannot be honoured.
        """
        from gpt2kit.torch.weights import save_model

        if push_to_hub or token is not None or not save_peft_format or kwargs:
            asked = ", ".join([*(["push_to_hub"] if push_to_hub else []), *sorted(kwargs)]) or (
                "token" if token is not None else "save_peft_format=False"
            )
            raise InputError(
                f"save_pretrained cannot honour {asked}: it writes a folder and uploads nothing. To "
                f"publish, call "
                "huggingface_hub.upload_folder on the folder afterwards."
            )
        if is_main_process:
            save_model(
                self,
                save_directory,
                state_dict=state_dict,
                save_function=save_function,
                max_shard_size=max_shard_size,
                safe_serialization=save_function is torch.save
                if safe_serialization is None
                else safe_serialization,
                variant=variant,
            )

    def push_to_hub(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: this library uploads nothing."""
        raise InputError(
            "gpt2kit uploads nothing. Call save_pretrained(folder), then huggingface_hub.upload_folder on "
            "the folder."
        )

    def parallelize(self, device_map: Any = None) -> NoReturn:
        """Refuse: 4.34 had deprecated it already."""
        raise InputError(
            "parallelize is gone: a model lies on one device. Use model.to(device), or "
            "from_pretrained(device_map=)."
        )

    def deparallelize(self) -> NoReturn:
        """Refuse: there is nothing to undo."""
        raise InputError("deparallelize is gone, as is parallelize: use model.to('cpu').")

    @classmethod
    def _from_config(
        cls, config: GPT2Config, torch_dtype: torch.dtype | str | None = None, **kwargs: Any
    ) -> Self:
        """Build a model with random weights in a given dtype."""
        from gpt2kit.torch.weights import torch_dtype_of

        model = cls(config, **kwargs)
        return model if torch_dtype is None else model.to(torch_dtype_of(torch_dtype))


def _checked_kernel(name: str) -> str:
    """Return the name of a kernel if it is one."""
    if name not in KERNELS:
        raise ConfigError(f"attn_implementation={name!r} is not known; it is one of {', '.join(KERNELS)}.")
    return name
