"""GenerationConfig: defaults, checks, and its way through dictionaries and files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gpt2kit import GPT2Config
from gpt2kit.errors import ConfigError, FileNotInRepositoryError, InputError
from gpt2kit.generation import GenerationConfig

# Attribute -> default of transformers 4.34.0's GenerationConfig; the two additions are last.
DEFAULTS: dict[str, Any] = {
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "early_stopping": False,
    "max_time": None,
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "use_cache": True,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "diversity_penalty": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "renormalize_logits": False,
    "constraints": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_decoder_ids": None,
    "sequence_bias": None,
    "guidance_scale": None,
    "low_memory": None,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "return_dict_in_generate": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "encoder_no_repeat_ngram_size": 0,
    "decoder_start_token_id": None,
    "generation_kwargs": {},
    "min_p": None,
    "stop_strings": None,
    "num_assistant_tokens": None,
    "num_assistant_tokens_schedule": None,
    "prompt_lookup_num_tokens": None,
    "max_matching_ngram_size": None,
    "dola_layers": None,
}


def test_every_attribute_and_default_is_that_of_4_34():
    config = GenerationConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    assert set(GenerationConfig.FIELDS) == set(DEFAULTS)


def test_a_mutable_default_is_not_shared():
    GenerationConfig().generation_kwargs["x"] = 1
    assert GenerationConfig().generation_kwargs == {}


# ---------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"do_sample": True, "temperature": -0.5}, "`temperature` has to be a number above 0"),
        ({"do_sample": True, "temperature": 0.0}, "do_sample=False"),
        ({"do_sample": True, "top_p": 0.0}, "`top_p` has to be above 0"),
        ({"do_sample": True, "top_p": 1.01}, "at most 1"),
        ({"do_sample": True, "top_k": -1}, "`top_k` has to be an integer"),
        ({"do_sample": True, "top_k": 1.5}, "`top_k` has to be an integer"),
        ({"do_sample": True, "min_p": 1.5}, "between 0 and 1"),
        ({"do_sample": True, "typical_p": 1.5}, "below 1"),
        ({"do_sample": True, "epsilon_cutoff": 1.0}, "epsilon_cutoff"),
        ({"do_sample": True, "eta_cutoff": -0.1}, "eta_cutoff"),
        ({"repetition_penalty": 0}, "`repetition_penalty` has to be a number above 0"),
        ({"encoder_repetition_penalty": -1.0}, "encoder_repetition_penalty"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"max_new_tokens": 0}, "`max_new_tokens` has to be an integer of at least 1"),
        ({"max_length": 0}, "max_length"),
        ({"min_length": -2}, "min_length"),
        ({"min_new_tokens": 5, "max_new_tokens": 3}, "`min_new_tokens` \\(5\\) is larger"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_return_sequences": None}, "num_return_sequences"),
        ({"num_return_sequences": 3}, "greedy search always writes the same text"),
        ({"num_return_sequences": 3, "num_beams": 2}, "is larger than `num_beams`"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 0.5}, "multiple"),
        ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty"),
        ({"num_beams": 4, "num_beam_groups": 2, "do_sample": True}, "do_sample=False"),
        ({"num_beams": 4, "constraints": [1], "do_sample": True}, "constraints"),
        ({"early_stopping": "later"}, "early_stopping"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"pad_token_id": -1}, "pad_token_id"),
        ({"max_time": 0}, "max_time"),
        ({"stop_strings": [""]}, "stop_strings"),
        ({"bad_words_ids": [5]}, "bad_words_ids"),
        ({"sequence_bias": {}}, "sequence_bias"),
        ({"exponential_decay_length_penalty": 5}, "start_index, decay_factor"),
        ({"validate": 3}, "method"),
    ],
)
def test_nonsense_is_refused_when_it_is_set(options: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        GenerationConfig(**options)


@pytest.mark.parametrize(
    ("options", "name", "switch"),
    [
        ({"temperature": 0.7}, "temperature", "do_sample=True"),
        ({"temperature": 0.0}, "temperature", "do_sample=True"),
        ({"top_k": 7}, "top_k", "do_sample=True"),
        ({"top_p": 0.5}, "top_p", "do_sample=True"),
        ({"min_p": 0.1}, "min_p", "do_sample=True"),
        ({"typical_p": 0.5}, "typical_p", "do_sample=True"),
        ({"epsilon_cutoff": 0.1}, "epsilon_cutoff", "do_sample=True"),
        ({"eta_cutoff": 0.1}, "eta_cutoff", "do_sample=True"),
        ({"early_stopping": True}, "early_stopping", "num_beams>1"),
        ({"length_penalty": 2.0}, "length_penalty", "num_beams>1"),
        ({"diversity_penalty": 2.0}, "diversity_penalty", "num_beams>1"),
    ],
)
def test_an_option_that_the_chosen_way_does_not_read_warns(options: dict[str, Any], name: str, switch: str):
    with pytest.warns(UserWarning, match=f"`{name}` is set to .*{switch}"):
        GenerationConfig(**options)


def test_none_and_zero_mean_off():
    config = GenerationConfig(
        do_sample=True, temperature=None, top_k=0, top_p=None, typical_p=None, epsilon_cutoff=None,
        eta_cutoff=None, repetition_penalty=None, no_repeat_ngram_size=None, min_length=None,
    )  # fmt: skip
    assert config.top_k == 0


def test_a_misspelt_option_is_kept_and_told_with_the_likely_name():
    with pytest.warns(UserWarning, match=r"`temprature`.*Did you mean `temperature`"):
        config = GenerationConfig(temprature=0.7)
    assert config.temprature == 0.7


# ---------------------------------------------------------------------- equality, copies, updates


def test_equal_options_are_equal_and_hash_alike():
    one, other = GenerationConfig(max_new_tokens=7), GenerationConfig(max_new_tokens=7)
    assert one == other
    assert hash(one) == hash(other)
    assert one != GenerationConfig(max_new_tokens=11)
    assert one != "max_new_tokens"


def test_where_options_come_from_does_not_count_for_equality():
    config = GPT2Config()
    assert GenerationConfig.from_model_config(config) == GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id
    )


def test_a_copy_is_independent():
    config = GenerationConfig(suppress_tokens=[3])
    twin = copy.deepcopy(config)
    twin.suppress_tokens.append(5)
    assert config.suppress_tokens == [3]
    assert "suppress_tokens" in repr(twin)


def test_update_sets_what_it_knows_and_returns_the_rest():
    config = GenerationConfig()
    assert config.update(max_new_tokens=7, validate=5, foo=1) == {"validate": 5, "foo": 1}
    assert config.max_new_tokens == 7


# ---------------------------------------------------------------------- dictionaries and files


def test_only_what_differs_is_written(tmp_path: Path):
    config = GenerationConfig(max_new_tokens=7, do_sample=True, top_p=0.9)
    config.save_pretrained(tmp_path / "new" / "folder")
    written = json.loads((tmp_path / "new" / "folder" / "generation_config.json").read_text())
    assert written == {"do_sample": True, "max_new_tokens": 7, "top_p": 0.9, "transformers_version": "4.34.0"}
    assert GenerationConfig.from_pretrained(tmp_path / "new" / "folder") == config


def test_another_file_name_and_overrides(tmp_path: Path):
    GenerationConfig(max_new_tokens=7).save_pretrained(tmp_path, "mine.json")
    config = GenerationConfig.from_pretrained(tmp_path, "mine.json", max_new_tokens=11)
    assert config.max_new_tokens == 11
    with pytest.raises(FileNotInRepositoryError):
        GenerationConfig.from_pretrained(tmp_path)


def test_sequence_biases_survive_a_file(tmp_path: Path):
    config = GenerationConfig(sequence_bias={(5, 7): -2.0})
    assert "sequence_bias" in repr(config)
    config.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert again == config
    again.validate()


def test_keys_of_another_release_pass_through_a_file(tmp_path: Path):
    (tmp_path / "generation_config.json").write_text('{"cache_implementation": "static", "top_p": 1.0}')
    config = GenerationConfig.from_pretrained(tmp_path)
    assert config.cache_implementation == "static"
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["cache_implementation"] == "static"


def test_unknown_overrides_are_refused_or_returned(tmp_path: Path):
    GenerationConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="foo"):
        GenerationConfig.from_pretrained(tmp_path, foo=False)
    config, unused = GenerationConfig.from_pretrained(
        tmp_path, top_k=1, foo=False, do_sample=True, return_unused_kwargs=True
    )
    assert (config.top_k, unused) == (1, {"foo": False})


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not valid JSON"), ("[]", "one JSON object"), ("\xff", "JSON")]
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str, said: str):
    (tmp_path / "generation_config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ConfigError, match=said) as caught:
        GenerationConfig.from_pretrained(tmp_path)
    assert "generation_config.json" in str(caught.value)


def test_options_that_would_warn_are_not_saved(tmp_path: Path):
    config = GenerationConfig()
    config.temperature = 0.7
    with pytest.raises(ConfigError, match=r"Not saved.*do_sample=True"):
        config.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_saving_into_a_file_or_onto_the_hub_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        GenerationConfig().save_pretrained(tmp_path / "file")
    with pytest.raises(InputError, match="upload_folder"):
        GenerationConfig().save_pretrained(tmp_path, push_to_hub=True)


def test_a_models_configuration_gives_its_generation_options_only():
    config = GenerationConfig.from_model_config(GPT2Config(max_length=31, pad_token_id=3, foo=1))
    assert (config.max_length, config.pad_token_id, config.bos_token_id) == (31, 3, 50256)
    assert not hasattr(config, "foo")
    assert not hasattr(config, "n_embd")
    assert config._from_model_config
