"""Training in TensorFlow: one traced step, AdamW, and checkpoints that a run goes on from bit by bit.

`make_train_step` is a function of tensors, for `tf.function` and for the replicas of a `tf.distribute`
strategy; `Trainer` traces it for one device and lends it to the loop that all rooms share. Everything that is
decided with numbers alone (which tokens, which learning rate, when to evaluate) comes from
`gpt2kit.training`. What Keras' own `fit` does with a model is in `fit.py`.

Dimensions: A portions of a step, B batch, T positions, D n_embd (docs/shapes.md).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import gpt2kit
from gpt2kit.errors import InputError, TrainingError
from gpt2kit.tensorflow.chunk import chunked_sum
from gpt2kit.tensorflow.heads import TFGPT2LMHeadModel
from gpt2kit.tensorflow.loss import IGNORED_LABEL
from gpt2kit.tensorflow.mask import score_dtype
from gpt2kit.tensorflow.optimizer import make_optimizer
from gpt2kit.tensorflow.table import sizes
from gpt2kit.tensorflow.weights import save_model, table_of
from gpt2kit.training import TrainingLoop
from gpt2kit.training.loop import Portions
from gpt2kit.training.state import read_state, write_state

__all__ = ["Measures", "Trainer", "gradient_norm", "make_sum_of_losses", "make_train_step"]


class Measures(NamedTuple):
    """What a step tells, both [].

    Attributes:
        loss: The mean over all tokens of the step.
        gradient_norm: Before the gradient was clipped.
    """

    loss: tf.Tensor
    gradient_norm: tf.Tensor


Step = Callable[[tf.Tensor, tf.Tensor], Measures]


def make_train_step(
    model: TFGPT2LMHeadModel, optimizer: Any, *, clip: float = 0.0, loss_chunk_size: int = 0
) -> Step:
    """Make the function that does one step: step(inputs, targets) -> measures.

    It is not traced yet: `tf.function(step, autograph=False)`. Inputs and targets are [A, B, T]: the gradient
    is that of the mean loss over the tokens of all A portions, which are computed one after another (A is 1
    where memory suffices). Run by a strategy, `strategy.run(step, ...)`, each replica takes texts of its own,
    and the mean is that over the tokens of all. Where the loss or the norm of its gradient is no number,
    weights and optimizer stay as they were.

    Args:
        model: Its trainable variables learn. Gradient checkpointing is honoured.
        optimizer: Any of Keras, such as `make_optimizer` makes; its own clipping comes after this one.
        clip: Largest norm of the gradient; 0 does not clip.
        loss_chunk_size: Positions whose logits are held at once for the loss; 0 holds all.

    Raises:
        InputError: A number below 0, nothing to train; and from the step, arrays that are no ids [A, B, T],
            or a call from a strategy's scope that is none of `strategy.run`.
        LengthError: From the step, more positions than the model has.

    Example:
        >>> from gpt2kit import GPT2Config
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=1, n_head=3)
        >>> model, optimizer = TFGPT2LMHeadModel(config), keras.optimizers.SGD(0.01)
        >>> step = tf.function(make_train_step(model, optimizer, clip=1.0), autograph=False)
        >>> ids = tf.ones([1, 2, 8], tf.int32)
        >>> step(ids[..., :-1], ids[..., 1:]).loss.shape
        TensorShape([])
    """
    if not clip >= 0:
        raise InputError(f"clip should be 0 or more, but it is {clip!r}.")
    sum_of_losses = make_sum_of_losses(model, loss_chunk_size=loss_chunk_size)
    variables = list(model.trainable_variables)
    if not variables:
        raise InputError("The model has nothing to train: all of it is frozen (trainable=False).")
    if not optimizer.built:
        optimizer.build(variables)

    def step(inputs: tf.Tensor, targets: tf.Tensor) -> Measures:
        _check_portions(inputs, targets)
        replicas = _replicas()
        counted = tf.cast(tf.not_equal(targets, IGNORED_LABEL), tf.int64)  # [A, B, T]
        count = replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(counted))  # []

        def part(portion: Any) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
            with tf.GradientTape() as tape:
                total = sum_of_losses(inputs[portion], targets[portion], training=True)  # []
                loss = total / tf.cast(count, total.dtype)  # []
            return loss, _dense(tape.gradient(loss, [variable.value for variable in variables]))

        loss, gradient = _accumulate(part, sizes(inputs)[0])
        # A part that texts alone can teach nothing, as cross-attention, has no gradient, and stays as it is.
        known = [number for number, leaf in enumerate(gradient) if leaf is not None]
        sums = replicas.all_reduce(
            tf.distribute.ReduceOp.SUM, [loss, *(gradient[number] for number in known)]
        )
        loss, total = sums[0], sums[1:]
        norm = gradient_norm(total)  # []
        sound = tf.math.is_finite(loss) & tf.math.is_finite(norm)  # []
        if clip:  # as torch.nn.utils.clip_grad_norm_
            scale = tf.minimum(tf.ones([], norm.dtype), clip / (norm + 1e-6))  # []
            total = [leaf * tf.cast(scale, leaf.dtype) for leaf in total]
        _apply(optimizer, total, [variables[number] for number in known], sound)
        return Measures(loss, norm)

    return step


def make_sum_of_losses(model: TFGPT2LMHeadModel, *, loss_chunk_size: int = 0) -> Callable[..., tf.Tensor]:
    """Make the function that adds up -log p(target): f(inputs, targets, training=False) -> [].

    Inputs and targets are [B, T], a target the token after its input; -100 is not counted. With training
    there is dropout, and a gradient; a loss in chunks has none without.

    Raises:
        InputError: From here, a size that is none; from the function, ids that are no whole numbers.
        LengthError: From the function, more positions than the model has.
    """
    is_size = isinstance(loss_chunk_size, int) and not isinstance(loss_chunk_size, bool)
    if not is_size or loss_chunk_size < 0:
        raise InputError(f"loss_chunk_size should be 0 or more, but it is {loss_chunk_size!r}.")

    def sum_of_losses(inputs: tf.Tensor, targets: tf.Tensor, training: bool = False) -> tf.Tensor:
        body = model.transformer(input_ids=inputs, use_cache=False, return_dict=True, training=training)
        head = model.get_output_embeddings().weight  # [V, D]
        return chunked_sum(body.last_hidden_state, head, targets, loss_chunk_size, learning=training)  # []

    return sum_of_losses


def gradient_norm(gradient: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the norm of all numbers of some tensors, []: added up in float32 at least, whatever they are."""
    wide = [tf.cast(leaf, score_dtype(leaf.dtype)) for leaf in gradient]  # as the gradient
    return tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(leaf)) for leaf in wide]))  # []


def _replicas() -> Any:
    """Return the replica that computes: one of a strategy, or the only one."""
    replicas = tf.distribute.get_replica_context()
    if replicas is None:
        raise InputError("A step within strategy.scope() is run by the strategy: strategy.run(step, ...).")
    return replicas


def _check_portions(inputs: tf.Tensor, targets: tf.Tensor) -> None:
    """Refuse what is no pair of ids [A, B, T]."""
    if inputs.shape.rank != 3 or not inputs.shape.is_compatible_with(targets.shape):
        raise InputError(
            f"A step takes inputs and targets of one shape [A, B, T], got {inputs.shape} and "
            f"{targets.shape}. A single portion is ids[None]."
        )
    if not (inputs.dtype.is_integer and targets.dtype.is_integer):
        raise InputError(
            f"Inputs and targets should be whole numbers, but they are {inputs.dtype.name} and "
            f"{targets.dtype.name}."
        )


def _dense(gradient: Sequence[Any]) -> list[tf.Tensor | None]:
    """Return gradients as whole tensors: that of an embedding comes as the rows that were looked up."""
    return [None if leaf is None else tf.convert_to_tensor(leaf) for leaf in gradient]


def _accumulate(part: Callable[[Any], Any], count: Any) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """Add up losses and gradients of so many portions, one after another."""
    loss, gradient = part(0)  # [], and as the weights
    if isinstance(count, int) and count == 1:
        return loss, gradient
    known = [number for number, leaf in enumerate(gradient) if leaf is not None]

    def add(portion: Any, loss: Any, total: list[Any]) -> tuple[Any, Any, list[Any]]:
        more, leaves = part(portion)
        return portion + 1, loss + more, [leaf + leaves[at] for leaf, at in zip(total, known, strict=True)]

    start = (tf.constant(1), loss, [gradient[number] for number in known])
    _, loss, total = tf.while_loop(lambda portion, *_: portion < count, add, start, parallel_iterations=1)
    for number, leaf in zip(known, total, strict=True):
        gradient[number] = leaf
    return loss, gradient


def _apply(optimizer: Any, gradient: list[tf.Tensor], variables: list[Any], sound: tf.Tensor) -> None:
    """Update variables by a gradient that is the same on all replicas, if it is sound."""

    def update(strategy: Any, gradient: list[Any], sound: Any) -> None:
        def apply() -> bool:
            strategy.extended.call_for_each_replica(
                lambda leaves: optimizer.apply(leaves, variables), args=(gradient,)
            )
            return True

        # A condition has its place outside the replicas: what is in it may not wait for the others.
        tf.cond(strategy.experimental_local_results(sound)[0], apply, lambda: False)

    replicas = _replicas()
    R = replicas.num_replicas_in_sync
    gradient = [leaf / R for leaf in gradient] if R > 1 else gradient  # Keras adds up those of all replicas
    replicas.merge_call(update, args=(gradient, sound))


class Trainer(TrainingLoop):
    """Trains a model as a `Run` says.

    Args:
        run: what to do, from `gpt2kit.training.start` or `gpt2kit.training.resume`.
        observer: is told what happens.

    Raises:
        TrainingError: the run is for another room or for several devices, its device is not there, or the
            checkpoint to go on from does not fit it.

    Example:
        >>> from gpt2kit.training import TrainingConfig, start
        >>> config = TrainingConfig(model="pocket", steps=100, framework="tensorflow")
        >>> Trainer(start(["novel.txt"], "run", config)).fit()  # doctest: +SKIP
        True
    """

    framework = "tensorflow"
    state_file = "training_state.safetensors"
    opening = "tracing"
    model: TFGPT2LMHeadModel

    def _build(self, source: str | Path | None) -> None:
        config = self.run.config
        self.device = _device(config.device)
        with tf.device(self.device.name), _drawn_from(config.seed):
            self.model = self._make_model(source)
            self.optimizer = make_optimizer(config)
            settings = {"loss_chunk_size": config.loss_chunk_size}
            step = make_train_step(self.model, self.optimizer, clip=config.clip, **settings)
        self._traced_step = tf.function(step, autograph=False)
        self._traced_sum = tf.function(make_sum_of_losses(self.model, **settings), autograph=False)

    def _make_model(self, source: str | Path | None) -> TFGPT2LMHeadModel:
        config = self.run.config
        # Weights are kept and updated in float32 whatever type they are stored in.
        policy = "mixed_bfloat16" if config.precision == "bf16" else "float32"
        if source is None:
            return TFGPT2LMHeadModel(self.run.model, dtype=policy)
        return TFGPT2LMHeadModel.from_pretrained(source, dtype=policy, **config.dropouts())

    def _step(self, portions: Portions, rate: float) -> tuple[float, float]:
        inputs, targets = (
            np.stack(part).astype(np.int32) for part in zip(*portions, strict=True)
        )  # [A, B, T]
        self.optimizer.learning_rate = rate
        with tf.device(self.device.name):
            measures = self._traced_step(tf.constant(inputs), tf.constant(targets))
        return float(measures.loss), float(measures.gradient_norm)

    def _sum(self, inputs: Any, targets: Any) -> float:
        # Every call has one shape, so that one trace serves: what is filled in counts for nothing.
        missing = self.run.config.batch_size - len(inputs)
        ids = np.pad(inputs.astype(np.int32), ((0, missing), (0, 0)))  # [B, T]
        wanted = np.pad(
            targets.astype(np.int32), ((0, missing), (0, 0)), constant_values=IGNORED_LABEL
        )  # [B, T]
        with tf.device(self.device.name):
            return float(self._traced_sum(tf.constant(ids), tf.constant(wanted)))

    def _write_weights(self, folder: Path, dtype: str) -> None:
        save_model(self.model, folder, max_shard_size="10GB", safe_serialization=True, dtype=dtype)

    def _state(self) -> dict[str, Any]:
        """Return all variables that a run needs besides its weights."""
        names = {id(variable): name for name, variable in table_of(self.model)[1].items()}
        found = {"iterations": self.optimizer.iterations}
        for kind, averages in self.optimizer.averages.items():
            for variable, average in zip(self.model.trainable_variables, averages, strict=True):
                found[f"{kind}/{names[id(variable)]}"] = average
        masks = [each for each in self.model.variables if each.path.endswith("seed_generator_state")]
        return found | {f"dropout/{number}": variable for number, variable in enumerate(masks)}

    def _write_state(self, path: Path, progress: dict[str, Any]) -> None:
        tensors = {name: variable.numpy() for name, variable in self._state().items()}
        write_state(path, tensors, progress)

    def _read_state(self, path: Path) -> dict[str, Any]:
        tensors, progress = read_state(path)
        return {**progress, "variables": tensors}

    def _take_up(self, state: dict[str, Any]) -> None:
        variables, found = self._state(), state["variables"]
        expected = {name: (tuple(each.shape), str(each.dtype)) for name, each in variables.items()}
        if expected != {name: (array.shape, array.dtype.name) for name, array in found.items()}:
            raise TrainingError(
                f"{self.state_file} does not hold the state of this model's optimizer and dropout: it was "
                "written by another version of Keras or gpt2kit; go on with that one."
            )
        for name, variable in variables.items():
            variable.assign(found[name])

    def _environment(self) -> dict[str, str]:
        return {
            "gpt2kit": gpt2kit.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "device": self.device.name,
            "processors": str(_processors()),
        }


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Let fresh weights and dropout follow a seed: Keras draws the seeds of both from Python's random."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _device(name: str) -> tf.config.LogicalDevice:
    """Find the device of a run.

    Raises:
        TrainingError: no such device, or not on this machine.
    """
    there = tf.config.list_logical_devices("CPU") + tf.config.list_logical_devices("GPU")
    if name == "auto":
        return there[-1] if there[-1].device_type == "CPU" else tf.config.list_logical_devices("GPU")[0]
    kind, _, number = name.partition(":")
    known = {"cpu": "CPU", "cuda": "GPU", "gpu": "GPU"}
    of_kind = [device for device in there if device.device_type == known.get(kind)]
    if number in ("", *map(str, range(len(of_kind)))) and of_kind:
        return of_kind[int(number or 0)]
    listed = ", ".join(device.name.removeprefix("/device:") for device in there)
    raise TrainingError(
        f"The device {name!r} cannot be used here: TensorFlow finds {listed}. Give auto, cpu, cuda or cuda:1."
    )


def _processors() -> int:
    """Count the processors that TensorFlow spreads its work over."""
    chosen = tf.config.threading.get_intra_op_parallelism_threads()
    if chosen:
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
