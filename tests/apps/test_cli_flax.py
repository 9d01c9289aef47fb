"""`gpt2kit generate --framework flax`: the texts of PyTorch, what is told, what is refused."""

from __future__ import annotations

import json
import math
import os
import warnings

import pytest
from tiny_folder import EOS, make_folder
from typer.testing import CliRunner

from gpt2kit.cli.main import app

pytest.importorskip("flax", reason="the command computes with JAX here")
import jax
import jax.numpy as jnp

from gpt2kit.checkpoint.read import BIN_NAME, FLAX_NAME, SAFETENSORS_NAME
from gpt2kit.cli.flax import programs
from gpt2kit.cli.flax.device import choose_device
from gpt2kit.cli.framework import Framework
from gpt2kit.cli.writer import Writer
from gpt2kit.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("model"), n_layer=2))


def load(folder, framework="flax", dtype="float32"):
    """Load a model as the command does."""
    return Writer.load(
        str(folder), framework=Framework(framework), revision=None, device="cpu", dtype=dtype, quiet=True
    )


@pytest.fixture
def generate(folder):
    """Run the command; `ok=False` where it is meant to fail."""

    def run(*arguments, model=folder, framework="flax", stdin=None, ok=True):
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
        for framework in ("flax", "torch"):
            done = generate(*arguments, "--json", "--quiet", framework=framework, **options)
            assert done.stderr == ""
            told.append([json.loads(line) for line in done.stdout.splitlines()])
        return told

    return run


# ---------------------------------------------------------------------- the texts


def test_the_greedy_text_of_the_pocket_model_is_that_of_pytorch(both):
    """And nothing is said of its weights, which lie there in half precision and are cast."""
    (flax,), (torch,) = both("ROMEO:\n", "--max-new-tokens", "24", "--no-do-sample", model="pocket")
    assert len(flax["ids"]) == 24
    for key in ("model", "prompt", "prompt_ids", "text", "ids", "finish_reason", "seed"):
        assert flax[key] == torch[key]


def test_the_texts_and_scores_of_beams_are_those_of_pytorch(both):
    beams = ("ab", "--num-beams", "3", "--num-return-sequences", "2", "--max-new-tokens", "9")
    flax, torch = both(*beams, "--no-repeat-ngram-size", "2")
    assert [each["ids"] for each in flax] == [each["ids"] for each in torch]
    for mine, other in zip(flax, torch, strict=True):
        assert math.isclose(mine["score"], other["score"], rel_tol=1e-4)


def test_a_text_that_ends_early_is_cut_at_its_end(both, generate):
    """JAX fills the rest with padding, which is no part of the text."""
    whole = json.loads(generate("ab", "--json", "--max-new-tokens", "9", framework="torch").stdout)["ids"]
    end = next(token for token in whole[1:] if token != whole[0])
    (flax,), (torch,) = both("ab", "--max-new-tokens", "9", "--eos-token-id", str(end))
    assert flax["ids"] == torch["ids"] == whole[: whole.index(end) + 1]
    assert flax["finish_reason"] == "eos"


def test_prompt_and_text_are_written_at_the_end_from_a_pipe_too(generate):
    done = generate("--max-new-tokens", "7", stdin="JULIET:\n")
    assert done.stdout.startswith("JULIET:")
    assert done.stdout.endswith("\n")
    assert "7 tokens in" in done.stderr
    assert "s of compilation; ended by length" in done.stderr
    assert "first after" not in done.stderr


def test_the_same_seed_draws_the_same_texts_and_json_tells_everything(folder, capsys):
    writer = load(folder)
    options = {"do_sample": True, "top_k": 0, "num_return_sequences": 3, "max_new_tokens": 11}
    first, again, other = (writer.go_on(writer.prepare("ab", options, seed)).texts for seed in (5, 5, 6))
    assert first == again != other
    assert len({tuple(ids) for ids in first}) == 3
    writer.write_json(writer.prepare("ab", options, 5))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["ids"] for one in told] == first
    for one in told:
        assert (one["model"], one["prompt"], one["seed"]) == (folder, "ab", 5)
        assert one["finish_reason"] == ("eos" if EOS in one["ids"] else "length")
        assert one["first_token_seconds"] is None
        assert one["compile_seconds"] == 0  # the program of the first texts serves all that follow
        speed = sum(map(len, first)) / one["seconds"]
        assert one["tokens_per_second"] == pytest.approx(speed, rel=0.05)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_weights_are_held_in_the_type_that_is_named_and_computed_in_it(name, folder):
    model = load(folder, dtype=name).runner.model
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype(name)}
    assert model.dtype == jnp.dtype(name)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-time", "3"], "--max-time"),
        (["--stop-strings", "x"], "--stop-strings"),
        (["--penalty-alpha", "0.6"], "--penalty-alpha"),
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
def test_what_one_program_cannot_do_is_one_sentence_with_the_way_out(arguments, said, as_json, generate):
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
        (["--device", "cuda:99"], "installation page"),
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


@pytest.mark.parametrize("framework", ["torch", "flax"])
def test_a_seed_that_cannot_be_drawn_from_is_a_usage_error(framework, generate):
    done = generate("a", "--do-sample", "--seed", str(2**32), framework=framework, ok=False)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "'--seed'" in done.stderr


def test_devices_are_named_as_people_name_them():
    assert choose_device("cpu") is choose_device("auto") is jax.devices("cpu")[0]
    for name in ("cpu:1", "gpu", "cuda", "rocm:0", "tpu:3", "", ":0"):
        with pytest.raises(InputError, match="it has cpu"):
            choose_device(name)


# ---------------------------------------------------------------------- files of the other framework


@pytest.mark.parametrize("framework", ["torch", "flax"])
@pytest.mark.parametrize("foreign", [FLAX_NAME, BIN_NAME])
def test_weights_are_read_in_whichever_format_they_are(framework, foreign, tmp_path, folder):
    pytest.importorskip("torch", reason="one of the files is PyTorch's")
    from gpt2kit import FlaxGPT2LMHeadModel, GPT2LMHeadModel

    Model = FlaxGPT2LMHeadModel if foreign == FLAX_NAME else GPT2LMHeadModel
    make_folder(tmp_path, n_layer=2)
    (tmp_path / SAFETENSORS_NAME).unlink()
    Model.from_pretrained(folder).save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / foreign).is_file()
    assert load(tmp_path, framework).runner.config.n_layer == 2


def test_a_folder_without_weights_is_one_sentence(tmp_path, generate):
    make_folder(tmp_path, n_layer=2)
    (tmp_path / SAFETENSORS_NAME).unlink()
    done = generate("a", model=tmp_path, ok=False)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "has no weights that can be read" in done.stderr


# ---------------------------------------------------------------------- compiled programs


def test_what_is_made_within_another_program_is_counted_once(monkeypatch):
    now = iter([3.0, 4.0, 9.0, 9.5])
    monkeypatch.setattr(programs.time, "perf_counter", lambda: next(now))
    words = []
    watch = programs.Stopwatch(words.append)
    watch.heard("/jax/core/compile/jaxpr_trace_duration", 1.0)  # 2 to 3, within the next one
    watch.heard("/jax/core/compile/jaxpr_trace_duration", 3.0)  # 1 to 4
    watch.heard("/jax/compilation_cache/cache_retrieval_time_sec", 0.5)  # a part of the next one
    watch.heard("/jax/core/compile/backend_compile_duration", 2.0)  # 7 to 9
    watch.heard("/jax/core/compile/jaxpr_trace_duration", 0.001)  # an operation is no model
    assert watch.seconds == pytest.approx(3.0 + 2.0 + 0.001)
    assert words == ["writing"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Let JAX know a folder of programs that is ours, for code that compiles nothing."""
    there = tmp_path / "cache" / "jax"
    monkeypatch.setattr(programs, "PROGRAMS", there)
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache
    jax.config.update("jax_compilation_cache_dir", str(there))
    jax.config.update("jax_enable_compilation_cache", True)
    yield there
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_enable_compilation_cache", before[1])


def test_the_folder_of_programs_is_the_users_alone_and_does_not_grow_without_end(cache, monkeypatch):
    programs.open_cache()
    assert cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(programs, "LARGEST", 25)
    for age, name in enumerate("dcba"):
        (cache / f"{name}-cache").write_bytes(b"x" * 10)
        os.utime(cache / f"{name}-cache", (age, age))
    programs.open_cache()
    assert sorted(file.name for file in cache.iterdir()) == ["a-cache", "b-cache"]  # the newest


def test_where_programs_cannot_be_kept_they_are_made_each_time(cache):
    cache.parent.write_text("a file where a folder should be")
    programs.open_cache()
    assert not jax.config.jax_enable_compilation_cache


def test_what_is_no_program_stays_in_the_folder_and_what_has_gone_is_no_error(cache, monkeypatch):
    programs.open_cache()
    monkeypatch.setattr(programs, "LARGEST", 0)
    (cache / "folder").mkdir()
    (cache / "gone").symlink_to(cache / "nowhere")
    (cache / "a-cache").write_bytes(b"x" * 10)
    programs.open_cache()
    assert sorted(file.name for file in cache.iterdir()) == ["folder", "gone"]
    assert jax.config.jax_enable_compilation_cache


def test_a_folder_of_the_users_own_is_left_alone(cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    programs.open_cache()
    assert not cache.exists()
    assert jax.config.jax_enable_compilation_cache


def test_programs_that_cannot_be_read_are_dropped_without_a_word(cache):
    programs.open_cache()
    (cache / "jit_f-cache").write_bytes(b"torn")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with programs.dropping_broken():
            warnings.warn("Error reading persistent compilation cache entry for 'jit_f'", stacklevel=1)
            warnings.warn("of the model", stacklevel=1)
    assert [str(warning.message) for warning in told] == ["of the model"]
    assert not list(cache.iterdir())
