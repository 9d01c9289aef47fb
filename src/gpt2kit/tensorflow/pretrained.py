"""What every TensorFlow GPT-2 can do besides computing: start, take its arguments, tell of itself.

Dimensions: B batch, T positions, V vocabulary, D n_embd (docs/shapes.md).
"""

from __future__ import annotations

import inspect
import logging
from typing import Any, ClassVar, Self

import keras
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.generation import GenerationConfig
from gpt2kit.tensorflow import keywords
from gpt2kit.tensorflow.checkpointing import CheckpointingMixin
from gpt2kit.tensorflow.dataset import DatasetMixin
from gpt2kit.tensorflow.fit import FitMixin
from gpt2kit.tensorflow.saving import SavingMixin
from gpt2kit.tensorflow.surgery import SurgeryMixin

__all__ = ["TFGPT2PreTrainedModel"]

_logger = logging.getLogger(__name__)


class TFGPT2PreTrainedModel(
    SavingMixin, SurgeryMixin, CheckpointingMixin, DatasetMixin, FitMixin, keras.Model
):
    """Base of the TensorFlow models: a Keras model with a configuration, whose weights are there at once.

    Args:
        config: The configuration; it is checked here.
        **kwargs: name, dtype (a policy such as "mixed_bfloat16") and trainable, as of any Keras model.

    Source:
        transformers v4.34.0, modeling_tf_utils.py, TFPreTrainedModel, and modeling_tf_gpt2.py.
    """

    config_class = GPT2Config
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    framework = "tf"
    supports_xla_generation = True
    label_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: GPT2Config, **kwargs: Any) -> None:
        if not isinstance(config, GPT2Config):
            raise ConfigError(
                f"{type(self).__name__} needs a GPT2Config, but a {type(config).__name__} came. To load a "
                f"model by its name or folder, call {type(self).__name__}.from_pretrained(...)."
            )
        config.validate()
        super().__init__(autocast=False, **kwargs)
        self.config = config
        self._warned: set[str] = set()
        self.name_or_path = config.name_or_path
        self.generation_config: Any = (
            GenerationConfig.from_model_config(config) if self.can_generate() else None
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model: with arguments by name or place, or with a list, tuple or mapping of them.

        The arguments are those of `call`.

        Raises:
            InputError: An unknown name, an argument that came twice, a list that is too long.
        """
        return super().__call__(**keywords.named(self.argument_names(), args, kwargs))

    @classmethod
    def argument_names(cls) -> tuple[str, ...]:
        """Return the names of the arguments of a call, in their order."""
        return tuple(inspect.signature(cls.call).parameters)[1:]

    @classmethod
    def can_generate(cls) -> bool:
        """Tell whether the model has `generate`."""
        return hasattr(cls, "generate")

    def warn_once(self, message: str) -> None:
        """Log a warning the first time that this model has reason to."""
        if message not in self._warned:
            self._warned.add(message)
            _logger.warning(message)

    def build(self, input_shape: Any = None) -> None:
        """Make the weights of the parts; the constructor has done so already."""
        for part in self.layers:
            if not part.built:
                part.build()

    def _lock_state(self) -> None:
        """Leave the model open, so that a subclass may add layers of its own.

        Keras calls this when it has built a layer, and has no public way to keep one open.
        """

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` makes the same model of, with fresh weights."""
        policy = keras.saving.serialize_keras_object(self.dtype_policy)
        return {
            "config": self.config.to_dict(),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": policy,
        }

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Self:
        """Make a model with fresh weights: of a `GPT2Config`, of its dictionary, or of `get_config`'s.

        Args:
            config: The configuration.
            **kwargs: As of the constructor.
        """
        if isinstance(config, GPT2Config):
            return cls(config, **kwargs)
        if "config" not in config:
            return cls(GPT2Config.from_dict(config), **kwargs)
        others = {name: value for name, value in config.items() if name != "config"}
        if isinstance(others.get("dtype"), dict):
            others["dtype"] = keras.saving.deserialize_keras_object(others["dtype"])
        return cls(GPT2Config.from_dict(config["config"]), **(others | kwargs))

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Count the numbers of the weights.

        Args:
            only_trainable: Leave out what is not trained.
        """
        weights = self.trainable_weights if only_trainable else self.weights
        return sum(int(tf.size(weight)) for weight in weights)

    @property
    def dummy_inputs(self) -> dict[str, tf.Tensor]:
        """Return arguments that any such model can be called with."""
        dummies = {
            name: tf.fill([1, *[2] * (spec.shape.rank - 1)], tf.cast(name != "token_type_ids", spec.dtype))
            for name, spec in self.input_signature.items()
        }  # [B, T] each
        if self.config.add_cross_attention and "encoder_hidden_states" in self.argument_names():
            dummies["encoder_hidden_states"] = tf.ones([1, 2, self.config.n_embd])  # [B, E, D]
        return dummies

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """Return what a served model is called with."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in names}  # [B, T] each
