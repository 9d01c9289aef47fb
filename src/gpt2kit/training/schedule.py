"""How long a run is, and the learning rate of each of its steps: pure functions of the configuration."""

from __future__ import annotations

import math

from gpt2kit.errors import TrainingError
from gpt2kit.training.config import TrainingConfig

__all__ = ["learning_rate", "total_steps", "warmup_steps"]


def total_steps(config: TrainingConfig, blocks_per_epoch: int, *, world: int = 1) -> int:
    """Count the optimizer steps of a run.

    Args:
        config: the run; its `steps` win, otherwise its `epochs` (1 if neither is given) are converted.
        blocks_per_epoch: sequences in one pass through the text.
        world: devices that share a step.
    """
    if config.steps is not None:
        return config.steps
    per_step = config.batch_size * config.accumulation * world
    return max(1, math.ceil((config.epochs or 1.0) * blocks_per_epoch / per_step))


def warmup_steps(config: TrainingConfig, steps: int) -> int:
    """Count the steps of the warm-up: those given, or a twentieth of the run.

    Raises:
        TrainingError: a warm-up longer than the run, which would never reach its learning rate.
    """
    if config.warmup_steps is None:
        return steps // 20
    if config.warmup_steps > steps:
        raise TrainingError(
            f"A warm-up of {config.warmup_steps} steps does not fit into {steps} steps: "
            "give fewer with --warmup-steps, or train longer with --steps."
        )
    return config.warmup_steps


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Compute the learning rate of a step: a line up to the peak, then half a cosine down.

    With w steps of warm-up, n steps, peak r and final part f of it, step s (counted from 0) has

        r (s + 1) / w                                           where s < w
        r (f + (1 - f) (1 + cos(pi (s - w) / (n - 1 - w))) / 2)     otherwise

    so that step w has the peak and the last step has r f.

    Source:
        Loshchilov and Hutter, "SGDR", 2017, equation 5, without restarts.

    Example:
        >>> config = TrainingConfig(learning_rate=1.0, warmup_steps=2, final_learning_rate=0.0)
        >>> [round(learning_rate(config, step, 5), 3) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    peak, warmup = config.peak_learning_rate, warmup_steps(config, steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    way = (step - warmup) / max(1, steps - 1 - warmup)
    final = config.final_learning_rate
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * min(1.0, way))) / 2)
