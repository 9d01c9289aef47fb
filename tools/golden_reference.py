"""The part of tools/record_golden.py that runs where transformers 4.34.0 is installed, and gpt2kit is not.

python golden_reference.py forward REQUESTS OUT.npz
python golden_reference.py initial OUT.json
python golden_reference.py layouts OUT.json
python golden_reference.py signatures OUT.json
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GPT2Config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from signature_of import described

assert transformers.__version__ == "4.34.0", transformers.__version__

INITIAL_CONFIG = {"vocab_size": 211, "n_positions": 31, "n_embd": 66, "n_layer": 3, "n_head": 3}
INITIAL_SEED = 11


def forward(requests: Path, out: Path) -> None:
    """Compute every request and keep the results in one file, by name/field."""
    results: dict[str, np.ndarray] = {}
    for path in sorted(requests.glob("*.json")):
        request = json.loads(path.read_text())
        arrays = dict(np.load(path.with_suffix(".npz")))
        for field, value in compute(request, arrays).items():
            results[f"{request['name']}/{field}"] = value
        results[f"{request['name']}/fingerprint"] = np.array(request["fingerprint"])
    np.savez_compressed(out, **results)
    print(out, f"{out.stat().st_size / 1e6:.2f} MB,", len(results), "arrays")


def compute(request: dict, arrays: dict) -> dict:
    """Run one model and return what it computed."""
    config = GPT2Config(**{k: v for k, v in request["config"].items() if k not in ("n_ctx", "model_type")})
    weights = {
        k.removeprefix("weight/"): torch.tensor(v) for k, v in arrays.items() if k.startswith("weight/")
    }
    inputs = {k.removeprefix("input/"): torch.tensor(v) for k, v in arrays.items() if k.startswith("input/")}
    model = getattr(transformers, request["class"])(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    dtype = getattr(torch, request["dtype"])
    model = model.to(dtype).eval()
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    if "attention_mask" in inputs:  # counted over what the mask shows, as this version's generate does
        mask = inputs["attention_mask"]
        inputs["position_ids"] = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    if request["steps"]:
        inputs.pop("labels")
        return kept(in_steps(model, inputs, request["steps"]), request["keep"])
    if "head_mask" in inputs:
        inputs["head_mask"].requires_grad_()
    # A model with cross-attention and no encoder's states cannot show attentions in this version.
    shows = not config.add_cross_attention or "encoder_hidden_states" in inputs
    output = model(**inputs, output_attentions=shows, output_hidden_states=True)
    results = kept(output, request["keep"])
    if request["gradients"]:
        loss = sum(output[name] for name in ("loss", "mc_loss") if output.get(name) is not None)
        loss.backward()
        gradients = {name: gradient_of(parameter) for name, parameter in model.named_parameters()}
        results["gradients"] = np.stack([projected(name, gradients[name]) for name in sorted(gradients)])
        if "head_mask" in inputs:
            results["head_mask_gradient"] = inputs["head_mask"].grad.numpy()
    return results


def in_steps(model: torch.nn.Module, inputs: dict, steps: list) -> object:
    """Go through a sequence in pieces; the logits of all pieces come in one tensor."""
    start, past, logits = 0, None, []
    fixed = {k: v for k, v in inputs.items() if k.startswith("encoder") or k == "head_mask"}
    for count in steps:
        stop = start + count
        piece = {k: inputs[k][:, start:stop] for k in ("input_ids", "position_ids")}
        output = model(
            **piece, **fixed, attention_mask=inputs["attention_mask"][:, :stop], past_key_values=past
        )
        past, start = output.past_key_values, stop
        logits.append(output.logits)
    output.logits = torch.cat(logits, dim=1)
    return output


def kept(output: object, keep: list | None) -> dict:
    """Return the fields of an output as arrays; nested tuples are stacked."""
    results = {}
    for name, value in output.items():
        if (isinstance(value, tuple) and not value) or (keep and name not in keep):
            continue
        if name == "past_key_values":
            value = torch.stack([torch.stack(pair) for pair in value])
        elif isinstance(value, tuple):  # of choices, the last hidden states alone have their own axis
            value = torch.stack([item.reshape(value[0].shape) for item in value])
        results[name] = value.detach().numpy()
    return results


def gradient_of(parameter: torch.nn.Parameter) -> np.ndarray:
    """Return the gradient; zeros where the loss does not depend on the parameter."""
    return np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()


def projected(name: str, gradient: np.ndarray) -> np.ndarray:
    """Return products with random vectors, as golden_cases.projections does."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    vectors = np.random.default_rng(seed).normal(size=(3, gradient.size))
    return vectors @ gradient.ravel()


def initial(out: Path) -> None:
    """Record how fresh weights are drawn: the first numbers and the statistics of each tensor."""
    results: dict = {"config": INITIAL_CONFIG, "seed": INITIAL_SEED}
    every = {"": {}, "untied": {"tie_word_embeddings": False}, "cross": {"add_cross_attention": True}}
    double = {
        "": {},
        "untied": every["untied"],
        "vector": {"summary_proj_to_labels": False},
        "no_projection": {"summary_use_proj": False},
    }
    variants: dict = {
        "GPT2Model": every,
        "GPT2LMHeadModel": every,
        "GPT2DoubleHeadsModel": double,
        "GPT2ForSequenceClassification": {"": {"num_labels": 7}},
        "GPT2ForTokenClassification": {"": {"num_labels": 7}},
        "GPT2ForQuestionAnswering": {"": {}},
    }
    for cls, of_class in variants.items():
        for variant, changes in of_class.items():
            torch.manual_seed(INITIAL_SEED)
            model = getattr(transformers, cls)(GPT2Config(**INITIAL_CONFIG, **changes))
            results[f"{cls}/{variant}"] = {
                "changes": changes,
                "tensors": {
                    name: {
                        "first": tensor.flatten()[:5].tolist(),
                        "mean": float(tensor.mean()),
                        "std": float(tensor.std(correction=0)),
                    }
                    for name, tensor in model.state_dict().items()
                },
            }
    out.write_text(json.dumps(results) + "\n")


def layouts(out: Path) -> None:
    """Record names and shapes of what each class returns, as an object and as a tuple."""
    ids = torch.tensor([[2, 3, 5, 7, 11], [13, 17, 19, 23, 29]])
    classes, ends = torch.tensor([1, 0]), torch.tensor([1, 4])
    labels = {
        "GPT2Model": {},
        "GPT2LMHeadModel": {"labels": ids},
        "GPT2DoubleHeadsModel": {"labels": ids[:, None], "mc_labels": torch.tensor([0, 0])},
        "GPT2ForSequenceClassification": {"labels": classes},
        "GPT2ForTokenClassification": {"labels": ids % 2},
        "GPT2ForQuestionAnswering": {"start_positions": classes, "end_positions": ends},
    }
    results = {}
    for cls, of_class in labels.items():
        model = getattr(transformers, cls)(GPT2Config(**INITIAL_CONFIG, pad_token_id=0)).eval()
        inputs = {"input_ids": ids[:, None] if "mc_labels" in of_class else ids}
        for switches in itertools.product((False, True), repeat=3):
            labelled, shown, cached = switches
            given = inputs | (of_class if labelled else {})
            flags = {"output_attentions": shown, "output_hidden_states": shown, "use_cache": cached}
            flags = {k: v for k, v in flags.items() if k in inspect.signature(model.forward).parameters}
            model.config.use_cache = cached
            names, values = list(model(**given, **flags)), model(**given, **flags, return_dict=False)
            model.config.update({**flags, "return_dict": False})
            assert shapes(model(**given)) == shapes(values), "the configuration says something else"
            model.config.return_dict = True
            results["/".join((cls, *map(str, switches)))] = {"names": names, "tuple": shapes(values)}
    out.write_text(json.dumps(results) + "\n")


def shapes(value: object) -> object:
    """Return nested tuples of tensors as nested lists of their shapes, "2x5" each."""
    return "x".join(map(str, value.shape)) if torch.is_tensor(value) else [shapes(item) for item in value]


MODEL_METHODS = [
    "__init__",
    "forward",
    "from_pretrained",
    "save_pretrained",
    "resize_token_embeddings",
    "prune_heads",
    "tie_weights",
    "init_weights",
    "post_init",
    "get_input_embeddings",
    "set_input_embeddings",
    "get_output_embeddings",
    "num_parameters",
    "get_memory_footprint",
    "gradient_checkpointing_enable",
    "gradient_checkpointing_disable",
    "enable_input_require_grads",
    "disable_input_require_grads",
    "can_generate",
]
GENERATING_METHODS = ["set_output_embeddings", "prepare_inputs_for_generation", "_reorder_cache", "generate"]
CONFIG_METHODS = [
    "__init__",
    "from_pretrained",
    "save_pretrained",
    "from_dict",
    "from_json_file",
    "to_dict",
    "to_diff_dict",
    "to_json_string",
    "to_json_file",
    "update",
    "update_from_string",
]
TOKENIZER_METHODS = [
    "__init__",
    "__call__",
    "encode",
    "encode_plus",
    "batch_encode_plus",
    "decode",
    "batch_decode",
    "pad",
    "prepare_for_model",
    "tokenize",
    "convert_tokens_to_ids",
    "convert_ids_to_tokens",
    "convert_tokens_to_string",
    "from_pretrained",
    "save_pretrained",
    "save_vocabulary",
    "add_tokens",
    "add_special_tokens",
    "get_vocab",
    "get_added_vocab",
    "num_special_tokens_to_add",
    "build_inputs_with_special_tokens",
    "create_token_type_ids_from_sequences",
    "get_special_tokens_mask",
    "truncate_sequences",
    "apply_chat_template",
    "clean_up_tokenization",
    "sanitize_special_tokens",
]
ENCODING_METHODS = [
    "__init__",
    "tokens",
    "word_ids",
    "words",
    "sequence_ids",
    "token_to_sequence",
    "token_to_word",
    "word_to_tokens",
    "token_to_chars",
    "char_to_token",
    "word_to_chars",
    "char_to_word",
    "convert_to_tensors",
    "to",
    "keys",
    "values",
    "items",
]


def signatures(out: Path) -> None:
    """Record names, kinds and defaults of the parameters of everything that users call."""
    from transformers import generation as g
    from transformers import modeling_outputs, modeling_utils
    from transformers.models.gpt2 import modeling_gpt2

    wanted: dict = {
        "GPT2Config": CONFIG_METHODS,
        "GPT2PreTrainedModel": MODEL_METHODS,
        "GPT2Model": MODEL_METHODS,
        "GPT2LMHeadModel": [*MODEL_METHODS, *GENERATING_METHODS],
        "GPT2DoubleHeadsModel": [*MODEL_METHODS, *GENERATING_METHODS],
        "GPT2ForSequenceClassification": MODEL_METHODS,
        "GPT2ForTokenClassification": MODEL_METHODS,
        "GPT2ForQuestionAnswering": MODEL_METHODS,
        "SequenceSummary": ["__init__", "forward"],
        "GPT2Tokenizer": TOKENIZER_METHODS,
        "GPT2TokenizerFast": [*TOKENIZER_METHODS, "train_new_from_iterator", "set_truncation_and_padding"],
        "BatchEncoding": ENCODING_METHODS,
        "GenerationConfig": [
            "__init__",
            "from_pretrained",
            "save_pretrained",
            "from_model_config",
            "validate",
            "update",
            "to_dict",
        ],
        "TextStreamer": ["__init__", "put", "end", "on_finalized_text"],
        "TextIteratorStreamer": ["__init__", "on_finalized_text"],
    }
    outputs = (
        "BaseModelOutputWithPastAndCrossAttentions",
        "CausalLMOutputWithCrossAttentions",
        "GPT2DoubleHeadsModelOutput",
        "SequenceClassifierOutputWithPast",
        "TokenClassifierOutput",
        "QuestionAnsweringModelOutput",
    )
    wanted |= {name: ["__init__"] for name in outputs}
    ends = ("LogitsProcessor", "LogitsWarper", "Criteria", "ProcessorList", "CriteriaList", "Penalty")
    for name in sorted(vars(g)):
        if name.endswith(ends) and not name.startswith(("TF", "Flax")):
            wanted[name] = ["__init__", "__call__"]
    results = {}
    for cls_name, methods in wanted.items():
        places = (transformers, g, modeling_outputs, modeling_utils, modeling_gpt2)
        cls = next(getattr(place, cls_name) for place in places if hasattr(place, cls_name))
        for method in methods:
            if hasattr(cls, method):
                results[f"{cls_name}.{method}"] = described(getattr(cls, method))
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parts = {"forward": forward, "initial": initial, "layouts": layouts, "signatures": signatures}
    parts[sys.argv[1]](*map(Path, sys.argv[2:]))
