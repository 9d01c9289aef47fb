"""The run folder: metrics, and checkpoints that are there whole or not at all."""

from __future__ import annotations

import json

import pytest

from gpt2kit.errors import TrainingError
from gpt2kit.training.plot import curves, smooth
from gpt2kit.training.record import Metrics, RunFolder


def write(content):
    def into(folder):
        (folder / "weights").write_text(content)

    return into


def test_a_checkpoint_replaces_the_one_before(tmp_path):
    run = RunFolder(tmp_path)
    assert run.checkpoint("last") is None
    for content in ("first", "second", "third"):
        assert run.save_checkpoint("last", write(content)) == tmp_path / "last"
        assert (run.checkpoint("last") / "weights").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path):
    run = RunFolder(tmp_path)
    run.save_checkpoint("last", write("first"))

    def fail(folder):
        (folder / "weights").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run.save_checkpoint("last", fail)
    assert (run.checkpoint("last") / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("broken_off", [1, 2])
def test_an_exchange_that_was_broken_off_is_finished(tmp_path, monkeypatch, broken_off):
    run = RunFolder(tmp_path)
    run.save_checkpoint("last", write("first"))
    import os

    calls = []
    real = os.replace

    def replace(source, target):
        calls.append(target)
        if len(calls) > broken_off:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            run.save_checkpoint("last", write("second"))
    assert (RunFolder(tmp_path).checkpoint("last") / "weights").read_text() == "second"
    run.save_checkpoint("last", write("third"))
    assert (run.checkpoint("last") / "weights").read_text() == "third"


def test_a_run_is_not_overwritten_unless_asked(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.check_free(overwrite=False)
    with run.lock():
        run.clear()
    run.config.write_text("{}")
    with pytest.raises(TrainingError, match="holds a run already: go on with it by --resume"):
        run.check_free(overwrite=False)
    run.save_checkpoint("last", write("first"))
    run.check_free(overwrite=True)
    run.clear()
    assert list(run.path.iterdir()) == []


def test_a_folder_of_something_else_and_a_file_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    for overwrite in (False, True):
        with pytest.raises(TrainingError, match=r"is not empty and holds no run \(thesis\.tex\)"):
            RunFolder(tmp_path).check_free(overwrite=overwrite)
        with pytest.raises(TrainingError, match="is a file; a run needs a folder"):
            RunFolder(tmp_path / "thesis.tex").check_free(overwrite=overwrite)


def test_metrics_are_lines_of_json_written_at_once(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl", until=0)
    metrics.append({"step": 1, "loss": 0.1 + 0.2})
    assert Metrics.read(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.1 + 0.2}]
    metrics.close()


def test_resuming_drops_the_lines_of_steps_that_will_be_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 2, 3, 4)) + '{"step": 5, "lo'
    )
    Metrics(path, until=2).close()
    assert [record["step"] for record in Metrics.read(path)] == [1, 2, 2]


def test_a_broken_line_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(TrainingError, match="line 2, is not JSON"):
        Metrics.read(path)


def test_curves_and_smoothing():
    records = [
        {"step": 0, "eval_loss": 7.0},
        *({"step": step, "loss": float(step)} for step in range(1, 101)),
    ]
    steps, losses, eval_steps, eval_losses = curves(records)
    assert (eval_steps, eval_losses) == ([0], [7.0])
    assert smooth(losses)[-1] == pytest.approx((96 + 97 + 98 + 99 + 100) / 5)
    assert smooth(losses)[0] == 1.0
    assert steps[-1] == 100
