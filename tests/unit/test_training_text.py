"""Text files: what is refused, how they are split, and pieces that tokenize as the whole."""

from __future__ import annotations

import hashlib

import pytest

from gpt2kit.errors import TokenizerError, TrainingError
from gpt2kit.training import text as text_module
from gpt2kit.training.text import TextPart, TextSource, pieces, split


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
    with pytest.raises(TrainingError, match=r"a\.txt is empty: name files with text in them"):
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
    monkeypatch.setattr(text_module, "_PIECE_BYTES", size)
    found = source(tmp_path, "a.txt", "é€ ok ".encode() + b"caf\xe9 noir")
    for start in (0, 2):
        with pytest.raises(TokenizerError, match=r"a\.txt is not UTF-8: byte 12 .*iconv"):
            list(pieces(TextPart(found.path, start, found.size)))


def test_a_file_that_became_shorter_is_refused(tmp_path):
    found = source(tmp_path, "a.txt", "abc")
    with pytest.raises(TrainingError, match="became shorter"):
        list(pieces(TextPart(found.path, 0, 5)))


@pytest.mark.parametrize("size", [1, 7, 31, 101])
def test_pieces_are_the_text_between_the_two_bytes(tmp_path, monkeypatch, size):
    monkeypatch.setattr(text_module, "_PIECE_BYTES", size)
    whole = "thou art — as 中文 is — a man, my lord.\n" * 7
    found = source(tmp_path, "a.txt", whole)
    content = whole.encode()
    for start, stop in ((0, len(content)), (5, 53), (9, 12), (len(content), len(content))):
        read = list(pieces(TextPart(found.path, start, stop)))
        assert "".join(read) == content[start:stop].decode()
    assert len(list(pieces(TextPart(found.path, 0, len(content))))) > 1 or size > len(content)
