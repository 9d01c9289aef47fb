"""Record what the tokenizers of transformers 4.34.0 return, as goldens for test_tokenization_golden.py.

Run it in an environment of its own that has transformers==4.34.0 and no gpt2kit:

    python tools/record_tokenization.py tests/golden

It writes tokenization/calls.json (what was called, and what came back) and tokenization/folders/ (small
tokenizers as 4.34 saves them). A later transformers saves one of these again with

    python tools/record_tokenization.py tests/golden --again NAME
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import tokenizers
import transformers
from transformers import AddedToken, GPT2Tokenizer, GPT2TokenizerFast

MERGES = Path(__file__).parents[1] / "src" / "gpt2kit" / "tokenization" / "data" / "merges.txt"

TEXTS = [
    "",
    " ",
    "Hello world",
    "  two  spaces \n\n and\tmore ",
    "It's they'll I'M don't 's",
    "Führer ½ ١٢٣ 中文字 日本語",
    "👩🏽‍🚀 e\u0301 \u00a0x\u3000y\x85z\x1cw",
    "x<|endoftext|> y <|endoftext|><|endoftext|>",
    "a b c d e f g h i j k",
    "The quick brown fox jumps over the lazy dog . It 's fun , is n't it ?",
]
PAIR = ["Hello world, hello!", "a b c d e f g h"]
WORDS = ["Hello", "world", "it's", "中文"]


def token(content: str, **flags: bool) -> dict:
    """Describe an AddedToken in JSON."""
    return {"__token__": {"content": content, **flags}}


def case(
    name: str, method: str, *args: object, init: dict | None = None, setup: list | None = None, **kwargs
) -> dict:
    """Describe one call in JSON."""
    return {
        "name": name,
        "init": init or {},
        "setup": setup or [],
        "method": method,
        "args": args,
        "kwargs": kwargs,
    }


PAD = {"pad_token": "<pad>"}
ADDED = [
    ["add_special_tokens", [{"additional_special_tokens": [token("<a>", lstrip=False, rstrip=False)]}]],
    ["add_tokens", [[token("foo"), token("bar", lstrip=True), token("baz", rstrip=True)]]],
]


def make_cases() -> list[dict]:
    """List every call."""
    cases = [case(f"text {n}", "__call__", text) for n, text in enumerate(TEXTS)]
    cases += [case(f"tokens {n}", "tokenize", text) for n, text in enumerate(TEXTS)]
    cases.append(case("batch", "__call__", TEXTS))
    cases += [
        case(
            f"pad {padding} {side}",
            "__call__",
            TEXTS,
            padding=padding,
            init={**PAD, "padding_side": side},
            **more,
        )
        for side in ("right", "left")
        for padding, more in ((True, {}), ("longest", {}), ("max_length", {"max_length": 7}))
    ]
    everything = {
        "return_token_type_ids": True,
        "return_attention_mask": True,
        "return_special_tokens_mask": True,
        "return_length": True,
    }
    cases += [
        case(f"everything {bos}", "__call__", *PAIR, init={"add_bos_token": bos}, **everything)
        for bos in (False, True)
    ]
    cases += [
        case(f"everything, one text {bos}", "__call__", PAIR[0], init={"add_bos_token": bos}, **everything)
        for bos in (False, True)
    ]
    for strategy in (True, "longest_first", "only_first", "only_second"):
        for side in ("right", "left"):
            init = {"truncation_side": side}
            cases.append(
                case(
                    f"cut {strategy} {side}", "__call__", *PAIR, truncation=strategy, max_length=10, init=init
                )
            )
    cases += [
        case("cut to less than a text", "__call__", *PAIR, truncation=True, max_length=4),
        case("cut an odd number", "__call__", *PAIR, truncation=True, max_length=5),
        case("cut first too short", "__call__", *PAIR, truncation="only_first", max_length=5),
        case("cut second of none", "__call__", PAIR[1], truncation="only_second", max_length=5),
        case("max_length alone", "__call__", PAIR[1], max_length=3),
        case(
            "overflow",
            "__call__",
            PAIR[1],
            truncation=True,
            max_length=3,
            stride=1,
            return_overflowing_tokens=True,
        ),
        case(
            "overflow of a batch",
            "__call__",
            TEXTS[5:],
            truncation=True,
            max_length=5,
            padding=True,
            return_overflowing_tokens=True,
            init=PAD,
        ),
        case(
            "overflow of the second",
            "__call__",
            *PAIR,
            truncation="only_second",
            max_length=8,
            stride=2,
            return_overflowing_tokens=True,
        ),
        case("multiple", "__call__", TEXTS, padding=True, pad_to_multiple_of=8, init=PAD),
        case("multiple without padding", "__call__", "This", pad_to_multiple_of=8, init=PAD),
        case(
            "multiple clashes",
            "__call__",
            "This",
            padding=True,
            truncation=True,
            max_length=12,
            pad_to_multiple_of=8,
            init=PAD,
        ),
        case("no pad token", "__call__", TEXTS, padding=True),
        case("no attention mask", "__call__", TEXTS, return_attention_mask=False),
        case("no special tokens", "__call__", *PAIR, add_special_tokens=False, init={"add_bos_token": True}),
        case("words", "__call__", WORDS, is_split_into_words=True, init={"add_prefix_space": True}),
        case(
            "batch of words",
            "__call__",
            [WORDS, WORDS[:2]],
            is_split_into_words=True,
            init={"add_prefix_space": True},
        ),
        case("words without a space", "__call__", WORDS, is_split_into_words=True),
        case("offsets", "__call__", TEXTS, return_offsets_mapping=True),
        case("target", "__call__", PAIR[0], text_target=PAIR[1]),
        case("batch of pairs", "batch_encode_plus", [PAIR, PAIR[::-1]]),
        case("encode", "encode", PAIR[0]),
        case("encode a pair", "encode", *PAIR),
        case("encode ids", "encode", [1, 2, 3]),
        case("encode tokens", "encode", ["Hello", "Ġworld"]),
        case("encode_plus", "encode_plus", *PAIR, max_length=5, truncation=True),
        case("prepare", "prepare_for_model", [1, 2, 3], [4, 5], max_length=4, truncation="only_first"),
        case("prepare and pad", "prepare_for_model", [1, 2, 3], max_length=6, padding="max_length", init=PAD),
        case("pad", "pad", {"input_ids": [[1, 2], [3]]}, init=PAD),
        case("pad rows", "pad", [{"input_ids": [1, 2]}, {"input_ids": [3]}], init=PAD),
        case("pad one", "pad", {"input_ids": [1, 2]}, padding="max_length", max_length=4, init=PAD),
        case("bytes", "__call__", 5),
        case("none", "__call__", None),
        case("ints", "__call__", [1, 2]),
        case("empty batch", "__call__", []),
        case(
            "mask of special tokens",
            "get_special_tokens_mask",
            [50256, 5, 50256],
            already_has_special_tokens=True,
        ),
        case("types", "create_token_type_ids_from_sequences", [1, 2], [3]),
        case("build", "build_inputs_with_special_tokens", [1, 2], [3], init={"add_bos_token": True}),
        case("number of special tokens", "num_special_tokens_to_add", init={"add_bos_token": True}),
        case(
            "number of special tokens of a pair",
            "num_special_tokens_to_add",
            True,
            init={"add_bos_token": True},
        ),
        case("truncate_sequences", "truncate_sequences", [1, 2, 3, 4], num_tokens_to_remove=2, stride=1),
        case("token to id", "convert_tokens_to_ids", ["Hello", "nowhere", "<|endoftext|>"]),
        case("id to token", "convert_ids_to_tokens", [0, 50256, 60000]),
        case("id to token, skipping", "convert_ids_to_tokens", [0, 50256, 1], skip_special_tokens=True),
        case("decode one", "decode", 15496),
        case("decode a half", "decode", [222, 250]),
        case("decode a half, ignoring", "decode", [64, 222, 65], init={"errors": "ignore"}),
        case("decode, skipping", "decode", [15496, 50256, 995], skip_special_tokens=True),
        case("decode, cleaning", "decode", [15496, 764, 705, 82, 837]),
        case(
            "decode, not cleaning", "decode", [15496, 764, 705, 82, 837], clean_up_tokenization_spaces=False
        ),
        case("batch_decode", "batch_decode", [[15496, 995], [50256]]),
        case("tokens to string", "convert_tokens_to_string", ["Hello", "Ġworld", "Ã©"]),
        case("clean up", "clean_up_tokenization", "a . b ? do n't ' x ' I 'm"),
        case(
            "chat",
            "apply_chat_template",
            [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "Yo"}],
        ),
        case("chat text", "apply_chat_template", [{"role": "user", "content": "Hi"}], tokenize=False),
        case(
            "lengths",
            "__getattribute__",
            "max_len_single_sentence",
            init={"model_max_length": 11, "add_bos_token": True},
        ),
        case("length", "__len__", setup=ADDED),
        case("vocabulary size", "__getattribute__", "vocab_size", setup=ADDED),
        case("added vocabulary", "get_added_vocab", setup=ADDED),
        case("special tokens", "__getattribute__", "special_tokens_map", setup=ADDED),
        case("all special tokens", "__getattribute__", "all_special_tokens", setup=ADDED),
        case("all special ids", "__getattribute__", "all_special_ids", setup=ADDED),
        case("add how many", "add_tokens", ["foo bar", "Hello", "<|endoftext|>"]),
        case("add special how many", "add_special_tokens", {"pad_token": "<pad>", "bos_token": "<s>"}),
        case("prefix space", "__call__", ["a", " a", "a<|endoftext|>b", ""], init={"add_prefix_space": True}),
    ]
    for n, text in enumerate(["a <a> b", "foo bar baz foobar", " foo  bar  baz  <a>", "<a><a> foo"]):
        cases.append(case(f"added {n}", "__call__", text, setup=ADDED))
    for spaces in (None, True, False):
        given = {} if spaces is None else {"spaces_between_special_tokens": spaces}
        ids = [64, 50257, 65, 50256, 21943, 66]
        cases.append(case(f"decode added {spaces}", "decode", ids, setup=ADDED, **given))
    single = [["add_tokens", [[token("word", single_word=True)]]]]
    cases += [
        case(f"single word {n}", "__call__", t, setup=single)
        for n, t in enumerate(["a word b", "swords", "word"])
    ]
    strings = [["add_special_tokens", [{"cls_token": "<c>"}]], ["add_tokens", ["foo"]]]
    cases += [
        case("strings strip", "__call__", "a <c> b", setup=strings),
        case("strings added", "__call__", "a foo b", setup=strings),
    ]
    return cases


def revive(value: object) -> object:
    """Make the AddedTokens that a description has."""
    if isinstance(value, dict):
        if "__token__" in value:
            return AddedToken(**value["__token__"])
        return {key: revive(item) for key, item in value.items()}
    return [revive(item) for item in value] if isinstance(value, (list, tuple)) else value


def plain(value: object) -> object:
    """Turn a result into JSON."""
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def run(make: type, files: tuple[str, str], described: dict) -> object:
    """Do one call and return its result, or the kind of error."""
    try:
        tokenizer = make(*files, **revive(described["init"]))
        for method, args in described["setup"]:
            getattr(tokenizer, method)(*revive(args))
        return {
            "value": plain(
                getattr(tokenizer, described["method"])(*revive(described["args"]), **described["kwargs"])
            )
        }
    except Exception as error:  # whatever 4.34 raises is recorded
        return {"error": type(error).__name__}


def write_vocabulary(folder: Path, merges: list[str]) -> tuple[str, str]:
    """Write the files of a tokenizer with these merges."""
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode  # gone from later versions

    tokens = [*bytes_to_unicode().values(), *(line.replace(" ", "") for line in merges), "<|endoftext|>"]
    (folder / "vocab.json").write_text(
        json.dumps({item: index for index, item in enumerate(tokens)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return str(folder / "vocab.json"), str(folder / "merges.txt")


SAVED_TEXTS = ["in the <a> x", "a foo bar baz the", "<pad>the"]


def record_folders(target: Path, merges: list[str]) -> None:
    """Save small tokenizers with added tokens, as 4.34 does."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_vocabulary(Path(folder), merges[:64])
        for name, make in (("4.34-slow", GPT2Tokenizer), ("4.34-fast", GPT2TokenizerFast)):
            tokenizer = make(*files, pad_token="<pad>", model_max_length=37, add_prefix_space=True)
            tokenizer.add_tokens([AddedToken("foo", lstrip=True), AddedToken("bar baz", single_word=True)])
            tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<a>", rstrip=True)]})
            save(tokenizer, target / name)


def save(tokenizer: object, place: Path) -> None:
    """Save a tokenizer, and beside it the ids that it gives."""
    shutil.rmtree(place, ignore_errors=True)
    tokenizer.save_pretrained(place)
    expected = {text: tokenizer(text)["input_ids"] for text in SAVED_TEXTS}
    (place / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n", encoding="utf-8")


def record_again(target: Path, name: str) -> None:
    """Save the fast tokenizer of 4.34 with the transformers that is installed."""
    tokenizer = GPT2TokenizerFast.from_pretrained(target / "4.34-fast")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}|{% endfor %}"
    save(tokenizer, target / name)


def main(target: Path) -> None:
    """Record everything."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    merges = MERGES.read_text(encoding="utf-8").split("\n")[1:-1]
    cases = make_cases()
    with tempfile.TemporaryDirectory() as folder:
        files = write_vocabulary(Path(folder), merges)
        for described in cases:
            described["slow"] = run(GPT2Tokenizer, files, described)
            described["fast"] = run(GPT2TokenizerFast, files, described)
    made_by = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    lines = ",\n".join(json.dumps(described, ensure_ascii=False) for described in cases)
    target.mkdir(parents=True, exist_ok=True)
    text = f'{{"made_by": {json.dumps(made_by)},\n"cases": [\n{lines}\n]}}\n'
    (target / "calls.json").write_text(text, encoding="utf-8")
    record_folders(target / "folders", merges)


if __name__ == "__main__":
    place = Path(sys.argv[1]) / "tokenization"
    if "--again" in sys.argv:
        record_again(place / "folders", sys.argv[-1])
    else:
        main(place)
