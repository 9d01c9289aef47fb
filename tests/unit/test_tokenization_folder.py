"""Loading and saving: names without a network, 4.34's files, later files, damaged files, other tokenizers."""

from __future__ import annotations

import json

import pytest

from gpt2kit import AddedToken, AutoTokenizer, GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.errors import (
    FileNotInRepositoryError,
    HubError,
    InputError,
    RepositoryNotFoundError,
    TokenizerError,
)
from gpt2kit.tokenization.bpe import official_merges, vocabulary_of, write_merges, write_vocabulary

KINDS = [GPT2Tokenizer, GPT2TokenizerFast]
SIZES = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"]
LEGACY = ["added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
TEXT = "in the  <a> end<|endoftext|> it's"


@pytest.fixture(params=KINDS, ids=["slow", "fast"])
def kind(request):
    return request.param


@pytest.fixture
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    merges = official_merges()[:101]
    (folder / "vocab.json").write_text(write_vocabulary(vocabulary_of(merges)), encoding="utf-8")
    (folder / "merges.txt").write_text(write_merges(merges), encoding="utf-8")
    return folder / "vocab.json", folder / "merges.txt"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def change(path, **entries):
    path.write_text(json.dumps({**read(path), **entries}), encoding="utf-8")


@pytest.mark.parametrize(
    "name", [*SIZES, "openai-community/gpt2", "openai-community/gpt2-xl", "distilbert/distilgpt2"]
)
def test_official_names_need_no_network(name, kind, monkeypatch):
    monkeypatch.setattr("gpt2kit.hub._download", lambda *_: pytest.fail("the network was asked"))
    tokenizer = kind.from_pretrained(name)
    assert tokenizer("Hello world")["input_ids"] == [15496, 995]
    assert (tokenizer.model_max_length, tokenizer.name_or_path, len(tokenizer)) == (1024, name, 50257)
    assert type(AutoTokenizer.from_pretrained(name, use_fast=tokenizer.is_fast)) is kind


def test_the_pocket_tokenizer_needs_no_network(kind, monkeypatch):
    from gpt2kit.hub import find_folder

    if not (find_folder("pocket") / "tokenizer_config.json").exists():
        pytest.skip("the pocket model is not in this package yet")
    monkeypatch.setattr("gpt2kit.hub._download", lambda *_: pytest.fail("the network was asked"))
    tokenizer = kind.from_pretrained("pocket")
    text = "ROMEO: wherefore art thou?"
    assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_a_folder_of_an_official_name_wins(kind, files, tmp_path, monkeypatch):
    kind(*files).save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert len(kind.from_pretrained("gpt2")) == 358
    (tmp_path / "distilgpt2").write_text("a file is no folder")
    assert len(kind.from_pretrained("distilgpt2")) == 50257


def test_a_revision_or_subfolder_asks_the_hub(kind, monkeypatch):
    asked = []

    def download(name, relative, options):
        asked.append((name, options.revision, options.subfolder))
        raise HubError("asked")

    monkeypatch.setattr("gpt2kit.hub._download", download)
    for options in ({"revision": "abc"}, {"subfolder": "inner"}):
        with pytest.raises(HubError, match="asked"):
            kind.from_pretrained("gpt2", **options)
    assert asked == [("gpt2", "abc", ""), ("gpt2", None, "inner")]


def test_the_slow_one_saves_4_34s_files(files, tmp_path):
    tokenizer = GPT2Tokenizer(*files, model_max_length=37)
    assert tokenizer("in the")["input_ids"]
    saved = tokenizer.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == LEGACY
    assert sorted(saved) == sorted(str(tmp_path / name) for name in LEGACY)
    assert read(tmp_path / "tokenizer_config.json") == {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            "357": {
                "content": "<|endoftext|>",
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
        },
        "additional_special_tokens": [],
        "bos_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": True,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "model_max_length": 37,
        "pad_token": None,
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
    }
    assert read(tmp_path / "special_tokens_map.json") == dict.fromkeys(
        ("bos_token", "eos_token", "unk_token"), "<|endoftext|>"
    )
    assert read(tmp_path / "added_tokens.json") == {"<|endoftext|>": 357}
    assert (tmp_path / "merges.txt").read_bytes() == files[1].read_bytes()
    assert read(tmp_path / "vocab.json") == read(files[0])


def test_the_fast_one_saves_what_it_is_asked_for(files, tmp_path):
    tokenizer = GPT2TokenizerFast(*files)
    config = ["special_tokens_map.json", "tokenizer_config.json"]
    for format_, names in (
        (None, [*LEGACY, "tokenizer.json"]),
        (True, LEGACY),
        (False, [*config, "tokenizer.json"]),
    ):
        folder = tmp_path / str(format_)
        saved = tokenizer.save_pretrained(folder, legacy_format=format_)
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)
        assert len(saved) == len(names)
        for kind in KINDS:
            assert kind.from_pretrained(folder)(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    merges = read(tmp_path / "None" / "tokenizer.json")["model"]["merges"]
    assert merges[0] == "Ġ t"  # older tokenizers libraries, 4.34's among them, read no pairs
    assert (tmp_path / "None" / "merges.txt").read_bytes() == files[1].read_bytes()


def test_saving_twice_into_a_folder_leaves_one_tokenizer(files, tmp_path):
    GPT2TokenizerFast.from_pretrained("gpt2").save_pretrained(tmp_path)
    slow = GPT2Tokenizer(*files, pad_token="<p>")
    saved = slow.save_pretrained(tmp_path)
    assert str(tmp_path / "tokenizer.json") in saved
    for kind in KINDS:
        assert kind.from_pretrained(tmp_path).get_vocab() == slow.get_vocab()


def test_prefixes_directories_and_refusals(kind, files, tmp_path):
    tokenizer = kind(*files)
    assert tokenizer.save_vocabulary(tmp_path, "my") == (
        str(tmp_path / "my-vocab.json"),
        str(tmp_path / "my-merges.txt"),
    )
    assert kind(tmp_path / "my-vocab.json", tmp_path / "my-merges.txt").get_vocab() == tokenizer.get_vocab()
    saved = tokenizer.save_pretrained(tmp_path / "a" / "b", filename_prefix="my")
    assert all("/my-" in path for path in saved)
    with pytest.raises(InputError, match="no folder"):
        tokenizer.save_vocabulary(tmp_path / "none")
    with pytest.raises(InputError, match="is a file"):
        tokenizer.save_pretrained(tmp_path / "my-vocab.json")
    with pytest.raises(InputError, match="uploads nothing"):
        tokenizer.save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(TypeError, match="safe"):
        tokenizer.save_pretrained(tmp_path, safe_serialization=True)
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        GPT2Tokenizer(*files).save_pretrained(tmp_path, legacy_format=False)


def test_everything_survives_a_folder(kind, files, tmp_path):
    tokenizer = kind(
        *files,
        errors="strict",
        pad_token="<p>",
        add_prefix_space=True,
        add_bos_token=True,
        model_max_length=11,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "token_type_ids"],
        chat_template="{{ messages }}",
        split_special_tokens=True,
    )
    tokenizer.truncation_side = "left"
    tokenizer.add_tokens([AddedToken("<z>", lstrip=True), AddedToken("<y>", single_word=True)])
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<b>", AddedToken("<a>", rstrip=True)], "sep_token": "<s>"}
    )
    tokenizer.save_pretrained(tmp_path)
    for other in KINDS:
        again = other.from_pretrained(tmp_path)
        assert again.added_tokens_decoder == tokenizer.added_tokens_decoder
        assert again.special_tokens_map == tokenizer.special_tokens_map
        for name in (
            *(
                "errors",
                "add_prefix_space",
                "add_bos_token",
                "model_max_length",
                "padding_side",
                "truncation_side",
            ),
            *("clean_up_tokenization_spaces", "model_input_names", "chat_template", "split_special_tokens"),
        ):
            assert getattr(again, name) == getattr(tokenizer, name), name
        for text in (TEXT, "x <z> <y> y<y> <b>  <a> <p>"):
            assert dict(again(text)) == dict(tokenizer(text))
    trimmed = GPT2TokenizerFast(*files, trim_offsets=True)
    trimmed.save_pretrained(tmp_path / "trimmed")
    assert GPT2TokenizerFast.from_pretrained(tmp_path / "trimmed").trim_offsets


def test_keywords_win_over_what_was_saved(kind, files, tmp_path):
    kind(*files, pad_token="<p>", model_max_length=11).save_pretrained(tmp_path)
    tokenizer = kind.from_pretrained(tmp_path, pad_token="<q>", model_max_length=13, add_bos_token=True)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<q>", 359)
    assert tokenizer.model_max_length == 13
    assert tokenizer("in")["input_ids"][0] == 357


def test_other_files_win_over_the_folders(kind, files):
    tokenizer = kind.from_pretrained("gpt2", vocab_file=files[0], merges_file=files[1])
    assert len(tokenizer) == 358
    assert tokenizer("in the")["input_ids"] == kind(*files)("in the")["input_ids"]


def test_files_of_three_kinds_are_not_mixed(files, tmp_path):
    GPT2TokenizerFast(*files).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="one of the three"):
        GPT2TokenizerFast(*files, tokenizer_file=tmp_path / "tokenizer.json")
    assert len(GPT2TokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))) == 358


def test_a_folder_from_before_added_tokens_decoder_is_read(kind, files, tmp_path):
    """What 4.33 and earlier saved: flags in special_tokens_map.json, ids in added_tokens.json."""
    (tmp_path / "vocab.json").write_bytes(files[0].read_bytes())
    (tmp_path / "merges.txt").write_bytes(files[1].read_bytes())
    pad = {
        "content": "<p>",
        "lstrip": True,
        "rstrip": False,
        "normalized": True,
        "single_word": False,
        "__type": "AddedToken",
    }
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": pad, "additional_special_tokens": ["<a>"]})
    )
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": 358, "<p>": 359, "word": 360}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"special_tokens_map_file": "/elsewhere", "name_or_path": "x"})
    )
    tokenizer = kind.from_pretrained(tmp_path)
    assert tokenizer.added_tokens_encoder == {"<|endoftext|>": 357, "<a>": 358, "<p>": 359, "word": 360}
    assert tokenizer("x <p> word")["input_ids"][1:3] == [359, 220]  # <p> takes the space before it
    assert tokenizer.additional_special_tokens == ["<a>"]
    assert tokenizer.name_or_path == str(tmp_path)


@pytest.mark.parametrize(
    "name", ["GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend", None]
)
def test_later_names_of_the_class_are_read(kind, files, tmp_path, name):
    GPT2TokenizerFast(*files).save_pretrained(tmp_path)
    change(tmp_path / "tokenizer_config.json", tokenizer_class=name)
    assert len(AutoTokenizer.from_pretrained(tmp_path, use_fast=kind.is_fast)) == 358


def test_extra_special_tokens_of_later_versions_are_read(kind, files, tmp_path):
    tokenizer = GPT2TokenizerFast(*files)
    tokenizer.add_tokens(["<i>", "<j>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path, legacy_format=False)
    (tmp_path / "special_tokens_map.json").unlink()
    for extra in (["<i>", "<j>"], {"image_token": "<i>", "other_token": "<j>"}, {}):  # {}: only flags tell
        change(tmp_path / "tokenizer_config.json", extra_special_tokens=extra, additional_special_tokens=None)
        again = kind.from_pretrained(tmp_path)
        assert again.additional_special_tokens == ["<i>", "<j>"]
        assert again("a<i><j>")["input_ids"][1:] == [358, 359]


def test_unknown_entries_of_a_configuration_are_kept(kind, files, tmp_path):
    kind(*files).save_pretrained(tmp_path)
    change(tmp_path / "tokenizer_config.json", backend="tokenizers", something={"new": 1})
    kind.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert read(tmp_path / "tokenizer_config.json")["something"] == {"new": 1}


def test_tokenizer_json_alone_is_enough(kind, files, tmp_path):
    made = GPT2TokenizerFast(*files, add_prefix_space=True, add_bos_token=True, pad_token="<p>")
    made.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = kind.from_pretrained(tmp_path)
    assert tokenizer(TEXT)["input_ids"] == made(TEXT)["input_ids"]
    assert tokenizer.added_tokens_encoder == made.added_tokens_encoder
    assert (tokenizer.add_prefix_space, tokenizer.add_bos_token) == (True, True)


def test_lengths_in_a_tokenizer_json_do_not_cut_every_text(files, tmp_path):
    made = GPT2TokenizerFast(*files, pad_token="<p>")
    backend = made.backend_tokenizer
    backend.enable_truncation(3, direction="left")
    backend.enable_padding(direction="left", pad_id=358, pad_token="<p>", length=7)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = GPT2TokenizerFast.from_pretrained(tmp_path)
    assert tokenizer("in the end")["input_ids"] == made("in the end")["input_ids"]
    assert (tokenizer.truncation_side, tokenizer.padding_side, tokenizer.pad_token) == ("left", "left", "<p>")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", None),
        ("post_processor", {"type": "BertProcessing", "sep": ["a", 0], "cls": ["a", 0]}),
    ],
)
def test_another_kind_of_tokenizer_json_is_refused(kind, files, tmp_path, part, value):
    GPT2TokenizerFast(*files).save_pretrained(tmp_path, legacy_format=False)
    change(tmp_path / "tokenizer.json", **{part: value})
    with pytest.raises(TokenizerError, match="GPT-2's tokenizer only"):
        kind.from_pretrained(tmp_path)


def test_a_tokenizer_that_changes_texts_is_for_the_fast_one(files, tmp_path):
    GPT2TokenizerFast(*files).save_pretrained(tmp_path, legacy_format=False)
    change(tmp_path / "tokenizer.json", normalizer={"type": "Lowercase"})
    assert GPT2TokenizerFast.from_pretrained(tmp_path).tokenize("THE") == ["t", "he"]
    with pytest.raises(TokenizerError, match="Lowercase"):
        GPT2Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b""])
def test_damaged_files_are_refused_by_name(kind, files, tmp_path, name, content):
    GPT2TokenizerFast(*files).save_pretrained(tmp_path, legacy_format=False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=name.replace(".", r"\.")):
        kind.from_pretrained(tmp_path)


def test_ids_that_contradict_the_vocabulary_are_refused(kind, files, tmp_path):
    GPT2TokenizerFast(*files).save_pretrained(tmp_path)
    entry = {
        "content": "new",
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
        "special": False,
    }
    config = read(tmp_path / "tokenizer_config.json")
    change(
        tmp_path / "tokenizer_config.json",
        added_tokens_decoder={**config["added_tokens_decoder"], "400": entry},
    )
    with pytest.raises(TokenizerError, match=r"id 400|no token with id 358"):
        kind.from_pretrained(tmp_path)


def test_other_tokenizers_and_models_are_refused_by_name(kind, files, tmp_path):
    kind(*files).save_pretrained(tmp_path)
    change(tmp_path / "tokenizer_config.json", tokenizer_class="BertTokenizerFast")
    with pytest.raises(TokenizerError, match="BertTokenizerFast"):
        kind.from_pretrained(tmp_path)
    change(tmp_path / "tokenizer_config.json", tokenizer_class=None)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for use_fast in (True, False):
        with pytest.raises(TokenizerError, match="'llama' model"):
            AutoTokenizer.from_pretrained(tmp_path, use_fast=use_fast)
    with pytest.raises(InputError, match="tokenizer_type='bert'"):
        AutoTokenizer.from_pretrained("gpt2", tokenizer_type="bert")
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoTokenizer()


def test_folders_without_a_tokenizer_and_names_of_nothing(kind, tmp_path):
    with pytest.raises(
        FileNotInRepositoryError, match=r"neither vocab\.json with merges\.txt, nor tokenizer\.json"
    ):
        kind.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotInRepositoryError, match="neither"):
        kind.from_pretrained(tmp_path)
    with pytest.raises(RepositoryNotFoundError, match="no folder"):
        kind.from_pretrained(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_old_files(kind, files, tmp_path, monkeypatch):
    kind(*files).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def no_room(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        kind.from_pretrained("gpt2").save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_fast_one_can_be_made_of_the_slow_ones_files(files, tmp_path):
    GPT2TokenizerFast(*files).save_pretrained(tmp_path)
    assert len(GPT2TokenizerFast.from_pretrained(tmp_path, from_slow=True)) == 358
    slow = GPT2Tokenizer(*files, add_prefix_space=True, pad_token="<p>")
    slow.add_tokens([AddedToken("<z>", lstrip=True)])
    fast = GPT2TokenizerFast.from_slow(slow)
    assert fast.get_vocab() == slow.get_vocab()
    assert fast("x <z> y")["input_ids"] == slow("x <z> y")["input_ids"]
