"""AdamW as the other rooms compute it, as an optimizer of Keras."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from gpt2kit.errors import InputError
from gpt2kit.training import TrainingConfig

__all__ = ["AdamW", "make_optimizer"]


@keras.saving.register_keras_serializable("gpt2kit")
class AdamW(keras.optimizers.Adam):
    """Adam with weight decay on matrices (embeddings included), none on biases and layer norms.

    With the learning rate r, the averages m and v of gradients and of their squares, and step t from 1,

        x <- x (1 - r decay)                                                         where x is a matrix
        x <- x - r (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Keras' own AdamW adds epsilon before the average of squares is corrected, which makes the first steps
    smaller, and it decays every weight that is not excluded by name.

    Args:
        learning_rate: A number, or a schedule of Keras.
        weight_decay: How much of a matrix goes with each step, times the learning rate.
        beta_1: Of the average of gradients.
        beta_2: Of the average of their squares.
        epsilon: Added to the denominator.
        name: Of the optimizer.
        **kwargs: As of any optimizer of Keras: clipnorm, global_clipnorm, use_ema and so on.

    Raises:
        InputError: amsgrad; and from `build`, variables of half precision, in which 0.999 is 1.

    Source:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.

    Example:
        >>> optimizer = AdamW(0.001, weight_decay=0.1)
        >>> float(optimizer.learning_rate) == np.float32(0.001)
        True
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "adamw",
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("amsgrad", False):
            raise InputError(f"{type(self).__name__} knows no amsgrad; leave it out.")
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay or None, name=name, **kwargs
        )

    def build(self, variables: list[Any]) -> None:
        """Make the averages of some variables.

        Args:
            variables: Those that will learn, in float32 or float64.
        """
        narrow = [each for each in variables if str(each.dtype) not in ("float32", "float64")]
        if narrow:
            raise InputError(
                f"{type(self).__name__} keeps weights and averages in float32 or float64, but "
                f"{narrow[0].path} is {narrow[0].dtype}: make the model with dtype='mixed_bfloat16', which "
                "computes in bfloat16."
            )
        super().build(variables)

    @property
    def averages(self) -> dict[str, list[Any]]:
        """The averages of gradients and of their squares, in the order of the variables."""
        return {"momentum": list(self._momentums), "velocity": list(self._velocities)}

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        """Let a variable decay where it is a matrix, and update it and its averages.

        Args:
            gradient: Of the shape of the variable.
            variable: Which one, of those that the optimizer was built for.
            learning_rate: A scalar.
        """
        index, kind = self._get_variable_index(variable), variable.dtype
        if self.weight_decay is not None and self._use_weight_decay(variable):
            part = tf.constant(self.weight_decay, kind) * tf.cast(learning_rate, kind)  # []
            variable.assign_sub(variable * part)  # as the variable
        # As the kernel has them, so that the corrections are those of the averages that it makes.
        beta_1, beta_2 = tf.constant(self.beta_1, kind), tf.constant(self.beta_2, kind)  # [] both
        step = tf.cast(self.iterations + 1, tf.float64)  # []
        squares = tf.sqrt(1 - tf.cast(beta_2, tf.float64) ** step)  # [] what corrects sqrt(v)
        rate = tf.cast(learning_rate, tf.float64) * squares  # []
        rate = rate / (1 - tf.cast(beta_1, tf.float64) ** step)  # []
        nothing = tf.zeros([], kind)  # []; the corrections are in the two numbers above
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=nothing,
            beta2_power=nothing,
            lr=tf.cast(rate, kind),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon * squares, kind),
            grad=tf.cast(tf.convert_to_tensor(gradient), kind),
        )

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Do nothing: `update_step` lets a matrix decay, by numbers that are not rounded to float32 first."""

    def _use_weight_decay(self, variable: Any) -> bool:
        """Tell whether a variable decays: a matrix, unless it was excluded."""
        return len(variable.shape) >= 2 and super()._use_weight_decay(variable)


def make_optimizer(config: TrainingConfig) -> AdamW:
    """Make the optimizer of a run; its learning rate is set anew before each step."""
    return AdamW(
        config.peak_learning_rate,
        weight_decay=config.weight_decay,
        beta_1=config.beta1,
        beta_2=config.beta2,
        epsilon=config.epsilon,
    )
