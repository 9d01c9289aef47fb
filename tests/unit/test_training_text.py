"""Text files: what is refused, how they are split, and pieces that tokenize as the whole."""

from __future__ import annotations

import hashlib
import random

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from gpt2kit.errors import TrainingError
from gpt2kit.training import text as text_module
from gpt2kit.training.text import TextPart, TextSource, pieces, split

# GPT-2's splitting: what BPE never joins across.
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def source(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return TextSource.open(path)


def read(parts):
    return b"".join(part.path.read_bytes()[part.start : part.stop] for part in parts).decode()


def test_a_source_knows_its_size_and_hash(tmp_path):
    found = source(tmp_path, "a.txt", "Thou art")
    assert (found.size, found.sha256) == (8, hashlib.sha256(b"Thou art").hexdigest())
    assert found.to_dict()["name"] == "a.txt"


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"no text file .*none\.txt"):
        TextSource.open(tmp_path / "none.txt")
    with pytest.raises(TrainingError, match="is a folder: name the text files"):
        TextSource.open(tmp_path)


def test_empty_files_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"Nothing to learn from: .*a\.txt is empty"):
        split([source(tmp_path, "a.txt", "")], 0.1)


def test_the_last_tenth_is_held_out(tmp_path):
    learnt, held_out = split([source(tmp_path, "a.txt", "0123456789" * 3)], 0.1)
    assert (read(learnt), read(held_out)) == ("0123456789" * 2 + "0123456", "789")


def test_the_cut_may_fall_into_any_of_several_files(tmp_path):
    sources = [source(tmp_path, f"{name}.txt", name * 10) for name in "abc"]
    for fraction, last in ((0.1, "ccc"), (0.5, "b" * 5 + "c" * 10), (0.0, ""), (1 / 3, "c" * 10)):
        learnt, held_out = split(sources, fraction)
        assert read(held_out) == last
        assert read(learnt) + last == "a" * 10 + "b" * 10 + "c" * 10


def test_no_character_is_cut_in_two(tmp_path):
    whole = "é€😀" * 7
    for fraction in (0.1, 0.2, 0.3, 0.45, 0.7, 0.9):
        learnt, held_out = split([source(tmp_path, "a.txt", whole)], fraction)
        assert read(learnt) + read(held_out) == whole


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 18])
def test_bytes_that_are_not_utf8_are_named_with_their_place(tmp_path, monkeypatch, size):
    monkeypatch.setattr(text_module, "_READ_BYTES", size)
    found = source(tmp_path, "a.txt", "é€ ok ".encode() + b"caf\xe9 noir")
    part = TextPart(found.path, 0, found.size)
    with pytest.raises(TrainingError, match=r"a\.txt is not UTF-8 text: byte 12 is 0xe9.*iconv"):
        list(pieces(part))


def test_a_character_that_the_end_cuts_off_is_refused(tmp_path):
    found = source(tmp_path, "a.txt", "abc€".encode()[:-1])
    with pytest.raises(TrainingError, match="byte 3 is 0xe2"):
        list(pieces(TextPart(found.path, 0, found.size)))


def test_a_file_that_became_shorter_is_refused(tmp_path):
    found = source(tmp_path, "a.txt", "abc")
    with pytest.raises(TrainingError, match="became shorter"):
        list(pieces(TextPart(found.path, 0, 5)))


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(text_module, "_PIECE_CHARACTERS", 11)
    monkeypatch.setattr(text_module, "_READ_BYTES", 7)


def same_words(path, whole):
    path.write_bytes(whole.encode())
    found = list(pieces(TextPart(path, 0, len(whole.encode()))))
    assert "".join(found) == whole
    assert [word for piece in found for word in WORDS.findall(piece)] == WORDS.findall(whole)
    return found


def test_pieces_split_into_the_same_words_as_the_whole(tmp_path, small_pieces):
    generator = random.Random(0)
    alphabet = [
        "a",
        "B",
        "é",
        "中",
        "7",
        " ",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'ll",
        ".",
        "—",
        "😀",
        "\u00a0",
    ]
    most = 0
    for _ in range(300):
        whole = "".join(generator.choices(alphabet, k=generator.randrange(120)))
        most = max(most, len(same_words(tmp_path / "a.txt", whole)))
    assert most > 3


@given(whole=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_pieces_of_any_text_split_into_the_same_words(tmp_path_factory, whole):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_PIECE_CHARACTERS", 5)
        same_words(tmp_path_factory.getbasetemp() / "any.txt", whole)


def test_a_text_without_a_safe_place_stays_whole(tmp_path, small_pieces):
    assert len(same_words(tmp_path / "a.txt", "中" * 101)) == 1


def test_lines_without_spaces_are_cut_at_their_ends(tmp_path, small_pieces):
    assert len(same_words(tmp_path / "a.txt", "中文中文中文中文中文中\n" * 11)) > 3
