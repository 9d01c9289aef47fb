"""Record what transformers 4.34.0 writes with beams: plain, sampled, in groups, and under constraints.

tests/rooms/torch/test_beams_golden.py holds us to it. Run in an environment of its own with
transformers==4.34.0, torch 2.13, numpy<2 and hypothesis:

    python tools/record_beams.py              # writes tests/golden/beams/

The weights come from tests/cases.py, made by NumPy, so that no weights are stored. Written are `cases.json`
(arguments and tokens), `arrays.npz` (every fifth column of the scores, the scores of the texts, the rows of
the scores that tokens came from, digests of attentions and states) and `manifest.json` (versions and hashes).
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
sys.path[:0] = [str(ROOT / name) for name in ("tools", "src", "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from cases import random_checkpoint, tiny_config  # noqa: E402
from record_generation import MASK, MODEL, ONE, PADDED, PROMPT, WEIGHTS_SEED, digest  # noqa: E402

FOLDER = ROOT / "tests" / "golden" / "beams"
NEW = 11
COLUMNS = 5  # every so many of the scores are stored
ENDS = list(range(20, 40))  # many end tokens: texts end at many different steps
BASE = {"max_new_tokens": NEW, "pad_token_id": 1, "eos_token_id": None, "num_beams": 3}


class WithEncoder(transformers.GPT2LMHeadModel):
    """Hand the encoder's states on to every step, which 4.34 drops."""

    def prepare_inputs_for_generation(
        self, input_ids: Any, past_key_values: Any = None, inputs_embeds: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Add the encoder's states and their mask."""
        found = super().prepare_inputs_for_generation(input_ids, past_key_values, inputs_embeds, **kwargs)
        names = ("encoder_hidden_states", "encoder_attention_mask")
        return found | {name: kwargs[name] for name in names if name in kwargs}


def main() -> None:
    """Write the goldens of beam search."""
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    models = {cross: reference(cross) for cross in (False, True)}
    arrays: dict[str, Any] = {}
    cases = all_cases()
    for name, case in cases.items():
        result = run(models["encoder_seed" in case], case)
        case["sequences"] = result.sequences.tolist()
        arrays[name] = torch.stack(result.scores).numpy()[..., ::COLUMNS]  # [steps, R, columns]
        arrays[f"{name}.sequences_scores"] = result.sequences_scores.numpy()
        if result.beam_indices is not None:
            arrays[f"{name}.beam_indices"] = result.beam_indices.numpy().astype(np.int16)
        for part in ("attentions", "hidden_states"):
            nested = getattr(result, part)
            if nested is not None:
                case[part] = [[list(tensor.shape) for tensor in step] for step in nested]
                arrays[f"{name}.{part}"] = np.stack([digest(part, step[-1]) for step in nested])
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    (FOLDER / "cases.json").write_text("{\n" + lines + "\n}\n")
    np.savez_compressed(FOLDER / "arrays.npz", **arrays)
    write_manifest()
    print(f"{len(cases)} cases in {FOLDER}")


def reference(cross: bool) -> Any:
    """Return 4.34's model with the weights of tests/cases.py."""
    config = tiny_config(**MODEL, add_cross_attention=cross)
    values = {name: value for name, value in config.to_dict().items() if name != "transformers_version"}
    model = WithEncoder(transformers.GPT2Config(**values)).eval()
    arrays = random_checkpoint(config, WEIGHTS_SEED)
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"The names of the weights do not fit: {missing}, {unexpected}")
    model.tie_weights()
    # 4.34 falls back to this where a call says eos_token_id=None; here None shall mean that none ends a text.
    model.generation_config.eos_token_id = None
    return model


def halves(row: int, ids: Any) -> list[int]:
    """Allow the first prompt even tokens, the second odd ones."""
    return list(range(row % 2, 101, 2))


def run(model: Any, case: dict[str, Any]) -> Any:
    """Generate as a case says; the scores are always kept."""
    kwargs = dict(case["kwargs"])
    for name in ("input_ids", "attention_mask", "token_type_ids", "encoder_attention_mask"):
        if name in case:
            kwargs[name] = torch.tensor(case[name])
    for name in ("embeds_seed", "encoder_seed"):
        if name in case:
            noise = np.random.default_rng(case[name]).normal(size=(2, 5, 33)).astype(np.float32) * 0.7
            kwargs["inputs_embeds" if name == "embeds_seed" else "encoder_hidden_states"] = torch.from_numpy(
                noise
            )
    if case.get("halves"):
        kwargs["prefix_allowed_tokens_fn"] = halves
    if "sequence_bias" in kwargs:
        kwargs["sequence_bias"] = {tuple(ids): bias for ids, bias in kwargs["sequence_bias"]}
    if "seed" in case:
        torch.manual_seed(case["seed"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(**kwargs, return_dict_in_generate=True, output_scores=True)


def case_of(prompt: Any = PROMPT, **kwargs: Any) -> dict[str, Any]:
    """Return a case: what is stored beside the keywords of `generate`, and the keywords."""
    beside = ("attention_mask", "token_type_ids", "encoder_attention_mask", "embeds_seed", "encoder_seed")
    extra = {name: kwargs.pop(name) for name in (*beside, "halves", "seed") if name in kwargs}
    inputs = {} if prompt is None else {"input_ids": prompt}
    sampling = {"do_sample": True} if "seed" in extra else {}
    return inputs | extra | {"kwargs": BASE | sampling | kwargs}


def all_cases() -> dict[str, dict[str, Any]]:
    """Return every case by its name."""
    case, padded = case_of, {"prompt": PADDED, "attention_mask": MASK}
    outputs = {"output_attentions": True, "output_hidden_states": True}
    groups = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5}
    words = {"num_beams": 4, "force_words_ids": [[41, 43]]}
    plain = {
        "plain": case(),
        "max_length": case(max_new_tokens=None, max_length=13),
        "five_beams": case(num_beams=5, num_return_sequences=5),
        "one_prompt": case(PROMPT[:1], num_return_sequences=2),
        "one_token": case(ONE, num_beams=2),
        "no_cache": case(use_cache=False),
        "eos": case(eos_token_id=29),
        "eos_pads_with_itself": case(eos_token_id=29, pad_token_id=None, num_return_sequences=3),
        "ends": case(eos_token_id=ENDS, num_return_sequences=3),
        "ends_early": case(eos_token_id=ENDS, early_stopping=True, num_return_sequences=2),
        "ends_never": case(eos_token_id=ENDS, early_stopping="never", length_penalty=1.5),
        "ends_never_short": case(eos_token_id=ENDS, early_stopping="never", length_penalty=-0.5),
        "no_length_penalty": case(eos_token_id=ENDS, length_penalty=0.0, num_return_sequences=2),
        "long_texts": case(eos_token_id=ENDS, length_penalty=2.5, num_return_sequences=2),
        "short_texts": case(eos_token_id=ENDS, length_penalty=-1.0, num_return_sequences=2),
        "left_padded": case(**padded),
        "left_padded_ends": case(**padded, eos_token_id=ENDS, num_return_sequences=3),
        "left_padded_no_cache": case(**padded, eos_token_id=ENDS, use_cache=False),
        "token_types": case(token_type_ids=[[1, 1, 2, 2, 3], [4, 4, 4, 5, 5]]),
        "no_prompt": case(None),
        "embeds": case(None, embeds_seed=3),
        "embeds_with_ids": case(embeds_seed=3, eos_token_id=ENDS),
        "encoder": case(encoder_seed=7, encoder_attention_mask=[[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], **outputs),
        "encoder_ends": case(encoder_seed=7, eos_token_id=ENDS),
        "outputs": case(**outputs),
        "outputs_ends": case(**outputs, eos_token_id=ENDS),
        "outputs_no_cache": case(**outputs, use_cache=False),
        "prefix": case(halves=True),
        "rules": case(
            repetition_penalty=1.3, no_repeat_ngram_size=2, bad_words_ids=[[5], [7, 8]], min_new_tokens=4,
            eos_token_id=ENDS, sequence_bias=[[[18], -3.5], [[4, 77], 2.5]],
        ),
        "renormalized": case(renormalize_logits=True, suppress_tokens=[18, 4], begin_suppress_tokens=[5]),
        "forced_eos": case(forced_eos_token_id=29, eos_token_id=29, min_length=9),
        "forced_decoder_ids": case(forced_decoder_ids=[[6, 43], [8, 47]]),
        "decay": case(eos_token_id=29, exponential_decay_length_penalty=[3, 1.6]),
    }  # fmt: skip
    sampled = {
        "draw": case(seed=7),
        "draw_all": case(seed=11, top_k=0, num_beams=2),
        "draw_ends": case(seed=13, top_k=0, eos_token_id=31, num_return_sequences=3),
        "draw_warped": case(
            seed=17, temperature=0.7, top_k=20, top_p=0.9, typical_p=0.95, epsilon_cutoff=0.001,
            eta_cutoff=0.002, eos_token_id=33, num_return_sequences=2,
        ),
        "draw_renormalized": case(seed=19, renormalize_logits=True, temperature=1.5, eos_token_id=31),
        "draw_padded": case(**padded, seed=23, repetition_penalty=1.2, eos_token_id=31),
        "draw_outputs": case(seed=29, **outputs, eos_token_id=31),
        "draw_no_cache": case(seed=31, use_cache=False),
    }  # fmt: skip
    grouped = {
        "groups": case(**groups),
        "groups_ends": case(**groups, eos_token_id=ENDS, num_return_sequences=4),
        "three_groups": case(num_beams=6, num_beam_groups=3, diversity_penalty=0.7, num_return_sequences=5),
        "groups_of_one": case(num_beams=4, num_beam_groups=4, diversity_penalty=5.0, halves=True),
        "groups_padded": case(**padded, **groups, eos_token_id=ENDS, repetition_penalty=1.2),
        "groups_outputs": case(**groups, **outputs, eos_token_id=ENDS),
    }
    constrained = {
        "word": case(**words),
        "word_ends": case(**words, eos_token_id=ENDS, early_stopping=True),
        "two_words": case(num_beams=4, force_words_ids=[[41, 43], [9]]),
        "either": case(num_beams=4, force_words_ids=[[[41, 43], [9, 13, 7]], [19]]),
        "word_begun": case(num_beams=3, force_words_ids=[[71, 9], [83, 7]]),
        "word_padded": case(**padded, **words, eos_token_id=33),
        "word_outputs": case(**words, **outputs, eos_token_id=33),
        "word_and_rules": case(**words, repetition_penalty=1.3, no_repeat_ngram_size=2, length_penalty=0.5),
    }
    return plain | sampled | grouped | constrained


def write_manifest() -> None:
    """Write the versions that made the files, and the files' hashes."""
    manifest = {
        "python": platform.python_version(),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "weights_seed": WEIGHTS_SEED,
        "model": MODEL,
        "columns": COLUMNS,
        "sha256": {
            name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
            for name in ("cases.json", "arrays.npz")
        },
    }
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
