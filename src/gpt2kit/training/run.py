"""One training run, decided down to the last number before a framework is touched.

The room that its settings name takes a `Run` and trains: `gpt2kit.torch.training.Trainer(run).fit()`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gpt2kit.config import GPT2Config
from gpt2kit.errors import TrainingError
from gpt2kit.tokenization import AutoTokenizer, GPT2TokenizerFast
from gpt2kit.tokenization.train import train_bpe
from gpt2kit.training.config import TrainingConfig
from gpt2kit.training.data import Progress, Recipe, TokenData, prepare
from gpt2kit.training.order import BlockOrder
from gpt2kit.training.record import RunFolder
from gpt2kit.training.schedule import total_steps, warmup_steps
from gpt2kit.training.text import TextSource

__all__ = ["Run", "resume", "start"]


@dataclass(frozen=True)
class Run:
    """All that a room needs to train.

    Attributes:
        config: the settings.
        folder: where everything is written.
        data: the token shards.
        data_reused: whether they were there already.
        model: the configuration of the model.
        block_size: T, tokens of a sequence.
        order: which tokens each step learns from.
        steps: how many steps the run has.
        resumed_from: the checkpoint to go on from; None for a new run.
    """

    config: TrainingConfig
    folder: RunFolder
    data: TokenData
    data_reused: bool
    model: GPT2Config
    block_size: int
    order: BlockOrder
    steps: int
    resumed_from: Path | None

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step learns from, over all devices."""
        order = self.order
        return order.batch_size * self.block_size * order.accumulation * order.world

    @property
    def data_identity(self) -> str:
        """A hash of what the shards were made of; a checkpoint keeps it, to go on with the same tokens."""
        content = [self.data.recipe, self.data.tokenizer_sha256, len(self.data.train)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def start(
    text: Sequence[str | Path],
    folder: str | Path,
    config: TrainingConfig,
    *,
    overwrite: bool = False,
    rank: int = 0,
    world: int = 1,
    progress: Progress | None = None,
) -> Run:
    """Prepare a new run: check everything, tokenize the text, decide the numbers. Nothing is trained yet.

    Args:
        text: the text files to learn from.
        folder: the run folder, new or empty.
        config: the settings.
        overwrite: throw away the run that the folder holds.
        rank: which of the devices this process is for.
        world: how many devices share the run.
        progress: told how many bytes of text have been tokenized.

    Raises:
        TrainingError: a text, a setting or the folder cannot be used.
    """
    if not text:
        raise TrainingError("A run needs at least one text file to learn from.")
    sources = [TextSource.open(path) for path in text]
    held_out = None if config.eval_file is None else TextSource.open(config.eval_file)
    run_folder = RunFolder(folder)
    run_folder.check_free(overwrite=overwrite)
    tokenizer = _tokenizer(config)
    model = _model(config, None if config.vocab_size is not None else tokenizer)
    block_size = _block_size(config, model)

    # Shards inside the folder are of a run that is being replaced, or of one that never began. Shards
    # elsewhere may serve other runs and are never replaced.
    recipe = Recipe(sources, held_out, config.held_out_fraction, tokenizer, config.vocab_size)
    data_folder = run_folder.data if config.data is None else Path(config.data)
    with run_folder.lock():
        run_folder.check_free(overwrite=overwrite)  # once more: loading a tokenizer can take minutes
        data, reused = prepare(data_folder, recipe, replace=config.data is None, progress=progress)
        if config.vocab_size is not None:
            model = _model(config, AutoTokenizer.from_pretrained(data.tokenizer_folder))
        run = _decide(config, run_folder, data, model, block_size, rank=rank, world=world, data_reused=reused)
        run_folder.clear()
    return run


def resume(
    folder: str | Path,
    given: Mapping[str, Any] | None = None,
    text: Sequence[str | Path] = (),
    *,
    rank: int = 0,
    world: int = 1,
) -> Run:
    """Prepare to go on with a run that was stopped.

    Args:
        folder: the run folder.
        given: settings that the user names again; they must be the run's own.
        text: text files that the user names again; they must be those that the shards were made of.
        rank: which of the devices this process is for.
        world: how many devices share the run.

    Raises:
        TrainingError: no run, no checkpoint, another process trains in the folder, or the settings, text or
            shards are not those of the run.
    """
    run_folder = RunFolder(folder)
    config = TrainingConfig.load(run_folder.config)
    changes = config.changes({name: value for name, value in (given or {}).items() if name != "eval_file"})
    if changes:
        listed = ", ".join(f"{name} is {was!r}, not {asked!r}" for name, (was, asked) in changes.items())
        raise TrainingError(
            f"A resumed run keeps its settings, or its losses would not be those of one run: {listed}. "
            f"Leave these out, or start another run from its weights: --model {run_folder.path / 'last'}."
        )
    data = TokenData.open(run_folder.data if config.data is None else Path(config.data))
    eval_file = (given or {}).get("eval_file")
    _check_unchanged("text", [TextSource.open(path) for path in text], data)
    _check_unchanged("evaluation", [TextSource.open(eval_file)] if eval_file else [], data)
    with run_folder.lock():  # `checkpoint` may rename folders, which a process that trains is doing too
        checkpoint = run_folder.checkpoint("last")
    if checkpoint is None:
        raise TrainingError(
            f"{run_folder.path} was stopped before its first checkpoint: start it again with --overwrite."
        )
    model = GPT2Config.from_pretrained(checkpoint)
    block_size = _block_size(config, model)
    return _decide(
        config, run_folder, data, model, block_size, rank=rank, world=world, resumed_from=checkpoint
    )


def _check_unchanged(part: str, sources: Sequence[TextSource], data: TokenData) -> None:
    """Hold text files that are named again on resuming against those that the shards were made of."""
    made_of = data.recipe[part]
    known = {
        entry["sha256"]
        for entry in (made_of if isinstance(made_of, list) else [made_of])
        if "sha256" in entry
    }
    changed = [str(source.path) for source in sources if source.sha256 not in known]
    if changed:
        raise TrainingError(
            f"{', '.join(changed)} is not the text that this run learns from, or has changed since: "
            "leave it out to go on with the token shards of the run, or start a new run."
        )


def _tokenizer(config: TrainingConfig) -> Any:
    """Load the tokenizer of a run, or make the function that trains it."""
    if config.vocab_size is not None:
        return partial(_train_tokenizer, vocab_size=config.vocab_size)
    return AutoTokenizer.from_pretrained(config.tokenizer or config.model or "gpt2")


def _train_tokenizer(texts: Iterator[str], vocab_size: int) -> GPT2TokenizerFast:
    # The tokens spell every space, so decoding has none to clean up: "and 'scape" stays as it is.
    return GPT2TokenizerFast(
        tokenizer_object=train_bpe(texts, vocab_size), clean_up_tokenization_spaces=False
    )


def _model(config: TrainingConfig, tokenizer: Any | None) -> GPT2Config:
    """Make the configuration of the model; before its tokenizer is trained, with the size that is asked for.

    Raises:
        TrainingError: the tokenizer has ids that the model to fine-tune does not have.
    """
    size = len(tokenizer) if tokenizer is not None else config.vocab_size or 0
    if config.model is None:
        vocabulary: dict[str, Any] = {"vocab_size": size}
        if tokenizer is not None:
            vocabulary.update(bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id)
        return GPT2Config(**vocabulary, **config.sizes(), **config.dropouts())
    model: GPT2Config = GPT2Config.from_pretrained(config.model, **config.dropouts())
    if size > model.vocab_size:
        raise TrainingError(
            f"The tokenizer has {size:,} tokens and {config.model!r} knows {model.vocab_size:,}: "
            "leave out --tokenizer to use the model's own, or train from scratch."
        )
    return model


def _block_size(config: TrainingConfig, model: GPT2Config) -> int:
    """Return T.

    Raises:
        TrainingError: longer than the model's positions.
    """
    if config.block_size is None:
        return int(model.n_positions)
    if config.block_size > model.n_positions:
        raise TrainingError(
            f"A block of {config.block_size} tokens does not fit the model's {model.n_positions} positions: "
            "give a smaller --block-size."
        )
    return config.block_size


def _decide(
    config: TrainingConfig,
    folder: RunFolder,
    data: TokenData,
    model: GPT2Config,
    block_size: int,
    *,
    rank: int,
    world: int,
    data_reused: bool = True,
    resumed_from: Path | None = None,
) -> Run:
    """Work out the order and the number of steps, and refuse what does not fit together."""
    if data.vocab_size > model.vocab_size:
        raise TrainingError(
            f"The token shards in {data.folder} have ids up to {data.vocab_size - 1} and the model knows "
            f"{model.vocab_size}: make the shards with the model's tokenizer."
        )
    order = BlockOrder(
        len(data.train), block_size, config.batch_size, config.accumulation, config.seed, rank, world
    )
    if data.evaluation is not None and len(data.evaluation) < 2:
        raise TrainingError(
            f"The text held out for evaluation has {len(data.evaluation)} token(s), and at least 2 are "
            "needed: give more text, another --eval-file, or --eval-fraction 0 to go without."
        )
    steps = total_steps(config, order.blocks_per_epoch, world=world)
    warmup_steps(config, steps)  # refuses a warm-up that is longer than the run
    return Run(config, folder, data, data_reused, model, block_size, order, steps, resumed_from)
