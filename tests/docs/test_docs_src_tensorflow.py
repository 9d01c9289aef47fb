"""The scripts in docs_src that compute with TensorFlow run as they stand, and compute what they say.

They load "gpt2" and a classifier from a hub on loopback, which has small models made by NumPy.
"""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer

pytest.importorskip("tensorflow", reason="the scripts compute with TensorFlow")

import tensorflow as tf

from cases import random_checkpoint
from gpt2kit import GPT2Config, GPT2TokenizerFast
from gpt2kit.checkpoint import save_safetensors
from gpt2kit.checkpoint.layout import HEADS
from gpt2kit.reference import gpt2

FOLDER = Path(__file__).parents[2] / "docs_src"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("tf_*.py"))
SIZES: dict[str, Any] = {"n_positions": 61, "n_embd": 24, "n_layer": 2, "n_head": 3}
CONFIG = GPT2Config(**SIZES)
WEIGHTS = random_checkpoint(CONFIG)
LABELLED = GPT2Config(num_labels=1, **SIZES)
LABELLED_WEIGHTS = random_checkpoint(LABELLED, head=HEADS["GPT2ForSequenceClassification"])
TEXT = [464, 40231, 318, 319, 11, 262, 14180, 389, 503]  # The kettle is on, the cups are out
PROMPTS = (TEXT[:2], TEXT[:4], TEXT[:8])
# Of float32 results x of this model against NumPy's in float64, relative to 1 + |x|. Measured 1e-5.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What the hub has: small models with GPT-2's vocabulary, under the names of the large ones."""
    made = {"gpt2": (CONFIG, WEIGHTS), "microsoft/DialogRPT-updown": (LABELLED, LABELLED_WEIGHTS)}
    found = {}
    for name, (config, weights) in made.items():
        folder = tmp_path_factory.mktemp("repository")
        config.save_pretrained(folder)
        save_safetensors(folder, weights)
        if name != "gpt2":  # whose tokenizer is in the package
            GPT2TokenizerFast.from_pretrained("gpt2").save_pretrained(folder)
        found[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found


@pytest.fixture
def run(hub_server: HubServer, repositories: dict[str, dict[str, bytes]]) -> Callable[[str], dict[str, Any]]:
    """Run a script as `python docs_src/<name>.py` does, and return the names that it leaves."""
    for name, files in repositories.items():
        hub_server.add(name, files)

    def run(name: str) -> dict[str, Any]:
        tf.random.set_seed(7)
        return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")

    return run


def states_of(ids: list[int], config: GPT2Config = CONFIG, weights: Any = WEIGHTS) -> Any:
    """Compute the last hidden states with the equations on NumPy's page, [1, T, D]."""
    exact = {name: values.astype(np.float64) for name, values in weights.items()}
    return gpt2(config, exact, np.asarray([ids])).last_hidden_state


def logits_of(ids: list[int]) -> Any:
    """Compute the scores of every next token, [T, V]."""
    return states_of(ids)[0] @ WEIGHTS["transformer.wte.weight"].astype(np.float64).T


def log_softmax(rows: Any) -> Any:
    shifted = rows - rows.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def written_on(ids: list[int], count: int) -> list[int]:
    """Write on by the likeliest token each time."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(logits_of(ids)[-1].argmax()))
    return ids


def assert_close(given: Any, wanted: Any) -> None:
    np.testing.assert_allclose(given, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def tf_hidden_states(run: dict[str, Any], out: str) -> None:
    assert_close(run["last_hidden_state"], states_of(TEXT))
    assert out == "(1, 9, 24)\nTrue\nTrue\n"


def tf_language_model(run: dict[str, Any], out: str) -> None:
    logits = logits_of(TEXT)
    loss = -log_softmax(logits[:-1])[range(8), TEXT[1:]].mean()
    assert_close(run["loss"], [loss])
    assert_close(run["next_token_logits"][0], logits[-1])
    first, second = out.splitlines()
    (told,) = re.findall(r"^a perplexity of (\S+) over 8 predictions$", first)
    assert float(told) == pytest.approx(math.exp(loss), rel=30 * TOLERANCE)  # e to the power of 21
    assert second == f"next comes {run['tokenizer'].decode([int(logits[-1].argmax())])!r}"
    assert run["gradient"].shape == [50257, 24]
    assert float(tf.reduce_sum(tf.abs(run["gradient"]))) > 0


def tf_double_heads(run: dict[str, Any], out: str) -> None:
    assert run["embeddings"] is run["model"].get_input_embeddings()
    assert run["embeddings"].weight.shape == (50258, 24)
    assert run["places"] == [[7, 7], [8, 8], [9, 9]][len(run["rows"][0]) - 8]
    for row, logits in zip(run["rows"], run["lm_logits"][0], strict=True):
        assert_close(logits[:-1, :50257], logits_of(row[:-1]))  # all but the new token
    first, second = out.splitlines()
    assert first == f"the better ending: {run['endings'][int(np.argmax(run['mc_logits'][0]))]}"
    assert second == "losses of (1,) (1,)"
    assert_close(run["output"].mc_loss, [-log_softmax(np.asarray(run["mc_logits"], np.float64))[0, 0]])


def tf_sequence_classification(run: dict[str, Any], out: str) -> None:
    last = states_of(TEXT, LABELLED, LABELLED_WEIGHTS)[:, -1]  # [B, D]
    logits = last @ LABELLED_WEIGHTS["score.weight"].astype(np.float64).T  # [B, N]
    assert_close(run["logits"], logits)
    assert_close(run["loss"], (logits[:, 0] - 1) ** 2)
    scores = last @ np.asarray(run["three"].score.weight, np.float64).T  # [B, 3]
    assert_close(run["loss_of_three"], -log_softmax(scores)[:, 2])
    assert out == "label LABEL_0\n"


def tf_tokenizer(run: dict[str, Any], out: str) -> None:
    for scores, ids in zip(run["scores"], (TEXT, TEXT[:3]), strict=True):
        assert_close(scores, logits_of(ids)[-1])
    assert out == "[[15496, 995]] [[15496, 995]]\n(2, 50257)\n"


def tf_generation(run: dict[str, Any], out: str) -> None:
    ids, tokenizer = written_on(TEXT[:5], 5), run["tokenizer"]
    assert run["greedy"].sequences.numpy().tolist() == [ids]
    odds = np.exp(log_softmax(logits_of(ids)))[range(4, 9), ids[5:]]
    told = [f"{tokenizer.decode(token)!r}: {each:.2%}" for token, each in zip(ids[5:], odds, strict=True)]
    assert out.splitlines() == [*told, "True", "the same seed, the same text: True"]
    row = run["drawn"][0].numpy().tolist()
    best = np.argsort(logits_of(row))[:, -51:]  # of the 50 likeliest tokens each time
    assert all(row[place + 1] in best[place] for place in range(4, 9))


def tf_generation_xla(run: dict[str, Any], out: str) -> None:
    texts = [run["tokenizer"].decode(written_on(ids, 4)) for ids in PROMPTS]
    assert out.splitlines() == [*texts, "compiled 1 time"] * 2


def tf_fine_tuning(run: dict[str, Any], out: str) -> None:
    losses = []
    for block in run["blocks"][-4:]:
        losses.append(-log_softmax(logits_of(block)[:-1])[range(15), block[1:]])
    assert run["before"] == pytest.approx(float(np.mean(losses)), rel=TOLERANCE)
    history = run["history"]
    assert len(history["loss"]) == 3
    assert history["val_loss"][-1] < run["before"] - 1
    assert re.fullmatch(r"perplexity \S+, then \S+\n", out)
    for mine, other in zip(run["again"].weights, run["model"].weights, strict=True):
        np.testing.assert_array_equal(mine, other)


CHECKS = {
    check.__name__: check
    for check in (
        tf_double_heads,
        tf_fine_tuning,
        tf_generation,
        tf_generation_xla,
        tf_hidden_states,
        tf_language_model,
        tf_sequence_classification,
        tf_tokenizer,
    )
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_runs_and_computes_what_it_says(
    name: str, run: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    CHECKS[name](run(name), capsys.readouterr().out)


def test_no_check_is_left_without_its_script() -> None:
    assert sorted(CHECKS) == SCRIPTS
