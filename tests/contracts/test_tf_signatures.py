"""Names, arguments, fields and weights of the TensorFlow classes: 4.34.0's, but for what is listed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="the TensorFlow room is not installed")

import gpt2kit
from gpt2kit import GPT2Config
from signature_of import described, plain

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "tf_signatures.json").read_text())
SIZES = {"vocab_size": 101, "n_positions": 13, "n_embd": 33, "n_layer": 2, "n_head": 3, "num_labels": 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cross-attention and n_inner": {"add_cross_attention": True, "n_inner": 47},
}
MODELS = (
    "TFGPT2Model",
    "TFGPT2LMHeadModel",
    "TFGPT2DoubleHeadsModel",
    "TFGPT2ForSequenceClassification",
)
# Public names that are not there, and what to do instead.
ABSENT = {
    **dict.fromkeys(["greedy_search", "sample", "beam_search", "contrastive_search"], "generate"),
    "create_model_card": "huggingface_hub writes cards",
    "get_head_mask": "a call takes every form of head_mask",
    "get_label_to_output_name_mapping": "fit finds labels by itself",
    "get_output_layer_with_bias": "GPT-2 scores without a bias",
    "get_prefix_bias_name": "GPT-2 scores without a bias",
    "load_repo_checkpoint": "Keras' callbacks keep the state of a run",
    "prepare_inputs_for_generation": "generate asks the model by itself",
    "register_for_auto_class": "nothing of a repository is ever executed",
    "seed_generator": "generate draws from TensorFlow's state, or from a seed",
    "set_bias": "GPT-2 scores without a bias",
    "with_name_scope": "Keras 3 has no such thing",
}
ABSENT_IN = {
    **{name: dict(ABSENT) for name in MODELS},
    "TFGPT2MainLayer": {
        "set_input_embeddings": "that of a model checks the size",
        "with_name_scope": ABSENT["with_name_scope"],
    },
    "TFGPT2Tokenizer": {"with_name_scope": ABSENT["with_name_scope"]},
}
WRITING = {"generate": "refused by every call in 4.34", "compute_transition_scores": "of what generate wrote"}
for _name in set(MODELS) - {"TFGPT2LMHeadModel"}:
    ABSENT_IN[_name] |= WRITING
# Arguments that 4.34 does not have; all are optional, and stand behind those that it has.
ADDED = {
    "TFGPT2LMHeadModel.call": ["logits_to_keep"],
    "TFGPT2DoubleHeadsModel.call": ["labels", "mc_labels", "logits_to_keep"],
    "TFGPT2Tokenizer.__init__": [
        "added_tokens", "unk_token_id", "bos_token_id", "add_prefix_space", "split_special_tokens",
        "padding_side", "truncation_side", "kwargs",
    ],
}  # fmt: skip
# Signatures that are another in kind.
OTHER = {
    **{f"{name}.__init__": "4.34 takes arguments by place and ignores them" for name in MODELS},
    "TFGPT2MainLayer.__init__": "likewise",
    **{f"{name}.compute_loss": "that of Keras 3, spelled out" for name in MODELS},
    **{f"{name}.push_to_hub": "refused, whatever comes" for name in MODELS},
    **{f"{name}.save_pretrained": "safe_serialization=True" for name in MODELS},
}
ADDED_FIELDS = {
    "TFGPT2DoubleHeadsModelOutput": ["loss", "mc_loss"],
    "TFContrastiveSearchDecoderOnlyOutput": ["cross_attentions"],
    "TFGreedySearchDecoderOnlyOutput": ["cross_attentions"],
    "TFSampleDecoderOnlyOutput": ["cross_attentions"],
}
# The last part of a weight's path in 4.34 -> in this room.
RENAMED = {"embeddings": "weight", "gamma": "weight", "beta": "bias", "kernel": "weight"}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """Make each model in each variant, under the keys of the golden."""
    return {
        f"{name}/{variant}": getattr(gpt2kit, name)(GPT2Config(**SIZES, **changes))
        for name in MODELS
        for variant, changes in VARIANTS.items()
    }


def there(name: str) -> bool:
    """Tell whether a member is one that this room has."""
    owner, member = name.split(".")
    return member not in ABSENT_IN.get(owner, ())


def member_of(name: str) -> Any:
    """Return the member of that name, "Class.member"."""
    owner, member = name.split(".")
    return getattr(getattr(gpt2kit, owner), member)


@pytest.mark.parametrize("name", GOLDEN["names"])
def test_every_public_name_is_there_but_for_what_is_listed(name: str) -> None:
    missing = [each for each in GOLDEN["names"][name] if not hasattr(getattr(gpt2kit, name), each)]
    assert missing == sorted(ABSENT_IN[name])


@pytest.mark.parametrize("name", sorted(filter(there, set(GOLDEN["signatures"]) - set(OTHER))))
def test_the_signature_is_that_of_4_34_but_for_what_is_listed(name: str) -> None:
    given, added = described(member_of(name)), ADDED.get(name, [])
    wanted = GOLDEN["signatures"][name]
    assert [each for each in given if each[0] not in added] == wanted
    assert [each[0] for each in given[len(given) - len(added) :]] == added
    assert all(len(each) == 3 or each[1] == "VAR_KEYWORD" for each in given if each[0] in added)


@pytest.mark.parametrize("name", sorted(OTHER))
def test_what_is_listed_as_another_signature_is_another(name: str) -> None:
    assert described(member_of(name)) != GOLDEN["signatures"][name]


@pytest.mark.parametrize("name", GOLDEN["fields"])
def test_an_output_has_the_fields_of_4_34(name: str) -> None:
    given = [field.name for field in dataclasses.fields(getattr(gpt2kit, name))]
    assert given == GOLDEN["fields"][name] + ADDED_FIELDS.get(name, [])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_attributes_of_4_34(name: str, made: dict[str, Any]) -> None:
    model, wanted = made[f"{name}/plain"], dict(GOLDEN["attributes"][name])
    del wanted["labels and outputs"]
    double = name == "TFGPT2DoubleHeadsModel"
    assert list(model.label_names) == wanted.pop("labels") + ["labels", "mc_labels"] * double
    tied = wanted.pop("output embeddings are the input's")
    assert (model.get_output_embeddings() is model.get_input_embeddings()) is (tied or double)
    assert [model.get_bias(), model.get_lm_head()] == wanted.pop("bias and head")
    shapes = {key: array.shape.as_list() for key, array in model.dummy_inputs.items()}
    assert shapes == wanted.pop("dummy_inputs")
    specs = {key: [spec.shape.as_list(), spec.dtype.name] for key, spec in model.input_signature.items()}
    assert specs == wanted.pop("input_signature")
    assert model.can_generate() is wanted.pop("can_generate")
    assert (model.generation_config is not None) is wanted.pop("has a generation_config")
    assert model.num_parameters() == wanted.pop("num_parameters")
    assert {each: plain(getattr(model, each)) for each in wanted} == wanted


@pytest.mark.parametrize("key", GOLDEN["weights"])
def test_weights_have_the_paths_of_4_34_with_official_last_names_and_shapes(
    key: str, made: dict[str, Any]
) -> None:
    wanted = []
    for path, shape, dtype in GOLDEN["weights"][key]:
        *folders, last = path.split("/")
        official = shape[::-1] if last == "kernel" else shape[-1:] if last == "bias" else shape
        wanted.append(["/".join([*folders, RENAMED.get(last, last)]), official, dtype])
    given = [
        [weight.path.partition("/")[2], list(weight.shape), weight.dtype] for weight in made[key].weights
    ]
    if "encoder_hidden_states" not in made[key].argument_names():  # 4.34 never makes weights for them
        given = [each for each in given if "cross" not in each[0]]
    assert sorted(given) == sorted(wanted)
    body = [each for each in wanted if each[0].startswith("transformer")]
    assert [each for each in given if each[0].startswith("transformer")] == body


@pytest.mark.parametrize("key", GOLDEN["weights"])
def test_a_model_can_be_called_with_its_dummy_inputs(key: str, made: dict[str, Any]) -> None:
    model = made[key]
    crosses = "cross" in key and "encoder_hidden_states" in model.argument_names()
    output = model(model.dummy_inputs, output_attentions=True)
    assert ("cross_attentions" in output) is crosses
    assert len(output.attentions) == SIZES["n_layer"]
