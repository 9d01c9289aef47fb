"""Chat templates: 4.34's default, one's own, the sandbox, and what is refused."""

from __future__ import annotations

import sys

import pytest

from gpt2kit import GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.errors import InputError, MissingDependencyError, TokenizerError
from gpt2kit.tokenization import chat

pytest.importorskip("jinja2")
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello world"}]
ROLES = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module", params=[GPT2Tokenizer, GPT2TokenizerFast], ids=["slow", "fast"])
def tokenizer(request):
    return request.param.from_pretrained("gpt2", pad_token="<pad>")


def test_messages_are_put_one_after_another_by_default(tokenizer):
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == "Hi<|endoftext|>Hello world<|endoftext|>"
    assert tokenizer.apply_chat_template(TALK) == [17250, 50256, 15496, 995, 50256]
    padded = tokenizer.apply_chat_template(TALK, padding=True, max_length=7, return_tensors="np")
    assert padded.tolist() == [[17250, 50256, 15496, 995, 50256, 50257, 50257]]
    assert tokenizer.apply_chat_template(TALK, truncation=True, max_length=2) == [17250, 50256]


def test_the_template_is_the_calls_then_the_tokenizers(tokenizer):
    class Talk:
        messages = TALK

    assert (
        tokenizer.apply_chat_template(Talk(), ROLES, tokenize=False) == "[user] Hi\n[assistant] Hello world\n"
    )
    tokenizer.chat_template = ROLES
    text = tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True)
    tokenizer.chat_template = None
    assert text == "[user] Hi\n[assistant]"


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('no system messages') }}",
        "{{ messages[0].__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages + 1 }}",
    ],
)
def test_a_template_that_is_wrong_or_wants_out_is_refused(tokenizer, template):
    with pytest.raises(TokenizerError, match="chat template"):
        tokenizer.apply_chat_template(TALK, template, tokenize=False)


def test_arguments_without_a_meaning_are_refused(tokenizer):
    with pytest.raises(InputError, match="return_length has no meaning"):
        tokenizer.apply_chat_template(TALK, tokenize=False, return_length=True)


def test_without_jinja2_the_extra_is_named(tokenizer, monkeypatch):
    chat._compile.cache_clear()
    for name in ("jinja2", "jinja2.exceptions", "jinja2.sandbox"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"gpt2kit\[chat\]"):
        tokenizer.apply_chat_template(TALK)
