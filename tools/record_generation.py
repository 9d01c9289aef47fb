"""Record what transformers 4.34.0 generates; tests/rooms/torch/test_generation_golden.py holds us to it.

Run in an environment of its own with transformers==4.34.0, torch 2.13, numpy<2 and hypothesis:

    python tools/record_generation.py            # writes tests/golden/generation/

The weights come from tests/cases.py, made by NumPy, so that no weights are stored. Written are `cases.json`
(arguments and tokens), `scores.npz` (the scores of each step), `processors.npz` (what each processor makes of
fixed logits) and `manifest.json` (versions and hashes).
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
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.generation import logits_process  # noqa: E402

from cases import random_checkpoint, tiny_config  # noqa: E402

FOLDER = ROOT / "tests" / "golden" / "generation"
MODEL = {"n_positions": 37, "bos_token_id": 2}  # over the sizes of tests/cases.py
WEIGHTS_SEED = 5
NEW = 11

PROMPT = [[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]]
ONE = [[41]]
PADDED = [[0, 0, 59, 3, 71], [0, 83, 7, 11, 29]]
MASK = [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]


def main() -> None:
    record(FOLDER)


def record(folder: Path) -> None:
    """Write the goldens of generation into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model = reference_model()
    cases, scores = {}, {}
    for name, case in all_cases(model).items():
        result = run(model, case)
        case["sequences"] = result.sequences.tolist()
        scores[name] = torch.stack(result.scores).numpy()  # [steps, B, V]
        for part in ("attentions", "hidden_states"):
            nested = getattr(result, part)
            if nested is not None:
                case[part] = [[list(tensor.shape) for tensor in step] for step in nested]
                scores[f"{name}.{part}"] = np.stack([digest(part, step[-1]) for step in nested])
        cases[name] = case
    (folder / "cases.json").write_text(
        "{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
        + "\n}\n"
    )
    np.savez_compressed(folder / "scores.npz", **scores)
    np.savez_compressed(folder / "processors.npz", **processor_goldens())
    write_manifest(folder)
    print(f"{len(cases)} cases in {folder}")


def digest(part: str, last_layer: Any) -> Any:
    """Return of the last position the mean place it attends to, [B, H], or its state, [B, D]."""
    if part == "hidden_states":
        return last_layer[:, -1].numpy()  # [B, D]
    weights = last_layer[:, :, -1].numpy()  # [B, H, S]
    return weights @ np.arange(weights.shape[-1], dtype=np.float32)  # [B, H]


def reference_model() -> Any:
    """Return 4.34's model with the weights of tests/cases.py."""
    config = tiny_config(**MODEL)
    values = {name: value for name, value in config.to_dict().items() if name != "transformers_version"}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**values)).eval()
    weights = {
        name: torch.from_numpy(array) for name, array in random_checkpoint(config, WEIGHTS_SEED).items()
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"The names of the weights do not fit: {missing}, {unexpected}")
    model.tie_weights()
    # 4.34 falls back to this where a call says eos_token_id=None; here None shall mean that none ends a text.
    model.generation_config.eos_token_id = None
    return model


def embeddings(seed: int = 3) -> Any:
    """Return embeddings that stand for no tokens, [B, T, D]."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 5, 33)).astype(np.float32) * 0.7)


def run(model: Any, case: dict[str, Any]) -> Any:
    """Generate as a case says; the scores are always kept."""
    kwargs = dict(case["kwargs"])
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in case:
            kwargs[name] = torch.tensor(case[name])
    if "embeds_seed" in case:
        kwargs["inputs_embeds"] = embeddings(case["embeds_seed"])
    if "past" in case:
        with torch.no_grad():
            kwargs["past_key_values"] = model(
                torch.tensor(case["input_ids"])[:, : case["past"]]
            ).past_key_values
    if "sequence_bias" in kwargs:
        kwargs["sequence_bias"] = {tuple(ids): bias for ids, bias in kwargs["sequence_bias"]}
    if "seed" in case:
        torch.manual_seed(case["seed"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(**kwargs, return_dict_in_generate=True, output_scores=True)


def all_cases(model: Any) -> dict[str, dict[str, Any]]:
    """Return every case by its name: greedy and sampling, each option alone, then some together."""
    base = {"max_new_tokens": NEW, "pad_token_id": 1, "eos_token_id": None}
    plain = run(model, {"input_ids": PROMPT, "kwargs": base}).sequences.tolist()
    ends = [plain[0][9], plain[1][6]]  # met at different steps of the two rows
    word = plain[0][8:10]

    def case(prompt: Any = PROMPT, seed: int | None = None, **kwargs: Any) -> dict[str, Any]:
        extra = {
            n: kwargs.pop(n)
            for n in ("attention_mask", "token_type_ids", "embeds_seed", "past")
            if n in kwargs
        }
        inputs = {} if prompt is None else {"input_ids": prompt}
        drawn = {} if seed is None else {"seed": seed}
        sampling = {} if seed is None else {"do_sample": True}
        return inputs | extra | drawn | {"kwargs": base | sampling | kwargs}

    greedy = {
        "plain": case(),
        "max_length": case(max_new_tokens=None, max_length=13),
        "no_cache": case(use_cache=False),
        "eos": case(eos_token_id=ends[0]),
        "eos_list": case(eos_token_id=ends),
        "eos_pads_with_itself": case(eos_token_id=ends, pad_token_id=None),
        "min_length": case(eos_token_id=ends, min_length=10),
        "min_new_tokens": case(eos_token_id=ends, min_new_tokens=8),
        "repetition_penalty": case(repetition_penalty=1.7),
        "repetition_reward": case(repetition_penalty=0.6),
        "encoder_repetition_penalty": case(encoder_repetition_penalty=1.9),
        "no_repeat_1": case(no_repeat_ngram_size=1),
        "no_repeat_2": case(no_repeat_ngram_size=2),
        "no_repeat_3": case(no_repeat_ngram_size=3),
        "bad_words": case(bad_words_ids=[[plain[0][5]], word, [plain[1][7]]]),
        "sequence_bias": case(sequence_bias=[[[plain[0][5]], -7.5], [word, -50.0], [[13], 3.25]]),
        "forced_bos": case(ONE, forced_bos_token_id=19),
        "forced_eos": case(forced_eos_token_id=29),
        "forced_eos_list": case(forced_eos_token_id=[29, 31]),
        "remove_invalid_values": case(remove_invalid_values=True),
        "exponential_decay": case(eos_token_id=13, exponential_decay_length_penalty=[3, 1.6]),
        "suppress": case(suppress_tokens=sorted({plain[0][5], plain[1][8]})),
        "begin_suppress": case(begin_suppress_tokens=sorted({plain[0][5], plain[1][5]})),
        "begin_suppress_after_forced_bos": case(ONE, forced_bos_token_id=19, begin_suppress_tokens=[14, 19]),
        "forced_decoder_ids": case(forced_decoder_ids=[[6, 43], [8, 47]]),
        "begin_suppress_after_forced": case(
            ONE, forced_decoder_ids=[[1, 43], [2, 47]], begin_suppress_tokens=list(range(0, 101, 2))
        ),
        "renormalize": case(renormalize_logits=True),
        "left_padded": case(PADDED, attention_mask=MASK),
        "left_padded_no_cache": case(PADDED, attention_mask=MASK, use_cache=False),
        "padding_told_by_id": case(PADDED, pad_token_id=0),
        "left_padded_eos": case(PADDED, attention_mask=MASK, eos_token_id=ends),
        "token_types": case(token_type_ids=[[1, 1, 2, 2, 3], [4, 4, 4, 5, 5]]),
        "no_prompt": case(None),
        "embeds": case(None, embeds_seed=3),
        "embeds_with_ids": case(embeds_seed=3),
        "past": case(past=4),
        "outputs": case(output_attentions=True, output_hidden_states=True),
        "outputs_no_cache": case(output_attentions=True, output_hidden_states=True, use_cache=False),
        "together": case(
            PADDED, attention_mask=MASK, eos_token_id=ends, min_new_tokens=5, repetition_penalty=1.3,
            no_repeat_ngram_size=2, bad_words_ids=[word], renormalize_logits=True,
        ),
    }  # fmt: skip
    sampled = {
        "draw": case(seed=7),
        "draw_all": case(seed=11, top_k=0),
        "draw_one_prompt": case(PROMPT[:1], seed=13),
        "temperature": case(seed=17, temperature=0.7),
        "hot": case(seed=19, temperature=1.9, top_k=0),
        "top_k": case(seed=23, top_k=5),
        "top_p": case(seed=29, top_k=0, top_p=0.6),
        "typical": case(seed=31, top_k=0, typical_p=0.5),
        "epsilon": case(seed=37, top_k=0, epsilon_cutoff=0.02),
        "eta": case(seed=41, top_k=0, eta_cutoff=0.03),
        "returns": case(seed=43, num_return_sequences=3),
        "returns_padded": case(PADDED, seed=47, attention_mask=MASK, num_return_sequences=2),
        "draw_eos": case(seed=53, eos_token_id=ends, temperature=0.5),
        "draw_no_cache": case(seed=59, use_cache=False),
        "draw_embeds": case(None, seed=61, embeds_seed=3, num_return_sequences=2),
        "draw_no_prompt": case(None, seed=67, num_return_sequences=3),
        "draw_renormalized": case(seed=71, renormalize_logits=True, top_p=0.8),
        "draw_together": case(
            seed=73, temperature=1.3, top_k=40, top_p=0.95, typical_p=0.9, epsilon_cutoff=0.001,
            eta_cutoff=0.002,
            repetition_penalty=1.2, no_repeat_ngram_size=2, eos_token_id=ends, min_new_tokens=4,
            bad_words_ids=[word], num_return_sequences=2, renormalize_logits=True,
        ),
        "draw_outputs": case(
            seed=79, output_attentions=True, output_hidden_states=True, num_return_sequences=2
        ),
    }  # fmt: skip
    return greedy | sampled


# Each processor by itself: class -> arguments. The tests read the same table from the file.
PROCESSORS: dict[str, list[Any]] = {
    "EpsilonLogitsWarper": [0.01],
    "EtaLogitsWarper": [0.02],
    "ExponentialDecayLengthPenalty": [[2, 1.4], [13, 17], 3],
    "ForceTokensLogitsProcessor": [[[7, 19]]],
    "ForcedBOSTokenLogitsProcessor": [19],
    "ForcedEOSTokenLogitsProcessor": [8, [13, 17]],
    "InfNanRemoveLogitsProcessor": [],
    "LogitNormalization": [],
    "MinLengthLogitsProcessor": [8, [13, 17]],
    "MinNewTokensLengthLogitsProcessor": [3, 5, 13],
    "NoBadWordsLogitsProcessor": [[[5], [7, 11], [3, 13], [13]], 13],
    "NoRepeatNGramLogitsProcessor": [2],
    "RepetitionPenaltyLogitsProcessor": [1.7],
    "SuppressTokensAtBeginLogitsProcessor": [[13, 17], 7],
    "SuppressTokensLogitsProcessor": [[13, 17]],
    "TemperatureLogitsWarper": [0.7],
    "TopKLogitsWarper": [7],
    "TopPLogitsWarper": [0.8],
    "TypicalLogitsWarper": [0.6],
}


def processor_goldens() -> dict[str, Any]:
    """Return fixed logits and what each processor of the table makes of them."""
    generator = np.random.default_rng(0)
    logits = (generator.normal(size=(2, 101)) * 2).astype(np.float32)  # [B, V]
    ids = np.array([[3, 7, 11, 3, 7, 2, 7], [5, 2, 5, 2, 5, 13, 5]])  # [B, T]
    found = {"logits": logits, "input_ids": ids, "arguments": np.array(json.dumps(PROCESSORS))}
    for name, arguments in PROCESSORS.items():
        given = torch.from_numpy(logits.copy())
        if name == "InfNanRemoveLogitsProcessor":
            given[0, 3], given[1, 5], given[1, 7] = float("nan"), float("inf"), -float("inf")
        processor = getattr(logits_process, name)(*arguments)
        text = torch.from_numpy(ids)[:, :1] if name.startswith("ForcedBOS") else torch.from_numpy(ids)
        found[name] = processor(text, given).numpy()
    return found


def write_manifest(folder: Path) -> None:
    """Write the versions that made the files, and the files' hashes."""
    files = ("cases.json", "scores.npz", "processors.npz")
    manifest = {
        "python": platform.python_version(),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "weights_seed": WEIGHTS_SEED,
        "model": MODEL,
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
