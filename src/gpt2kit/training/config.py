"""Everything that decides a training run, in one frozen dataclass.

The fields are the options of `gpt2kit train`, one for one: the command builds its options from this table, so
the two can never differ. Two runs with equal fields, text and library versions make equal losses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from gpt2kit.atomic import atomic_write_text
from gpt2kit.errors import TrainingError

__all__ = ["TrainingConfig", "option_names"]

# GPT-2 small's, for a model from scratch whose sizes are not given.
_DEFAULT_SIZES = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}
_HELD_OUT = 0.1
_FROM_SCRATCH_LEARNING_RATE = 6e-4  # what GPT-2 small is usually trained with
_FINE_TUNING_LEARNING_RATE = 5e-5  # an order of magnitude less, so as not to forget what was learnt


def _option(default: Any, text: str, group: str) -> Any:
    """Make a field that carries its own help text and the panel of the command's help it is listed in."""
    return field(default=default, metadata={"help": text, "group": group})


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training run; stored as `training.json` in the run folder.

    Each field's meaning is its help text below. None means "derive it", and the help says from what.

    Raises:
        TrainingError: a value that cannot work, or two that contradict each other.

    Example:
        >>> TrainingConfig(n_layer=2, n_head=2, n_embd=32, steps=10).sizes()["n_layer"]
        2
    """

    # What is learnt from.
    eval_fraction: float | None = _option(
        None, "Last part of the text that is held out for evaluation. Without it: 0.1.", "Text"
    )
    eval_file: str | None = _option(None, "Evaluate on this text file; nothing else is held out.", "Text")
    tokenizer: str | None = _option(
        None, "Name or folder of a tokenizer. Without it: the model's own, or gpt2's.", "Text"
    )
    data: str | None = _option(
        None, "Folder of the token shards, for runs to share. Without it: data/ in the run folder.", "Text"
    )
    vocab_size: int | None = _option(
        None, "Train a tokenizer of this many tokens on the text, for a model from scratch.", "Text"
    )

    # The model.
    model: str | None = _option(
        None, "Fine-tune this model (name or folder); otherwise from scratch.", "Model"
    )
    n_layer: int | None = _option(None, "Layers, from scratch. Without it: 12.", "Model")
    n_head: int | None = _option(None, "Attention heads, from scratch. Without it: 12.", "Model")
    n_embd: int | None = _option(
        None, "Width, from scratch; a multiple of the heads. Without it: 768.", "Model"
    )
    n_positions: int | None = _option(
        None, "Longest text in tokens, from scratch. Without it: 1024.", "Model"
    )
    dropout: float | None = _option(None, "Dropout of the model. Without it: the model's own (0.1).", "Model")
    attention_dropout: float | None = _option(
        None, "Dropout of the attention weights alone; 0 is faster. Without it: as --dropout.", "Model"
    )

    # By what, how long, and in what portions.
    framework: Literal["torch", "flax", "tensorflow"] = _option(
        "torch", "What computes: torch, flax or tensorflow.", "Run"
    )
    steps: int | None = _option(None, "Optimizer steps. Without it: as many as --epochs makes.", "Run")
    epochs: float | None = _option(None, "Times through the text, where --steps is not given (1).", "Run")
    batch_size: int = _option(8, "Sequences in one forward pass.", "Run")
    accumulation: int = _option(1, "Forward passes whose gradients make one step.", "Run")
    block_size: int | None = _option(
        None, "Tokens of a sequence. Without it: the model's n_positions.", "Run"
    )
    seed: int = _option(0, "Decides weights, order of the text and dropout.", "Run")
    precision: Literal["fp32", "bf16"] = _option(
        "fp32", "fp32, or bf16: products in bfloat16, weights in float32.", "Run"
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1; mps with torch, tpu with flax.", "Run")
    # Measured at 1024: no slower than the whole, in fp32 and bf16; 128 made products too thin to be fast.
    loss_chunk_size: int = _option(
        1024,
        "Positions whose logits are held at once for the loss; 0 holds all. Less memory, same loss.",
        "Run",
    )

    # AdamW and its learning rate.
    learning_rate: float | None = _option(
        None, "Peak learning rate. Without it: 6e-4 from scratch, 5e-5 with --model.", "Optimizer"
    )
    final_learning_rate: float = _option(0.1, "Where the cosine ends, as a part of the peak.", "Optimizer")
    warmup_steps: int | None = _option(
        None, "Steps of linear warm-up. Without it: a twentieth of the steps.", "Optimizer"
    )
    weight_decay: float = _option(
        0.1, "AdamW's, on matrices only: not on biases and layer norms.", "Optimizer"
    )
    beta1: float = _option(0.9, "AdamW's average of gradients.", "Optimizer")
    beta2: float = _option(0.95, "AdamW's average of squared gradients.", "Optimizer")
    epsilon: float = _option(1e-8, "AdamW's, added to the denominator.", "Optimizer")
    clip: float = _option(1.0, "Largest norm of the gradient; 0 does not clip.", "Optimizer")

    # What is written, and when.
    eval_every: int = _option(250, "Steps between two evaluations (there is one at the end too).", "Output")
    save_every: int = _option(250, "Steps between two checkpoints (there is one at the end too).", "Output")
    save_dtype: Literal["float32", "float16", "bfloat16"] = _option(
        "float32", "Type of the weights in best/; last/ has float32.", "Output"
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is read or written."""
        self._check_contradictions()
        for name in ("n_layer", "n_head", "n_embd", "n_positions", "steps", "block_size"):
            self._check_whole(name, 1)
        for name in ("batch_size", "accumulation", "eval_every", "save_every"):
            self._check_whole(name, 1)
        for name in ("seed", "warmup_steps", "loss_chunk_size"):
            self._check_whole(name, 0)
        if self.seed >= 2**63:
            raise TrainingError(f"seed must be less than 2**63, got {self.seed}.")
        # 256 bytes and the end of text: with fewer, some text could not be spelled.
        self._check_whole("vocab_size", 257)
        for name in ("eval_fraction", "dropout", "attention_dropout", "beta1", "beta2"):
            self._check_number(name, 0.0, 1.0, below_top=True)
        self._check_number("final_learning_rate", 0.0, 1.0)
        for name in ("weight_decay", "clip"):
            self._check_number(name, 0.0, math.inf)
        for name in ("learning_rate", "epsilon", "epochs"):
            self._check_number(name, 0.0, math.inf, above_bottom=True)
        kinds = get_type_hints(TrainingConfig)
        for name in ("framework", "precision", "save_dtype"):
            choices = get_args(kinds[name])
            if getattr(self, name) not in choices:
                raise TrainingError(
                    f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}."
                )

    def _check_contradictions(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise TrainingError("steps and epochs both say how long the run is: give one of them.")
        if self.eval_file is not None and self.eval_fraction is not None:
            raise TrainingError(
                f"eval_file={self.eval_file!r} is evaluated on instead of a part of the text, and "
                f"eval_fraction={self.eval_fraction} would hold one out: give one of them."
            )
        if self.tokenizer is not None and self.vocab_size is not None:
            raise TrainingError(
                f"tokenizer={self.tokenizer!r} brings its vocabulary, and "
                f"vocab_size={self.vocab_size} trains a new one: give one of them."
            )
        if self.model is not None:
            sizes = (*_DEFAULT_SIZES, "vocab_size")
            given = [name for name in sizes if getattr(self, name) is not None]
            if given:
                raise TrainingError(
                    f"The sizes of {self.model!r} are its own: leave out {', '.join(given)}, or leave out "
                    "model to train one of that size from scratch."
                )

    def _check_whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise TrainingError(f"{name} must be a whole number of at least {least}, got {value!r}.")

    def _check_number(
        self, name: str, least: float, most: float, *, above_bottom: bool = False, below_top: bool = False
    ) -> None:
        value = getattr(self, name)
        if value is None:
            return
        inside = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
        inside = inside and math.isfinite(value)
        if not inside or (above_bottom and value == least) or (below_top and value == most):
            low = "more than" if above_bottom else "at least"
            high = "" if most == math.inf else f" and {'less than' if below_top else 'at most'} {most:g}"
            raise TrainingError(f"{name} must be {low} {least:g}{high}, got {value!r}.")

    @property
    def held_out_fraction(self) -> float:
        """Which last part of the text is held out where no other file is evaluated on."""
        return _HELD_OUT if self.eval_fraction is None else self.eval_fraction

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after the warm-up."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _FROM_SCRATCH_LEARNING_RATE if self.model is None else _FINE_TUNING_LEARNING_RATE

    def sizes(self) -> dict[str, Any]:
        """Return the sizes of a model from scratch: those given, and GPT-2 small's for the rest."""
        return {name: getattr(self, name) or default for name, default in _DEFAULT_SIZES.items()}

    def dropouts(self) -> dict[str, Any]:
        """Return the dropout settings that override the model's configuration, by their names there."""
        found: dict[str, Any] = {}
        if self.dropout is not None:
            found.update(embd_pdrop=self.dropout, resid_pdrop=self.dropout, attn_pdrop=self.dropout)
        if self.attention_dropout is not None:
            found.update(attn_pdrop=self.attention_dropout)
        return found

    def changes(self, given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Compare what a user asks for now with this run: field -> (as it was, as asked for)."""
        return {
            name: (getattr(self, name), value)
            for name, value in given.items()
            if getattr(self, name) != value
        }

    def save(self, path: Path) -> None:
        """Write the fields as JSON, aside first and then renamed."""
        atomic_write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> TrainingConfig:
        """Read what `save` wrote.

        Raises:
            TrainingError: there is no such file, it is no JSON, or this version does not know its fields.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TrainingError(f"{path.parent} holds no run: there is no {path.name} in it.") from None
        except ValueError as error:
            raise TrainingError(f"{path} is not the JSON of a run ({error}).") from None
        if not isinstance(content, dict):
            raise TrainingError(f"{path} is not the JSON of a run: it holds no table of fields.")
        unknown = sorted(set(content) - set(option_names()))
        if unknown:
            raise TrainingError(
                f"{path} has fields that this version does not know: {', '.join(unknown)}. "
                "It was written by another version; go on with that one."
            )
        return cls(**content)


def option_names() -> list[str]:
    """List the fields of `TrainingConfig` in their order."""
    return [entry.name for entry in fields(TrainingConfig)]
