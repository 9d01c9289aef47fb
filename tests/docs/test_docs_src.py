"""The scripts in docs_src run as they stand, and compute what they say.

Each makes the calls of one example of GPT-2's page in transformers 4.34. Small models of ours have
the names that they load, on a hub on loopback.
"""

from __future__ import annotations

import json
import math
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer

pytest.importorskip("torch", reason="the scripts compute with PyTorch")

import torch

import gpt2kit
from gpt2kit.reference import gpt2

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs_src"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith(("flax_", "tf_")))
SIZES = {"n_positions": 61, "n_embd": 24, "n_layer": 2, "n_head": 3, "initializer_range": 0.2}
LABELS = {0: "Lead", 1: "Position", 2: "Claim"}
TEXT = [464, 40231, 318, 319, 11, 262, 14180, 389, 503]  # The kettle is on, the cups are out
# Of float32 results of these models against NumPy's in float64. Measured 1.4e-6.
TOLERANCE = 1.5e-5


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What the hub has: small models with GPT-2's vocabulary, under the names of the large ones."""
    made = {
        "gpt2": ("GPT2LMHeadModel", {}),
        "microsoft/DialogRPT-updown": ("GPT2ForSequenceClassification", {"num_labels": 1}),
        "brad1141/gpt2-finetuned-comp2": ("GPT2ForTokenClassification", {"id2label": LABELS}),
    }
    found = {"google-bert/bert-base-uncased": {"config.json": json.dumps({"model_type": "bert"}).encode()}}
    tokenizer = gpt2kit.GPT2TokenizerFast.from_pretrained("gpt2")
    for seed, (name, (model, labels)) in enumerate(made.items()):
        folder = tmp_path_factory.mktemp("repository")
        torch.manual_seed(seed)
        getattr(gpt2kit, model)(gpt2kit.GPT2Config(**SIZES, **labels)).save_pretrained(folder)
        if name != "gpt2":  # whose tokenizer is in the package
            tokenizer.save_pretrained(folder)
        found[name] = files_of(folder)
    return found


@pytest.fixture
def run(hub_server: HubServer, repositories: dict[str, dict[str, bytes]]) -> Callable[[str], dict[str, Any]]:
    """Run a script as `python docs_src/<name>.py` does, and return the names that it leaves."""
    for name, files in repositories.items():
        hub_server.add(name, files)

    def run(name: str) -> dict[str, Any]:
        torch.manual_seed(7)
        return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")

    return run


def reference_of(model: Any, ids: Any, head: str = "transformer.") -> Any:
    """Compute the last hidden states with the equations on NumPy's page."""
    weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    if head:
        weights = {name: value for name, value in weights.items() if name.startswith(head)}
    else:
        weights = {f"transformer.{name}": value for name, value in weights.items()}
    return gpt2(model.config, weights, np.asarray(ids)).last_hidden_state


def cross_entropy(logits: Any, labels: Any) -> float:
    """Return the mean of -log softmax(logits)[labels], in NumPy."""
    rows = np.asarray(logits.detach().double()).reshape(-1, logits.shape[-1])
    labels = np.asarray(labels).reshape(-1)
    shifted = rows - rows.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]))


def close(found: Any, expected: Any) -> None:
    found = found.detach().numpy() if hasattr(found, "detach") else found
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def largest_difference(out: str) -> float:
    (number,) = re.findall(r"difference: (\S+)", out)
    return float(number)


# --------------------------------------------------------------------------- what each script is to find


def configuration(run: dict[str, Any], out: str) -> None:
    config = run["config"]
    assert (config.n_layer, config.n_head, config.n_embd, config.vocab_size) == (12, 12, 768, 50257)
    assert run["model"].config is run["smaller"]
    blocks = 2 * (12 * 64 * 64 + 13 * 64)
    assert out == f"{(50257 + 1024) * 64 + blocks + 2 * 64:,} parameters in 2 layers\n"


def tokenizer(run: dict[str, Any], out: str) -> None:
    assert out.splitlines() == ["[15496, 995] [18435, 995]", "[18435, 995]", " Hello world"]


def tokenizer_fast(run: dict[str, Any], out: str) -> None:
    first, second = out.splitlines()
    assert first == "[15496, 995] [18435, 995]"
    assert second == "[18435, 995] [0, 1] [(0, 5), (0, 5)]"


def hidden_states(run: dict[str, Any], out: str) -> None:
    assert run["batch"].input_ids.tolist() == [TEXT]
    close(run["last_hidden_state"], reference_of(run["model"], [TEXT], head=""))


def language_model(run: dict[str, Any], out: str) -> None:
    model = run["model"]
    states = reference_of(model, [TEXT])
    close(run["logits"], states @ model.transformer.wte.weight.detach().double().numpy().T)
    assert run["loss"].item() == pytest.approx(
        cross_entropy(run["logits"][:, :-1], [TEXT[1:]]), rel=TOLERANCE
    )
    assert out == f"a perplexity of {math.exp(run['loss']):.1f} over 8 predictions\n"


def double_heads(run: dict[str, Any], out: str) -> None:
    model, rows, places = run["model"], run["rows"], run["places"]
    assert run["embeddings"].weight.shape == (50258, 24)
    assert [row[place] for row, place in zip(rows, places, strict=True)] == [50257, 50257]
    assert run["lm_logits"].shape == (1, 2, len(rows[0]), 50258)
    summary = model.multiple_choice_head.summary
    states = reference_of(model, rows)[range(2), places]  # [C, D]
    scores = states @ summary.weight.detach().double().numpy().T + summary.bias.detach().double().numpy()
    close(run["mc_logits"], scores.T)
    assert out == f"the better ending: {run['endings'][int(np.argmax(scores))]}\n"
    assert run["output"].mc_loss.item() == pytest.approx(cross_entropy(run["mc_logits"], [0]), rel=TOLERANCE)
    assert model.transformer.wte.weight.grad[50257].abs().sum() > 0
    assert summary.weight.grad.abs().sum() > 0


def sequence_classification(run: dict[str, Any], out: str) -> None:
    score = run["model"].score.weight.detach().double().numpy()
    logits = reference_of(run["model"], [TEXT])[:, -1] @ score.T
    close(run["logits"], logits)
    assert out == "label LABEL_0\n"
    assert run["loss"].item() == pytest.approx(float((logits[0, 0] - 1) ** 2), rel=TOLERANCE)
    three = run["three"]
    assert three.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    of_three = reference_of(three, [TEXT])[:, -1] @ three.score.weight.detach().double().numpy().T  # [B, N]
    expected = cross_entropy(torch.from_numpy(of_three), [2])
    assert run["loss_of_three"].item() == pytest.approx(expected, rel=TOLERANCE)
    close(three.transformer.wte.weight, run["model"].transformer.wte.weight.detach())
    assert three.score.weight.grad.abs().sum() > 0


def sequence_classification_multi_label(run: dict[str, Any], out: str) -> None:
    logit = float(run["logits"])
    assert run["predicted"].tolist() == ([0] if logit > 0 else [])
    assert out == f"labels {['LABEL_0'] if logit > 0 else []}\n"
    assert run["labels"].tolist() == [[float(logit > 0)]]
    assert run["loss"].item() == pytest.approx(math.log1p(math.exp(-abs(logit))), rel=TOLERANCE)
    assert run["model"].config.problem_type == "multi_label_classification"


def token_classification(run: dict[str, Any], out: str) -> None:
    classifier = run["model"].classifier
    states = reference_of(run["model"], run["batch"].input_ids)
    weight, bias = (part.detach().double().numpy() for part in (classifier.weight, classifier.bias))
    logits = states @ weight.T + bias
    close(run["logits"], logits)
    names = [LABELS[int(label)] for label in logits[0].argmax(-1)]
    assert run["names"] == names
    *lines, loss = out.splitlines()
    words = ["Tea", "Ġshould", "Ġbe", "Ġdrunk", "Ġhot", "Ġbecause", "Ġit", "Ġwar", "ms", "Ġthe", "Ġhands"]
    assert [line.split() for line in lines] == [list(pair) for pair in zip(words, names, strict=True)]
    assert float(loss) == round(cross_entropy(run["logits"], run["labels"]), 2)


def question_answering(run: dict[str, Any], out: str) -> None:
    weight = run["model"].qa_outputs.weight.detach().double().numpy()
    bias = run["model"].qa_outputs.bias.detach().double().numpy()
    starts, ends = np.moveaxis(reference_of(run["model"], run["batch"].input_ids) @ weight.T + bias, -1, 0)
    assert (run["first"], run["last"]) == (starts.argmax(), ends.argmax())
    places = int(run["start_positions"]), int(run["end_positions"])
    marked = run["batch"].input_ids[0, places[0] : places[1] + 1]
    assert run["tokenizer"].decode(marked) == " Hatter"
    losses = [
        cross_entropy(torch.from_numpy(logits), [place])
        for logits, place in zip((starts, ends), places, strict=True)
    ]
    assert run["loss"].item() == pytest.approx(sum(losses) / 2, rel=TOLERANCE)
    assert run["model"].qa_outputs.weight.grad.abs().sum() > 0


def generation(run: dict[str, Any], out: str) -> None:
    model, prompt = run["model"], run["prompt"].input_ids
    table = model.transformer.wte.weight.detach().double().numpy()
    ids = prompt.tolist()
    for _ in range(8):
        ids[0].append(int((reference_of(model, ids)[0, -1] @ table.T).argmax()))
    assert run["greedy"].tolist() == ids
    assert run["streamed"].tolist() == ids
    assert out.startswith("The kettle is on,")
    assert out.endswith(run["tokenizer"].decode(ids[0]) + "\n")
    assert run["drawn"].shape == (3, prompt.shape[1] + 8)
    assert len({tuple(row) for row in run["drawn"].tolist()}) == 3
    again = {"do_sample": True, "top_k": 50, "top_p": 0.95, "temperature": 0.8, "num_return_sequences": 3}
    gpt2kit.set_seed(42)
    repeated = model.generate(**run["prompt"], max_new_tokens=8, pad_token_id=50256, **again)
    assert repeated.tolist() == run["drawn"].tolist()
    assert run["beams"].tolist() == [beam_search(model, prompt.tolist()[0], width=4, steps=8)]


def beam_search(model: Any, ids: list[int], width: int, steps: int) -> list[int]:
    """Return the likeliest row that is left when only so many are kept at each step, none of which ends."""
    table = model.transformer.wte.weight.detach().double().numpy()
    beams = [(0.0, ids)]
    for _ in range(steps):
        grown = []
        for score, row in beams:
            logits = reference_of(model, [row])[0, -1] @ table.T  # [V]
            log_probabilities = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())  # [V]
            best = np.argsort(log_probabilities)[-width:]
            grown += [(score + log_probabilities[token], [*row, int(token)]) for token in best]
        beams = sorted(grown, reverse=True)[:width]
    return beams[0][1]


def cache(run: dict[str, Any], out: str) -> None:
    assert largest_difference(out) < TOLERANCE
    assert run["before"].past_key_values[0][0].shape == (1, 3, len(TEXT) - 1, 8)


def padding(run: dict[str, Any], out: str) -> None:
    assert largest_difference(out) < TOLERANCE
    assert run["batch"].attention_mask.tolist() == [[1] * 4 + [0] * 5, [1] * 9]


def stability(run: dict[str, Any], out: str) -> None:
    assert out == f"loss {run['loss']:.2f}\n"
    assert abs(run["loss"].item() - math.log(101)) < 0.5  # nothing is known yet
    assert all(parameter.grad.isfinite().all() for parameter in run["model"].parameters())


def auto(run: dict[str, Any], out: str) -> None:
    first, refusal = out.splitlines()
    assert first == "GPT2Config GPT2Model GPT2LMHeadModel GPT2ForSequenceClassification"
    assert "bert-base-uncased is of type 'bert'" in refusal


CHECKS = {
    check.__name__: check
    for check in (
        auto,
        cache,
        configuration,
        double_heads,
        generation,
        hidden_states,
        language_model,
        padding,
        question_answering,
        sequence_classification,
        sequence_classification_multi_label,
        stability,
        token_classification,
        tokenizer,
        tokenizer_fast,
    )
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_runs_and_computes_what_it_says(
    name: str, run: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    CHECKS[name](run(name), capsys.readouterr().out)


def test_no_check_is_left_without_its_script() -> None:
    assert sorted(CHECKS) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_says_what_it_shows_and_is_short(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert len(text.splitlines()) < 50
