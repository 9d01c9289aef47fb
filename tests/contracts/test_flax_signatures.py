"""Arguments, fields and trees of the Flax classes: those of transformers 4.34.0, but for what is listed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jax", reason="the Flax room is not installed")

import jax.numpy as jnp
from flax.traverse_util import flatten_dict

import gpt2kit
from gpt2kit import GPT2Config
from gpt2kit.flax import heads, layers, model
from signature_of import described, plain

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "flax_signatures.json").read_text()
)
SIZES = {"vocab_size": 101, "n_positions": 13, "n_embd": 33, "n_layer": 2, "n_head": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "cross-attention and n_inner": {"add_cross_attention": True, "n_inner": 47},
}
MODELS = ("FlaxGPT2Model", "FlaxGPT2LMHeadModel")
# Arguments that 4.34 does not have; all are optional, and stand behind those that it has.
ADDED = {
    **{f"{name}.__call__": ["token_type_ids", "head_mask", "inputs_embeds"] for name in MODELS},
    **{f"{name}.save_pretrained": ["safe_serialization"] for name in MODELS},
}
ADDED_TO_MODULES = {
    "FlaxGPT2Attention": ["head_mask"],
    "FlaxGPT2Block": ["head_mask"],
    "FlaxGPT2BlockCollection": ["head_mask"],
    "FlaxGPT2Module": ["token_type_ids", "head_mask", "inputs_embeds"],
    "FlaxGPT2LMHeadModule": ["token_type_ids", "head_mask", "inputs_embeds", "logits_to_keep"],
}
# Signatures that are another in kind.
OTHER = {
    "FlaxLogitsProcessor.__call__": "tells what every processor is called with; 4.34 leaves cur_len out",
    "FlaxLogitsWarper.__call__": "likewise",
}
# Methods that are not there.
ABSENT = {"FlaxGPT2Model.generate": "4.34 has it and refuses every call"}


def module_of(name: str) -> Any:
    """Return the Linen module of that name."""
    return next(getattr(place, name) for place in (layers, model, heads) if hasattr(place, name))


def shapes(tree: Any) -> dict[str, list[Any]]:
    """Return path -> [shape, dtype], as tools/golden_flax.py records it."""
    leaves = flatten_dict(tree, sep="/")
    return {path: [list(leaf.shape), str(leaf.dtype)] for path, leaf in sorted(leaves.items())}


def assert_same_but_for(added: list[str], given: list[list[Any]], wanted: list[list[Any]]) -> None:
    """Compare two lists of arguments; what is added is optional, and stands behind the rest."""
    assert [each for each in given if each[0] not in added] == wanted
    named = [each for each in given if each[1] != "VAR_KEYWORD"]
    assert [each[0] for each in named[len(named) - len(added) :]] == added
    assert all(len(each) == 3 for each in given if each[0] in added)


@pytest.mark.parametrize("name", sorted(set(GOLDEN["signatures"]) - set(OTHER) - set(ABSENT)))
def test_the_signature_is_that_of_4_34_but_for_what_is_listed(name: str) -> None:
    cls, method = name.split(".")
    given = described(getattr(getattr(gpt2kit, cls), method))
    assert_same_but_for(ADDED.get(name, []), given, GOLDEN["signatures"][name])


@pytest.mark.parametrize("name", sorted(OTHER))
def test_what_is_listed_as_another_signature_is_another(name: str) -> None:
    cls, method = name.split(".")
    assert described(getattr(getattr(gpt2kit, cls), method)) != GOLDEN["signatures"][name]


@pytest.mark.parametrize("name", sorted(ABSENT))
def test_what_is_listed_as_absent_is_absent(name: str) -> None:
    cls, method = name.split(".")
    assert not hasattr(getattr(gpt2kit, cls), method)


@pytest.mark.parametrize("name", GOLDEN["modules"])
def test_a_module_is_made_and_called_as_in_4_34(name: str) -> None:
    cls, wanted = module_of(name), GOLDEN["modules"][name]
    own = [field for field in dataclasses.fields(cls) if field.name not in ("parent", "name")]
    given = [
        [field.name, *([] if field.default is dataclasses.MISSING else [plain(field.default)])]
        for field in own
    ]
    assert given[: len(wanted["fields"])] == wanted["fields"]
    assert all(len(field) == 2 for field in given[len(wanted["fields"]) :])
    assert_same_but_for(ADDED_TO_MODULES.get(name, []), described(cls.__call__), wanted["call"])


@pytest.mark.parametrize("name", GOLDEN["fields"])
def test_an_output_has_the_fields_of_4_34(name: str) -> None:
    assert [field.name for field in dataclasses.fields(getattr(gpt2kit, name))] == GOLDEN["fields"][name]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_attributes_of_4_34(name: str) -> None:
    made, wanted = getattr(gpt2kit, name)(GPT2Config(**SIZES)), dict(GOLDEN["attributes"][name])
    path = tuple(wanted.pop("path of a parameter"))
    assert type(made.module).__name__ == wanted.pop("module")
    assert made.can_generate() is wanted.pop("can_generate")
    assert (made.generation_config is not None) is wanted.pop("has a generation_config")
    assert wanted.pop("dtype") == plain(jnp.float32)
    assert made.dtype == jnp.float32
    assert {each: plain(getattr(made, each)) for each in wanted} == wanted
    assert path in made.required_params
    assert shapes(made.params_shape_tree) == shapes(made.params)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_cache_are_the_trees_of_4_34(name: str, variant: str) -> None:
    made = getattr(gpt2kit, name)(GPT2Config(**SIZES, **VARIANTS[variant]), _do_init=False)
    assert shapes(made.params_shape_tree) == GOLDEN["parameters"][f"{name}/{variant}"]
    assert shapes(made.init_cache(2, 7)) == GOLDEN["cache"][f"{name}/{variant}"]
