"""Record what transformers 4.34.0 writes by contrastive search, with an assistant and under guidance.

tests/rooms/torch/test_decoding_golden.py holds us to it. Run in an environment of its own with
transformers==4.34.0, torch 2.13, numpy<2 and hypothesis:

    python tools/record_decoding.py              # writes tests/golden/decoding/

The weights come from tests/cases.py, made by NumPy, so that no weights are stored. Written are `cases.json`
(arguments and tokens), `arrays.npz` (scores and digests of the other outputs of each case, transition scores,
what processors make of fixed logits) and `manifest.json` (versions and hashes).
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from record_generation import MODEL, ONE, PROMPT, WEIGHTS_SEED, digest, reference_model  # noqa: E402

FOLDER = ROOT / "tests" / "golden" / "decoding"
NEW = 13
NEGATIVE = [[7, 13, 2], [19, 3, 3]]
NOISE = {"seed": 11, "scale": 0.02}  # on the model's own weights, so that an assistant is often right
BASE = {"max_new_tokens": NEW, "pad_token_id": 1, "eos_token_id": None}


def main() -> None:
    """Write the goldens of the ways of decoding."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = reference_model()
    arrays: dict[str, Any] = {}
    cases = {}
    for name, case in all_cases(model).items():
        result = run(model, case)
        case["sequences"] = result.sequences.tolist()
        arrays[name] = torch.stack(result.scores).numpy()  # [steps, B, V]
        for part in ("attentions", "hidden_states"):
            nested = getattr(result, part)
            if nested is not None:
                case[part] = [[list(tensor.shape) for tensor in step] for step in nested]
                arrays[f"{name}.{part}"] = np.stack([digest(part, step[-1]) for step in nested])
        cases[name] = case
    record_transitions(model, arrays)
    record_processors(arrays)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    (FOLDER / "cases.json").write_text("{\n" + lines + "\n}\n")
    np.savez_compressed(FOLDER / "arrays.npz", **arrays)
    write_manifest()
    print(f"{len(cases)} cases in {FOLDER}")


def assistant() -> Any:
    """Return a model that nearly is the one that writes."""
    model = reference_model()
    draw = np.random.default_rng(NOISE["seed"])
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            noise = draw.normal(size=tuple(weight.shape)).astype(np.float32) * np.float32(NOISE["scale"])
            weight.add_(torch.from_numpy(noise))
    return model


def run(model: Any, case: dict[str, Any]) -> Any:
    """Generate as a case says; the scores are always kept."""
    kwargs = dict(case["kwargs"])
    for name in ("input_ids", "negative_prompt_ids"):
        if name in case:
            kwargs[name] = torch.tensor(case[name])
    if case.get("assistant"):
        kwargs["assistant_model"] = assistant()
    if "seed" in case:
        torch.manual_seed(case["seed"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(**kwargs, return_dict_in_generate=True, output_scores=True)


def all_cases(model: Any) -> dict[str, dict[str, Any]]:
    """Return every case by its name."""

    def case(prompt: Any = PROMPT, seed: int | None = None, **kwargs: Any) -> dict[str, Any]:
        extra = {name: kwargs.pop(name) for name in ("negative_prompt_ids", "assistant") if name in kwargs}
        drawn = {} if seed is None else {"seed": seed}
        sampling = {} if seed is None else {"do_sample": True}
        return {"input_ids": prompt} | extra | drawn | {"kwargs": BASE | sampling | kwargs}

    row = PROMPT[:1]
    plain = run(model, case(row)).sequences.tolist()[0]
    kept = {"output_attentions": True, "output_hidden_states": True}
    return {
        "contrastive": case(penalty_alpha=0.6, top_k=4, **kept),
        "contrastive_two": case(penalty_alpha=0.9, top_k=2),
        "contrastive_many": case(penalty_alpha=0.2, top_k=50),
        "contrastive_one_token": case(ONE, penalty_alpha=0.6, top_k=5),
        "contrastive_rules": case(penalty_alpha=0.3, top_k=7, repetition_penalty=1.3, no_repeat_ngram_size=2),
        "contrastive_eos": case(penalty_alpha=0.6, top_k=5, eos_token_id=[49, 4]),
        "contrastive_to_the_last_position": case(penalty_alpha=0.6, top_k=5, max_new_tokens=32),
        "contrastive_low_memory": case(row, penalty_alpha=0.6, top_k=4, low_memory=True),
        "assisted": case(row, assistant=True),
        "assisted_longer": case(row, assistant=True, max_new_tokens=19),
        "assisted_eos": case(row, assistant=True, eos_token_id=plain[11]),
        "guidance": case(guidance_scale=1.5),
        "guidance_negative": case(guidance_scale=1.5, negative_prompt_ids=NEGATIVE),
        "guidance_towards": case(guidance_scale=0, negative_prompt_ids=NEGATIVE),
        "guidance_no_cache": case(guidance_scale=1.5, negative_prompt_ids=NEGATIVE, use_cache=False),
        "guidance_sampled": case(seed=3, guidance_scale=1.7, negative_prompt_ids=NEGATIVE, top_k=7),
        "guidance_rules": case(guidance_scale=1.3, repetition_penalty=1.4, bad_words_ids=[[plain[5]]]),
        "guidance_contrastive": case(guidance_scale=1.7, penalty_alpha=0.5, top_k=3),
    }


def record_transitions(model: Any, arrays: dict[str, Any]) -> None:
    """Record the scores of the chosen tokens after greedy search, sampling and beams of several lengths."""
    ways = {
        "greedy": {},
        "sampled": {"do_sample": True, "top_k": 0, "num_return_sequences": 2},
        "beams": {"num_beams": 3, "num_return_sequences": 2},
        "beams_ended": {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": 49},
    }
    for name, kwargs in ways.items():
        torch.manual_seed(5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = model.generate(
                torch.tensor(PROMPT),
                **(BASE | {"max_new_tokens": 5} | kwargs),
                return_dict_in_generate=True,
                output_scores=True,
            )
        beams = getattr(result, "beam_indices", None)
        stem = f"transition.{name}"
        arrays[f"{stem}.sequences"] = result.sequences.numpy()
        arrays[f"{stem}.scores"] = torch.stack(result.scores).numpy()
        if beams is not None:
            arrays[f"{stem}.beam_indices"] = beams.numpy()
        for normalize in (False, True):
            found = model.compute_transition_scores(
                result.sequences, result.scores, beams, normalize_logits=normalize
            )
            arrays[f"{stem}.{'normalized' if normalize else 'plain'}"] = found.numpy()


def record_processors(arrays: dict[str, Any]) -> None:
    """Record what a processor and the filter make of fixed scores."""
    logits = np.random.default_rng(17).normal(size=(4, 101)).astype(np.float32)
    ids = torch.tensor([[5, 7, 5], [7, 5, 7], [3, 3, 3], [2, 5, 7]])
    encoder = torch.tensor([[5, 7, 11, 5, 7, 13, 7], [3, 3, 2, 5, 7, 5, 5]])
    arrays["processors.logits"], arrays["processors.ids"] = logits, ids.numpy()
    arrays["processors.encoder"] = encoder.numpy()
    for size in (1, 2, 3, 4):
        processor = transformers.generation.EncoderNoRepeatNGramLogitsProcessor(size, encoder)
        arrays[f"processors.encoder_ngram_{size}"] = processor(ids, torch.from_numpy(logits.copy())).numpy()
    for name, kwargs in {"k": {"top_k": 7}, "p": {"top_p": 0.6}, "kp": {"top_k": 11, "top_p": 0.5}}.items():
        found = transformers.top_k_top_p_filtering(torch.from_numpy(logits.copy()), **kwargs)
        arrays[f"processors.filter_{name}"] = found.numpy()


def write_manifest() -> None:
    """Write versions, what the model is made of, and the hash of each file."""
    files = ("cases.json", "arrays.npz")
    manifest = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "model": MODEL,
        "weights_seed": WEIGHTS_SEED,
        "noise": NOISE,
        "sha256": {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in files},
    }
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
