"""The part of tools/record_golden.py that runs where transformers 4.34.0 and Flax are, and gpt2kit is not.

python golden_flax.py OUT.json

What code for 4.34's Flax classes relies on: signatures, fields of outputs and modules, the trees of
parameters and caches with their shapes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import transformers
from flax.traverse_util import flatten_dict
from transformers import GPT2Config, generation, modeling_flax_outputs
from transformers.models.gpt2 import modeling_flax_gpt2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from signature_of import described, plain

assert transformers.__version__ == "4.34.0", transformers.__version__

SIZES = {"vocab_size": 101, "n_positions": 13, "n_embd": 33, "n_layer": 2, "n_head": 3}
VARIANTS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "cross-attention and n_inner": {"add_cross_attention": True, "n_inner": 47},
}
MODELS = ("FlaxGPT2Model", "FlaxGPT2LMHeadModel")
OUTPUTS = (
    "FlaxBaseModelOutputWithPastAndCrossAttentions",
    "FlaxCausalLMOutputWithCrossAttentions",
)
WRITTEN = ("FlaxGreedySearchOutput", "FlaxSampleOutput", "FlaxBeamSearchOutput")
METHODS = (
    "__init__",
    "__call__",
    "from_pretrained",
    "save_pretrained",
    "init_weights",
    "init_cache",
    "to_bf16",
    "to_fp16",
    "to_fp32",
    "enable_gradient_checkpointing",
    "can_generate",
    "generate",
)
GENERATING_METHODS = ("prepare_inputs_for_generation", "update_inputs_for_generation")
PROPERTIES = ("config", "module", "params", "params_shape_tree", "required_params", "framework")
ATTRIBUTES = ("base_model_prefix", "main_input_name", "framework", "input_shape", "dtype")


def main(out: Path) -> None:
    """Record everything into one file."""
    found = {
        "signatures": signatures(),
        "modules": modules(),
        "fields": fields(),
        "attributes": attributes(),
        "parameters": trees(lambda model: model.params),
        "cache": trees(lambda model: model.init_cache(2, 7)),
    }
    out.write_text(json.dumps(found) + "\n")


def signatures() -> dict:
    """Describe what users call of models, processors and the mixin of generation."""
    found = {}
    wanted = {name: [*METHODS, *(GENERATING_METHODS if "LMHead" in name else ())] for name in MODELS}
    ends = ("LogitsProcessor", "LogitsWarper", "ProcessorList")
    for name in dir(generation):
        if name.startswith("Flax") and name.endswith(ends) and "Whisper" not in name:
            wanted[name] = ["__init__", "__call__"]
    for name, methods in wanted.items():
        cls = getattr(transformers, name, None) or getattr(generation, name)
        found |= {f"{name}.{method}": described(getattr(cls, method)) for method in methods}
        assert all(isinstance(getattr(cls, each), property) for each in PROPERTIES if name in MODELS)
    return found


def modules() -> dict:
    """Describe fields and calls of the Linen modules, without those that every module has."""
    found = {}
    for name, cls in vars(modeling_flax_gpt2).items():
        if not name.startswith("Flax") or not dataclasses.is_dataclass(cls) or name.endswith("Attentions"):
            continue
        own = [field for field in dataclasses.fields(cls) if field.name not in ("parent", "name")]
        found[name] = {
            "fields": [
                [field.name, *([] if field.default is dataclasses.MISSING else [plain(field.default)])]
                for field in own
            ],
            "call": described(cls.__call__),
        }
    return found


def fields() -> dict:
    """List the fields of outputs, in their order."""
    classes = [getattr(modeling_flax_outputs, name) for name in OUTPUTS]
    classes += [getattr(generation.flax_utils, name) for name in WRITTEN]
    return {cls.__name__: [field.name for field in dataclasses.fields(cls)] for cls in classes}


def attributes() -> dict:
    """Read attributes off a model."""
    found = {}
    for name in MODELS:
        model = getattr(transformers, name)(GPT2Config(**SIZES))
        found[name] = {each: plain(getattr(model, each)) for each in ATTRIBUTES}
        found[name]["can_generate"] = model.can_generate()
        found[name]["has a generation_config"] = model.generation_config is not None
        found[name]["module"] = type(model.module).__name__
        found[name]["path of a parameter"] = sorted(model.required_params)[0]
    return found


def trees(of: object) -> dict:
    """List the paths of a model's tree with shapes and dtypes."""
    found = {}
    for name in MODELS:
        for variant, changes in VARIANTS.items():
            tree = flatten_dict(of(getattr(transformers, name)(GPT2Config(**SIZES, **changes))), sep="/")
            found[f"{name}/{variant}"] = {
                path: [list(leaf.shape), str(leaf.dtype)] for path, leaf in sorted(tree.items())
            }
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
