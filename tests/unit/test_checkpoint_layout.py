from __future__ import annotations

import math
import re

import pytest

from cases import CASES, random_checkpoint, tiny_config
from gpt2kit.checkpoint import HEADS, Head, head_of, parameter_counts, tensor_specs
from gpt2kit.config import GPT2Config


def test_the_124m_model_has_the_tensors_and_parameters_that_are_known() -> None:
    specs = tensor_specs(GPT2Config())
    assert len(specs) == 149  # 4 + 12 * 12 and the tied head
    assert sum(parameter_counts(GPT2Config()).values()) == 124_439_808
    assert specs[-1].name == "lm_head.weight"
    assert specs[-1].tied_to == "transformer.wte.weight"


@pytest.mark.parametrize(
    ("sizes", "count"),
    [((1024, 24, 16), 354_823_168), ((1280, 36, 20), 774_030_080), ((1600, 48, 25), 1_557_611_200)],
)
def test_the_larger_official_models_have_the_known_number_of_parameters(
    sizes: tuple[int, int, int], count: int
) -> None:
    n_embd, n_layer, n_head = sizes
    config = GPT2Config(n_embd=n_embd, n_layer=n_layer, n_head=n_head)
    assert sum(parameter_counts(config).values()) == count


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("head", HEADS.values())
def test_letters_and_numbers_agree(case: str, head: Head) -> None:
    config = tiny_config(case, num_labels=7)
    letters = {"V": config.vocab_size, "P": config.n_positions, "D": config.n_embd, "M": config.mlp_width}
    letters |= {"N": 7, "": 1}
    for spec in tensor_specs(config, head=head):
        for letter, number in zip(spec.letters.split(), spec.shape, strict=True):
            factor, name = re.fullmatch(r"(\d*)([A-Z]?)", letter).groups()  # type: ignore[union-attr]
            assert int(factor or 1) * letters[name] == number, spec


def test_a_model_without_head_has_names_without_prefix() -> None:
    config = tiny_config("cross_attention")
    base, whole = tensor_specs(config, head="none"), tensor_specs(config)
    assert [f"transformer.{spec.name}" for spec in base] == [spec.name for spec in whole[:-1]]


def test_an_untied_head_counts() -> None:
    tied, untied = parameter_counts(tiny_config()), parameter_counts(tiny_config("untied"))
    assert untied == tied | {"language model head": 101 * 33}


def test_other_heads_count_under_a_part_of_their_own() -> None:
    config = tiny_config(num_labels=7)
    body = parameter_counts(config, head="none")
    wanted = {
        "none": {},
        "lm": {},
        "double": {"multiple-choice head": 34},
        "sequence_classification": {"classification head": 7 * 33},
        "token_classification": {"classification head": 7 * 34},
        "question_answering": {"question-answering head": 2 * 34},
    }
    assert {head: parameter_counts(config, head=head) for head in HEADS.values()} == {
        head: body | part for head, part in wanted.items()
    }


def test_the_class_that_saved_a_configuration_tells_its_head() -> None:
    assert {name: head_of(GPT2Config(architectures=[name])) for name in HEADS} == HEADS
    assert head_of(GPT2Config()) == head_of(GPT2Config(architectures=["MyGPT2"])) == "lm"


def test_pruned_heads_make_attention_narrower() -> None:
    shapes = {spec.name: spec.shape for spec in tensor_specs(tiny_config(pruned_heads={1: [0, 2]}))}
    assert shapes["transformer.h.0.attn.c_attn.weight"] == (33, 99)
    assert shapes["transformer.h.1.attn.c_attn.weight"] == (33, 33)
    assert shapes["transformer.h.1.attn.c_attn.bias"] == (33,)
    assert shapes["transformer.h.1.attn.c_proj.weight"] == (11, 33)
    assert shapes["transformer.h.1.attn.c_proj.bias"] == (33,)


def test_a_random_checkpoint_has_all_but_the_tied_and_no_zero_bias() -> None:
    config = tiny_config("cross_attention")
    tensors = random_checkpoint(config)
    assert set(tensors) == {spec.name for spec in tensor_specs(config) if spec.tied_to is None}
    for spec in tensor_specs(config):
        if spec.role in ("bias", "norm_bias"):
            assert abs(tensors[spec.name]).mean() > 0.1
        if spec.role == "norm_weight":
            assert abs(tensors[spec.name] - 1).mean() > 0.1
        assert math.prod(spec.shape) == spec.size
