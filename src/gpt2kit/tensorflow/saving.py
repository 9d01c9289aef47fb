"""What a TensorFlow model does with files: from_pretrained, save_pretrained, and the graph that is served.

Dimensions: B batch, T positions, S positions with their past, L layers, H heads, K width of a head, D n_embd
(docs/shapes.md).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import keras
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.tensorflow.served import checked
from gpt2kit.tensorflow.weights import load_model, save_model

__all__ = ["SavingMixin"]

_PER_LAYER = ("past_key_values", "hidden_states", "attentions", "cross_attentions")


class SavingMixin:
    """Loading, saving and serving of a model."""

    config: GPT2Config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
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

        Weights are read from safetensors or a tf_model.h5, one after the other, so this takes hardly more
        memory than the model itself.

        Args:
            pretrained_model_name_or_path: A folder on this disk wins over a name.
            *model_args: For the constructor of a subclass, after the configuration.
            config: A configuration in place of the checkpoint's, or where to find one.
            cache_dir: Where downloads are kept.
            ignore_mismatched_sizes: Draw weights whose shape does not fit, instead of refusing them.
            force_download: Download again what is already there.
            local_files_only: Never ask the network.
            token: For private repositories; True is the one of `huggingface-cli login`.
            revision: Branch, tag or commit.
            **kwargs: from_pt (read pytorch_model.bin where there are no safetensors), from_tf, from_flax
                (read that framework's file and no other), output_loading_info (return a pair of model and
                what was missing, unexpected or of another shape), subfolder, proxies, resume_download,
                use_auth_token, trust_remote_code (nothing of a repository is ever executed); name, dtype
                and trainable, as of any Keras model; and values that take the place of those in the
                configuration.

        Raises:
            HubError: No such name, file or network.
            CheckpointError: A file that is damaged or unsafe, or one without a weight of the body.
            ShapeMismatchError: Weights of other shapes.
            TypeError: An unknown keyword.
        """
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
            hub=hub,
            kwargs=kwargs,
        )

    def save_pretrained(
        self: Any,
        save_directory: str | os.PathLike[str],
        saved_model: bool = False,
        version: int = 1,
        push_to_hub: bool = False,
        signatures: Any = None,
        max_shard_size: int | str = "10GB",
        create_pr: bool = False,
        safe_serialization: bool = True,
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Write weights, config.json and generation_config.json into a folder.

        Every file is written aside and then renamed, so that a full disk or an interruption loses nothing
        old.

        Args:
            save_directory: The folder; it is made if it is not there.
            saved_model: Write a SavedModel as well, into saved_model/<version> below the folder.
            version: The number of it.
            push_to_hub: Refused; see below.
            signatures: What it can be called with, in place of `serving_signatures`.
            max_shard_size: Size at which the weights are cut into several files, such as "500MB".
            create_pr: Refused with push_to_hub.
            safe_serialization: Write model.safetensors, which all rooms read; False writes tf_model.h5.
            token: Refused with push_to_hub.
            **kwargs: None is known.

        Raises:
            InputError: An argument that cannot be honoured.
        """
        asked = [*(["push_to_hub"] if push_to_hub else []), *(["create_pr"] if create_pr else [])]
        asked += [*(["token"] if token is not None else []), *sorted(kwargs)]
        if asked:
            raise InputError(
                f"save_pretrained cannot honour {', '.join(asked)}: it writes a folder and uploads nothing. "
                "To publish, call huggingface_hub.upload_folder on the folder afterwards."
            )
        if not saved_model and (signatures is not None or version != 1):
            raise InputError("signatures and version are those of a SavedModel: pass saved_model=True too.")
        save_model(self, save_directory, max_shard_size=max_shard_size, safe_serialization=safe_serialization)
        if saved_model:
            self.save_graph(Path(save_directory) / "saved_model" / str(version), signatures)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: this library uploads nothing."""
        raise InputError(
            "gpt2kit uploads nothing. Call save_pretrained(folder), then huggingface_hub.upload_folder on "
            "the folder."
        )

    # ------------------------------------------------------------------ serving

    def serving_output(self: Any, output: Any) -> dict[str, tf.Tensor]:
        """Return an output as a signature can: one tensor for each field, layers stacked.

        Raises:
            InputError: Layers of different shapes, because heads were pruned.
        """
        found: dict[str, tf.Tensor] = {}
        for name, value in output.items():
            if name not in _PER_LAYER:
                found[name] = value
            elif len({tuple(layer.shape) for layer in value}) > 1:
                raise InputError(
                    f"The layers of {name} have different shapes, because heads were pruned, and a signature "
                    "returns one tensor. Switch it off in the configuration, or give signatures of your own."
                )
            else:
                found[name] = tf.stack(
                    value
                )  # past_key_values [L, 2, B, H, S, K], hidden_states [L+1, B, T, D]
        return found

    def serving(self: Any, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Call the model as a server does: names to tensors, in and out.

        In a graph what does not fit together is an InvalidArgumentError, when that runs.
        """
        if not tf.executing_eagerly():
            inputs = checked(inputs, self.input_signature, self.config)
        return self.serving_output(self(**inputs, return_dict=True, training=False))

    def eager_serving(self: Any, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Call the model as `serving` does; 4.34 has this second name for it."""
        return self.serving(inputs)

    def serving_signatures(self: Any) -> dict[str, Any]:
        """Return what a SavedModel is called with: serving_default for int32, int64_serving for int64."""
        program = tf.function(self.serving, autograph=False)  # errors pass as they are
        wide = {
            name: tf.TensorSpec(spec.shape, tf.int64 if spec.dtype == tf.int32 else spec.dtype, name=name)
            for name, spec in self.input_signature.items()
        }
        return {
            "serving_default": program.get_concrete_function(self.input_signature),
            "int64_serving": program.get_concrete_function(wide),
        }

    def save_graph(self: Any, folder: str | os.PathLike[str], signatures: Any = None) -> None:
        """Write a SavedModel, which TensorFlow calls without gpt2kit and without Keras.

        Args:
            folder: Where.
            signatures: As of tf.saved_model.save; `serving_signatures` by default.
        """
        signatures = self.serving_signatures() if signatures is None else signatures
        graph = tf.Module()
        graph.variables_of_the_model = [variable.value for variable in self.variables]
        tf.saved_model.save(graph, os.fspath(folder), signatures=signatures)

    def export(
        self: Any,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: Any,
    ) -> None:
        """Write a SavedModel as `save_graph`; other formats, and another input_signature, as of Keras.

        Args:
            filepath: Where.
            format: "tf_saved_model", or another that Keras knows.
            verbose: Tell what was written.
            input_signature: What the graph shall be called with, as of Keras.
            **kwargs: As of Keras, for its formats.
        """
        if format != "tf_saved_model" or input_signature is not None or kwargs:
            keras.Model.export(
                self, filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs
            )
            return
        self.save_graph(filepath)
        if verbose:
            keras.utils.io_utils.print_msg(f"Saved at {os.fspath(filepath)}: serving_default, int64_serving.")
