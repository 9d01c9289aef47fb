"""`gpt2kit generate` by beams, by contrast, with drafts and under guidance."""

from __future__ import annotations

import json

import pytest
from tiny_folder import EOS, make_folder
from typer.testing import CliRunner

from gpt2kit.cli.main import app

torch = pytest.importorskip("torch", reason="generation needs a framework")

from gpt2kit import AutoTokenizer, GPT2LMHeadModel  # noqa: E402

FEW = ("--max-new-tokens", "11")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("decoding")))


@pytest.fixture
def generate(folder):
    def run(*arguments, ok=True):
        done = CliRunner().invoke(app, ["generate", "a rose", "--model", folder, *arguments])
        if ok:
            assert done.exit_code == 0, done.stderr
        return done

    return run


def told(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def library(folder, **options):
    """What the library itself writes, as ids."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("a rose")["input_ids"]])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=11,
        pad_token_id=EOS,
        return_dict_in_generate=True,
        **options,
    )
    return out, [row[6:] for row in out.sequences.tolist()]


def up_to_the_end(ids):
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


def test_beams_write_the_best_texts_with_their_scores(folder, generate):
    arguments = ("--num-beams", "4", "--num-return-sequences", "3", "--length-penalty", "0.5")
    out, ids = library(folder, num_beams=4, num_return_sequences=3, length_penalty=0.5, output_scores=True)
    found = told(generate(*FEW, *arguments, "--json"))
    assert [one["ids"] for one in found] == [up_to_the_end(row) for row in ids]
    assert [one["score"] for one in found] == pytest.approx(out.sequences_scores.tolist())
    plain = generate(*FEW, "--num-beams", "4")
    text = AutoTokenizer.from_pretrained(folder).decode(
        library(folder, num_beams=4)[1][0], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert plain.stdout == f"a rose{text}\n"
    assert generate(*FEW, "--num-beams", "4", "--no-echo").stdout == f"{text}\n"


def test_groups_and_contrast_switch_sampling_off(generate):
    groups = ("--num-beams", "4", "--num-beam-groups", "2", "--diversity-penalty", "0.7")
    assert "group_beam_search" in generate(*FEW, *groups, "--explain").stderr
    done = generate(*FEW, "--penalty-alpha", "0.6", "--top-k", "4", "--explain")
    assert "contrastive_search" in done.stderr
    assert "of the 4 likeliest tokens" in done.stderr


def test_a_forced_word_is_written_with_or_without_a_space(generate):
    forced = ("--max-new-tokens", "13", "--force-word", "zq", "--no-echo")
    assert "zq" in generate("--num-beams", "8", *forced).stdout
    done = generate("--num-beams", "3", *forced)  # too few to get so far
    assert "zq" not in done.stdout
    assert "Allow more tokens or more beams" in done.stderr


def test_contrastive_search_writes_what_the_library_writes(folder, generate):
    _, ids = library(folder, penalty_alpha=0.9, top_k=5)
    arguments = ("--penalty-alpha", "0.9", "--top-k", "5", "--json")
    for more in ((), ("--low-memory",)):
        assert told(generate(*FEW, *arguments, *more))[0]["ids"] == up_to_the_end(ids[0])


@pytest.mark.parametrize("by", ["assistant", "look-up"])
def test_drafts_change_no_token_and_are_counted(by, folder, generate, tmp_path):
    plain = told(generate(*FEW, "--json"))[0]
    assistant = str(make_folder(tmp_path / "small", n_layer=1))
    arguments = {
        "assistant": ("--assistant-model", assistant, "--num-assistant-tokens", "3"),
        "look-up": ("--prompt-lookup-num-tokens", "3"),
    }[by]
    done = generate(*FEW, *arguments, "--json")
    found = told(done)[0]
    assert found["ids"] == plain["ids"]
    assert 0 <= found["accepted"] <= found["drafted"]
    assert f"{found['accepted']} of {found['drafted']} drafted tokens kept" in done.stderr
    assert generate(*FEW, *arguments).stdout == generate(*FEW).stdout
    assert "assisted_generation" in generate(*FEW, *arguments, "--explain").stderr


def test_an_option_that_this_way_does_not_read_is_told(generate):
    done = generate(*FEW, "--penalty-alpha", "0.6", "--top-k", "1")
    assert "only contrastive search" in done.stderr
    assert "only contrastive search" not in generate(*FEW, "--penalty-alpha", "0.6").stderr
    assert generate(*FEW, "--penalty-alpha", "0.6", "--top-k", "1", "--quiet").stderr == ""


def test_guidance_leads_away_from_a_text(folder, generate):
    negative = torch.tensor([AutoTokenizer.from_pretrained(folder)("thorns")["input_ids"]])
    _, ids = library(folder, guidance_scale=2.5, negative_prompt_ids=negative)
    arguments = ("--guidance-scale", "2.5", "--negative-prompt", "thorns")
    assert told(generate(*FEW, *arguments, "--json"))[0]["ids"] == up_to_the_end(ids[0])
    assert "1. guidance_scale: 2.5 times" in generate(*FEW, *arguments, "--explain").stderr


def test_layers_to_contrast_are_words_or_a_list(folder, generate):
    for spelled, layers in (("low", "low"), ("[0, 1]", [0, 1])):
        _, ids = library(folder, dola_layers=layers)
        found = told(generate(*FEW, "--dola-layers", spelled, "--json"))[0]["ids"]
        assert found == up_to_the_end(ids[0])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--negative-prompt", "thorns"), 1, "Pass --guidance-scale"),
        (("--guidance-scale", "2", "--negative-prompt", ""), 1, "--negative-prompt is empty"),
        (("--num-beams", "4", "--prompt-lookup-num-tokens", "3"), 1, "--prompt-lookup-num-tokens"),
        (("--num-beams", "3", "--num-beam-groups", "2", "--diversity-penalty", "1"), 1, "multiple"),
        (("--force-word", "zq"), 1, "--num-beams"),
        (("--force-word", "", "--num-beams", "2"), 1, "--force-word is empty"),
        (("--force-word", "zq", "--force-words-ids", "7", "--num-beams", "2"), 1, "list of lists"),
        (("--force-word", "zq", "--force-words-ids", "{}", "--num-beams", "2"), 1, "list of lists"),
        (("--bad-word", ""), 1, "--bad-word is empty"),
        (("--bad-word", "zq", "--bad-words-ids", "7"), 1, "list of lists"),
        (("--low-memory",), 1, "--penalty-alpha"),
        (("--num-return-sequences", "3"), 1, "--num-return-sequences"),
        (("--assistant-model", "OTHER"), 1, "vocabulary of 263 tokens and the model one of 257"),
        (("--early-stopping", "soon", "--num-beams", "2"), 2, "neither never nor JSON"),
        (("--dola-layers", "middle"), 2, "neither low, high nor JSON"),
        (("--num-assistant-tokens-schedule", "now", "--prompt-lookup-num-tokens", "2"), 1, "heuristic"),
    ],
)
def test_what_does_not_go_together_is_one_sentence_and_an_exit_code(
    arguments, code, said, generate, tmp_path
):
    if "OTHER" in arguments:
        arguments = (arguments[0], str(make_folder(tmp_path / "other", vocab_size=263)))
    done = generate(*FEW, *arguments, ok=False)
    assert done.exit_code == code
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
