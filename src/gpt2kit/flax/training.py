"""Training in JAX: one compiled step, AdamW by optax, and checkpoints that a run goes on from bit by bit.

`make_train_step` is a pure function of arrays, to be jitted with whatever shardings and donations its caller
wants; `Trainer` jits it for one device and lends it to the loop that all rooms share. Everything that is
decided with numbers alone (which tokens, which learning rate, when to evaluate) comes from
`gpt2kit.training`.

Dimensions: A portions of a step, B batch, T positions, D n_embd, P positions that the model has
(docs/shapes.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import gpt2kit
from gpt2kit.errors import InputError, LengthError, MissingDependencyError, TrainingError
from gpt2kit.flax.heads import FlaxGPT2LMHeadModel
from gpt2kit.flax.loss import IGNORED_LABEL, chunked_sum
from gpt2kit.training import TrainingConfig, TrainingLoop
from gpt2kit.training.loop import Portions
from gpt2kit.training.state import read_state, write_state

try:
    import optax
except ModuleNotFoundError as _error:
    if _error.name != "optax":
        raise
    raise MissingDependencyError(
        "Training in JAX needs optax, which is not installed: pip install 'gpt2kit[flax]'"
    ) from None

__all__ = ["Measures", "TrainState", "Trainer", "gradient_norm", "make_optimizer", "make_sum_of_losses"]
__all__ += ["make_train_step"]

Params = dict[str, Any]


class TrainState(NamedTuple):
    """All that changes from step to step.

    Attributes:
        params: The parameters of the model.
        optimizer: What the optimizer keeps, `optimizer.init(params)`.
        key: What dropout draws from; each step splits it.
    """

    params: Params
    optimizer: Any
    key: Array


class Measures(NamedTuple):
    """What a step tells, both [].

    Attributes:
        loss: The mean over all tokens of the step.
        gradient_norm: Before the gradient was clipped.
    """

    loss: Array
    gradient_norm: Array


Step = Callable[[TrainState, Array, Array], tuple[TrainState, Measures]]


def make_train_step(
    model: FlaxGPT2LMHeadModel, optimizer: Any, *, clip: float = 0.0, loss_chunk_size: int = 0
) -> Step:
    """Make the function that does one step: step(state, inputs, targets) -> (state, measures).

    It is pure and not jitted yet. Inputs and targets are [A, B, T]: the gradient is that of the mean loss
    over the tokens of all A portions, which are computed one after another (A is 1 where memory suffices).
    Where the loss or the norm of its gradient is no number, the state comes back as it was.

    Args:
        model: Its module computes; its own parameters are not looked at. Gradient checkpointing is honoured.
        optimizer: Any `optax.GradientTransformation`, such as `make_optimizer` makes.
        clip: Largest norm of the gradient; 0 does not clip.
        loss_chunk_size: Positions whose logits are held at once for the loss; 0 holds all.

    Raises:
        InputError: A number below 0; and from the step, arrays that are no ids of [A, B, T].
        LengthError: From the step, more positions than the model has.

    Example:
        >>> import gpt2kit
        >>> config = gpt2kit.GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=1, n_head=3)
        >>> model, optimizer = FlaxGPT2LMHeadModel(config), optax.adamw(0.01)
        >>> state = TrainState(model.params, optimizer.init(model.params), jax.random.PRNGKey(0))
        >>> step = jax.jit(make_train_step(model, optimizer, clip=1.0), donate_argnums=0)
        >>> ids = jnp.ones((1, 2, 8), jnp.int32)
        >>> state, measures = step(state, ids[..., :-1], ids[..., 1:])
        >>> measures.loss.shape
        ()
    """
    if not clip >= 0:
        raise InputError(f"clip should be 0 or more, but it is {clip!r}.")
    sum_of_losses = make_sum_of_losses(model, loss_chunk_size=loss_chunk_size)

    def step(state: TrainState, inputs: Array, targets: Array) -> tuple[TrainState, Measures]:
        if inputs.ndim != 3 or inputs.shape != targets.shape:
            raise InputError(
                f"A step takes inputs and targets of one shape [A, B, T], got {inputs.shape} and "
                f"{targets.shape}. A single portion is ids[None]."
            )
        keys = jax.random.split(state.key, 1 + len(inputs))  # [1 + A, 2]: the next step's, then the portions'
        count = (targets != IGNORED_LABEL).sum()  # []

        def part(params: Params, portion: Any) -> Array:
            ids, wanted, key = portion
            return sum_of_losses(params, ids, wanted, key) / count  # []

        loss, gradient = _accumulate(jax.value_and_grad(part), state.params, (inputs, targets, keys[1:]))
        norm = gradient_norm(gradient)  # []
        if clip:  # as torch.nn.utils.clip_grad_norm_
            scale = jnp.minimum(1.0, clip / (norm + 1e-6))  # []
            gradient = jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), gradient)
        updates, averages = optimizer.update(gradient, state.optimizer, state.params)
        updated = TrainState(optax.apply_updates(state.params, updates), averages, keys[0])
        sound = jnp.isfinite(loss) & jnp.isfinite(norm)  # []
        after = jax.tree.map(lambda new, old: jnp.where(sound, new, old), updated, state)
        return after, Measures(loss, norm)

    return step


def make_sum_of_losses(model: FlaxGPT2LMHeadModel, *, loss_chunk_size: int = 0) -> Callable[..., Array]:
    """Make the function that adds up -log p(target): f(params, inputs, targets, key=None) -> [].

    Inputs and targets are [B, T], a target the token after its input; -100 is not counted. With a key there
    is dropout.

    Raises:
        InputError: From here, a size that is none; from the function, ids that are no whole numbers.
        LengthError: From the function, more positions than the model has.
    """
    if loss_chunk_size < 0:
        raise InputError(f"loss_chunk_size should be 0 or more, but it is {loss_chunk_size!r}.")
    module, tied, P = model.module, model.config.tie_word_embeddings, model.config.n_positions

    def body(module: Any, ids: Array, key: Array | None) -> Array:
        positions = jnp.arange(ids.shape[1])[None]  # [1, T]
        output = module.transformer(ids, None, positions, deterministic=key is None)
        return output.last_hidden_state  # [B, T, D]

    def head(module: Any, states: Array) -> Array:
        return module.transformer.wte.attend(states) if tied else module.lm_head(states)  # [B, T, V]

    def sum_of_losses(params: Params, inputs: Array, targets: Array, key: Array | None = None) -> Array:
        kinds = (inputs.dtype, targets.dtype)
        if not all(jnp.issubdtype(kind, jnp.integer) for kind in kinds):
            raise InputError(
                f"Inputs and targets should be whole numbers, but they are {' and '.join(map(str, kinds))}."
            )
        if inputs.shape[-1] > P:
            raise LengthError(
                f"The texts have {inputs.shape[-1]} positions and the model has n_positions={P}. Cut them."
            )
        variables = {"params": params}
        rngs = {} if key is None else {"dropout": key}
        states = module.apply(variables, inputs, key, rngs=rngs, method=body)  # [B, T, D]
        scores = partial(module.apply, variables, method=head)
        return chunked_sum(states, scores, targets, loss_chunk_size)  # []

    return sum_of_losses


def gradient_norm(gradient: Params) -> Array:
    """Return the norm of all numbers in a tree, []: added up in float32 at least, whatever they are."""
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), gradient)
    return optax.tree.norm(wide)  # []


def _accumulate(gradient_of: Callable[..., Any], params: Params, portions: Any) -> tuple[Array, Params]:
    """Add up losses and gradients of the portions, one after another."""
    if len(portions[0]) == 1:
        return gradient_of(params, jax.tree.map(lambda leaf: leaf[0], portions))

    def add(total: Any, portion: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient_of(params, portion)), None

    kinds = jax.eval_shape(gradient_of, params, jax.tree.map(lambda leaf: leaf[0], portions))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kinds)
    return lax.scan(add, nothing, portions)[0]


def make_optimizer(config: TrainingConfig) -> Any:
    """Make AdamW with weight decay on matrices (embeddings included), none on biases and layer norms.

    The learning rate is a number of its state, `state.hyperparams["learning_rate"]`, so that changing it from
    step to step compiles nothing.

    Source:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.
    """

    def adamw(learning_rate: Any) -> Any:
        return optax.adamw(
            learning_rate,
            config.beta1,
            config.beta2,
            config.epsilon,
            weight_decay=config.weight_decay,
            mask=_decayed,
        )

    return optax.inject_hyperparams(adamw)(learning_rate=config.peak_learning_rate)


def _decayed(params: Params) -> Any:
    """Say for each parameter whether it decays: matrices do, if texts alone can teach them anything."""

    def decays(path: Any, leaf: Any) -> bool:
        return leaf.ndim >= 2 and "crossattention" not in jax.tree_util.keystr(path)

    return jax.tree_util.tree_map_with_path(decays, params)


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
        >>> config = TrainingConfig(model="pocket", steps=100, framework="flax")
        >>> Trainer(start(["novel.txt"], "run", config)).fit()  # doctest: +SKIP
        True
    """

    framework = "flax"
    state_file = "training_state.safetensors"
    opening = "compiling"
    model: FlaxGPT2LMHeadModel
    state: TrainState

    def _build(self, source: str | Path | None) -> None:
        config = self.run.config
        self.device = _device(config.device)
        weights, dropout = jax.random.split(_key(config.seed))
        optimizer = make_optimizer(config)
        with jax.default_device(self.device):
            self.model, params = self._make_model(source, weights)
            self.state = jax.device_put(TrainState(params, optimizer.init(params), dropout), self.device)
        settings = {"loss_chunk_size": config.loss_chunk_size}
        step = make_train_step(self.model, optimizer, clip=config.clip, **settings)
        self._jitted_step = jax.jit(step, donate_argnums=0)
        self._jitted_sum = jax.jit(make_sum_of_losses(self.model, **settings))

    def _make_model(self, source: str | Path | None, key: Array) -> tuple[FlaxGPT2LMHeadModel, Params]:
        """Return a model without parameters and these beside it: the buffers of a step go to the next."""
        config = self.run.config
        dtype = jnp.bfloat16 if config.precision == "bf16" else jnp.float32
        if source is None:
            model = FlaxGPT2LMHeadModel(self.run.model, dtype=dtype, _do_init=False)
            return model, jax.jit(model.init_weights, static_argnums=1)(key, (1, 1))
        seed = config.seed % 2**31  # for a head that the file does not have
        found = FlaxGPT2LMHeadModel.from_pretrained(source, dtype=dtype, seed=seed, **config.dropouts())
        model = FlaxGPT2LMHeadModel(found.config, dtype=dtype, _do_init=False)
        model.generation_config = found.generation_config
        # Weights are kept and updated in float32 whatever type they are stored in.
        return model, model.to_fp32(found.params)

    def _step(self, portions: Portions, rate: float) -> tuple[float, float]:
        inputs, targets = (
            np.stack(part).astype(np.int32) for part in zip(*portions, strict=True)
        )  # [A, B, T]
        known = self.state.optimizer.hyperparams
        known["learning_rate"] = jax.device_put(np.asarray(rate, known["learning_rate"].dtype), self.device)
        self.state, measures = self._jitted_step(self.state, inputs, targets)
        return float(measures.loss), float(measures.gradient_norm)

    def _sum(self, inputs: Any, targets: Any) -> float:
        # Every call has one shape, so that one program serves: what is filled in counts for nothing.
        missing = self.run.config.batch_size - len(inputs)
        ids = np.pad(inputs.astype(np.int32), ((0, missing), (0, 0)))  # [B, T]
        wanted = np.pad(
            targets.astype(np.int32), ((0, missing), (0, 0)), constant_values=IGNORED_LABEL
        )  # [B, T]
        return float(self._jitted_sum(self.state.params, ids, wanted))

    def _write_weights(self, folder: Path, dtype: str) -> None:
        self.model.save_pretrained(
            folder, params=jax.tree.map(lambda leaf: leaf.astype(dtype), self.state.params)
        )

    def _write_state(self, path: Path, progress: dict[str, Any]) -> None:
        tensors = {name: np.asarray(leaf) for name, leaf in _named(self.state.optimizer).items()}
        write_state(path, tensors, {**progress, "key": np.asarray(self.state.key).tolist()})

    def _read_state(self, path: Path) -> dict[str, Any]:
        tensors, progress = read_state(path)
        return {**progress, "optimizer": tensors}

    def _take_up(self, state: dict[str, Any]) -> None:
        fresh, found = self.state.optimizer, state["optimizer"]
        expected = {name: (leaf.shape, leaf.dtype) for name, leaf in _named(fresh).items()}
        if expected != {name: (array.shape, array.dtype) for name, array in found.items()}:
            raise TrainingError(
                f"{self.state_file} does not hold the state of this model's optimizer: it was written by "
                "another version of optax or gpt2kit; go on with that one."
            )
        optimizer = jax.tree.unflatten(jax.tree.structure(fresh), [found[name] for name in expected])
        key = np.array(state["key"], np.uint32)  # [2]
        self.state = jax.device_put(TrainState(self.state.params, optimizer, key), self.device)

    def _environment(self) -> dict[str, str]:
        return {
            "gpt2kit": gpt2kit.__version__,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "device": self.device.device_kind,
            "processors": str(_processors()),
        }


def _named(tree: Any) -> dict[str, Any]:
    """Give each leaf of a tree a name: its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _key(seed: int) -> Array:
    """Make a key from all 64 bits of a seed; JAX takes no more than 32 where it computes in 32."""
    return jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)  # [2]


def _device(name: str) -> jax.Device:
    """Find the device of a run.

    Raises:
        TrainingError: no such device, or not on this machine.
    """
    if name == "auto":
        return jax.devices()[0]
    platform, _, number = name.partition(":")
    try:
        return jax.devices(platform)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"The device {name!r} cannot be used here: {reason}") from None


def _processors() -> int:
    """Count the processors that XLA spreads its work over."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
