"""The part of tools/record_golden.py that runs where transformers 4.34.0 and TensorFlow are, without gpt2kit.

python golden_tf_signatures.py OUT.json

What code for 4.34's TensorFlow classes relies on: signatures, public names, fields of outputs, attributes,
the weights in their order with their shapes, and the labels that `fit` looks for.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
import transformers
from transformers import GPT2Config, generation, modeling_tf_outputs
from transformers.models.gpt2 import modeling_tf_gpt2
from transformers.utils.generic import find_labels

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from signature_of import described, plain

assert transformers.__version__ == "4.34.0", transformers.__version__

SIZES = {"vocab_size": 101, "n_positions": 13, "n_embd": 33, "n_layer": 2, "n_head": 3, "num_labels": 5}
VARIANTS = {"plain": {}, "cross-attention and n_inner": {"add_cross_attention": True, "n_inner": 47}}
MODELS = (
    "TFGPT2Model",
    "TFGPT2LMHeadModel",
    "TFGPT2DoubleHeadsModel",
    "TFGPT2ForSequenceClassification",
)
OUTPUTS = (
    "TFBaseModelOutputWithPastAndCrossAttentions",
    "TFCausalLMOutputWithCrossAttentions",
    "TFSequenceClassifierOutputWithPast",
)
PROCESSOR_ENDS = ("LogitsProcessor", "LogitsWarper", "ProcessorList", "LengthPenalty")
ATTRIBUTES = ("base_model_prefix", "main_input_name", "framework", "supports_xla_generation")


def main(out: Path) -> None:
    """Record everything into one file."""
    made = {
        f"{name}/{variant}": getattr(transformers, name)(GPT2Config(**SIZES, **changes))
        for name in MODELS
        for variant, changes in VARIANTS.items()
    }
    for model in made.values():
        model.build()
    found = {
        "names": names(),
        "signatures": signatures(),
        "fields": fields(),
        "attributes": {name: attributes(made[f"{name}/plain"]) for name in MODELS},
        "weights": {key: weights(model) for key, model in made.items()},
    }
    out.write_text(json.dumps(found) + "\n")


def public(cls: type, base: type) -> list[str]:
    """List what a class has for its users besides what its base has, and what it overrides."""
    return [
        name
        for name in dir(cls)
        if not name.startswith("_") and getattr(cls, name) is not getattr(base, name, None)
    ]


def names() -> dict[str, list[str]]:
    """List the public names of models and layers, without those that every Keras model has unchanged."""
    found = {name: public(getattr(transformers, name), tf.keras.Model) for name in MODELS}
    for name in ("TFGPT2MainLayer", "TFGPT2Tokenizer"):
        cls = getattr(transformers, name, None) or getattr(modeling_tf_gpt2, name)
        found[name] = public(cls, tf.keras.layers.Layer)
    return found


def signatures() -> dict[str, list[list[Any]]]:
    """Describe what users call of models, layers, processors, and their constructors."""
    wanted = {name: ["__init__", *listed] for name, listed in names().items()}
    for name in dir(generation):
        if name.startswith("TF") and name.endswith(PROCESSOR_ENDS):
            wanted[name] = ["__init__", "__call__"]
    found = {}
    for name, members in wanted.items():
        places = (transformers, generation, modeling_tf_gpt2)
        cls = next(getattr(place, name) for place in places if hasattr(place, name))
        for member in members:
            if callable(getattr(cls, member)) and not isinstance(getattr(cls, member), type):
                found[f"{name}.{member}"] = described(getattr(cls, member))
    return found


def fields() -> dict[str, list[str]]:
    """List the fields of outputs, in their order."""
    classes = [getattr(modeling_tf_outputs, name) for name in OUTPUTS]
    classes += [modeling_tf_gpt2.TFGPT2DoubleHeadsModelOutput]
    written = sorted(name for name in vars(generation.tf_utils) if name.endswith("DecoderOnlyOutput"))
    classes += [getattr(generation.tf_utils, name) for name in written]
    return {cls.__name__: [field.name for field in dataclasses.fields(cls)] for cls in classes}


def attributes(model: Any) -> dict[str, Any]:
    """Read attributes off a model."""
    head = model.get_output_embeddings()
    return {
        **{each: plain(getattr(model, each)) for each in ATTRIBUTES},
        "can_generate": model.can_generate(),
        "has a generation_config": model.generation_config is not None,
        "num_parameters": model.num_parameters(),
        "dummy_inputs": {name: array.shape.as_list() for name, array in model.dummy_inputs.items()},
        "input_signature": {
            name: [spec.shape.as_list(), spec.dtype.name] for name, spec in model.input_signature.items()
        },
        "bias and head": [model.get_bias(), model.get_lm_head()],
        "output embeddings are the input's": head is not None and head is model.get_input_embeddings(),
        "labels": find_labels(type(model)),
        "labels and outputs": model.get_label_to_output_name_mapping(),
    }


def weights(model: Any) -> list[list[Any]]:
    """List paths below the model, shapes and dtypes, in the order of get_weights()."""
    return [
        [weight.name.partition("/")[2].removesuffix(":0"), weight.shape.as_list(), weight.dtype.name]
        for weight in model.weights
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
