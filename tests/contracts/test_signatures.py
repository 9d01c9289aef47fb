"""Names, order and defaults of all arguments are those of transformers 4.34.0, but for what is listed "
"here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gpt2kit
from gpt2kit import generation, tokenization
from signature_of import described

pytest.importorskip("torch", reason="the PyTorch room is not installed")

from gpt2kit.torch.generation import logits, stopping

GOLDEN: dict[str, list[list[Any]]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "signatures.json").read_text()
)
KEYWORDS = "VAR_KEYWORD"

MODELS = (
    "GPT2PreTrainedModel",
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
)
# Arguments that 4.34 does not have; all are optional, and stand behind those that it has.
ADDED = {
    "GPT2LMHeadModel.forward": ["logits_to_keep", "loss_chunk_size"],
    "GPT2DoubleHeadsModel.forward": ["logits_to_keep", "loss_chunk_size"],
    "GPT2DoubleHeadsModel.prepare_inputs_for_generation": ["inputs_embeds"],
    **{f"{name}.gradient_checkpointing_enable": ["gradient_checkpointing_kwargs"] for name in MODELS},
    **{
        f"{name}.{method}": arguments
        for name in ("GPT2Tokenizer", "GPT2TokenizerFast")
        for method, arguments in {
            "apply_chat_template": ["add_generation_prompt"],
            "decode": ["spaces_between_special_tokens"],
            "batch_decode": ["spaces_between_special_tokens"],
        }.items()
    },
}
# Other defaults.
CHANGED = {f"{name}.save_pretrained": {"safe_serialization": None} for name in MODELS}
# Where 4.34 took any keyword and did nothing with it, none is taken; these are the only such places.
NO_MORE_KEYWORDS = {
    "GenerationConfig.save_pretrained",
    "GPT2DoubleHeadsModel.forward",
    *(
        f"{name}.{method}"
        for name in ("GPT2Tokenizer", "GPT2TokenizerFast")
        for method in ("decode", "batch_decode", "prepare_for_model", "save_pretrained")
    ),
}
# Signatures that are another in kind.
OTHER = {
    "GPT2Config.from_pretrained": "the hub's arguments are taken by keyword, all together",
    "GPT2PreTrainedModel.__init__": "takes a configuration, and nothing that would be dropped",
}
# Methods that are not there.
ABSENT = {
    "GPT2Tokenizer.sanitize_special_tokens": "deprecated in 4.34, where it does nothing",
    "GPT2TokenizerFast.sanitize_special_tokens": "deprecated in 4.34, where it does nothing",
    "GPT2TokenizerFast.set_truncation_and_padding": "internal; the call itself takes both",
}


def find(name: str) -> Any:
    """Return the class of that name."""
    for module in (gpt2kit, generation, tokenization, logits, stopping):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(f"gpt2kit has no {name}")


@pytest.mark.parametrize("name", sorted(set(GOLDEN) - set(OTHER) - set(ABSENT)))
def test_the_signature_is_that_of_4_34_but_for_what_is_listed(name: str) -> None:
    cls, method = name.split(".")
    wanted = [list(parameter) for parameter in GOLDEN[name]]
    for parameter in wanted:
        if parameter[0] in CHANGED.get(name, {}):
            parameter[2] = CHANGED[name][parameter[0]]
    if name in NO_MORE_KEYWORDS:
        assert wanted.pop()[1] == KEYWORDS
    given = described(getattr(find(cls), method))
    added = ADDED.get(name, [])
    assert [parameter for parameter in given if parameter[0] not in added] == wanted
    named = [parameter for parameter in given if parameter[1] != KEYWORDS]
    assert [parameter[0] for parameter in named[len(named) - len(added) :]] == added
    assert all(len(parameter) == 3 for parameter in given if parameter[0] in added)


@pytest.mark.parametrize("name", sorted(OTHER))
def test_what_is_listed_as_another_signature_is_another(name: str) -> None:
    cls, method = name.split(".")
    assert described(getattr(find(cls), method)) != GOLDEN[name]


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_what_is_listed_as_absent_is_absent(name: str) -> None:
    cls, method = name.split(".")
    assert not hasattr(find(cls), method)
