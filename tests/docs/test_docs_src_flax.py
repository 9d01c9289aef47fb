"""The scripts in docs_src that compute with JAX run as they stand, and compute what they say.

They load "gpt2" from a hub on loopback, which has a small model made by NumPy.
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

pytest.importorskip("jax", reason="the scripts compute with JAX")

from cases import random_checkpoint
from gpt2kit import GPT2Config
from gpt2kit.checkpoint import save_safetensors
from gpt2kit.reference import gpt2

FOLDER = Path(__file__).parents[2] / "docs_src"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("flax_*.py"))
CONFIG = GPT2Config(n_positions=61, n_embd=24, n_layer=2, n_head=3)
WEIGHTS = random_checkpoint(CONFIG)
TEXT = [464, 40231, 318, 319, 11, 262, 14180, 389, 503]  # The kettle is on, the cups are out
PROMPT = TEXT[:5]
# Of float32 results x of this model against NumPy's in float64, relative to 1 + |x|. Measured 7e-6.
TOLERANCE = 7e-5


@pytest.fixture
def run(hub_server: HubServer, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Run a script as `python docs_src/<name>.py` does, and return the names that it leaves."""
    folder = tmp_path / "gpt2-of-ours"
    CONFIG.save_pretrained(folder)
    save_safetensors(folder, WEIGHTS)
    hub_server.add("gpt2", {path.name: path.read_bytes() for path in folder.iterdir()})
    return lambda name: runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


def states_of(ids: list[int]) -> Any:
    """Compute the last hidden states with the equations on NumPy's page, [1, T, D]."""
    weights = {name: values.astype(np.float64) for name, values in WEIGHTS.items()}
    return gpt2(CONFIG, weights, np.asarray([ids])).last_hidden_state


def logits_of(ids: list[int]) -> Any:
    """Compute the scores of every next token, [T, V]."""
    return states_of(ids)[0] @ WEIGHTS["transformer.wte.weight"].astype(np.float64).T


def log_softmax(rows: Any) -> Any:
    shifted = rows - rows.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def flax_hidden_states(run: dict[str, Any], out: str) -> None:
    np.testing.assert_allclose(run["last_hidden_state"], states_of(TEXT), rtol=TOLERANCE, atol=TOLERANCE)
    assert out == "(1, 9, 24)\n"


def flax_language_model(run: dict[str, Any], out: str) -> None:
    logits = logits_of(TEXT)
    loss = -log_softmax(logits[:-1])[range(8), TEXT[1:]].mean()
    assert float(run["loss"]) == pytest.approx(loss, rel=TOLERANCE)
    np.testing.assert_allclose(run["next_token_logits"][0], logits[-1], rtol=TOLERANCE, atol=TOLERANCE)
    first, second = out.splitlines()
    (told,) = re.findall(r"^a perplexity of (\S+) over 8 predictions$", first)
    assert float(told) == pytest.approx(math.exp(loss), rel=30 * TOLERANCE)  # e to the power of 21
    assert second == f"next comes {run['tokenizer'].decode([int(logits[-1].argmax())])!r}"
    assert float(abs(run["gradient"]["transformer"]["wte"]["embedding"]).sum()) > 0


def flax_generation(run: dict[str, Any], out: str) -> None:
    ids = list(PROMPT)
    for _ in range(8):
        ids.append(int(logits_of(ids)[-1].argmax()))
    assert run["greedy"].sequences.tolist() == [ids]
    drawn = np.asarray(run["drawn"].sequences)
    assert drawn.shape == (3, 13)
    assert len({tuple(row) for row in drawn}) == 3
    for row in drawn:  # of the 50 likeliest tokens each time
        best = np.argsort(logits_of(list(row)))[:, -51:]
        assert all(row[place + 1] in best[place] for place in range(len(PROMPT) - 1, 12))
    assert out.startswith(run["tokenizer"].decode(ids) + "\n")
    assert out.endswith("\n2 programs\n")


CHECKS = {check.__name__: check for check in (flax_generation, flax_hidden_states, flax_language_model)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_runs_and_computes_what_it_says(
    name: str, run: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    CHECKS[name](run(name), capsys.readouterr().out)


def test_no_check_is_left_without_its_script() -> None:
    assert sorted(CHECKS) == SCRIPTS
