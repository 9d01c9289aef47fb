"""The forward pass of the PyTorch models: arguments, kernels, masks, outputs, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cases import SIZES, B, E, T, make_inputs, random_checkpoint, tiny_config
from gpt2kit import GPT2Config, GPT2LMHeadModel, GPT2Model
from gpt2kit.errors import ConfigError, InputError, LengthError
from gpt2kit.reference import gpt2

IDS = torch.from_numpy(make_inputs(tiny_config()).input_ids)


def make(
    case: str = "default", cls: type[Any] = GPT2LMHeadModel, kernel: str = "auto", **changes: Any
) -> Any:
    """Make a float64 model in evaluation mode, of the weights that goldens are made of."""
    config = tiny_config(case, **changes)
    state = {name: torch.from_numpy(value) for name, value in random_checkpoint(config).items()}
    if cls is GPT2Model:
        state.pop("lm_head.weight", None)
    return cls.from_pretrained(
        None, config=config, state_dict=state, torch_dtype="float64", attn_implementation=kernel
    )


# --------------------------------------------------------------------------- outputs


def test_the_fields_come_in_the_order_of_4_34_by_name_number_and_slice() -> None:
    output = make("cross_attention")(
        IDS,
        labels=IDS,
        encoder_hidden_states=torch.randn(B, E, 33, dtype=torch.float64),
        output_attentions=True,
        output_hidden_states=True,
    )
    assert list(output) == [
        "loss",
        "logits",
        "past_key_values",
        "hidden_states",
        "attentions",
        "cross_attentions",
    ]
    assert output[0] is output.loss
    assert output["logits"] is output.logits
    assert output[:2] == (output.loss, output.logits)
    assert len(output.to_tuple()) == 6
    assert [tuple(x.shape) for x in output.attentions] == [(B, 3, T, T)] * 3
    assert [tuple(x.shape) for x in output.cross_attentions] == [(B, 3, T, E)] * 3
    assert [tuple(x.shape) for x in output.hidden_states] == [(B, T, 33)] * 4


@pytest.mark.parametrize("cls", [GPT2Model, GPT2LMHeadModel])
def test_return_dict_false_gives_the_same_values_as_a_tuple(cls: type[Any]) -> None:
    model = make(cls=cls)
    wanted = model(IDS, output_attentions=True).to_tuple()
    given = model(IDS, output_attentions=True, return_dict=False)
    assert type(given) is tuple
    assert len(given) == len(wanted)
    assert torch.equal(given[0], wanted[0])


@pytest.mark.parametrize("flag", ["output_attentions", "output_hidden_states"])
def test_output_flags_hold_through_the_configuration_and_a_call_overrides_them(flag: str) -> None:
    field = flag.removeprefix("output_")
    model = make(**{flag: True})
    assert len(model(IDS)[field]) >= 3
    assert model(IDS, **{flag: False}).get(field) is None


def test_use_cache_and_return_dict_hold_through_the_configuration() -> None:
    assert "past_key_values" not in make(use_cache=False)(IDS)
    assert type(make(return_dict=False)(IDS)) is tuple
    assert type(make(torchscript=True)(IDS)) is tuple


def test_gradients_can_be_retained_on_attentions_and_hidden_states() -> None:
    output = make()(IDS, labels=IDS, output_attentions=True, output_hidden_states=True)
    for tensor in (*output.attentions, *output.hidden_states):
        tensor.retain_grad()
    output.loss.backward()
    for tensor in (*output.attentions, *output.hidden_states):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0


def test_inputs_embeds_give_what_the_ids_give() -> None:
    model = make()
    embeds = model.get_input_embeddings()(IDS)
    assert torch.equal(model(inputs_embeds=embeds, labels=IDS).logits, model(IDS).logits)


def test_ids_of_three_dimensions_come_back_in_their_shape() -> None:
    model = make()
    stacked = torch.stack([IDS, IDS.flip(0)])  # [2, B, T]
    output = model(stacked, output_hidden_states=True)
    assert output.logits.shape == (2, B, T, 101)
    torch.testing.assert_close(output.logits[0], model(IDS).logits)


def test_logits_to_keep_gives_the_last_logits_alone() -> None:
    model = make()
    wanted = model(IDS).logits
    for count in (1, 2, T):
        torch.testing.assert_close(model(IDS, logits_to_keep=count).logits, wanted[:, -count:])
    with pytest.raises(InputError, match=r"logits_to_keep=1 .* a loss needs all"):
        model(IDS, labels=IDS, logits_to_keep=1)
    with pytest.raises(InputError, match=r"logits_to_keep=-1"):
        model(IDS, logits_to_keep=-1)


def test_the_loss_is_the_mean_over_labels_that_count() -> None:
    model = make()
    labels = IDS.clone()
    labels[0, 2:] = -100
    output = model(IDS, labels=labels)
    wanted = nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, wanted)


def test_training_mode_drops_and_evaluation_does_not() -> None:
    model = make(resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3)
    assert torch.equal(model(IDS).logits, model(IDS).logits)
    model.train()
    for flags in ({}, {"output_attentions": True}):
        assert not torch.equal(model(IDS, **flags).logits, model(IDS, **flags).logits)


# --------------------------------------------------------------------------- kernels


def test_auto_takes_the_fused_kernel_unless_weights_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = make(), []
    real = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        "gpt2kit.torch.layers.F.scaled_dot_product_attention",
        lambda *a, **k: calls.append(1) or real(*a, **k),
    )
    model(IDS)
    assert len(calls) == 3
    model(IDS, output_attentions=True)
    model(IDS, head_mask=torch.ones(3))
    model.set_attn_implementation("eager")
    model(IDS)
    assert len(calls) == 3
    model.set_attn_implementation("sdpa")
    model(IDS)
    assert len(calls) == 6


@pytest.mark.parametrize("asked", [{"output_attentions": True}, {"head_mask": torch.ones(3)}])
def test_the_fused_kernel_by_name_refuses_what_it_cannot_do(asked: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=f"{next(iter(asked))} needs the attention weights.*'auto' or 'eager'"
    ):
        make(kernel="sdpa")(IDS, **asked)


def test_an_unknown_kernel_is_refused_wherever_it_is_named() -> None:
    with pytest.raises(
        ConfigError, match="attn_implementation='flash' is not known; it is one of auto, eager"
    ):
        make().set_attn_implementation("flash")
    with pytest.raises(ConfigError, match="'flash_attention_2'"):
        GPT2Model(tiny_config(attn_implementation="flash_attention_2"))


def test_a_fully_masked_row_gives_no_nan_in_any_dtype_and_kernel() -> None:
    mask = torch.tensor([[0] * T, [1] * T])
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        model = make().to(dtype)
        for flags in ({}, {"output_attentions": True}):
            output = model(IDS, attention_mask=mask, labels=IDS, **flags)
            output.loss.backward()
            assert torch.isfinite(output.logits).all()
            assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_autocast_and_half_precision_stay_near_float64(kernel: str) -> None:
    for case in ("default", "upcast"):
        model = make(case, kernel=kernel)
        mask = torch.tensor([[0, 1, 1, 1, 1], [1] * T])
        seen = mask.bool()  # what a query that sees only padding gets has no meaning, and few bits to say it
        wanted = model(IDS, attention_mask=mask).logits[seen]
        scale = wanted.abs().max()
        model = model.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lower = model(IDS, attention_mask=mask).logits[seen]
        assert (lower - wanted).abs().max() < 0.05 * scale  # 8 bits: 2**-8 at each of about ten steps
        half = model.half()(IDS, attention_mask=mask).logits[seen]
        assert (half - wanted).abs().max() < 0.01 * scale  # 11 bits


# --------------------------------------------------------------------------- masks and positions


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(kernel: str, side: str) -> None:
    model = make(kernel=kernel)
    wanted = model(IDS[:1, :3]).logits
    if side == "left":
        ids, mask, shown = torch.cat([IDS[:1, 3:], IDS[:1, :3]], 1), [[0, 0, 1, 1, 1]], slice(2, 5)
    else:
        ids, mask, shown = IDS[:1], [[1, 1, 1, 0, 0]], slice(0, 3)
    padded = model(ids, attention_mask=torch.tensor(mask)).logits
    torch.testing.assert_close(padded[:, shown], wanted)


def test_position_ids_are_counted_from_the_mask_unless_they_are_given() -> None:
    model = make()
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    counted = torch.tensor([[1, 0, 1, 2, 3], [0, 1, 2, 3, 4]])
    by_mask = model(IDS, attention_mask=mask).logits
    torch.testing.assert_close(by_mask, model(IDS, attention_mask=mask, position_ids=counted).logits)
    plain = model(IDS, attention_mask=mask, position_ids=torch.arange(T)[None]).logits
    assert (plain - by_mask).abs().max() > 1e-3


def test_a_mask_of_ones_of_any_dtype_is_no_mask() -> None:
    model = make()
    wanted = model(IDS).logits
    for dtype in (torch.long, torch.bool, torch.float32, torch.int8):
        assert torch.equal(model(IDS, attention_mask=torch.ones(B, T, dtype=dtype)).logits, wanted)


def test_padding_without_a_mask_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    model = make(pad_token_id=0)
    model(IDS.clamp(min=1))
    padded = IDS.clone()
    padded[0, -1] = 0
    model(padded, attention_mask=(padded != 0).long())
    assert not caplog.records
    for _ in range(2):
        model(padded)
    assert caplog.text.count("no `attention_mask`, so the padding is read as text") == 1


def test_a_model_of_one_position_takes_a_padded_token() -> None:
    model = make(n_positions=1)
    assert torch.isfinite(model(IDS[:, :1], attention_mask=torch.tensor([[0], [1]])).logits).all()


def test_a_head_mask_may_have_every_shape_of_4_34() -> None:
    model = make()
    factors = torch.tensor([0.5, 0.0, 1.5])
    wanted = model(IDS, head_mask=factors).logits
    assert (model(IDS).logits - wanted).abs().max() > 1e-3
    for shape in ((3, 3), (3, 1, 3, 1, 1), (3, B, 3, T, T)):
        mask = factors.expand(3, 3) if len(shape) == 2 else factors[None, None, :, None, None].expand(shape)
        torch.testing.assert_close(model(IDS, head_mask=mask).logits, wanted)
    by_layer = torch.tensor([[1.0, 1, 0], [0.3, 1, 1], [1, 1, 1]])
    arrays = make_inputs(model.config).as_dict()
    equations = gpt2(model.config, random_checkpoint(model.config), **arrays, head_mask=by_layer.numpy())
    np.testing.assert_allclose(model(IDS, head_mask=by_layer).logits.detach(), equations.logits, rtol=1e-4)


def test_an_encoder_mask_may_be_given_for_each_query() -> None:
    model = make("cross_attention")
    states = torch.randn(B, E, 33, dtype=torch.float64)
    mask = torch.ones(B, E)
    mask[0, 3:] = 0
    wanted = model(IDS, encoder_hidden_states=states, encoder_attention_mask=mask).logits
    by_query = mask[:, None].expand(B, T, E)
    given = model(IDS, encoder_hidden_states=states, encoder_attention_mask=by_query).logits
    torch.testing.assert_close(given, wanted)
    assert (model(IDS).logits - wanted).abs().max() > 1e-3


def test_a_block_called_by_hand_is_causal_with_either_kernel() -> None:
    model = make(cls=GPT2Model)
    states = torch.randn(B, T, 33, dtype=torch.float64)
    for kernel in ("eager", "sdpa"):
        whole = model.h[0](states, kernel=kernel)[0]
        torch.testing.assert_close(model.h[0](states[:, :2], kernel=kernel)[0], whole[:, :2])


# --------------------------------------------------------------------------- what is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "both inputs": (
        {"input_ids": IDS, "inputs_embeds": torch.zeros(B, T, 33)},
        "Both input_ids and inputs_embeds came; give one",
    ),
    "neither input": ({}, "Neither input_ids nor inputs_embeds came"),
    "no tokens": ({"input_ids": IDS[:, :0]}, r"at least one token, but its shape is \[2, 0\]"),
    "narrow embeddings": (
        {"inputs_embeds": torch.zeros(B, T, 32)},
        r"inputs_embeds should have the shape \[batch, positions, 33\], but it is \[2, 5, 32\]",
    ),
    "id too large": (
        {"input_ids": torch.tensor([[3, 101]])},
        r"input_ids holds 101, outside 0 to 100 \(vocab_size=101\)",
    ),
    "negative id": ({"input_ids": torch.tensor([[3, -1]])}, "input_ids holds -1"),
    "token type outside": (
        {"input_ids": IDS, "token_type_ids": IDS + 101},
        "token_type_ids holds .* outside 0 to 100",
    ),
    "position outside": (
        {"input_ids": IDS, "position_ids": torch.arange(T)[None] + 9},
        r"position_ids holds 13, outside 0 to 12 \(n_positions=13\)",
    ),
    "positions of another shape": (
        {"input_ids": IDS, "position_ids": torch.arange(3)[None]},
        r"position_ids should have the shape \[2, 5\], but it is \[1, 3\]",
    ),
    "mask of another length": (
        {"input_ids": IDS, "attention_mask": torch.ones(B, 4)},
        r"attention_mask should have the shape \[2, 5\], but it is \[2, 4\]",
    ),
    "head mask of another shape": (
        {"input_ids": IDS, "head_mask": torch.ones(2)},
        r"head_mask should have the shape \[3\], \[3, 3\] or \[3, 2, 3, 5, 5\], but it is \[2\]",
    ),
    "labels of another shape": (
        {"input_ids": IDS, "labels": IDS[:, :4]},
        r"labels should have the shape \[2, 5\], but it is \[2, 4\]",
    ),
    "label outside": (
        {"input_ids": IDS, "labels": torch.full_like(IDS, 101)},
        "labels holds 101, which is outside 0 to 100 .* Use -100",
    ),
    "encoder without cross-attention": (
        {"input_ids": IDS, "encoder_hidden_states": torch.zeros(B, E, 33)},
        "without cross-attention; build it with add_cross_attention=True",
    ),
    "encoder mask alone": (
        {"input_ids": IDS, "encoder_attention_mask": torch.ones(B, E)},
        "encoder_attention_mask came without encoder_hidden_states",
    ),
    "past of nothing": (
        {"input_ids": IDS, "past_key_values": [None] * 3},
        r"past_key_values should hold a pair \(key, value\) for each layer",
    ),
    "past of other layers": (
        {"input_ids": IDS, "past_key_values": ((torch.zeros(B, 3, 2, 11),) * 2,) * 2},
        "past_key_values has 2 layers and the model has 3",
    ),
    "past of another batch": (
        {"input_ids": IDS, "past_key_values": ((torch.zeros(7, 3, 2, 11),) * 2,) * 3},
        "past_key_values holds 7 sequences and the input 2",
    ),
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_arguments_that_cannot_be_honoured_are_refused_in_a_sentence(arguments: str) -> None:
    given, sentence = REFUSED[arguments]
    with pytest.raises(InputError, match=sentence):
        make()(**given)


def test_more_positions_than_the_model_has_are_refused_with_both_numbers() -> None:
    model = make()
    assert model(torch.zeros(1, 13, dtype=torch.long)).logits.shape == (1, 13, 101)
    with pytest.raises(
        LengthError, match=r"^14 positions were given, and the model has n_positions=13\. Shorten"
    ):
        model(torch.zeros(1, 14, dtype=torch.long))
    past = model(torch.zeros(1, 11, dtype=torch.long)).past_key_values
    with pytest.raises(LengthError, match=r"14 positions were given \(11 in past_key_values and 3 new\)"):
        model(torch.zeros(1, 3, dtype=torch.long), past_key_values=past)


def test_a_mask_without_the_past_is_refused_with_the_way_out() -> None:
    model = make()
    past = model(IDS[:, :3]).past_key_values
    with pytest.raises(
        InputError, match=r"\[2, 5\] \(3 in past_key_values and 2 new: give ones for the past"
    ):
        model(IDS[:, 3:], past_key_values=past, attention_mask=torch.ones(B, 2))


def test_encoder_shapes_are_checked() -> None:
    model = make("cross_attention")
    with pytest.raises(InputError, match=r"encoder_hidden_states should have the shape \[2, positions, 33\]"):
        model(IDS, encoder_hidden_states=torch.zeros(B, E, 32))
    with pytest.raises(InputError, match=r"encoder_attention_mask should have the shape \[2, 7\]"):
        model(IDS, encoder_hidden_states=torch.zeros(B, E, 33), encoder_attention_mask=torch.ones(B, 6))


def test_a_misspelt_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="atention_mask"):
        make()(IDS, atention_mask=torch.ones(B, T))


def test_a_configuration_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"GPT2Model needs a GPT2Config, but a dict came.*from_pretrained"):
        GPT2Model({"n_embd": 33})  # type: ignore[arg-type]
    config = GPT2Config(**SIZES)
    config.n_embd = 34
    with pytest.raises(ConfigError, match="n_embd"):
        GPT2Model(config)


# --------------------------------------------------------------------------- transforms


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's fused kernel, as it says
def test_gradients_can_be_mapped_over_a_batch() -> None:
    model = make()

    def loss(parameters: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        given = {"labels": ids[None], "use_cache": False}
        return torch.func.functional_call(model, parameters, (ids[None],), given).loss

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(dict(model.named_parameters()), IDS)
    model(IDS[:1], labels=IDS[:1]).loss.backward()
    torch.testing.assert_close(gradients["transformer.wpe.weight"][0], model.transformer.wpe.weight.grad)


def test_shapes_can_be_computed_on_the_meta_device() -> None:
    for case in ("default", "upcast"):
        assert make(case).to("meta")(IDS.to("meta")).logits.shape == (B, T, 101)
