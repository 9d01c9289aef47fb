from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from gpt2kit.config import ACTIVATIONS, CONFIG_NAME, GPT2Config
from gpt2kit.errors import ConfigError, FileNotInRepositoryError, InputError, RepositoryNotFoundError

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "config_defaults.json").read_text(encoding="utf-8")
)


def as_json(values: object) -> object:
    return json.loads(json.dumps(values))


def test_named_arguments_are_those_of_4_34_in_its_order() -> None:
    parameters = inspect.signature(GPT2Config).parameters.values()
    ours = [[item.name, item.default] for item in parameters if item.default is not item.empty]
    assert ours == GOLDEN["arguments"]


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_to_dict_is_that_of_4_34_with_n_ctx_beside(case: str) -> None:
    recorded = GOLDEN["cases"][case]
    ours = as_json(GPT2Config(**recorded["arguments"]).to_dict())
    assert ours == recorded["to_dict"] | {"n_ctx": recorded["to_dict"]["n_positions"]}


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_saved_json_is_that_of_4_34_with_n_ctx_beside(case: str) -> None:
    recorded = GOLDEN["cases"][case]
    ours = json.loads(GPT2Config(**recorded["arguments"]).to_json_string())
    theirs = json.loads(recorded["to_json_string"])
    assert ours == theirs | {"n_ctx": theirs["n_positions"]}


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_json_written_by_4_34_is_read_back_to_the_same_configuration(case: str, tmp_path: Path) -> None:
    recorded = GOLDEN["cases"][case]
    (tmp_path / CONFIG_NAME).write_text(recorded["to_json_string"], encoding="utf-8")
    assert GPT2Config.from_pretrained(tmp_path) == GPT2Config(**recorded["arguments"])


def test_aliases_are_read_and_set() -> None:
    config = GPT2Config(hidden_size=35, num_attention_heads=5)
    assert (config.n_embd, config.n_head) == (35, 5)
    config.num_hidden_layers = 7
    config.max_position_embeddings = 17
    assert (config.n_layer, config.n_positions, config.hidden_size) == (7, 17, 35)
    assert "hidden_size" not in config.to_dict()


def test_a_setting_given_twice_with_two_values_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_embd=33 and hidden_size=35"):
        GPT2Config(n_embd=33, n_head=3, hidden_size=35)


def test_unknown_keywords_are_kept_as_attributes_and_saved() -> None:
    config = GPT2Config(gradient_checkpointing=True, mine=[1])
    assert config.gradient_checkpointing is True  # type: ignore[attr-defined]
    assert GPT2Config.from_dict(config.to_dict()).mine == [1]


def test_a_keyword_may_not_hide_a_method() -> None:
    with pytest.raises(ConfigError, match="to_dict"):
        GPT2Config(to_dict=3)


def test_num_labels_resizes_both_maps_and_keeps_names_of_the_same_number() -> None:
    config = GPT2Config(id2label={"0": "no", "1": "yes"})
    assert config.id2label == {0: "no", 1: "yes"}
    assert config.label2id == {"no": 0, "yes": 1}
    config.num_labels = 2
    assert config.id2label == {0: "no", 1: "yes"}
    config.num_labels = 3
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_label2id_alone_is_honoured() -> None:
    assert GPT2Config(label2id={"no": 0, "yes": 1}).id2label == {0: "no", 1: "yes"}


def test_labels_of_two_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_labels=3 does not fit"):
        GPT2Config(num_labels=3, id2label={0: "a", 1: "b"})
    with pytest.raises(ValueError, match="num_labels=3 does not fit"):
        GPT2Config.from_dict({}, num_labels=3, id2label={0: "a", 1: "b"})


def test_num_labels_beside_id2label_in_a_file_is_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    config = GPT2Config.from_dict({"num_labels": 5, "id2label": {"0": "a", "1": "b", "2": "c"}})
    assert config.num_labels == 3
    assert "num_labels=5 is ignored" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"n_embd": 50},
            r"n_embd=50 cannot be shared evenly by n_head=12.*n_embd=48 or 60, or n_head=10 or 25",
        ),
        ({"n_embd": 5, "n_head": 7}, r"n_embd=7, or n_head=5"),
        ({"n_head": "twelve"}, "n_head must be a whole number.*'twelve'"),
        ({"n_layer": 0}, "n_layer must be a whole number of at least 1, but it is 0"),
        ({"n_layer": True}, "n_layer must be a whole number"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"n_positions": 1.5}, "n_positions"),
        ({"n_inner": 0}, r"n_inner.*or None for 4 \* n_embd"),
        ({"activation_function": "gelu_newest"}, "'gelu_newest', and it must be one of gelu, "),
        ({"resid_pdrop": 1.1}, "resid_pdrop must be a number from 0 to 1, but it is 1.1"),
        ({"attn_pdrop": "0.1"}, "attn_pdrop"),
        ({"embd_pdrop": float("nan")}, "embd_pdrop"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon must be a number above 0"),
        ({"layer_norm_epsilon": -1e-5}, "layer_norm_epsilon"),
        ({"initializer_range": -0.1}, "initializer_range"),
        ({"scale_attn_weights": "yes"}, "scale_attn_weights must be True or False"),
        ({"summary_type": "middle"}, "summary_type.* one of last, first, mean, cls_index.$"),
        ({"summary_activation": "tan"}, "summary_activation"),
        ({"problem_type": "multi"}, "problem_type.*regression, single_label_classification"),
        ({"torch_dtype": "int8"}, "torch_dtype"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"eos_token_id": [1, "2"]}, "eos_token_id"),
        ({"pad_token_id": 1.0}, "pad_token_id"),
        ({"id2label": ["a", "b"]}, "id2label"),
        ({"id2label": {"a": 0}}, "id2label"),
        ({"num_labels": 0}, "num_labels"),
        ({"pruned_heads": {12: [0]}}, "pruned_heads names layer 12"),
        ({"pruned_heads": {0: [12]}}, "pruned_heads names heads"),
        ({"pruned_heads": [0]}, "pruned_heads must be a dictionary"),
        ({"n_ctx": 512}, "n_ctx=512 differs from n_positions=1024"),
        ({"model_type": "llama"}, "of type 'llama'"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_fix(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GPT2Config(**arguments)  # type: ignore[arg-type]


def test_values_set_later_are_refused_by_validate() -> None:
    config = GPT2Config()
    config.n_head = 7
    with pytest.raises(ValueError, match="n_head=7"):
        config.validate()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_of_4_34_is_accepted(name: str) -> None:
    assert GPT2Config(activation_function=name).activation_function == name


def test_pruned_heads_come_back_from_json_as_numbers() -> None:
    config = GPT2Config(pruned_heads={1: [0, 3]})
    again = GPT2Config.from_dict(json.loads(config.to_json_string()))
    assert again.pruned_heads == {1: [0, 3]}
    assert again == config


def test_numpy_numbers_can_be_saved() -> None:
    config = GPT2Config(n_layer=np.int64(3), resid_pdrop=np.float32(0.5))  # type: ignore[arg-type]
    assert json.loads(config.to_json_string())["n_layer"] == 3


def test_a_value_that_json_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        GPT2Config(mine={1, 2}).to_json_string()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("float16", "float16"),
        ("torch.bfloat16", "bfloat16"),
        ("half", "float16"),
        (np.float32, "float32"),
        (None, None),
    ],
)
def test_a_dtype_is_kept_by_its_name(given: object, kept: str | None) -> None:
    assert GPT2Config(torch_dtype=given).torch_dtype == kept


def test_a_dtype_of_transformers_5_is_read() -> None:
    assert GPT2Config.from_dict({"dtype": "bfloat16"}).torch_dtype == "bfloat16"


def test_n_ctx_is_read_checked_and_follows() -> None:
    config = GPT2Config(n_positions=64, n_ctx=64)
    config.n_positions = 32
    assert config.n_ctx == 32  # the file's n_ctx must not go stale
    assert GPT2Config.from_dict({"n_ctx": 96}).n_positions == 96


def test_a_files_n_ctx_that_differs_is_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert GPT2Config.from_dict({"n_ctx": 512, "n_positions": 1024}).n_ctx == 1024
    assert "n_ctx=512 is ignored" in caplog.text


def test_folder_round_trip(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=3, n_embd=33, n_head=3, mine="x", eos_token_id=[1, 2])
    config.save_pretrained(tmp_path / "new" / "folder")
    assert GPT2Config.from_pretrained(tmp_path / "new" / "folder") == config
    assert GPT2Config.from_pretrained(str(tmp_path / "new"), subfolder="folder") == config
    assert GPT2Config.from_pretrained(tmp_path / "new" / "folder" / CONFIG_NAME) == config
    assert GPT2Config.from_json_file(tmp_path / "new" / "folder" / CONFIG_NAME) == config


def test_keywords_take_the_place_of_the_files(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    config = GPT2Config.from_pretrained(tmp_path, n_layer=3, hidden_size=36, num_labels=5, attn_pdrop=0)
    assert (config.n_layer, config.n_embd, config.num_labels, config.attn_pdrop) == (3, 36, 5, 0)


def test_unused_keywords_are_handed_back_or_refused(tmp_path: Path) -> None:
    GPT2Config().save_pretrained(tmp_path)
    config, unused = GPT2Config.from_pretrained(
        tmp_path, n_layer=3, foo=False, torch_dtype="float16", return_unused_kwargs=True
    )
    assert unused == {"foo": False, "torch_dtype": "float16"}
    assert (config.n_layer, config.torch_dtype) == (3, "float16")
    with pytest.raises(ConfigError, match=r"no n_layers \(did you mean n_layer\?\)"):
        GPT2Config.from_pretrained(tmp_path, n_layers=3)


def test_dtype_auto_is_left_to_the_loader_of_weights() -> None:
    config, unused = GPT2Config.from_dict(
        {"torch_dtype": "float16"}, torch_dtype="auto", return_unused_kwargs=True
    )
    assert config.torch_dtype == "float16"
    assert unused == {"torch_dtype": "auto"}


def test_another_models_configuration_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / CONFIG_NAME).write_text('{"model_type": "gpt_neo", "vocab_size": 5}', encoding="utf-8")
    with pytest.raises(ConfigError, match="'gpt_neo'"):
        GPT2Config.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"config\.json"):
        GPT2Config.from_pretrained(tmp_path)


def test_missing_places_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotInRepositoryError, match=r"has no file config\.json; it has nothing"):
        GPT2Config.from_pretrained(tmp_path)
    with pytest.raises(RepositoryNotFoundError, match="no folder on this disk"):
        GPT2Config.from_pretrained(tmp_path / "nowhere")


def test_saving_into_a_file_or_to_the_hub_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        GPT2Config().save_pretrained(tmp_path / "file")
    with pytest.raises(InputError, match="uploads nothing"):
        GPT2Config().save_pretrained(tmp_path, push_to_hub=True)
    with pytest.raises(InputError, match="does not know safe"):
        GPT2Config().save_pretrained(tmp_path, safe=True)


def test_copies_are_equal_and_independent() -> None:
    config = GPT2Config(n_layer=3)
    for other in (
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        GPT2Config.from_dict(config.to_dict()),
    ):
        assert other == config
        other.id2label[0] = "changed"
        assert other != config
    assert config != GPT2Config()
    assert config != "config"


def test_where_it_came_from_does_not_make_a_difference(tmp_path: Path) -> None:
    config = GPT2Config()
    config.name_or_path = str(tmp_path)
    assert config == GPT2Config()
    assert config.to_dict()["_name_or_path"] == str(tmp_path)


def test_update_from_string_reads_numbers_and_switches() -> None:
    config = GPT2Config()
    config.update_from_string("n_embd=36,resid_pdrop=0.2,scale_attn_weights=false,summary_type=last")
    assert (config.n_embd, config.resid_pdrop, config.scale_attn_weights) == (36, 0.2, False)
    assert config.summary_type == "last"
    for wrong in ("n_embd=x", "nothing=1", "n_embd", "use_cache=maybe"):
        with pytest.raises(ConfigError):
            config.update_from_string(wrong)


def test_repr_shows_the_class_and_its_values() -> None:
    assert repr(GPT2Config(n_layer=3)).startswith("GPT2Config {")
    assert '"n_layer": 3' in repr(GPT2Config(n_layer=3))


def test_the_rest_of_the_surface() -> None:
    config = GPT2Config(torchscript=True)
    assert not config.use_return_dict
    assert config.get_text_config() is config
    assert config.mlp_width == 3072
    assert GPT2Config(n_inner=7).mlp_width == 7
    assert GPT2Config.model_type == "gpt2"
    assert GPT2Config.attribute_map["hidden_size"] == "n_embd"
