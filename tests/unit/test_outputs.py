from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest

from gpt2kit.outputs import ModelOutput


@dataclass
class Triple(ModelOutput):
    loss: float | None = None
    logits: list[int] | None = None
    past: str | None = None


def test_fields_are_attributes_keys_and_places() -> None:
    output = Triple(loss=1.5, logits=[1, 2], past="p")
    assert output.logits is output["logits"] is output[1] is output.to_tuple()[1]
    assert output[-1] == "p"
    assert output[:2] == (1.5, [1, 2])


def test_fields_that_are_none_are_not_there() -> None:
    output = Triple(logits=[1], past="p")
    assert output[0] == [1]
    assert list(output) == ["logits", "past"]
    assert list(output.items()) == [("logits", [1]), ("past", "p")]
    assert "loss" not in output
    assert output.loss is None
    with pytest.raises(KeyError):
        output["loss"]


def test_setting_one_way_is_seen_the_other_way_and_keeps_the_order() -> None:
    output = Triple(past="p")
    output.loss = 2.0
    output["logits"] = [3]
    assert list(output) == ["loss", "logits", "past"]
    assert (output["loss"], output.logits) == (2.0, [3])
    output.logits = None
    assert output.to_tuple() == (2.0, "p")


def test_what_is_no_field_is_refused() -> None:
    output = Triple(loss=1.0)
    with pytest.raises(AttributeError, match=r"no field 'logit'\. Its fields are loss, logits, past"):
        output.logit = 3  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        output["logit"] = 3
    with pytest.raises(TypeError):
        Triple(logit=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "change",
    [
        lambda output: output.pop("loss"),
        lambda output: output.update(loss=2.0),
        lambda output: output.setdefault("loss", 2.0),
        lambda output: output.__delitem__("loss"),
    ],
)
def test_items_cannot_be_taken_away(change: object) -> None:
    with pytest.raises(TypeError, match="of a Triple cannot be"):
        change(Triple(loss=1.0))  # type: ignore[operator]


@pytest.mark.parametrize(
    "copier", [copy.copy, copy.deepcopy, lambda output: pickle.loads(pickle.dumps(output))]
)
def test_copies_are_whole(copier: object) -> None:
    output = Triple(logits=[1, 2], past="p")
    again = copier(output)  # type: ignore[operator]
    assert type(again) is Triple
    assert again == output
    assert again.to_tuple() == output.to_tuple()
    assert again.loss is None


def test_a_dictionary_or_pairs_alone_are_the_fields() -> None:
    values = {"loss": 1.0, "past": "p"}
    for given in (values, iter(values.items())):
        output = Triple(given)  # type: ignore[arg-type]  # as accelerate and DataParallel build it
        assert output == Triple(loss=1.0, past="p")
        assert output.loss == 1.0


def test_pairs_without_the_first_field_leave_it_out() -> None:
    output = Triple(iter([("logits", [1, 2]), ("past", "p")]))  # type: ignore[arg-type]
    assert list(output) == ["logits", "past"]
    assert output[0] == [1, 2]
    assert output.loss is None


def test_a_subclass_that_is_no_dataclass_is_refused() -> None:
    class Forgotten(ModelOutput):
        loss: float | None = None

    with pytest.raises(TypeError, match="must be decorated with @dataclass"):
        Forgotten()


def test_a_subclass_of_an_output_has_all_fields_in_order() -> None:
    @dataclass
    class Longer(Triple):
        extra: int | None = None

    assert Longer(loss=1.0, extra=7).to_tuple() == (1.0, 7)
