"""Chat templates: from a list of messages to one text, by the Jinja template that comes with a tokenizer.

GPT-2 is no chat model; the template without one of its own is that of 4.34, the messages one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from gpt2kit.errors import InputError, MissingDependencyError, TokenizerError
from gpt2kit.tokenization.special import SpecialTokens

__all__ = ["Chat"]


class Chat(SpecialTokens):
    """The part of a tokenizer that knows about messages."""

    chat_template: str | None

    @property
    def default_chat_template(self) -> str:
        """The template of a tokenizer without one: each message, then the end of text."""
        return "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"

    def encode(self, text: Any, **options: Any) -> Any:
        """Turn a text into ids (base.py)."""
        raise NotImplementedError

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, str]] | Any,
        chat_template: str | None = None,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        add_generation_prompt: bool = False,
        **tokenizer_kwargs: Any,
    ) -> Any:
        """Write a conversation as one text, and encode it.

        Args:
            conversation: Messages, each with "role" and "content", or an object with such `messages`.
            chat_template: The template; None is `tokenizer.chat_template`, then `default_chat_template`.
            tokenize: Whether to return ids instead of the text.
            padding: As in a call; True pads to max_length, for there is one text only.
            truncation: As in a call.
            max_length: As in a call.
            return_tensors: As in a call.
            add_generation_prompt: Handed to the template, which may open the next message.
            **tokenizer_kwargs: Further arguments of a call.

        Returns:
            Ids, or the text.

        Raises:
            MissingDependencyError: jinja2 is not installed.
            TokenizerError: The template is wrong, or refuses the conversation.
        """
        messages = getattr(conversation, "messages", conversation)
        template = chat_template or self.chat_template or self.default_chat_template
        text = _render(
            template,
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            **self.special_tokens_map,
        )
        if not tokenize:
            if tokenizer_kwargs:
                raise InputError(
                    f"{next(iter(tokenizer_kwargs))} has no meaning with tokenize=False. Leave it out."
                )
            return text
        return self.encode(
            text,
            add_special_tokens=False,
            padding="max_length" if padding is True else padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
            **tokenizer_kwargs,
        )


def _render(template: str, **variables: Any) -> str:
    """Fill a template in, or say what is wrong with it."""
    compiled = _compile(template)
    from jinja2.exceptions import TemplateError

    try:
        return str(compiled.render(**variables))
    except (TemplateError, TypeError) as error:
        raise TokenizerError(
            f"The chat template does not fit the conversation: {error}. "
            'Messages are dictionaries with "role" and "content".'
        ) from error


@lru_cache(maxsize=16)
def _compile(template: str) -> Any:
    """Compile a template in Jinja's sandbox: it comes from a stranger's repository."""
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingDependencyError(
            "Chat templates need jinja2, which is not installed: pip install 'gpt2kit[chat]'."
        ) from error

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise TokenizerError(f"The chat template is no Jinja template: {error}.") from error
