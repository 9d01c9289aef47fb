"""What code written for transformers 4.34 touches on GPT-2's classes: it is there and does the same.

The tables list what no other test names: attribute or call -> what 4.34.0 gives for it. Values were read off
transformers 4.34.0; where ours differ on purpose, docs/differences.md says so.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="the PyTorch room is not installed")

import torch
from tokenizers import Tokenizer

import gpt2kit
from cases import tiny_config
from gpt2kit import GPT2Config, GPT2Tokenizer, GPT2TokenizerFast

MODELS = (
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
)
WRITERS = ("GPT2LMHeadModel", "GPT2DoubleHeadsModel")
IDS = torch.tensor([[2, 3, 5, 7, 11], [13, 17, 19, 23, 29]])  # [B, T]
MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])  # [B, S]
MIN = torch.finfo(torch.float32).min
# Parameters of the tiny model: embeddings, L blocks, the last norm.
TABLES, BODY = (101 + 13) * 33, 3 * (12 * 33 * 33 + 13 * 33) + 2 * 33
HEADS = {"GPT2DoubleHeadsModel": 34, "GPT2ForSequenceClassification": 66, "GPT2ForTokenClassification": 68}
HEADS["GPT2ForQuestionAnswering"] = 68


def build(name: str, **changes: Any) -> Any:
    torch.manual_seed(1)
    return getattr(gpt2kit, name)(tiny_config(**{"pad_token_id": 0} | changes)).eval()


# --------------------------------------------------------------------------- models

ATTRIBUTES: dict[str, Callable[[Any], bool]] = {
    "config_class": lambda value: value is GPT2Config,
    "base_model_prefix": lambda value: value == "transformer",
    "main_input_name": lambda value: value == "input_ids",
    "framework": lambda value: value == "pt",
    "name_or_path": lambda value: value == "",
    "dtype": lambda value: value is torch.float32,
    "device": lambda value: value == torch.device("cpu"),
    "is_parallelizable": lambda value: value is False,
    "model_parallel": lambda value: value is False,
    "device_map": lambda value: value is None,
    "supports_gradient_checkpointing": lambda value: value is True,
    "is_gradient_checkpointing": lambda value: value is False,
    "warnings_issued": lambda value: value == {},
    "_no_split_modules": lambda value: value == ["GPT2Block"],
    "_skip_keys_device_placement": lambda value: value == "past_key_values",
    "_keys_to_ignore_on_save": lambda value: value is None,
    "_keys_to_ignore_on_load_missing": lambda value: value is None,
    "dummy_inputs": lambda value: value["input_ids"].shape == (3, 5),
}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_attribute(name: str, attribute: str) -> None:
    assert ATTRIBUTES[attribute](getattr(build(name), attribute))


@pytest.mark.parametrize("name", MODELS)
def test_what_only_some_classes_have(name: str) -> None:
    model = build(name)
    assert type(model.base_model).__name__ == "GPT2Model"
    assert model.get_input_embeddings() is model.base_model.wte
    assert model.can_generate() is (name in WRITERS)
    assert (model.generation_config is not None) is (name in WRITERS)
    assert model._tied_weights_keys == (["lm_head.weight"] if name in WRITERS else None)
    assert (model.get_output_embeddings() is not None) is (name in WRITERS)
    for method in ("prepare_inputs_for_generation", "_reorder_cache", "generate"):
        assert hasattr(model, method) is (name in WRITERS)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_tokens_and_operations_are_counted_as_in_4_34(name: str) -> None:
    model = build(name)
    head = HEADS.get(name, 0)
    assert model.num_parameters() == TABLES + BODY + head
    assert model.num_parameters(exclude_embeddings=True) == BODY + head
    assert model.get_memory_footprint(return_buffers=False) == 4 * (TABLES + BODY + head)
    assert model.estimate_tokens({"input_ids": IDS}) == 10
    assert model.floating_point_ops({"input_ids": IDS}) == 6 * 10 * (BODY + head)
    everything = model.floating_point_ops({"input_ids": IDS}, exclude_embeddings=False)
    assert everything == 6 * 10 * (TABLES + BODY + head)


def test_a_batch_without_ids_counts_nothing_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    model = build("GPT2Model")
    assert model.floating_point_ops({"inputs_embeds": torch.zeros(1, 2, 33)}) == 0
    assert model.estimate_tokens({}) == 0
    assert [record.message.partition(" in ")[0] for record in caplog.records] == ["There is no input_ids"]


@pytest.mark.parametrize("name", MODELS)
def test_masks_come_in_the_form_that_layers_take(name: str) -> None:
    model = build(name)
    hidden = torch.where(MASK == 0, MIN, 0.0)  # [B, S]
    expected = {"broadcast": hidden[:, None, None, :], "each": hidden[:, None, None, :].expand(2, 1, 5, 3)}
    each = MASK[:, None, :].expand(2, 5, 3)  # [B, T, S]
    for method in (model.invert_attention_mask, lambda mask: model.get_extended_attention_mask(mask, (2, 3))):
        torch.testing.assert_close(method(MASK), expected["broadcast"], rtol=0, atol=0)
        torch.testing.assert_close(method(each), expected["each"], rtol=0, atol=0)
        with pytest.raises(ValueError, match=r"\[batch, keys\] or \[batch, queries, keys\].*\[3\]"):
            method(MASK[0])


def test_a_decoders_mask_hides_later_positions_too() -> None:
    model = build("GPT2Model", is_decoder=True).double()
    sees = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[0, 1, 0], [0, 1, 1]]])[:, None]  # [B, 1, T, S]
    torch.testing.assert_close(model.create_extended_attention_mask_for_decoder((2, 2), MASK), sees)
    bias = model.get_extended_attention_mask(MASK, (2, 2), torch.device("cpu"), torch.float32)
    torch.testing.assert_close(bias, torch.where(sees == 0, MIN, 0.0), rtol=0, atol=0)
    assert model.invert_attention_mask(MASK).dtype is torch.float64
    unmasked = model.get_extended_attention_mask(MASK[:, None, :].expand(2, 2, 3), (2, 2))  # [B, 1, T, S]
    assert unmasked[0, 0, 0].tolist() == [0, 0, torch.finfo(torch.float64).min]  # as given: nothing is added


def test_head_masks_come_for_each_layer() -> None:
    model = build("GPT2Model")
    heads = torch.tensor([1, 0, 1])  # [H]
    for mask in (heads, heads.expand(3, 3)):
        found = model.get_head_mask(mask, 3)
        assert found.dtype is torch.float32
        torch.testing.assert_close(found, heads.float()[None, None, :, None, None].expand(3, 1, 3, 1, 1))
        assert model.get_head_mask(mask, 3, is_attention_chunked=True).shape == (3, 1, 3, 1, 1, 1)
    assert model.get_head_mask(None, 3) == [None, None, None]
    with pytest.raises(ValueError, match=r"\[heads\] or \[layers, heads\].*\[1, 1, 3\]"):
        model.get_head_mask(heads[None, None], 3)


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_pickles_are_models_of_their_own(name: str) -> None:
    model = build(name)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(IDS)[0], model(IDS)[0], rtol=0, atol=0)
        assert other.config == model.config
        if name in WRITERS:
            assert other.lm_head.weight is other.transformer.wte.weight
        with torch.no_grad():
            other.base_model.wte.weight.zero_()
        assert model.base_model.wte.weight.abs().sum() > 0


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_exchanged_and_tied_or_not(name: str) -> None:
    for tied in (True, False):
        model = build(name, tie_word_embeddings=tied)
        table = torch.nn.Embedding(101, 33)
        model.set_input_embeddings(table)
        assert model.get_input_embeddings() is model.base_model.wte is table
        model.tie_weights()
        if name in WRITERS:
            assert (model.get_output_embeddings().weight is table.weight) is tied
            model.set_output_embeddings(torch.nn.Linear(33, 101, bias=False))
            assert model(IDS).logits.shape == (2, 5, 101)
        else:
            with pytest.raises(ValueError, match="no output embeddings"):
                model.set_output_embeddings(torch.nn.Linear(33, 101))


@pytest.mark.parametrize("name", MODELS)
def test_with_torchscript_outputs_are_tuples_and_nothing_is_shared(name: str) -> None:
    model = build(name, torchscript=True)
    output = model(IDS)
    assert type(output) is tuple
    torch.testing.assert_close(output[0], build(name)(IDS)[0], rtol=0, atol=0)
    if name in WRITERS:
        assert model.lm_head.weight is not model.transformer.wte.weight
        torch.testing.assert_close(model.lm_head.weight, model.transformer.wte.weight)


@pytest.mark.parametrize("name", MODELS)
def test_an_output_is_mapping_attributes_and_tuple_at_once(name: str) -> None:
    model = build(name)
    output = model(IDS, output_hidden_states=True, output_attentions=True)
    first = next(iter(output))
    assert output[0] is output[first] is getattr(output, first) is output.to_tuple()[0]
    assert output[:2] == output.to_tuple()[:2]
    assert len(output.hidden_states) == 4
    assert len(output.attentions) == 3
    switched = build(name, output_hidden_states=True, output_attentions=True, return_dict=False)(IDS)
    assert type(switched) is tuple
    assert len(switched) == len(output)
    output.attentions[0].retain_grad()
    output.hidden_states[0].retain_grad()
    output[0].square().sum().backward()
    assert output.attentions[0].grad is not None
    assert output.hidden_states[0].grad is not None


@pytest.mark.parametrize("name", MODELS)
def test_labels_of_a_file_are_overridden_by_keywords(name: str, tmp_path: Any) -> None:
    build(name).save_pretrained(tmp_path)
    names = {0: "no"} if name == "GPT2DoubleHeadsModel" else {0: "no", 1: "yes"}  # which has one, as in 4.34
    numbers = {label: index for index, label in names.items()}
    model = getattr(gpt2kit, name).from_pretrained(
        tmp_path, id2label=names, label2id=numbers, problem_type="multi_label_classification"
    )
    assert model.config.id2label == names
    assert model.config.label2id == numbers
    assert model.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("name", ["GPT2ForSequenceClassification", "GPT2ForTokenClassification"])
def test_another_number_of_labels_draws_the_head_from_the_seed_alone(name: str, tmp_path: Any) -> None:
    build(name).save_pretrained(tmp_path)
    torch.manual_seed(5)
    model, info = getattr(gpt2kit, name).from_pretrained(
        tmp_path, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
    )
    head = model.score if hasattr(model, "score") else model.classifier
    assert {key.partition(".")[0] for key, _, _ in info["mismatched_keys"]} <= {"score", "classifier"}
    torch.manual_seed(5)
    drawn = torch.empty(7, 33).normal_(std=model.config.initializer_range)  # [N, D]
    torch.testing.assert_close(head.weight.detach(), drawn, rtol=0, atol=0)


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 7},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "groups of beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "beams with a forced word": {"num_beams": 3, "force_words_ids": [[31]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "assisted by the prompt": {"prompt_lookup_num_tokens": 2},
    "assisted by a draft": {"assistant_model": None},
    "dola": {"dola_layers": [1]},
    "guided": {"guidance_scale": 1.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_of_two_heads_writes_what_the_language_model_writes(way: str) -> None:
    writer, chooser = (build(name) for name in WRITERS)
    chooser.load_state_dict(writer.state_dict(), strict=False)
    options = dict(WAYS[way])
    if "assistant_model" in options:
        options["assistant_model"] = build("GPT2LMHeadModel", n_layer=1)
    ids = IDS[:1] if way.startswith("assisted") else IDS  # [B, T]
    found = []
    for model in (writer, chooser):
        gpt2kit.set_seed(3)
        found.append(
            model.generate(
                ids,
                max_new_tokens=6,
                return_dict_in_generate=True,
                output_scores=True,
                output_attentions=True,
                output_hidden_states=True,
                **options,
            )
        )
    expected, got = found
    assert got.sequences.tolist() == expected.sequences.tolist()
    assert list(got) == list(expected)
    # Measured 4.5e-8: a product over more or fewer positions at once, in float32.
    torch.testing.assert_close(got.scores, expected.scores, rtol=0, atol=5e-7)


# --------------------------------------------------------------------------- configuration


def test_a_configuration_has_what_newer_libraries_ask_for() -> None:
    config = tiny_config(foo=3, torch_dtype=torch.float16)
    assert config.get_text_config() is config
    assert config.foo == config.to_dict()["foo"] == 3
    assert config.torch_dtype == config.to_dict()["torch_dtype"] == "float16"
    assert config.to_dict()["n_ctx"] == 13
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config
    assert gpt2kit.GPT2Model._from_config(config, torch_dtype=config.torch_dtype).dtype is torch.float16


# --------------------------------------------------------------------------- tokenizers

ON_THE_CLASS: dict[str, Callable[[Any], bool]] = {
    "vocab_files_names": lambda value: value["vocab_file"] == "vocab.json",
    "max_model_input_sizes": lambda value: value["gpt2-xl"] == value["distilgpt2"] == 1024,
    "model_input_names": lambda value: value == ["input_ids", "attention_mask"],
    "padding_side": lambda value: value == "right",
    "truncation_side": lambda value: value == "right",
    "slow_tokenizer_class": lambda value: value in (None, GPT2Tokenizer),
}


@pytest.mark.parametrize("attribute", ON_THE_CLASS)
@pytest.mark.parametrize("tokenizer", [GPT2Tokenizer, GPT2TokenizerFast])
def test_a_tokenizer_class_has_the_attribute(tokenizer: Any, attribute: str) -> None:
    assert ON_THE_CLASS[attribute](getattr(tokenizer, attribute))


def test_the_classes_differ_in_what_they_are_made_from() -> None:
    assert GPT2TokenizerFast.vocab_files_names["tokenizer_file"] == "tokenizer.json"
    assert "tokenizer_file" not in GPT2Tokenizer.vocab_files_names
    assert GPT2TokenizerFast.slow_tokenizer_class is GPT2Tokenizer
    assert GPT2TokenizerFast.can_save_slow_tokenizer is True
    assert GPT2Tokenizer.slow_tokenizer_class is None
    assert GPT2Tokenizer.pat.findall("It's 5 cups") == ["It", "'s", " 5", " cups"]


def test_what_a_subclass_says_on_its_class_is_honoured() -> None:
    class Left(GPT2Tokenizer):
        padding_side = "left"
        model_input_names = ["input_ids"]  # noqa: RUF012  # written as users write it

    tokenizer = Left.from_pretrained("gpt2", pad_token="<|endoftext|>")
    assert tokenizer(["a", "a b"], padding=True) == {"input_ids": [[50256, 64], [64, 275]]}
    assert Left.from_pretrained("gpt2", padding_side="right").padding_side == "right"


def test_the_fast_one_shows_its_parts() -> None:
    tokenizer = GPT2TokenizerFast.from_pretrained("gpt2")
    assert isinstance(tokenizer.backend_tokenizer, Tokenizer)
    assert tokenizer.decoder.decode(["Hello", "Ġworld"]) == "Hello world"
