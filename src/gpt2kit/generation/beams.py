"""What a plan says about beams: their number, their groups, how texts are scored, what has to be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt2kit.errors import InputError
from gpt2kit.generation import rules as r
from gpt2kit.generation.constraints import Constraint, ConstraintListState, constraints_of
from gpt2kit.generation.mode import GenerationMode

if TYPE_CHECKING:
    from gpt2kit.generation.config import GenerationConfig

__all__ = ["BEAM_MODES", "Beams", "plan_beams"]

BEAM_MODES = frozenset(
    {
        GenerationMode.BEAM_SEARCH,
        GenerationMode.BEAM_SAMPLE,
        GenerationMode.GROUP_BEAM_SEARCH,
        GenerationMode.CONSTRAINED_BEAM_SEARCH,
    }
)


@dataclass(frozen=True)
class Beams:
    """How several texts of one prompt are followed side by side.

    Attributes:
        number: Beams of a prompt.
        groups: Groups that they are divided into.
        length_penalty: Power of the length, prompt included, that a text's log-probability is divided by.
        early_stopping: When to stop looking: True as soon as there are enough finished texts, False when a
            better one is unlikely, "never" when there can be none.
        constraints: What has to be written.
    """

    number: int
    groups: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    constraints: tuple[Constraint, ...] = ()

    @property
    def group_size(self) -> int:
        """Beams of one group."""
        return self.number // self.groups

    def __str__(self) -> str:
        groups = f" in {self.groups} groups" if self.groups > 1 else ""
        words = f", {len(self.constraints)} constraint(s)" if self.constraints else ""
        return (
            f"{self.number}{groups} for each prompt{words}; a text counts its log-probability divided by "
            f"length ** {self.length_penalty:g}"
        )


def plan_beams(
    config: GenerationConfig,
    mode: GenerationMode,
    *,
    rules: Sequence[r.Rule],
    max_new_tokens: int,
    vocab_size: int,
    prompts: Sequence[Sequence[int]],
    streaming: bool = False,
) -> Beams | None:
    """Return what the options say about beams; None for a way of decoding without any.

    Args:
        config: The options.
        mode: The way of decoding.
        rules: The rules that were made of the options.
        max_new_tokens: Tokens that may be written.
        vocab_size: Tokens that the model knows.
        prompts: The tokens of each prompt, where there are constraints: a prompt may begin to fulfil them.
        streaming: Whether a streamer waits for the tokens.

    Raises:
        InputError: what cannot work.
    """
    if mode not in BEAM_MODES:
        return None
    if streaming:
        raise InputError(
            "`streamer` cannot be used with beam search: no token is sure before all beams have ended. Make "
            "sure that `num_beams` is set to 1."
        )
    if config.length_penalty is None:
        raise InputError("`length_penalty` has to be a number with beams; 1.0 is the default, 0.0 is none.")
    constraints: tuple[Constraint, ...] = ()
    if mode is GenerationMode.CONSTRAINED_BEAM_SEARCH:
        _check_way(config)
        constraints = constraints_of(config.constraints, config.force_words_ids)
        _check_words(constraints, rules, vocab_size)
        _check_room(constraints, prompts, max_new_tokens)
    return Beams(
        number=config.num_beams,
        groups=config.num_beam_groups,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping
        if config.early_stopping == "never"
        else bool(config.early_stopping),
        constraints=constraints,
    )


def _check_way(config: GenerationConfig) -> None:
    """Refuse constraints with options that constrained beam search does not read."""
    if config.num_beams == 1:
        raise InputError(
            "`force_words_ids` and `constraints` need `num_beams` above 1: what has to be written is found "
            "by following several texts."
        )
    if config.do_sample or config.num_beam_groups != 1:
        option = "do_sample=True" if config.do_sample else f"num_beam_groups={config.num_beam_groups}"
        raise InputError(
            f"`force_words_ids` and `constraints` do not go with `{option}`; leave out one of them."
        )


def _check_words(constraints: Sequence[Constraint], rules: Sequence[r.Rule], vocab_size: int) -> None:
    """Refuse words outside the vocabulary, and constraints each word of which some rule bars."""
    barred: dict[int, str] = {}
    for rule in rules:
        if isinstance(rule, r.SuppressTokens):
            barred |= dict.fromkeys(rule.tokens, rule.option)
        if isinstance(rule, r.NoBadWords):
            barred |= {word[0]: rule.option for word in rule.bad_words_ids if len(word) == 1}
    for constraint in constraints:
        words = constraint.words()
        outside = sorted({token for word in words for token in word if token >= vocab_size})
        if outside:
            raise InputError(
                f"`force_words_ids` or `constraints` name token ids {outside}, but the vocabulary ends at "
                f"{vocab_size - 1}."
            )
        if words and all(barred.keys() & set(word) for word in words):
            token = next(token for token in words[0] if token in barred)
            raise InputError(
                f"Token {token} has to be written (`force_words_ids` or `constraints`), and "
                f"`{barred[token]}` bars it. Leave it out of one of them."
            )


def _check_room(
    constraints: Sequence[Constraint], prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    """Refuse constraints that need more tokens than may be written.

    What a prompt has of them already counts, as in 4.34.
    """
    state = ConstraintListState(constraints)
    for row, prompt in enumerate(prompts or [()]):
        state.reset(prompt)
        if not state.completed and state.fewest() > max_new_tokens:
            raise InputError(
                f"What `force_words_ids` or `constraints` name takes at least {state.fewest()} tokens after "
                f"the prompt in row {row}, and max_new_tokens is {max_new_tokens}. Allow more, or force less."
            )
