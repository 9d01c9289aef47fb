"""The generation options of the command line: one table, spelled as in GenerationConfig.

A function that takes `**generation` becomes a command with all of them by `@with_generation_options`; it gets
only those that the user gave. `bad_word` and `force_word` alone have no namesakes: they are `bad_words_ids`
and `force_words_ids` for people.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import typer

__all__ = ["GENERATION", "NOT_SAMPLED", "SAMPLING", "GenerationOption", "as_typed", "with_generation_options"]


@dataclass(frozen=True)
class GenerationOption:
    """One option: its GenerationConfig name, the type of its value, its panel in `--help`, its help."""

    name: str
    kind: Any
    panel: str
    help: str
    metavar: str | None = None
    words: tuple[str, ...] = ()  # values that are no JSON

    def parameter(self) -> inspect.Parameter:
        """Describe the option to typer: absent means None."""
        option = typer.Option(
            None, help=self.help, rich_help_panel=self.panel, metavar=self.metavar, show_default=False
        )
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=self.kind | None
        )

    def read(self, given: Any) -> Any:
        """Turn what typer parsed into what GenerationConfig takes."""
        if given in self.words or not (self.words or self.metavar == "JSON"):
            return given
        try:
            return json.loads(given)
        except json.JSONDecodeError as error:
            hint = "--" + self.name.replace("_", "-")
            wanted = f"neither {', '.join(self.words)} nor JSON" if self.words else "not JSON"
            raise typer.BadParameter(f"{wanted} ({error}): {given}", param_hint=hint) from None


LENGTH = "How long"
SAMPLE = "How to choose"
BEAMS = "How to search"
FASTER = "How to be faster"
AVOID = "What to avoid or favour"
TOKEN = "Special and forced tokens"
RUN = "How to run"

_Option = GenerationOption
GENERATION: tuple[GenerationOption, ...] = (
    _Option("max_new_tokens", int, LENGTH, "At most so many tokens after the prompt.", "N"),
    _Option("max_length", int, LENGTH, "At most so many tokens, prompt included.", "N"),
    _Option("min_new_tokens", int, LENGTH, "At least so many tokens after the prompt.", "N"),
    _Option("min_length", int, LENGTH, "At least so many tokens, prompt included.", "N"),
    _Option("max_time", float, LENGTH, "Stop after so many seconds.", "SECONDS"),
    _Option("stop_strings", list[str], LENGTH, "Stop once this text is written. Repeatable.", "TEXT"),
    _Option("eos_token_id", list[int], LENGTH, "Stop at this token. Repeatable.", "ID"),
    _Option("exponential_decay_length_penalty", tuple[int, float], LENGTH,
            "From START tokens after the prompt on, favour the end by FACTOR to the power of the distance.",
            "START FACTOR"),
    _Option("do_sample", bool, SAMPLE, "Draw tokens at random, or always take the likeliest."),
    _Option("temperature", float, SAMPLE, "Divide the logits: below 1 plainer, above 1 wilder.", "X"),
    _Option("top_k", int, SAMPLE, "Draw from the K likeliest tokens; 0 for all.", "K"),
    _Option("top_p", float, SAMPLE, "Draw from the likeliest tokens that make this probability.", "P"),
    _Option("min_p", float, SAMPLE, "Drop tokens below this part of the likeliest one's probability.", "P"),
    _Option("typical_p", float, SAMPLE, "Draw from the most typical tokens that make this probability.", "P"),
    _Option("epsilon_cutoff", float, SAMPLE, "Drop tokens below this probability.", "P"),
    _Option("eta_cutoff", float, SAMPLE, "Drop tokens below a probability that adapts to the entropy.", "P"),
    _Option("renormalize_logits", bool, SAMPLE, "Normalize the logits again after all rules."),
    _Option("num_beams", int, BEAMS, "Follow N texts side by side and write the likeliest.", "N"),
    _Option("num_beam_groups", int, BEAMS, "Divide the beams into N groups that avoid one another.", "N"),
    _Option("diversity_penalty", float, BEAMS, "What a token of another group costs.", "X"),
    _Option("length_penalty", float, BEAMS, "Above 0 favours long texts, below 0 short ones.", "X"),
    _Option("early_stopping", str, BEAMS,
            "When to stop: true, once there are enough texts; false, when better ones are unlikely; never, "
            "when there can be none.", "WHEN", ("never",)),
    _Option("force_word", list[str], BEAMS,
            "Write this somewhere, with or without a space before it. Repeatable.", "TEXT"),
    _Option("force_words_ids", str, BEAMS, "Write these tokens somewhere: '[[464], [11, 22]]'.", "JSON"),
    _Option("penalty_alpha", float, BEAMS,
            "Contrastive search: of the --top-k likeliest tokens take one that resembles the text little; "
            "how much that counts, from 0 to 1.", "X"),
    _Option("low_memory", bool, BEAMS, "Contrastive search reads its candidates one by one."),
    _Option("guidance_scale", float, BEAMS,
            "Lead away from --negative-prompt, or from no prompt at all; 1 does not.", "X"),
    _Option("dola_layers", str, BEAMS,
            "Write what the last layer knows beyond an earlier one: low, high, or layers as '[2, 4]'.",
            "LAYERS", ("low", "high")),
    _Option("prompt_lookup_num_tokens", int, FASTER,
            "Let the text draft N tokens: what followed when it last ended like this.", "N"),
    _Option("max_matching_ngram_size", int, FASTER, "The longest ending to look up.", "N"),
    _Option("num_assistant_tokens", int, FASTER, "Let --assistant-model draft N tokens at first.", "N"),
    _Option("num_assistant_tokens_schedule", str, FASTER,
            "How that number goes on: heuristic, heuristic_transient or constant.", "SCHEDULE"),
    _Option("repetition_penalty", float, AVOID, "Above 1: make tokens that came already less likely.", "X"),
    _Option("encoder_repetition_penalty", float, AVOID, "Above 1: favour the tokens of the prompt.", "X"),
    _Option("no_repeat_ngram_size", int, AVOID, "Write no N tokens in a row twice.", "N"),
    _Option("bad_word", list[str], AVOID,
            "Never write this, at the start of the text or after a space. Repeatable.", "TEXT"),
    _Option("bad_words_ids", str, AVOID, "Never write these tokens in a row: '[[464], [11, 22]]'.", "JSON"),
    _Option("sequence_bias", str, AVOID,
            "Add to the logit that completes these tokens: '[[[464], -2.5], [[11, 22], 4.0]]'.", "JSON"),
    _Option("suppress_tokens", list[int], AVOID, "Never write this token. Repeatable.", "ID"),
    _Option("begin_suppress_tokens", list[int], AVOID, "Do not begin with this token. Repeatable.", "ID"),
    _Option("forced_bos_token_id", int, TOKEN, "Write this token first.", "ID"),
    _Option("forced_eos_token_id", list[int], TOKEN, "Write this token last, at the full length.", "ID"),
    _Option("forced_decoder_ids", str, TOKEN, "Put tokens at positions: '[[1, 464], [2, 11]]'.", "JSON"),
    _Option("bos_token_id", int, TOKEN, "What an empty prompt begins with.", "ID"),
    _Option("pad_token_id", int, TOKEN, "What fills up sequences that end early.", "ID"),
    _Option("num_return_sequences", int, RUN,
            "Write so many texts for the prompt (with --do-sample or --num-beams).", "N"),
    _Option("remove_invalid_values", bool, RUN, "Go on where the model gives NaN or infinity."),
    _Option("use_cache", bool, RUN, "Keep keys and values of the positions so far, or compute them again."),
)  # fmt: skip

# Each of these means nothing with sampling, so that giving one switches it off (docs/cli.md).
NOT_SAMPLED = ("num_beam_groups", "force_word", "force_words_ids", "penalty_alpha")
# Each of these means nothing without sampling, so that giving one switches it on (docs/cli.md).
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")

# What `generate` of the library calls otherwise, and what two options say in two ways.
_OF_THE_LIBRARY = {"negative_prompt_ids": "negative_prompt", "assistant_model": "assistant_model"}
_FOR_PEOPLE = {"bad_words_ids": "bad_word", "force_words_ids": "force_word"}
_QUOTED = re.compile(r"`([a-z_]+)((?:=|>)?)([^`]*)`")
_BARE = re.compile(r"(?<![\w.`/-])([a-z]+(?:_[a-z]+)+)((?:=\w+)?)(?![\w`/]|\.\w)")


def as_typed(sentence: str, given: Container[str] = ()) -> str:
    """Spell the options that a sentence of the library names as they are typed: `top_k` as --top-k.

    Args:
        sentence: What the library says.
        given: Options that the user gave; of two that mean the same, the one given is named.

    Example:
        >>> as_typed("`top_k` is 3: pass `do_sample=True`, at most max_new_tokens=7, or `use_cache=False`.")
        '--top-k is 3: pass --do-sample, at most --max-new-tokens=7, or --no-use-cache.'
    """
    kinds = {option.name: option.kind for option in GENERATION} | dict.fromkeys(_OF_THE_LIBRARY, str)

    def spelled(found: re.Match[str]) -> str:
        name, *rest = found.groups()
        if name not in kinds:
            return found.group()
        value = "".join(rest)
        typed = _OF_THE_LIBRARY.get(name, name)
        if typed in _FOR_PEOPLE and _FOR_PEOPLE[typed] in given and typed not in given:
            typed = _FOR_PEOPLE[typed]
        if kinds[name] is bool and value in ("=True", "=False"):
            typed, value = ("no_" if value == "=False" else "") + typed, ""
        return "--" + typed.replace("_", "-") + value.replace(">", " above ")

    return _BARE.sub(spelled, _QUOTED.sub(spelled, sentence))


def with_generation_options(function: Callable[..., None]) -> Callable[..., None]:
    """Replace the `**generation` of a command by the options of the table."""
    own = [
        parameter
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = [*own, *(option.parameter() for option in GENERATION)]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for option in GENERATION:
            given = values.pop(option.name)
            if (
                given is not None and given != []
            ):  # a repeatable option that is absent: None, or [] of old typers
                values[option.name] = option.read(given)
        function(**values)

    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010 (mypy knows no such attribute)
    return command
