"""`gpt2kit evaluate`: the numbers of each task, and what is said of files that cannot be evaluated."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from tiny_folder import EOS, make_folder
from typer.testing import CliRunner

from gpt2kit.cli.main import app

torch = pytest.importorskip("torch", reason="evaluation needs a framework")

from gpt2kit import AutoTokenizer, GPT2LMHeadModel  # noqa: E402

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "pocket.json").read_text(encoding="utf-8"))
TEXT = "Who's there? Nay, answer me: stand, and unfold yourself. Long live the king! Bernardo? He.\n" * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def model(folder):
    return GPT2LMHeadModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def evaluate(folder, tmp_path):
    """Write content into a file and evaluate the tiny model on it."""

    def run(task, content, *arguments, ok=True, stdin=None):
        file = tmp_path / "content"
        if content is not None:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        name = "-" if stdin is not None else str(file)
        done = CliRunner().invoke(app, ["evaluate", task, name, "--model", folder, *arguments], input=stdin)
        if ok:
            assert done.exit_code == 0, done.stderr
            return json.loads(done.stdout) if "--json" in arguments else done.stdout
        return done

    return run


def lines(*objects):
    return "".join(json.dumps(each) + "\n" for each in objects)


# ---------------------------------------------------------------------- text


def test_the_pocket_model_has_its_recorded_loss(tmp_path):
    (tmp_path / "excerpt.txt").write_bytes(GOLDEN["excerpt"].encode())
    done = CliRunner().invoke(
        app, ["evaluate", "text", str(tmp_path / "excerpt.txt"), "--stride", "256", "--json"]
    )
    told = json.loads(done.stdout)
    assert told["model"] == "pocket"
    assert told["loss"] == pytest.approx(GOLDEN["excerpt_loss"], abs=1e-4)
    bits = GOLDEN["excerpt_loss"] * told["tokens"] / math.log(2) / len(GOLDEN["excerpt"].encode())
    assert told["bits_per_byte"] == pytest.approx(bits, abs=1e-4)


def test_a_text_has_the_numbers_of_score(evaluate, model, tokenizer):
    told = evaluate("text", TEXT, "--window", "53", "--stride", "7", "--batch-size", "3", "--json")
    score = model.score(TEXT, tokenizer=tokenizer, window=53, stride=7)
    for name, value in score.to_dict().items():
        assert told[name] == pytest.approx(value, rel=1e-6), name
    assert (told["task"], told["window"], told["stride"]) == ("text", 53, 7)
    default = evaluate("text", TEXT, "--json")
    assert (default["window"], default["stride"]) == (61, 30)


def test_the_table_has_the_numbers_of_the_json(evaluate):
    told, table = evaluate("text", TEXT, "--json"), evaluate("text", TEXT)
    for name in ("tokens", "words", "bytes"):
        assert f"{told[name]:,}" in table
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert f"{told[name]:,.4f}" in table
        assert name.replace("_", " ") in table


def test_bos_makes_the_first_token_count(evaluate, model, tokenizer):
    told = evaluate("text", TEXT, "--bos", "--json")
    score = model.score(TEXT, tokenizer=tokenizer, prefix_token_id=EOS)
    assert told["tokens"] == score.tokens == len(TEXT.encode())
    assert told["log_prob"] == pytest.approx(score.log_prob, rel=1e-6)


def test_a_limit_takes_the_first_tokens_and_their_words(evaluate, model, tokenizer):
    told = evaluate("text", TEXT, "--limit", "17", "--json")
    score = model.score(TEXT[:17], tokenizer=tokenizer)  # a token is a byte here
    assert (told["tokens"], told["words"], told["bytes"]) == (16, score.words, 17)
    assert told["log_prob"] == pytest.approx(score.log_prob, rel=1e-6)


def test_wikitext_is_scored_as_written_and_counted_as_it_stood(evaluate, model, tokenizer):
    told = evaluate("text", " 1 @,@ 000 men , he said . \n", "--wikitext", "--json")
    score = model.score("1,000 men, he said.\n", tokenizer=tokenizer)
    assert told["log_prob"] == pytest.approx(score.log_prob, rel=1e-6)
    assert (told["tokens"], told["words"], told["bytes"]) == (score.tokens, 8, 28)


def test_a_text_may_come_from_a_pipe_and_a_byte_order_mark_is_no_text(evaluate):
    told = evaluate("text", None, "--json", stdin="\ufeff" + TEXT)
    assert told["log_prob"] == evaluate("text", TEXT, "--json")["log_prob"]
    assert told["file"] == "stdin"


def test_perplexities_of_any_size_fit_into_a_table(evaluate):
    table = evaluate("text", "x" * 61)  # one word of 61 tokens
    told = evaluate("text", "x" * 61, "--json")
    assert told["perplexity_per_word"] > 1e100
    assert f"{told['perplexity_per_word']:.4e}" in table
    assert max(map(len, table.splitlines()[1:])) < 50


# ---------------------------------------------------------------------- lambada


def test_both_protocols_are_reported_unless_one_is_asked_for(evaluate, model, tokenizer):
    passages = ["Who is “there”", "Nay answer me"]
    content = lines(*({"text": text} for text in passages))
    told = evaluate("lambada", content, "--json")["results"]
    assert [result["protocol"] for result in told] == ["openai", "lm-eval"]
    openai, harness = told
    scores = [
        model.score(text[-1], context=text[:-1], tokenizer=tokenizer, greedy=True)
        for text in ('\nWho is "there"', "\nNay answer me")
    ]
    assert openai["perplexity"] == pytest.approx(math.exp(-sum(s.log_prob for s in scores) / 2), rel=1e-5)
    assert openai["right"] == sum(bool(s.greedy.all()) for s in scores)
    words = [
        model.score(" " + last, context=context, tokenizer=tokenizer)
        for context, _, last in (text.rpartition(" ") for text in passages)
    ]
    assert harness["perplexity"] == pytest.approx(math.exp(-sum(s.log_prob for s in words) / 2), rel=1e-5)
    (only,) = evaluate("lambada", content, "--protocol", "lm-eval", "--json")["results"]
    assert only == harness
    (first,) = evaluate("lambada", content, "--protocol", "openai", "--limit", "1", "--json")["results"]
    assert first["passages"] == 1


def test_stop_words_change_answers_and_no_probabilities(tmp_path):
    """On the pocket model, whose tokens are words; its own most probable word is the one that is barred."""
    file, words = tmp_path / "lambada.jsonl", tmp_path / "words.txt"
    model, tokenizer = GPT2LMHeadModel.from_pretrained("pocket"), AutoTokenizer.from_pretrained("pocket")
    prompt = tokenizer("\nWhat is the matter with", return_tensors="pt")["input_ids"]
    word = tokenizer.decode(model(prompt).logits[0, -1].argmax())
    assert word[0] == " "
    file.write_text(lines({"text": "What is the matter with" + word}))
    arguments = ["evaluate", "lambada", str(file), "--protocol", "openai", "--json"]
    (plain,) = json.loads(CliRunner().invoke(app, arguments).stdout)["results"]
    words.write_text(word.strip().upper() + "\n")
    done = CliRunner().invoke(app, [*arguments, "--stop-words", str(words)])
    (filtered,) = json.loads(done.stdout)["results"]
    assert filtered["perplexity"] == plain["perplexity"]
    assert (plain["right"], filtered["right"]) == (1, 0)
    assert filtered["barred_tokens"] >= 1
    words.write_text("qwxyz\n")
    done = CliRunner().invoke(app, [*arguments, "--stop-words", str(words)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "None of the stop words" in done.stderr


# ---------------------------------------------------------------------- multiple choice


def test_the_most_probable_choice_is_the_answer(evaluate, model, tokenizer):
    choices = ["there", "it, and what does it want", "Bernardo"]
    scores = model.score([f" {each}" for each in choices], context="Who is", tokenizer=tokenizer)
    log_probs = np.array([score.log_prob for score in scores])
    best, best_for_length = np.argmax(log_probs), np.argmax(log_probs / [len(each) for each in choices])
    asked = [{"context": "Who is", "choices": choices, "label": label} for label in range(3)]
    told = evaluate("choice", lines(*asked), "--json")
    assert (told["questions"], told["accuracy"], told["accuracy_normalized"]) == (3, 1 / 3, 1 / 3)
    assert evaluate("choice", lines(asked[best]), "--json")["accuracy"] == 1
    assert evaluate("choice", lines(asked[best_for_length]), "--json")["accuracy_normalized"] == 1
    assert best != best_for_length  # else one of the two is not tested


def test_the_delimiter_is_part_of_what_is_scored(evaluate, model, tokenizer):
    right = {}
    pairs = list(combinations("abcdefgh", 2))
    for delimiter in (" ", ":"):
        texts = [delimiter + each for pair in pairs for each in pair]
        scores = [each.log_prob for each in model.score(texts, context="Who", tokenizer=tokenizer)]
        right[delimiter] = [a > b for a, b in zip(scores[::2], scores[1::2], strict=True)]
    differ = next(n for n, both in enumerate(zip(*right.values(), strict=True)) if both[0] != both[1])
    asked = {"context": "Who", "choices": pairs[differ], "label": 0}
    for delimiter, answers in right.items():
        told = evaluate("choice", lines(asked), "--delimiter", delimiter, "--json")
        assert told["accuracy"] == answers[differ]


def test_without_a_context_a_word_stands_behind_the_prefix(evaluate, model, tokenizer):
    (told,) = evaluate("lambada", lines({"text": "Who"}), "--protocol", "lm-eval", "--json")["results"]
    loss = -model.score(" Who", tokenizer=tokenizer, prefix_token_id=EOS).log_prob
    assert told["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_a_limit_takes_the_first_questions(evaluate):
    asked = {"context": "Who", "choices": ["a", "b"], "label": 0}
    assert evaluate("choice", lines(asked, asked), "--limit", "1", "--json")["questions"] == 1


def test_weights_are_held_in_the_type_that_was_asked_for(evaluate, model, tokenizer, folder):
    half = GPT2LMHeadModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    told = evaluate("text", TEXT, "--dtype", "bfloat16", "--json")
    assert told["log_prob"] == half.score(TEXT, tokenizer=tokenizer).log_prob
    assert told["log_prob"] != model.score(TEXT, tokenizer=tokenizer).log_prob


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("task", "content", "said"),
    [
        ("text", "", "is empty"),
        ("text", "a", "one token"),
        ("text", b"ab\xff", "not UTF-8: byte 2"),
        ("lambada", "", "is empty"),
        ("lambada", '{"text": "a b"}\n{"text"\n', "line 2: this is not JSON"),
        ("lambada", '{"txt": "a b"}\n', 'line 1: there is no "text"'),
        ("choice", '{"context": "", "choices": ["a"], "label": 0}', "line 1"),
        ("choice", '{"context": "", "choices": ["a", "b"], "label": 5}', "line 1"),
    ],
)
def test_a_file_that_cannot_be_evaluated_is_one_sentence(evaluate, task, content, said):
    done = evaluate(task, content, ok=False)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_file_and_a_stride_beyond_the_window_are_one_sentence(evaluate):
    for done, said in (
        (evaluate("text", None, ok=False), "No such file"),
        (evaluate("text", TEXT, "--stride", "62", ok=False), "stride=62 is more than the window of 61"),
        (evaluate("text", TEXT, "--window", "62", ok=False), "n_positions=61"),
        (evaluate("text", TEXT, "--device", "cuda:7", ok=False), "cuda:7"),
    ):
        assert (done.exit_code, done.stdout) == (1, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("novel", []),
        ("text", ["--protocol", "openai"]),
        ("text", ["--delimiter", ""]),
        ("choice", ["--bos"]),
        ("lambada", ["--wikitext"]),
        ("lambada", ["--stop-words", "words"]),
        ("lambada", ["--protocol", "lm-eval", "--stop-words", "words"]),
        ("text", ["--wikitext", "--limit", "7"]),
        ("text", ["--limit", "0"]),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(evaluate, task, arguments):
    done = evaluate(task, TEXT, *arguments, ok=False)
    assert (done.exit_code, done.stdout) == (2, "")


# ---------------------------------------------------------------------- as a process of its own


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Arguments for an evaluation that takes long enough to be interrupted."""
    file = tmp_path_factory.mktemp("endless") / "long.txt"
    file.write_text(TEXT * 2000)
    return [sys.executable, "-m", "gpt2kit", "evaluate", "text", str(file), "--stride", "1", "--json"]


def test_ctrl_c_is_exit_code_130_without_a_traceback(endless, tmp_path):
    """Interrupted while it scores: the reader of this pipe is told when the first window is done."""
    program = (
        "import sys\n"
        "from gpt2kit.torch import scoring\n"
        "before = scoring._score_batch\n"
        "def told(*arguments):\n"
        "    print('scoring', flush=True)\n"
        "    return before(*arguments)\n"
        "scoring._score_batch = told\n"
        "from gpt2kit.cli.main import run\n"
        f"sys.argv = {endless[2:]!r}\n"
        "run()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.read(7) == b"scoring"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


def test_a_reader_that_goes_away_is_no_error(folder, tmp_path):
    (tmp_path / "text").write_text(TEXT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["-m", "gpt2kit", "evaluate", "text", str(tmp_path / "text"), "--model", folder]
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")
