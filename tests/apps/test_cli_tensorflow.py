"""`gpt2kit generate --framework tensorflow`: the texts of PyTorch, what is told, what is refused."""

from __future__ import annotations

import json
import math

import pytest
from tiny_folder import EOS, make_folder
from typer.testing import CliRunner

from gpt2kit.cli.main import app

pytest.importorskip("tensorflow", reason="the command computes with TensorFlow here")
import tensorflow as tf

from gpt2kit.checkpoint.read import BIN_NAME, FLAX_NAME, SAFETENSORS_NAME, TF_NAME
from gpt2kit.cli.framework import ROOMS, Framework
from gpt2kit.cli.tensorflow.device import choose_device, devices, place
from gpt2kit.cli.writer import Writer
from gpt2kit.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("model"), n_layer=2))


def load(folder, framework="tensorflow", dtype="float32"):
    """Load a model as the command does."""
    return Writer.load(
        str(folder), framework=Framework(framework), revision=None, device="cpu", dtype=dtype, quiet=True
    )


@pytest.fixture
def generate(folder):
    """Run the command; `ok=False` where it is meant to fail."""

    def run(*arguments, model=folder, framework="tensorflow", stdin=None, ok=True):
        command = ["generate", "--model", str(model), "--framework", framework, *arguments]
        done = CliRunner().invoke(app, command, input=stdin)
        if ok:
            assert done.exit_code == 0, done.stderr
            assert done.exception is None
        return done

    return run


@pytest.fixture
def both(generate):
    """Run the command with each framework, and return what each wrote as JSON."""
    pytest.importorskip("torch", reason="its texts are those of PyTorch")

    def run(*arguments, **options):
        told = []
        for framework in ("tensorflow", "torch"):
            done = generate(*arguments, "--json", "--quiet", framework=framework, **options)
            assert done.stderr == ""
            told.append([json.loads(line) for line in done.stdout.splitlines()])
        return told

    return run


# ---------------------------------------------------------------------- the texts


def test_the_greedy_text_of_the_pocket_model_is_that_of_pytorch(both):
    """And nothing is said of its weights, which lie there in half precision and are cast."""
    (mine,), (torch,) = both("ROMEO:\n", "--max-new-tokens", "24", "--no-do-sample", model="pocket")
    assert len(mine["ids"]) == 24
    for key in ("model", "prompt", "prompt_ids", "text", "ids", "finish_reason", "seed"):
        assert mine[key] == torch[key]


def test_the_texts_and_scores_of_beams_are_those_of_pytorch(both):
    beams = ("ab", "--num-beams", "3", "--num-return-sequences", "2", "--max-new-tokens", "9")
    mine, torch = both(*beams, "--no-repeat-ngram-size", "2")
    assert [each["ids"] for each in mine] == [each["ids"] for each in torch]
    for one, other in zip(mine, torch, strict=True):
        assert math.isclose(one["score"], other["score"], rel_tol=1e-4)


def test_a_text_that_ends_early_is_cut_at_its_end(both, generate):
    whole = json.loads(generate("ab", "--json", "--max-new-tokens", "9", framework="torch").stdout)["ids"]
    end = next(token for token in whole[1:] if token != whole[0])
    (mine,), (torch,) = both("ab", "--max-new-tokens", "9", "--eos-token-id", str(end))
    assert mine["ids"] == torch["ids"] == whole[: whole.index(end) + 1]
    assert mine["finish_reason"] == "eos"


def test_the_text_of_contrastive_search_is_that_of_pytorch(both):
    """It comes as a whole, as in beam search, so no time of the first token is told."""
    (mine,), (torch,) = both("ab", "--penalty-alpha", "0.6", "--top-k", "4", "--max-new-tokens", "9")
    assert mine["ids"] == torch["ids"]
    assert mine["first_token_seconds"] is None


def test_prompt_and_text_are_written_as_they_come_from_a_pipe_too(generate, monkeypatch):
    pieces = []
    monkeypatch.setattr("gpt2kit.cli.printer.write", pieces.append)
    done = generate("--max-new-tokens", "7", stdin="JULIET:\n")
    assert pieces[0] == "JULIET:"
    assert len(pieces) > 3
    assert done.stdout == "\n"  # the rest went to the pieces
    assert "7 tokens in" in done.stderr
    assert "first after" in done.stderr
    assert "compilation" not in done.stderr


def test_beams_are_written_when_they_are_whole(generate):
    beams = ("--num-beams", "3", "--num-return-sequences", "2", "--max-new-tokens", "9")
    done = generate("ab", *beams)
    first, second = done.stdout.split("=== 2 of 2 ===\n")
    assert first.startswith("=== 1 of 2 ===\nab")
    assert second.startswith("ab")
    assert "first after" not in done.stderr


def test_an_empty_prompt_begins_with_the_token_that_begins_a_text(generate):
    done = generate("", "--json", "--max-new-tokens", "3")
    assert json.loads(done.stdout)["prompt_ids"] == [EOS]
    assert f"beginning with token {EOS}" in done.stderr


def test_the_same_seed_draws_the_same_texts_and_json_tells_everything(folder, capsys):
    writer = load(folder)
    options = {"do_sample": True, "top_k": 0, "num_return_sequences": 3, "max_new_tokens": 11}
    first, again, other = (
        writer.go_on(writer.prepare("ab", options, seed)).texts for seed in (5, 5, 2**32 - 1)
    )
    assert first == again != other
    assert len({tuple(ids) for ids in first}) == 3
    writer.write_json(writer.prepare("ab", options, 5))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["ids"] for one in told] == first
    for one in told:
        assert (one["model"], one["prompt"], one["seed"]) == (folder, "ab", 5)
        assert one["finish_reason"] == ("eos" if EOS in one["ids"] else "length")
        assert 0 < one["first_token_seconds"] < one["seconds"]
        assert "compile_seconds" not in one
        speed = sum(map(len, first)) / one["seconds"]
        assert one["tokens_per_second"] == pytest.approx(speed, rel=0.05)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_weights_are_held_in_the_type_that_is_named_and_computed_in_it(name, folder):
    model = load(folder, dtype=name).runner.model
    assert {variable.dtype for variable in model.weights} == {name}
    assert model.compute_dtype == name


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-time", "3"], "--max-time"),
        (["--stop-strings", "x"], "--stop-strings"),
        (["--guidance-scale", "2", "--negative-prompt", "no"], "--negative-prompt"),
        (["--guidance-scale", "2"], "--guidance-scale"),
        (["--dola-layers", "low"], "--dola-layers"),
        (
            ["--num-beams", "4", "--num-beam-groups", "2", "--diversity-penalty", "1"],
            "--num-beam-groups",
        ),
        (["--num-beams", "2", "--force-word", "zq"], "--force-word"),
        (["--prompt-lookup-num-tokens", "3"], "--prompt-lookup-num-tokens"),
        (["--assistant-model", "pocket"], "--assistant-model"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_the_room_does_not_do_is_one_sentence_with_the_way_out(arguments, said, as_json, generate):
    done = generate("ab", "--max-new-tokens", "5", *arguments, *["--json"][:as_json], ok=False)
    assert (done.exit_code, done.stdout) == (1, "")
    assert isinstance(done.exception, SystemExit)
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "--framework torch" in done.stderr
    assert "GPT2LMHeadModel" not in done.stderr


def test_the_plan_is_explained_before_it_is_refused(generate):
    done = generate("ab", "--max-time", "3", "--explain", ok=False)
    assert "decoding  greedy_search" in done.stderr
    assert "(max_time)" in done.stderr
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "toaster"], "no device 'toaster' on this machine; it has cpu"),
        (["--device", "cuda:99"], "tensorflow[and-cuda]"),
        (["--device", "mps"], "no device 'mps'"),
        (["--top-p", "-0.5"], "--top-p"),
        (["--max-new-tokens", "99"], "n_positions=61"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--file", "nowhere.txt"], "nowhere.txt: No such file"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_one_sentence_and_exit_code_1(arguments, said, generate):
    prompt = [] if "--file" in arguments else ["a"]
    done = generate(*prompt, *arguments, ok=False)
    assert (done.exit_code, done.stdout) == (1, "")
    assert isinstance(done.exception, SystemExit)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_framework_that_there_is_not_is_a_usage_error(generate):
    done = generate("a", framework="jax", ok=False)
    assert done.exit_code == 2
    assert "'torch'" in done.stderr
    assert "'flax'" in done.stderr
    assert "'tensorflow'" in done.stderr


def test_a_seed_that_cannot_be_drawn_from_is_a_usage_error(generate):
    done = generate("a", "--do-sample", "--seed", str(2**32), ok=False)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "'--seed'" in done.stderr


@pytest.fixture
def machine(monkeypatch):
    """Let TensorFlow find a processor and so many GPUs; returns what was hidden from it."""
    hidden = []

    def with_gpus(number):
        there = {"CPU": ["processor"], "GPU": [f"card {n}" for n in range(number)], "TPU": []}
        monkeypatch.setattr(tf.config, "list_physical_devices", there.get)
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda *given: hidden.append(given))
        return hidden

    return with_gpus


def test_devices_are_named_as_people_name_them(machine):
    machine(2)
    assert devices() == {"cpu": "processor", "gpu:0": "card 0", "gpu:1": "card 1"}
    wanted = {"auto": "gpu:0", "gpu": "gpu:0", "cuda": "gpu:0", "cuda:1": "gpu:1", "rocm:0": "gpu:0"}
    assert {name: choose_device(name) for name in wanted} == wanted
    assert place("gpu:1") == "/GPU:1"
    machine(0)
    assert choose_device("auto") == "cpu"
    for name in ("cpu:1", "gpu", "cuda", "rocm:0", "tpu:3", "", ":0"):
        with pytest.raises(InputError, match="it has cpu"):
            choose_device(name)


def test_where_the_processor_is_asked_for_no_other_device_is_started(machine):
    hidden = machine(1)
    assert (choose_device("gpu"), hidden) == ("gpu:0", [])
    assert (choose_device("cpu"), hidden) == ("cpu", [([], "GPU")])


# ---------------------------------------------------------------------- files of the other framework


@pytest.mark.parametrize(
    ("reader", "file"),
    [
        ("tensorflow", BIN_NAME),
        ("tensorflow", FLAX_NAME),
        ("tensorflow", TF_NAME),
        ("torch", TF_NAME),
        ("flax", TF_NAME),
    ],
)
def test_weights_are_read_in_whichever_format_they_are(reader, file, tmp_path, folder):
    import gpt2kit

    of = {BIN_NAME: "torch", FLAX_NAME: "flax", TF_NAME: "tensorflow"}[file]
    for name in (reader, of):
        if not ROOMS[Framework(name)].installed():
            pytest.skip(f"{name} is not installed")
    class_name = {
        "torch": "GPT2LMHeadModel",
        "flax": "FlaxGPT2LMHeadModel",
        "tensorflow": "TFGPT2LMHeadModel",
    }
    make_folder(tmp_path, n_layer=2)
    (tmp_path / SAFETENSORS_NAME).unlink()
    model = getattr(gpt2kit, class_name[of]).from_pretrained(folder)
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / file).is_file()
    assert load(tmp_path, reader).runner.config.n_layer == 2


def test_a_folder_without_weights_is_one_sentence(tmp_path, generate):
    make_folder(tmp_path, n_layer=2)
    (tmp_path / SAFETENSORS_NAME).unlink()
    done = generate("a", model=tmp_path, ok=False)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "has no weights that can be read" in done.stderr
