"""What Keras' fit, evaluate and predict do with a GPT-2: find the labels, take the model's own loss.

Labels are among the inputs, under the name of their argument, or they are the y that Keras is given. Without
a loss of the user's the model's own is taken, whose mean is minimized; with one, it is given the labels and
the scores (logits) as they stand.

Dimensions: B batch (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

from gpt2kit.errors import InputError
from gpt2kit.tensorflow import keywords
from gpt2kit.tensorflow.loss import IGNORED_LABEL

__all__ = ["FitMixin"]

OWN_LOSS = (None, "auto", "auto_with_warning", "passthrough")  # 4.34's words for it
LOSS_OF = {"labels": "loss", "mc_labels": "mc_loss"}
SCORES_OF = {"labels": "logits", "mc_labels": "mc_logits"}


class FitMixin(keras.Model):
    """Steps of training, testing and prediction."""

    label_names: ClassVar[tuple[str, ...]]
    _own_loss = True

    def compile(
        self: Any,
        optimizer: Any = "rmsprop",
        loss: Any = "auto_with_warning",
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool | None = None,
        steps_per_execution: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Prepare for fit, evaluate and predict.

        Args:
            optimizer: Of Keras, or its name.
            loss: Of Keras, or its name. By default the model's own; "auto", "passthrough" and None say the
                same.
            metrics: Of Keras; they are given the labels and the scores as they stand.
            loss_weights: As of Keras; only beside a loss.
            weighted_metrics: As of Keras.
            run_eagerly: Without graphs.
            steps_per_execution: Steps of one call.
            **kwargs: jit_compile and auto_scale_loss, as of Keras.

        Raises:
            InputError: loss_weights for the model's own loss; the model computes none.
        """
        own = loss is None or (isinstance(loss, str) and loss in OWN_LOSS)
        if own and loss_weights is not None:
            raise InputError("loss_weights weigh losses that are given; give some, or leave them out.")
        self._own_loss = own
        super().compile(
            optimizer=optimizer,
            loss=None if own else loss,
            metrics=metrics,
            loss_weights=loss_weights,
            weighted_metrics=weighted_metrics,
            run_eagerly=bool(run_eagerly),
            steps_per_execution=steps_per_execution or 1,
            **kwargs,
        )

    def compile_from_config(self: Any, config: dict[str, Any]) -> None:
        """Compile as a saved model was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def train_step(self: Any, data: Any) -> dict[str, Any]:
        """Take one step of training on a batch, and return the metrics."""
        return super().train_step(self._sorted(data))

    def test_step(self: Any, data: Any) -> dict[str, Any]:
        """Return the metrics of a batch."""
        return super().test_step(self._sorted(data))

    def predict_step(self: Any, data: Any) -> Any:
        """Return the output for a batch, without a cache, whose batches could not be joined."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        given = keywords.named(self.argument_names(), (x,), {})
        return self(**(given | {"use_cache": False, "return_dict": True, "training": False}))

    def compute_loss(
        self: Any,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Return what is minimized, a scalar.

        Args:
            x: Inputs.
            y: Labels.
            y_pred: The output of the model.
            sample_weight: A weight for each text, [B].
            training: Whether the step is one of training.

        Raises:
            InputError: No labels; weights of texts where the model's own loss has none for each.
        """
        if not self._own_loss:
            return super().compute_loss(x, y, self._scores(y_pred, y), sample_weight, training)
        given = [name for name in self.label_names if LOSS_OF[name] in y_pred]
        losses = [y_pred[LOSS_OF[name]] for name in given]
        if not losses:
            names = " or ".join(map(repr, self.label_names))
            raise InputError(
                f"There are no labels to learn from. Give {names} among the inputs or as y."
                if names
                else f"{type(self).__name__} has no loss of its own; give one to compile(loss=...)."
            )
        if sample_weight is not None:
            losses = [self._weighted(loss, sample_weight) for loss in losses]
        total = tf.add_n([self._mean(loss, name, x) for loss, name in zip(losses, given, strict=True)])  # []
        total += sum(tf.cast(tf.reduce_sum(loss), total.dtype) for loss in self.losses)  # []
        return total / tf.distribute.get_strategy().num_replicas_in_sync  # []; gradients are added up

    def compute_metrics(self: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Return the metrics, given labels and scores."""
        return super().compute_metrics(x, y, self._scores(y_pred, y), sample_weight)

    def _mean(self: Any, loss: tf.Tensor, name: str, x: Any) -> tf.Tensor:
        """Return the mean of a loss, []; of one that has -100 for a class, over the texts that count."""
        given = x.get(name) if isinstance(x, Mapping) else None
        if given is None or not self.names_classes(name, tf.convert_to_tensor(given)):
            return tf.reduce_mean(loss)  # []
        labels = tf.reshape(tf.convert_to_tensor(given), [-1])  # [B]
        count = tf.reduce_sum(tf.cast(tf.not_equal(labels, IGNORED_LABEL), loss.dtype))  # []
        return tf.reduce_sum(loss) / count  # []

    def names_classes(self: Any, name: str, labels: tf.Tensor) -> bool:
        """Tell whether labels name one class for each text."""
        return name == "mc_labels"

    def _weighted(self: Any, loss: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Weigh the loss of each text, [B]."""
        if not self.loss_of_each_text:
            raise InputError(
                "sample_weight has a weight for each text, and the loss of this model is one of tokens. "
                "Label those that shall not count with -100, or give a loss to compile(loss=...)."
            )
        return loss * tf.cast(tf.reshape(weight, [-1]), loss.dtype)  # [B]

    def _sorted(self: Any, data: Any) -> tuple[dict[str, Any], Any, Any]:
        """Return arguments of a call, labels, and weights of the texts."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        given = keywords.named(self.argument_names(), (x,), {})
        labels = {name: given.pop(name) for name in self.label_names if name in given}
        labels |= self._named_labels(y)
        if self._own_loss:
            given |= labels
        given |= {"use_cache": False, "return_dict": True}
        if not labels and not self._own_loss:
            return given, y, sample_weight
        targets = {SCORES_OF[name]: value for name, value in labels.items()}
        single = len(self.label_names) == 1
        return given, next(iter(targets.values()), None) if single else targets, sample_weight

    def _named_labels(self: Any, y: Any) -> dict[str, Any]:
        """Return y by the names of the labels."""
        if y is None or not self.label_names:
            return {}
        if isinstance(y, Mapping):
            names = {SCORES_OF[name]: name for name in self.label_names}
            names |= {name: name for name in self.label_names}
            unknown = [key for key in y if key not in names]
            if unknown:
                known = ", ".join(self.label_names)
                raise InputError(f"y has the unknown key {unknown[0]!r}. The labels are {known}.")
            return {names[key]: value for key, value in y.items()}
        if len(self.label_names) > 1 or isinstance(y, list | tuple):
            wanted = "a dictionary of " * (len(self.label_names) > 1) + ", ".join(self.label_names)
            raise InputError(f"y should be {wanted}, but it is a {type(y).__name__}.")
        return {self.label_names[0]: y}

    def _scores(self: Any, output: Any, y: Any) -> Any:
        """Return what a loss or a metric of Keras compares with the labels."""
        if isinstance(y, Mapping):
            return {name: output[name] for name in y}
        return output["logits"] if "logits" in output else output["last_hidden_state"]
