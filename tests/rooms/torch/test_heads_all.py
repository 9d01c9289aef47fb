"""What all six classes have in common: outputs, files, the way to the body and back, pruning."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import gpt2kit
from cases import make_inputs, random_checkpoint, tiny_config
from drivers import TorchDriver
from gpt2kit import GPT2Config
from gpt2kit.checkpoint import HEADS, open_checkpoint, tensor_specs
from gpt2kit.errors import InputError

LAYOUTS = json.loads((Path(__file__).parents[2] / "golden" / "layouts.json").read_text())
INITIAL = json.loads((Path(__file__).parents[2] / "golden" / "initial.json").read_text())["config"]
IDS = torch.tensor([[2, 3, 5, 7, 11], [13, 17, 19, 23, 29]])
LABELS: dict[str, dict[str, torch.Tensor]] = {
    "GPT2Model": {},
    "GPT2LMHeadModel": {"labels": IDS},
    "GPT2DoubleHeadsModel": {"labels": IDS[:, None], "mc_labels": torch.tensor([0, 0])},
    "GPT2ForSequenceClassification": {"labels": torch.tensor([1, 0])},
    "GPT2ForTokenClassification": {"labels": IDS % 2},
    "GPT2ForQuestionAnswering": {
        "start_positions": torch.tensor([1, 0]),
        "end_positions": torch.tensor([1, 4]),
    },
}
HEADED = [name for name in HEADS if name != "GPT2Model"]


def make(cls: str, dtype: str = "float64", **changes: Any) -> Any:
    """Return a tiny model of random weights with every bias away from zero."""
    labels = {} if cls == "GPT2DoubleHeadsModel" else {"num_labels": 7}
    config = tiny_config(**({"pad_token_id": 0} | labels | changes))
    if cls == "GPT2DoubleHeadsModel":
        config.num_labels = 1
    return TorchDriver().build(config, random_checkpoint(config, seed=3, head=HEADS[cls]), dtype, cls=cls)


def inputs_of(cls: str) -> dict[str, torch.Tensor]:
    return {"input_ids": IDS[:, None] if cls == "GPT2DoubleHeadsModel" else IDS}


def first(output: Any) -> torch.Tensor:
    """Return what the head computes."""
    name = next(name for name in ("logits", "start_logits", "last_hidden_state") if name in output)
    return output[name]  # type: ignore[no-any-return]


def shapes(value: Any) -> Any:
    """Return nested tuples of tensors as the golden has them."""
    if torch.is_tensor(value):
        return "x".join(map(str, value.shape))
    return [shapes(item) for item in value]


# --------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("by_config", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_names_and_shapes_are_those_of_4_34_as_an_object_and_as_a_tuple(name: str, by_config: bool) -> None:
    cls, *switches = name.split("/")
    labelled, shown, cached = (switch == "True" for switch in switches)
    model = getattr(gpt2kit, cls)(GPT2Config(**INITIAL, pad_token_id=0)).eval()
    given = inputs_of(cls) | (LABELS[cls] if labelled else {})
    flags = {"output_attentions": shown, "output_hidden_states": shown, "use_cache": cached}
    if by_config:
        model.config.update(flags)
        flags = {}
    elif cls == "GPT2ForQuestionAnswering":
        model.config.use_cache = flags.pop("use_cache")
    assert list(model(**given, **flags)) == LAYOUTS[name]["names"]
    if by_config:
        model.config.return_dict = False
        answer = model(**given)
    else:
        answer = model(**given, **flags, return_dict=False)
    assert type(answer) is tuple
    wanted = LAYOUTS[name]["tuple"]
    if shown and not cached and cls in ("GPT2ForTokenClassification", "GPT2ForQuestionAnswering"):
        wanted = [*wanted[:-1], shapes(model(**given, **flags, return_dict=True).hidden_states), wanted[-1]]
    assert shapes(answer) == wanted


@pytest.mark.parametrize("cls", ["GPT2ForTokenClassification", "GPT2ForQuestionAnswering"])
def test_attentions_that_were_asked_for_are_in_the_tuple_without_a_cache(cls: str) -> None:
    model = make(cls)
    model.config.use_cache = False
    answer = model(IDS, output_attentions=True, return_dict=False)
    assert shapes(answer[-1]) == ["2x3x5x5"] * 3  # 4.34 drops whatever comes second


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("cls", HEADED)
def test_the_losses_of_a_short_type_are_computed_in_float32(cls: str, dtype: str) -> None:
    """Eight or eleven bits cannot tell 1.121 from 1.125."""
    short = make(cls, dtype)
    exact = make(cls, "float32")
    exact.load_state_dict({name: tensor.float() for name, tensor in short.state_dict().items()})
    inputs = inputs_of(cls) | LABELS[cls]
    if cls == "GPT2DoubleHeadsModel":
        inputs = {"input_ids": IDS[None], "labels": IDS[None], "mc_labels": torch.tensor([1])}
    given, wanted = short(**inputs), exact(**inputs)
    for name in {"loss", "mc_loss"} & set(wanted):
        assert given[name].dtype == torch.float32
        assert given[name].to(short.dtype) != given[name]  # digits that the short type has no place for
        torch.testing.assert_close(given[name], wanted[name], rtol=0.02, atol=0.02)
    sum(given[name] for name in {"loss", "mc_loss"} & set(given)).backward()
    assert {p.grad.dtype for p in short.parameters() if p.grad is not None} == {short.dtype}


@pytest.mark.parametrize("cls", HEADS)
def test_a_misspelt_keyword_is_refused(cls: str) -> None:
    with pytest.raises(TypeError, match="head_masks"):
        make(cls)(IDS, head_masks=torch.ones(3))


@pytest.mark.parametrize("cls", HEADED)
def test_every_argument_of_the_body_reaches_it(cls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(cls)
    shared = set(inspect.signature(model.forward).parameters) & set(
        inspect.signature(model.transformer.forward).parameters
    )
    values: dict[str, Any] = {
        "input_ids": IDS,
        "past_key_values": make("GPT2Model")(IDS[:, :2], use_cache=True).past_key_values,
        "attention_mask": torch.ones(2, 7),
        "token_type_ids": IDS + 1,
        "position_ids": IDS % 13,
        "head_mask": torch.rand(3, 3),
        "encoder_hidden_states": torch.rand(2, 7, 33),
        "encoder_attention_mask": torch.ones(2, 7),
        "use_cache": True,
        "output_attentions": True,
        "output_hidden_states": True,
    }
    seen: dict[str, Any] = {}

    def record(*args: Any, **kwargs: Any) -> Any:
        seen.update(zip(names, args, strict=False))
        seen.update(kwargs)
        raise RecordedError

    names = list(inspect.signature(model.transformer.forward).parameters)
    monkeypatch.setattr(model.transformer, "forward", record)
    with pytest.raises(RecordedError):
        model(**{name: value for name, value in values.items() if name in shared})
    for name in shared - {"return_dict", "inputs_embeds"}:
        assert seen[name] is values[name], name
    embeddings = torch.rand(2, 5, 33, dtype=torch.float64)
    with pytest.raises(RecordedError):
        model(inputs_embeds=embeddings)
    assert seen["inputs_embeds"] is embeddings


@pytest.mark.parametrize("cls", ["GPT2ForTokenClassification", "GPT2ForQuestionAnswering"])
def test_a_head_that_returns_no_cache_has_none_made(cls: str) -> None:
    model, made = make(cls), []
    assert model.config.use_cache
    model.transformer.register_forward_hook(lambda *call: made.append(call[2].past_key_values))
    model(IDS)
    assert made == [None]


class RecordedError(Exception):
    """Stops a forward pass when its arguments are known."""


# --------------------------------------------------------------------------- names, files, ways


@pytest.mark.parametrize("cls", HEADS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"add_cross_attention": True},
        {"tie_word_embeddings": False},
        {"summary_proj_to_labels": False},
        {"summary_use_proj": False},
    ],
    ids=str,
)
def test_the_state_dict_is_the_table_of_tensors_in_its_order(cls: str, changes: dict[str, Any]) -> None:
    model = make(cls, **changes)
    wanted = {spec.name: spec.shape for spec in tensor_specs(model.config, head=HEADS[cls])}
    state = model.state_dict()
    assert list(state) == list(wanted)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == wanted


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("cls", HEADS)
def test_what_is_saved_is_loaded(cls: str, safe: bool, tmp_path: Path) -> None:
    model = make(cls, id2label={0: "no", 1: "yes", 2: "perhaps"}, num_labels=3)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    again, report = getattr(gpt2kit, cls).from_pretrained(
        tmp_path, torch_dtype="auto", output_loading_info=True
    )
    assert not any(report.values())
    assert again.config.architectures == [cls]
    assert again.config.id2label == model.config.id2label
    assert cls == "GPT2DoubleHeadsModel" or again.config.label2id == {"no": 0, "yes": 1, "perhaps": 2}
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.equal(first(again(**inputs_of(cls))), first(model(**inputs_of(cls))))
    assert (tmp_path / "generation_config.json").exists() == again.can_generate()


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_holds_the_head_once(tied: bool, tmp_path: Path) -> None:
    make("GPT2DoubleHeadsModel", tie_word_embeddings=tied).save_pretrained(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        assert ("lm_head.weight" in checkpoint) is not tied
        assert "multiple_choice_head.summary.weight" in checkpoint


@pytest.mark.parametrize("cls", HEADED)
def test_a_head_takes_a_body_and_says_in_one_warning_what_is_new(
    cls: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = make("GPT2Model", "float32")
    body.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        torch.manual_seed(0)
        model = getattr(gpt2kit, cls).from_pretrained(tmp_path)
    new = [name for name in model.state_dict() if not name.startswith("transformer.")]
    if cls == "GPT2LMHeadModel":
        assert not caplog.records  # the head is the token embeddings
    else:
        new = [name for name in new if name != "lm_head.weight"]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"newly initialized: {new}" in caplog.text
        assert "lm_head" not in caplog.text
    for name, tensor in body.state_dict().items():
        assert torch.equal(model.transformer.state_dict()[name], tensor), name
    for name in new:
        tensor = model.state_dict()[name]
        assert name.endswith("lm_head.weight") or (
            tensor.abs().max() == 0 if name.endswith("bias") else 0.005 < tensor.std() < 0.05
        )


@pytest.mark.parametrize("cls", HEADED)
def test_a_body_takes_what_is_its_own_from_a_head_without_a_warning(
    cls: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(cls, "float32")
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        body = gpt2kit.GPT2Model.from_pretrained(tmp_path)
    assert not caplog.records
    for name, tensor in model.transformer.state_dict().items():
        assert torch.equal(body.state_dict()[name], tensor), name


def test_a_language_model_becomes_a_classifier_with_labels_of_its_own(tmp_path: Path) -> None:
    make("GPT2LMHeadModel").save_pretrained(tmp_path)
    model = gpt2kit.GPT2ForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, problem_type="multi_label_classification", pad_token_id=0
    )
    assert model.score.weight.shape == (5, 33)
    assert model.num_labels == model.config.num_labels == 5
    assert model.config.problem_type == "multi_label_classification"


def test_another_number_of_labels_is_refused_or_drawn_afresh(tmp_path: Path) -> None:
    make("GPT2ForTokenClassification").save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"classifier\.weight is \[7, 33\] in the file and \[5, 33\]"):
        gpt2kit.GPT2ForTokenClassification.from_pretrained(tmp_path, num_labels=5)
    model = gpt2kit.GPT2ForTokenClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True
    )
    assert model.classifier.weight.shape == (5, 33)


@pytest.mark.parametrize("cls", HEADS)
def test_pruned_heads_stay_pruned_through_a_file(cls: str, tmp_path: Path) -> None:
    model = make(cls)
    model.prune_heads({0: [1], 2: [0, 2]})
    pruned = first(model(**inputs_of(cls)))
    mask = torch.ones(3, 3)
    mask[0, 1] = mask[2, 0] = mask[2, 2] = 0
    masked = first(make(cls)(**inputs_of(cls), head_mask=mask))
    torch.testing.assert_close(pruned, masked, rtol=1e-12, atol=1e-12)
    model.save_pretrained(tmp_path)
    again = getattr(gpt2kit, cls).from_pretrained(tmp_path, torch_dtype="float64")
    assert again.config.pruned_heads == {0: [1], 2: [0, 2]}
    assert torch.equal(first(again(**inputs_of(cls))), pruned)


@pytest.mark.parametrize("cls", HEADS)
def test_the_embeddings_of_every_class_can_be_resized(cls: str) -> None:
    model = make(cls)
    model.resize_token_embeddings(113)
    assert model.transformer.wte.weight.shape[0] == 113 if cls in HEADED else model.wte.weight.shape[0] == 113
    output = model(**{name: value + 80 for name, value in inputs_of(cls).items()})
    assert torch.isfinite(first(output)).all()


@pytest.mark.parametrize("cls", HEADED)
def test_what_is_no_tensor_is_refused_in_a_sentence(cls: str) -> None:
    with pytest.raises(InputError, match="input_ids should be a tensor, but it is a list"):
        make(cls)(IDS.tolist(), **LABELS[cls])
    name, labels = next(iter(LABELS[cls].items()))
    with pytest.raises(InputError, match=f"{name} should be a tensor, but it is a list"):
        make(cls)(**inputs_of(cls), **(LABELS[cls] | {name: labels.tolist()}))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (IDS[:, :4], r"labels should have the shape \[2, 5\], but it is \[2, 4\]"),
        (IDS + 90, r"labels holds 101, .*vocab_size=101"),
        (IDS.float(), "whole numbers"),
    ],
    ids=str,
)
def test_labels_of_the_language_model_are_refused_before_it_runs(
    labels: torch.Tensor, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("GPT2LMHeadModel")
    monkeypatch.setattr(model.transformer, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(InputError, match=sentence):
        model(IDS, labels=labels)


@pytest.mark.parametrize("cls", HEADS)
def test_the_gradients_of_checkpointed_training_are_those_without(cls: str) -> None:
    inputs = make_inputs(tiny_config(), padding="right").as_dict()
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    gradients = []
    for checkpointed in (False, True):
        model = make(cls, classifier_dropout=0.0).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        first(
            model(**given, **({} if cls == "GPT2ForQuestionAnswering" else {"use_cache": False}))
        ).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-12)
