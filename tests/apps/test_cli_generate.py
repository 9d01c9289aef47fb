"""`gpt2kit generate`: where the prompt comes from, what the options do, what is written where."""

from __future__ import annotations

import json

import pytest
from tiny_folder import EOS, SIZES, make_folder
from typer.testing import CliRunner

from gpt2kit.cli.main import app
from gpt2kit.cli.option import GENERATION, SAMPLING

torch = pytest.importorskip("torch", reason="generation needs a framework")

from gpt2kit import AutoTokenizer, GenerationConfig, GPT2LMHeadModel  # noqa: E402
from gpt2kit.cli.writer import Writer  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture
def generate(folder):
    """Run the command on the tiny model; `ok=False` where it is meant to fail."""

    def run(*arguments, stdin=None, ok=True):
        done = CliRunner().invoke(app, ["generate", "--model", folder, *arguments], input=stdin)
        if ok:
            assert done.exit_code == 0, done.stderr
            assert done.exception is None
        return done

    return run


def objects(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def greedy(folder, ids, count):
    """What the library itself writes after these tokens."""
    model = GPT2LMHeadModel.from_pretrained(folder)
    prompt = torch.tensor([ids])
    config = GenerationConfig(max_new_tokens=count, eos_token_id=EOS, pad_token_id=EOS)
    mask = torch.ones_like(prompt)
    return model.generate(prompt, attention_mask=mask, generation_config=config)[0].tolist()


# ---------------------------------------------------------------------- the prompt


def test_it_writes_the_prompt_and_what_the_library_generates(folder, generate):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = greedy(folder, tokenizer("JULIET:")["input_ids"], 7)
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert generate("JULIET:", "--max-new-tokens", "7").stdout == text + "\n"
    assert (
        generate("JULIET:", "--max-new-tokens", "7", "--no-echo").stdout
        == text.removeprefix("JULIET:") + "\n"
    )


def test_argument_stdin_dash_and_file_are_the_same_prompt(tmp_path, generate):
    (tmp_path / "prompt.txt").write_text("To be\n", encoding="utf-8")
    few = ("--max-new-tokens", "3")
    wanted = generate("To be", *few).stdout
    assert generate(*few, stdin="To be\n").stdout == wanted
    assert generate("-", *few, stdin="To be\n").stdout == wanted
    assert generate("--file", str(tmp_path / "prompt.txt"), *few).stdout == wanted


def test_one_newline_at_the_end_of_stdin_is_dropped_and_no_more(generate):
    few = ("--max-new-tokens", "2", "--json")
    assert objects(generate(*few, stdin="a\n\n"))[0]["prompt"] == "a\n"
    assert objects(generate(*few, stdin="a\r\n"))[0]["prompt"] == "a"
    assert objects(generate("a\n", *few))[0]["prompt"] == "a\n"


def test_prompt_and_file_together_are_a_usage_error(tmp_path, generate):
    done = generate("To be", "--file", str(tmp_path / "prompt.txt"), ok=False)
    assert done.exit_code == 2
    assert "not both" in done.stderr


def test_an_empty_prompt_begins_with_the_bos_token(folder, generate):
    done = generate("", "--max-new-tokens", "5", "--json")
    assert f"the prompt is empty: beginning with token {EOS}" in done.stderr
    (told,) = objects(done)
    assert told["prompt"] == ""
    assert told["prompt_ids"] == [EOS]
    assert told["prompt_ids"] + told["ids"] == greedy(folder, [EOS], 5)


def test_an_empty_prompt_without_a_bos_token_is_refused(tmp_path):
    folder = make_folder(tmp_path / "no_bos", bos_token_id=None, eos_token_id=None)
    done = CliRunner().invoke(app, ["generate", "", "--model", str(folder)])
    assert done.exit_code == 1
    assert "names no token to begin a text with" in done.stderr
    given = ["--bos-token-id", "3", "--max-new-tokens", "2", "--json"]
    done = CliRunner().invoke(app, ["generate", "", "--model", str(folder), *given])
    assert json.loads(done.stdout)["prompt_ids"] == [3]


@pytest.mark.parametrize("data", [b"caf\xe9 au lait", b"\xff\xfe", b"ab\xf0\x9f"])
def test_a_prompt_that_is_not_utf8_is_refused_with_the_byte(data, tmp_path, generate):
    position = next(i for i, byte in enumerate(data) if byte > 0x7F)
    (tmp_path / "latin.txt").write_bytes(data)
    for done in (generate(stdin=data, ok=False), generate("-f", str(tmp_path / "latin.txt"), ok=False)):
        assert done.exit_code == 1
        assert f"byte {position} is 0x{data[position]:02x}" in done.stderr
        assert done.stdout == ""


def test_a_missing_file_is_one_sentence(generate):
    done = generate("--file", "nowhere.txt", ok=False)
    assert (done.exit_code, done.stderr) == (1, "gpt2kit: nowhere.txt: No such file or directory\n")


@pytest.mark.parametrize(
    "arguments", [["x" * 61], ["x" * 70], ["x" * 50, "--max-new-tokens", "12"], ["xx", "--max-length", "62"]]
)
def test_more_tokens_than_positions_are_refused_with_both_numbers(arguments, generate):
    done = generate(*arguments, ok=False)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert f"n_positions={SIZES['n_positions']}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_length_it_writes_as_far_as_the_model_reaches(generate):
    """128 tokens are the command's default; this model has room for 59 after two."""
    (told,) = objects(generate("xx", "--json", "--suppress-tokens", str(EOS)))
    assert len(told["ids"]) == SIZES["n_positions"] - 2


# ---------------------------------------------------------------------- the options

VALUES = {
    "max_new_tokens": ("7", 7), "max_length": ("29", 29), "min_new_tokens": ("2", 2), "min_length": ("3", 3),
    "max_time": ("9.5", 9.5), "stop_strings": ("zz", ["zz"]), "eos_token_id": ("5", [5]),
    "exponential_decay_length_penalty": (("3", "1.5"), (3, 1.5)),
    "temperature": ("0.7", 0.7), "top_k": ("11", 11), "top_p": ("0.9", 0.9), "min_p": ("0.05", 0.05),
    "typical_p": ("0.8", 0.8), "epsilon_cutoff": ("0.01", 0.01), "eta_cutoff": ("0.02", 0.02),
    "do_sample": ((), True), "renormalize_logits": ((), True), "repetition_penalty": ("1.3", 1.3),
    "encoder_repetition_penalty": ("1.2", 1.2), "no_repeat_ngram_size": ("3", 3),
    "bad_words_ids": ("[[1, 2], [3]]", [[1, 2], [3]]),
    "sequence_bias": ("[[[1, 2], -2.5]]", [[[1, 2], -2.5]]),
    "suppress_tokens": ("4", [4]), "begin_suppress_tokens": ("6", [6]), "forced_bos_token_id": ("8", 8),
    "forced_eos_token_id": ("9", [9]), "forced_decoder_ids": ("[[1, 10]]", [[1, 10]]),
    "bos_token_id": ("2", 2), "pad_token_id": ("12", 12), "num_return_sequences": ("2", 2),
    "remove_invalid_values": ((), True), "use_cache": (None, False),
    "num_beams": ("3", 3), "num_beam_groups": ("2", 2), "diversity_penalty": ("0.7", 0.7),
    "length_penalty": ("1.5", 1.5), "early_stopping": ("never", "never"),
    "force_words_ids": ("[[3], [5, 7]]", [[3], [5, 7]]), "penalty_alpha": ("0.6", 0.6),
    "low_memory": ((), True), "guidance_scale": ("1.5", 1.5), "dola_layers": ("[0, 1]", [0, 1]),
    "prompt_lookup_num_tokens": ("3", 3), "max_matching_ngram_size": ("4", 4),
    "num_assistant_tokens": ("6", 6), "num_assistant_tokens_schedule": ("constant", "constant"),
}  # fmt: skip
# What an option means nothing without.
BESIDE = {
    "num_return_sequences": ["--do-sample"],
    "num_beam_groups": ["--num-beams", "4", "--diversity-penalty", "0.7"],
    "diversity_penalty": ["--num-beams", "4", "--num-beam-groups", "2"],
    "force_words_ids": ["--num-beams", "3"],
    "low_memory": ["--penalty-alpha", "0.6"],
}
FOR_PEOPLE = {"bad_word", "force_word"}


@pytest.mark.parametrize("name", [option.name for option in GENERATION if option.name not in FOR_PEOPLE])
def test_each_option_reaches_the_generation_by_its_own_name(name, generate, monkeypatch):
    seen = {}
    monkeypatch.setattr(Writer, "write_text", lambda self, job, echo: seen.update(job.config.to_dict()))
    spelled, wanted = VALUES[name]
    flag = "--" + name.replace("_", "-")
    arguments = (
        [flag.replace("--", "--no-")]
        if spelled is None
        else [flag, *([spelled] if isinstance(spelled, str) else spelled)]
    )
    generate("a", *arguments, *BESIDE.get(name, []))
    assert seen[name] == wanted


def test_every_option_of_the_library_is_an_option_or_has_a_reason_not_to_be():
    of_python = {"constraints"}  # objects with code
    what_python_gets_back = {
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "return_dict_in_generate",
    }
    of_an_encoder = {"encoder_no_repeat_ngram_size", "decoder_start_token_id", "generation_kwargs"}
    options = {option.name for option in GENERATION} - FOR_PEOPLE
    assert options | of_python | what_python_gets_back | of_an_encoder == set(GenerationConfig.FIELDS)


@pytest.mark.parametrize("option", sorted(SAMPLING))
def test_an_option_of_sampling_switches_sampling_on(option, generate, monkeypatch):
    seen = []
    monkeypatch.setattr(Writer, "write_text", lambda self, job, echo: seen.append(job.config.do_sample))
    generate("a", "--" + option.replace("_", "-"), VALUES[option][0])
    assert seen == [True]


def test_no_do_sample_stays_greedy_and_says_what_nobody_reads(generate):
    few = ("--max-new-tokens", "5", "--no-echo")
    done = generate("a", "--temperature", "9.0", "--no-do-sample", *few)
    assert done.stdout == generate("a", *few).stdout
    assert done.stderr.count("only sampling reads it") == 1
    assert generate("a", "--temperature", "9.0", "--no-do-sample", "--quiet", *few).stderr == ""


def test_no_do_sample_leaves_the_models_own_sampling_aside(tmp_path):
    """And does not warn of it: the user did not ask for it."""
    folder = make_folder(tmp_path / "drawn")
    GenerationConfig(do_sample=True, temperature=0.8, top_p=0.9).save_pretrained(folder)
    done = CliRunner().invoke(app, ["generate", "a", "--model", str(folder), "--no-do-sample", "--json"])
    assert done.exit_code == 0, done.exception
    assert objects(done)[0]["seed"] is None
    assert objects(done)[0]["ids"][:7] == greedy(folder, [objects(done)[0]["prompt_ids"][0]], 7)[1:]


def test_max_length_outvotes_the_models_own_number_of_new_tokens(tmp_path):
    folder = make_folder(tmp_path / "long")
    GenerationConfig(max_new_tokens=40, suppress_tokens=[EOS]).save_pretrained(folder)
    run = ["generate", "abc", "--model", str(folder), "--json"]
    assert len(objects(CliRunner().invoke(app, run))[0]["ids"]) == 40
    assert len(objects(CliRunner().invoke(app, [*run, "--max-length", "11"]))[0]["ids"]) == 8


# Only tokens that are a printable character of their own, so that text and tokens are the same here.
READABLE = [word for token in range(0x7F - 0x21, EOS + 1) for word in ("--suppress-tokens", str(token))]


def test_a_bad_word_never_comes(generate):
    sample = ("a", "--max-new-tokens", "20", "--json", *READABLE)
    word = objects(generate(*sample))[0]["text"][0]
    (told,) = objects(generate(*sample, "--bad-word", word))
    assert len(told["text"]) == 20
    assert word not in told["text"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--temperature", "-1"], "--temperature"),
        (["--top-p", "0", "--do-sample", "--top-p", "-0.5"], "--top-p"),
        (["--num-return-sequences", "3"], "--num-return-sequences"),
        (["--suppress-tokens", "257"], "257"),
        (["--bad-words-ids", "[]"], "--bad-words-ids"),
        (["--bad-words-ids", "7"], "--bad-words-ids"),
        (["--sequence-bias", "[[1, 2]]"], "--sequence-bias"),
        (["--sequence-bias", "3"], "--sequence-bias"),
        (["--forced-decoder-ids", "[3]"], "--forced-decoder-ids"),
        (["--stop-strings", ""], "--stop-strings"),
        (["--device", "toaster"], "toaster"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--model", "no/such/folder"], "no/such/folder"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_one_sentence_and_exit_code_1(arguments, said, generate):
    done = generate("a", *arguments, ok=False)
    assert (done.exit_code, done.stdout) == (1, "")
    assert isinstance(done.exception, SystemExit)  # and not an error of ours
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--bad-words-ids", "--sequence-bias", "--forced-decoder-ids"])
def test_an_option_that_is_not_json_is_a_usage_error(option, generate):
    done = generate("a", option, "[[1, 2", ok=False)
    assert done.exit_code == 2
    assert option in done.stderr
    assert "JSON" in done.stderr


# ---------------------------------------------------------------------- what is written


def test_json_tells_everything_of_each_text(folder, generate):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    done = generate(
        "ab", "--json", "--do-sample", "--seed", "5", "--num-return-sequences", "3", "--max-new-tokens", "11"
    )
    told = objects(done)
    assert len(told) == 3
    assert len({tuple(one["ids"]) for one in told}) == 3
    for one in told:
        assert (one["model"], one["prompt"], one["seed"]) == (folder, "ab", 5)
        assert one["prompt_ids"] == tokenizer("ab")["input_ids"]
        assert one["text"] == tokenizer.decode(one["ids"], skip_special_tokens=True)
        assert one["finish_reason"] == ("eos" if EOS in one["ids"] else "length")
        assert one["seconds"] >= one["first_token_seconds"] > 0
        assert one["tokens_per_second"] > 0


def test_the_same_seed_writes_the_same_text(generate):
    sample = ("a", "--do-sample", "--top-k", "0", "--json", "--max-new-tokens", "13")
    one, same, other = (objects(generate(*sample, "--seed", seed))[0]["ids"] for seed in ("1", "1", "2"))
    assert one == same != other


def test_a_seed_that_decides_nothing_is_told(generate):
    assert "the seed changes nothing" in generate("a", "--seed", "3", "--max-new-tokens", "2").stderr


def test_a_seed_that_was_not_given_is_told_and_repeats_the_text(generate):
    sample = ("a", "--do-sample", "--top-k", "0", "--max-new-tokens", "13")
    first = generate(*sample)
    seed = first.stderr.split("seed ")[1].split()[0]
    assert generate(*sample, "--seed", seed).stdout == first.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--max-new-tokens", "4", "--suppress-tokens", str(EOS)], "length"),
        (["--max-new-tokens", "4", "--forced-eos-token-id", str(EOS)], "eos"),
        (["--max-time", "0.0000001"], "time"),
    ],
)
def test_the_reason_of_the_end_is_told(arguments, reason, generate):
    done = generate("a", "--json", *arguments)
    assert objects(done)[0]["finish_reason"] == reason
    assert f"ended by {reason}" in done.stderr


def test_a_stop_string_ends_the_text(generate):
    sample = ("a", "--json", "--max-new-tokens", "20", "--do-sample", "--seed", "3", *READABLE)
    (told,) = objects(generate(*sample))
    stop = told["text"][3:5]
    (stopped,) = objects(generate(*sample, "--stop-strings", stop))
    assert stopped["finish_reason"] == "stop_string"
    assert stopped["text"] == told["text"][: told["text"].index(stop) + 2]


def test_several_texts_are_told_apart(generate):
    out = generate("ab", "--do-sample", "--num-return-sequences", "2", "--max-new-tokens", "3").stdout
    assert out.startswith("=== 1 of 2 ===\nab")
    assert "\n=== 2 of 2 ===\nab" in out


def test_explain_prints_the_plan_beside_the_text(generate):
    sample = ("a", "--do-sample", "--top-p", "0.9", "--seed", "3", "--max-new-tokens", "4")
    plain, explained = generate(*sample), generate(*sample, "--explain")
    assert plain.stdout == explained.stdout
    assert "top_p: keep the likeliest tokens that add up to 0.9" in explained.stderr
    assert "4 new tokens at most" in explained.stderr
    assert "top_p" not in plain.stderr


def test_quiet_says_nothing_on_stderr(generate):
    assert generate("a", "--quiet", "--max-new-tokens", "3").stderr == ""


def test_the_text_is_written_as_it_comes(generate, monkeypatch):
    pieces = []
    monkeypatch.setattr("gpt2kit.cli.printer.write", pieces.append)
    generate("a", "--max-new-tokens", "9", "--suppress-tokens", str(EOS))
    assert len(pieces) > 3


def test_ctrl_c_keeps_what_was_written_and_ends_its_line(generate, monkeypatch):
    def interrupted(self, job, streamer):
        streamer.put([job.ids])
        for token in self.tokenizer("half a tex")["input_ids"]:
            streamer.put([token])
        raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "go_on", interrupted)
    done = generate("This is ", ok=False)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "This is half a tex\n", "")


def test_a_folder_without_weights_is_one_sentence(tmp_path, folder):
    from gpt2kit import GPT2Config

    GPT2Config.from_pretrained(folder).save_pretrained(tmp_path)
    done = CliRunner().invoke(app, ["generate", "a", "--model", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
