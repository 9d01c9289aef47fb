"""`project`: one product whatever computes it, and public operators for whoever looks."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpt2kit import GPT2Config, GPT2LMHeadModel
from gpt2kit.torch import product
from gpt2kit.torch.product import project

# One float32 product of 11 terms of size one: rounding differs by a few units in the last place.
ATOL = 2e-6

needs_onednn = pytest.mark.skipif(
    product._onednn_linear is None, reason="this PyTorch or processor has no oneDNN path"
)


@pytest.fixture(autouse=True)
def no_product_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let oneDNN compute the small products of these tests too."""
    monkeypatch.setattr(product, "SMALLEST", 0)


@pytest.fixture
def onednn_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the shape of x of every call that oneDNN gets."""
    calls = []

    def recorded(x, weight, bias):
        calls.append(tuple(x.shape))
        return original(x, weight, bias)

    original = product._onednn
    monkeypatch.setattr(product, "_onednn", recorded)
    return calls


@pytest.fixture
def onednn_off():
    """Let PyTorch compute every product itself."""
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = True


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def rows() -> dict[str, torch.Tensor]:
    return {
        "one row": draw(1, 1, 11),
        "a batch": draw(2, 5, 11),
        "no leading axis": draw(11),
        "no rows": draw(2, 0, 11),
        "every other column": draw(5, 22)[:, ::2],
        "transposed": draw(11, 5).t(),
        "expanded": draw(1, 11).expand(7, 11),
    }


@pytest.mark.parametrize("name", rows())
@pytest.mark.parametrize("stored", ["as Conv1D", "as a tied head", "as a slice"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_the_float64_product(name: str, stored: str, with_bias: bool) -> None:
    x, bias = rows()[name], draw(13) if with_bias else None
    weight = {
        "as Conv1D": draw(11, 13),
        "as a tied head": draw(13, 11).t(),
        "as a slice": draw(22, 26)[::2, ::2],
    }[stored]
    with torch.no_grad():
        y = project(x, weight, bias)
    expected = x.double() @ weight.double() + (0 if bias is None else bias.double())
    assert y.shape == expected.shape
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=ATOL)


@needs_onednn
def test_onednn_computes_plain_float32_products_with_and_without_gradients(onednn_calls) -> None:
    x, weight = draw(2, 5, 11), draw(11, 13)
    project(x, weight)
    with torch.no_grad():
        project(x, weight)
    assert onednn_calls == [(2, 5, 11), (2, 5, 11)]


def test_a_small_product_is_left_to_pytorch(monkeypatch, onednn_calls) -> None:
    monkeypatch.setattr(product, "SMALLEST", 2 * 5 * 11 * 13 + 1)
    project(draw(2, 5, 11), draw(11, 13))
    assert onednn_calls == []


@needs_onednn
def test_a_model_computes_the_same_by_either_product(monkeypatch, onednn_calls) -> None:
    config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
    torch.manual_seed(7)
    model = GPT2LMHeadModel(config).eval()
    ids = torch.randint(101, (2, 7), generator=torch.Generator().manual_seed(7))

    def loss_and_gradients() -> list[torch.Tensor]:
        output = model(ids, labels=ids)
        return [output.loss, output.logits, *torch.autograd.grad(output.loss, list(model.parameters()))]

    by_onednn = loss_and_gradients()
    assert (
        len(onednn_calls) > 3 * (3 * 4 + 1) - 1
    )  # each of the products and, but for x, both gradients of each
    monkeypatch.setattr(product, "SMALLEST", float("inf"))
    for ours, theirs in zip(by_onednn, loss_and_gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_take_the_public_operators(dtype: torch.dtype, onednn_calls) -> None:
    assert (
        project(draw(2, 5, 11, dtype=dtype), draw(11, 13, dtype=dtype), draw(13, dtype=dtype)).dtype is dtype
    )
    assert onednn_calls == []


def test_mkldnn_switched_off_is_honoured(onednn_off, onednn_calls) -> None:
    project(draw(2, 5, 11), draw(11, 13))
    assert onednn_calls == []


def test_a_wrong_width_is_refused_by_pytorch_itself() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        project(draw(2, 5, 7), draw(11, 13), draw(13))


def test_gradients_equal_those_in_float64() -> None:
    def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
        tensors = [t.to(dtype).requires_grad_() for t in (draw(2, 5, 11), draw(11, 13), draw(13))]
        return list(torch.autograd.grad((project(*tensors) ** 2).sum(), tensors))

    for ours, exact in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-4)


def test_only_the_gradients_asked_for_are_computed(onednn_calls) -> None:
    x, weight, bias = draw(2, 5, 11), draw(11, 13), draw(13).requires_grad_()
    project(x, weight, bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((13,), 10.0))
    assert len(onednn_calls) <= 1


def test_second_derivatives_are_right() -> None:
    x, weight = draw(2, 11).requires_grad_(), draw(11, 13).requires_grad_()
    (dx,) = torch.autograd.grad((project(x, weight) ** 2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(dx.sum(), weight)
    wide, wide_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    (wide_dx,) = torch.autograd.grad(((wide @ wide_weight) ** 2).sum(), wide, create_graph=True)
    (expected,) = torch.autograd.grad(wide_dx.sum(), wide_weight)
    torch.testing.assert_close(second.double(), expected, rtol=1e-5, atol=1e-4)


# PyTorch's own rules for jvp are compiled by its own deprecated function.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
def test_transforms_see_the_public_operators(onednn_calls) -> None:
    x, weight, tangent = draw(2, 5, 11), draw(11, 13), draw(2, 5, 11) + 1
    torch.testing.assert_close(torch.func.vmap(project, (0, None))(x, weight), x @ weight)
    torch.testing.assert_close(
        torch.func.jvp(lambda x: project(x, weight), (x,), (tangent,))[1], tangent @ weight
    )
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = project(torch.autograd.forward_ad.make_dual(x, tangent), weight)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent @ weight)
    assert onednn_calls == []


def test_a_flop_counter_counts_the_product(onednn_calls) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        project(draw(2, 5, 11), draw(11, 13), draw(13))
    assert counter.get_total_flops() == 2 * 2 * 5 * 11 * 13
    assert onednn_calls == []


def test_autocast_is_honoured(onednn_calls) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert project(draw(2, 5, 11), draw(11, 13), draw(13)).dtype is torch.bfloat16
    assert onednn_calls == []


def test_an_exported_graph_holds_public_operators_only() -> None:
    class Product(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(draw(11, 13))
            self.bias = torch.nn.Parameter(draw(13))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return project(x, self.weight, self.bias)

    module, x = Product(), draw(2, 5, 11)
    program = torch.export.export(module, (x,))
    assert "mkldnn" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), module(x))
