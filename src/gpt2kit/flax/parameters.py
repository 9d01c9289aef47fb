"""What a Flax model does with its parameters: draw, set, cast, load and save them."""

from __future__ import annotations

import os
from typing import Any, ClassVar, NoReturn, Self

import jax
import jax.numpy as jnp
from jax import Array

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.flax import arguments, tree
from gpt2kit.flax.tree import Path, Tree

__all__ = ["ParameterMixin"]


class ParameterMixin:
    """The parameters of a model, a tree of dictionaries beside its Linen module.

    A tree that comes from outside, by `params =` or by an argument, is held against the model's own: leaves
    that are missing, unknown or of another shape are refused.
    """

    base_model_prefix: ClassVar[str]
    config: GPT2Config
    module: Any
    key: Array
    _is_initialized: bool
    _params: Tree
    _params_shape_tree: Tree

    # ------------------------------------------------------------------ the tree

    @property
    def params(self) -> Tree:
        """The parameters, a tree of dictionaries.

        Raises:
            InputError: The model was made with _do_init=False and holds none, or a tree that is set does not
                fit.
        """
        if not self._is_initialized:
            raise InputError(
                "This model was made with _do_init=False and holds no parameters. Make them with "
                "init_weights and give them to each call as params=."
            )
        return self._params

    @params.setter
    def params(self, params: Tree) -> None:
        if not self._is_initialized:
            raise InputError(
                "This model was made with _do_init=False and holds no parameters; keep them outside, and "
                "give them to each call as params=."
            )
        self._params = tree.checked(params, self._params_shape_tree)

    @property
    def params_shape_tree(self) -> Tree:
        """The shapes of the parameters, in their tree."""
        return self._params_shape_tree

    @property
    def required_params(self) -> set[Path]:
        """The paths of all parameters."""
        return set(tree.flatten(self._params_shape_tree))

    def init_weights(self, rng: Array, input_shape: tuple[int, int], params: Tree | None = None) -> Tree:
        """Draw the parameters, or those that a tree does not have.

        Weights are normal with config.initializer_range as deviation, biases 0, layer norms 1 and 0. Where a
        projection ends in the residual stream the deviation is divided by sqrt(2 L).

        Args:
            rng: What they are drawn from.
            input_shape: Batch and positions of an input; any will do.
            params: Parameters that are there already; only the others are drawn.

        Raises:
            InputError: The given parameters are not the model's, or of another shape.
        """
        arguments.input_shape(input_shape)
        params_rng, dropout_rng = jax.random.split(rng)
        rngs = {"params": params_rng, "dropout": dropout_rng}
        token = jnp.zeros(input_shape, jnp.int32)  # [B, T]
        states = jnp.zeros((*input_shape, self.config.n_embd), self.module.dtype)  # [B, E, D]
        inputs = (token, None, token, states if self.config.add_cross_attention else None)
        if params is None:
            drawn: Tree = self.module.init(rngs, *inputs)["params"]
            return drawn
        given = tree.flatten(tree.checked(params, self._params_shape_tree, partial=True))
        missing = self.required_params - given.keys()

        @jax.jit  # computes what it returns, and so not the forward pass
        def draw(rngs: dict[str, Array]) -> dict[Path, Array]:
            held = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in given.items()}
            variables = {"params": tree.unflatten(held)}  # Linen draws what it does not find there
            _, filled = self.module.apply(variables, *inputs, rngs=rngs, mutable=["params"])
            drawn = tree.flatten(filled["params"])
            return {path: drawn[path] for path in missing}

        return tree.checked(tree.unflatten(given | draw(rngs)), self._params_shape_tree)

    # ------------------------------------------------------------------ dtypes

    def to_bf16(self, params: Tree, mask: Any = None) -> Tree:
        """Return parameters with their floating-point leaves in bfloat16; the given ones stay as they are.

        Args:
            params: The parameters, or a part of their tree.
            mask: The same tree with True at the leaves to cast and False at those to keep; None casts all.

        Raises:
            InputError: The mask is another tree, or does not hold truth values.
        """
        return tree.cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Tree, mask: Any = None) -> Tree:
        """Return parameters with their floating-point leaves in float16; otherwise as `to_bf16`."""
        return tree.cast(params, jnp.float16, mask)

    def to_fp32(self, params: Tree, mask: Any = None) -> Tree:
        """Return parameters with their floating-point leaves in float32; otherwise as `to_bf16`."""
        return tree.cast(params, jnp.float32, mask)

    # ------------------------------------------------------------------ loading and saving

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        dtype: Any = jnp.float32,
        *model_args: Any,
        config: GPT2Config | str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        ignore_mismatched_sizes: bool = False,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder, a name on the hub, or "pocket".

        The first of model.safetensors, its index, flax_model.msgpack and its index is read; it makes no
        difference which framework wrote it.

        Args:
            pretrained_model_name_or_path: A folder on this disk wins over a name.
            dtype: Of the computation; the parameters keep the one that they are stored in.
            *model_args: For the constructor, after the configuration: input_shape, seed.
            config: A configuration in place of the checkpoint's, or where to find one.
            cache_dir: Where downloads are kept.
            ignore_mismatched_sizes: Draw weights whose shape does not fit, instead of refusing them.
            force_download: Download again what is already there.
            local_files_only: Never ask the network.
            token: For private repositories; True is the one of `huggingface-cli login`.
            revision: Branch, tag or commit.
            **kwargs: from_pt (read model.safetensors or pytorch_model.bin), from_tf (read tf_model.h5;
                TensorFlow is not needed), _do_init (False returns a pair of a model without parameters and
                those that the file has, on the CPU; `init_weights` adds what it lacks), subfolder, proxies,
                resume_download, use_auth_token, trust_remote_code (nothing of a repository is ever
                executed), input_shape, seed; and values that take the place of those in the configuration.

        Raises:
            HubError: No such name, file or network.
            CheckpointError: A file that is damaged or unsafe, or one without a weight of the body.
            ShapeMismatchError: Weights of other shapes.
            TypeError: An unknown keyword.
        """
        from gpt2kit.flax.weights import load_model

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
            dtype,
            model_args,
            config=config,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            hub=hub,
            kwargs=kwargs,
        )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        params: Tree | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "10GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write weights, config.json and generation_config.json into a folder, for every framework.

        Every file is written aside and then renamed, so that a full disk or an interruption loses nothing
        old.

        Args:
            save_directory: The folder; it is made if it is not there.
            params: Parameters in place of the model's own; needed with _do_init=False.
            push_to_hub: Refused; see below.
            max_shard_size: Size at which the weights are cut into several files, such as "500MB".
            token: Refused with push_to_hub.
            safe_serialization: Write model.safetensors; False writes flax_model.msgpack, which
                transformers 4.34 reads.
            **kwargs: None is known.

        Raises:
            InputError: An argument that cannot be honoured, or parameters that are not the model's.
        """
        from gpt2kit.flax.weights import save_model

        if push_to_hub or token is not None or kwargs:
            asked = ", ".join([*(["push_to_hub"] if push_to_hub else []), *sorted(kwargs)]) or "token"
            raise InputError(
                f"save_pretrained cannot honour {asked}: it writes a folder and uploads nothing. To publish, "
                "call huggingface_hub.upload_folder on the folder afterwards."
            )
        save_model(
            self,
            save_directory,
            self.params if params is None else tree.checked(params, self._params_shape_tree),
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
        )

    def push_to_hub(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: this library uploads nothing."""
        raise InputError(
            "gpt2kit uploads nothing. Call save_pretrained(folder), then huggingface_hub.upload_folder on "
            "the folder."
        )

    @classmethod
    def _from_config(cls, config: GPT2Config, **kwargs: Any) -> Self:
        """Build a model with random weights."""
        build: Any = cls
        model: Self = build(config, **kwargs)
        return model
