"""The parts of a GPT-2 block: Conv1D, attention by two kernels, MLP.

Dimensions: B batch, T query positions, S key positions, D n_embd, H heads, K width of a head, M width of the
MLP, E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.torch.activation import Activation
from gpt2kit.torch.cache import Slot, append
from gpt2kit.torch.mask import complete_bias, hiding, without_autocast
from gpt2kit.torch.product import project
from gpt2kit.torch.taps import tap
from gpt2kit.torch.tracing import unseen

__all__ = [
    "GPT2MLP",
    "KERNELS",
    "Conv1D",
    "GPT2Attention",
    "GPT2Block",
    "Unembedding",
    "attend",
    "attend_sdpa",
    "uses_sdpa",
]

# "eager" is `attend`, "sdpa" is `attend_sdpa`, "auto" is the second wherever the first is not needed.
KERNELS = ("auto", "eager", "sdpa")


class Conv1D(nn.Module):
    """Map the last axis affinely, with the weight as [in, out]: GPT-2's own layout, a transposed nn.Linear.

    Args:
        nf: Width of the output.
        nx: Width of the input.

    Shapes:
        x: [..., nx]; returns [..., nf]
    """

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)  # 4.34 draws here too, so seeds go on agreeing

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight + bias."""
        return project(x, self.weight, self.bias)  # [B, T, nf]

    def extra_repr(self) -> str:
        """Show both widths in the printed model."""
        return f"nf={self.nf}, nx={self.weight.size(0)}"


class Unembedding(nn.Linear):
    """Map hidden states to a score for each token: torch's own Linear, by the product that Conv1D uses.

    Shapes:
        input: [..., D]; returns [..., V]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return input @ weight.T, and the bias if there is one."""
        return project(input, self.weight.t(), self.bias)  # [B, T, V]


# --------------------------------------------------------------------------- the two kernels


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    is_causal: bool,
    divisor: float,
    dropout: nn.Dropout,
    head_mask: Tensor | None = None,
    upcast: bool = False,
    owner: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix the values by the attention weights, and return both: the equations as they stand.

        weights = softmax(Q K^T / divisor + bias)        mixed = weights V

    Args:
        query: [B, H, T, K]
        key: [B, H, S, K]
        value: [B, H, S, K]
        bias: Added to the scores, broadcast to [B, H, T, S]; None hides nothing.
        is_causal: Hide the later positions; the queries are the last T of S.
        divisor: What the scores are divided by.
        dropout: Applied to the weights.
        head_mask: Multiplied to the weights, broadcast to [B, H, T, S].
        upcast: Compute the scores in float32 at least, and outside autocast (`reorder_and_upcast_attn`).
        owner: The module whose activations "scores" and "weights" are.

    Returns:
        The mixture [B, H, T, K] and the weights [B, H, T, S].
    """
    if upcast:
        exact = torch.promote_types(query.dtype, torch.float32)
        with without_autocast(query.device):
            scores = query.to(exact) @ (key.to(exact) / divisor).transpose(-1, -2)  # [B, H, T, S]
    else:
        scores = query @ key.transpose(-1, -2) / divisor  # [B, H, T, S]
    T, S = scores.shape[-2:]
    if is_causal and (torch.jit.is_tracing() or T > 1):  # a trace serves any T
        later = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(S - T + 1)  # [T, S]
        scores = scores.masked_fill(later, hiding(scores.dtype))  # [B, H, T, S]
    if bias is not None:
        scores = scores + bias  # [B, H, T, S]
    scores = tap(owner, "scores", scores)  # [B, H, T, S]
    weights = dropout(scores.softmax(dim=-1).to(value.dtype))  # [B, H, T, S]
    if head_mask is not None:
        weights = weights * head_mask  # [B, H, T, S]
    weights = tap(owner, "weights", weights)  # [B, H, T, S]
    return weights @ value, weights  # [B, H, T, K], [B, H, T, S]


def attend_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    is_causal: bool,
    divisor: float,
    dropout: nn.Dropout,
    upcast: bool = False,
) -> Tensor:
    """Do as `attend`, by torch's fused kernel, which never holds the weights in memory.

    Args:
        query: [B, H, T, K]
        key: [B, H, S, K]
        value: [B, H, S, K]
        bias: As in `attend`; where it was completed by `complete_bias`, it is not completed again.
        is_causal: As in `attend`.
        divisor: As in `attend`.
        dropout: Its rate is handed to the kernel.
        upcast: Compute everything in float32 at least, and outside autocast.

    Returns:
        The mixture [B, H, T, K].
    """
    dtype = value.dtype
    if upcast:
        query, key, value = (
            each.to(torch.promote_types(dtype, torch.float32)) for each in (query, key, value)
        )
    rate = dropout.p if dropout.training else 0.0
    kernel_hides = False
    if is_causal and (torch.jit.is_tracing() or query.size(-2) > 1):  # a trace serves any T
        bias = complete_bias(bias, query.size(-2), key.size(-2), query.dtype, query.device)
        kernel_hides = bias is None
    with without_autocast(query.device) if upcast else nullcontext():
        mixed = F.scaled_dot_product_attention(
            query, key, value, bias, rate, kernel_hides, scale=1.0 / divisor
        )  # [B, H, T, K]
    return mixed.to(dtype)  # [B, H, T, K]


def uses_sdpa(kernel: str, output_attentions: bool, head_mask: object) -> bool:
    """Tell which kernel serves a call: the weights themselves are only there in the explicit one."""
    return kernel != "eager" and not output_attentions and head_mask is None


# --------------------------------------------------------------------------- modules


class GPT2Attention(nn.Module):
    """Mix information between positions: multi-head attention, causal or towards an encoder.

    For each head, with queries Q, keys K and values V of width K = D / H,

        weights = softmax(Q K^T / divisor + bias)        mixed = weights V

    where divisor is sqrt(K) (if config.scale_attn_weights), times layer_idx + 1 (if
    config.scale_attn_by_inverse_layer_idx). A query at position t sees keys s <= t.

    Args:
        config: Sizes, switches and dropout rates.
        is_cross_attention: Take keys and values from the encoder; then nothing is causal.
        layer_idx: Number of the block, from 0; needed only for the inverse-layer scale.

    Source:
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2Attention.
    """

    def __init__(
        self, config: GPT2Config, is_cross_attention: bool = False, layer_idx: int | None = None
    ) -> None:
        super().__init__()
        self.embed_dim = config.n_embd
        self.num_heads = config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.split_size = self.embed_dim  # width of all heads together; less than D once heads are pruned
        self.is_cross_attention = is_cross_attention
        self.layer_idx = layer_idx
        self.upcast = config.reorder_and_upcast_attn
        self.divisor = math.sqrt(self.head_dim) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            if layer_idx is None:
                raise ConfigError(
                    "scale_attn_by_inverse_layer_idx needs the number of the layer: give layer_idx."
                )
            self.divisor *= layer_idx + 1

        if is_cross_attention:
            self.c_attn = Conv1D(2 * self.embed_dim, self.embed_dim)  # key, value
            self.q_attn = Conv1D(self.embed_dim, self.embed_dim)
        else:
            self.c_attn = Conv1D(3 * self.embed_dim, self.embed_dim)  # query, key, value
        self.c_proj = Conv1D(self.embed_dim, self.embed_dim)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)
        self.pruned_heads: set[int] = set()

    def forward(
        self,
        hidden_states: Tensor,
        layer_past: Slot | Sequence[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = False,
        output_attentions: bool | None = False,
        kernel: str = "auto",
    ) -> tuple[Tensor | tuple[Tensor, Tensor] | None, ...]:
        """Attend from hidden_states to itself and its past, or to the encoder.

        Args:
            hidden_states: [B, T, D]
            layer_past: Keys and values of earlier positions.
            attention_mask: Added to the scores: padding, [B, 1, 1, S]; later positions are hidden here.
            head_mask: Multiplied to the weights, broadcast to [B, H, T, S].
            encoder_hidden_states: [B, E, D], for cross-attention only.
            encoder_attention_mask: Added to the scores of cross-attention, broadcast to [B, H, T, E].
            use_cache: Return keys and values.
            output_attentions: Return the weights.
            kernel: One of `KERNELS`.

        Returns:
            Mixture [B, T, D]; (key, value) or None; and the weights [B, H, T, S] if asked for.
        """
        if self.is_cross_attention:
            if encoder_hidden_states is None:
                raise InputError("Cross-attention needs encoder_hidden_states, and none came.")
            query = self.q_attn(hidden_states)  # [B, T, D]
            key, value = self.c_attn(encoder_hidden_states).chunk(2, dim=-1)  # [B, E, D] each
        else:
            query, key, value = self.c_attn(hidden_states).chunk(3, dim=-1)  # [B, T, D] each
        query, key, value = map(self.split_heads, (query, key, value))  # [B, H, T, K] each; E for T if cross
        query, key, value = tap(self, "query", query), tap(self, "key", key), tap(self, "value", value)
        if layer_past is not None:
            key, value = append(layer_past, key, value)  # [B, H, S, K] each

        bias, is_causal = (
            (encoder_attention_mask, False) if self.is_cross_attention else (attention_mask, True)
        )
        weights = None
        if uses_sdpa(kernel, bool(output_attentions), head_mask):
            mixed = attend_sdpa(
                query, key, value, bias, is_causal, self.divisor, self.attn_dropout, self.upcast
            )  # [B, H, T, K]
        else:
            head_mask = self.kept(head_mask)  # [B, H, T, S]
            mixed, weights = attend(
                query, key, value, bias, is_causal, self.divisor, self.attn_dropout, head_mask, self.upcast,
                self,
            )  # [B, H, T, K], [B, H, T, S]  # fmt: skip
        mixed = tap(self, "mixed", mixed)  # [B, H, T, K]
        output = self.resid_dropout(self.c_proj(self.merge_heads(mixed)))  # [B, T, D]
        output = tap(self, "out", output)  # [B, T, D]
        present = (key, value) if use_cache else None
        return (output, present, weights) if output_attentions else (output, present)

    def split_heads(self, states: Tensor) -> Tensor:
        """Cut the width D into H heads: [B, T, H*K] to [B, H, T, K]."""
        return states.view(*states.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)  # [B, H, T, K]

    def merge_heads(self, states: Tensor) -> Tensor:
        """Put the heads side by side again: [B, H, T, K] to [B, T, H*K]."""
        return states.transpose(1, 2).flatten(2)  # [B, T, H*K]

    def kept(self, head_mask: Tensor | None) -> Tensor | None:
        """Leave out of a mask over all heads those that were pruned here."""
        if head_mask is None or not self.pruned_heads:
            return head_mask
        with unseen():
            H = head_mask.size(-3)
            if H in (1, self.num_heads):
                return head_mask
        kept = [head for head in range(H) if head not in self.pruned_heads]
        return head_mask[..., kept, :, :]  # [B, H', T, S], broadcast

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Remove heads for good; numbers are those of the model before any pruning.

        Args:
            heads: Numbers of the heads; those that are gone already are passed over.

        Raises:
            InputError: A number is not one of a head, or no head would be left.
        """
        total = self.embed_dim // self.head_dim
        present = [head for head in range(total) if head not in self.pruned_heads]
        heads = set(heads)
        if unknown := sorted(head for head in heads if not 0 <= head < total):
            raise InputError(f"There is no head {unknown[0]}: heads are numbered 0 to {total - 1}.")
        keep = [index for index, head in enumerate(present) if head not in heads]
        if not keep:
            raise InputError(
                f"Pruning heads {sorted(heads)} would leave layer {self.layer_idx} without any head."
            )
        if len(keep) == len(present):
            return
        width = torch.arange(self.head_dim)  # [K]
        columns = torch.cat([width + head * self.head_dim for head in keep])  # [H'*K]
        parts = self.c_attn.nf // self.split_size  # 3: query, key, value; 2 in cross-attention
        self.c_attn = _narrowed(
            self.c_attn, torch.cat([columns + part * self.split_size for part in range(parts)]), dim=1
        )
        if self.is_cross_attention:
            self.q_attn = _narrowed(self.q_attn, columns, dim=1)
        self.c_proj = _narrowed(self.c_proj, columns, dim=0)
        self.num_heads = len(keep)
        self.split_size = len(columns)
        self.pruned_heads |= heads


def _narrowed(layer: Conv1D, index: Tensor, dim: int) -> Conv1D:
    """Return a Conv1D of the rows (dim 0) or columns (dim 1) `index` of another."""
    weight = layer.weight.detach().index_select(dim, index.to(layer.weight.device)).contiguous()  # [nx', nf']
    bias = layer.bias.detach()
    if dim == 1:
        bias = bias.index_select(0, index.to(bias.device))  # [nf']
    with torch.device("meta"):
        narrowed = Conv1D(weight.size(1), weight.size(0))
    narrowed.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    narrowed.bias = nn.Parameter(bias.clone(), requires_grad=layer.bias.requires_grad)
    return narrowed.train(layer.training)


class GPT2MLP(nn.Module):
    """Transform each position by itself: c_proj(act(c_fc(x))), with M = 4 D in between.

    Args:
        intermediate_size: M.
        config: Width, activation and dropout rate.
    """

    def __init__(self, intermediate_size: int, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Conv1D(intermediate_size, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, intermediate_size)
        self.act = Activation(config.activation_function)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the transformed positions, [B, T, D]."""
        hidden_states = tap(self, "pre", self.c_fc(hidden_states))  # [B, T, M]
        hidden_states = tap(self, "act", self.act(hidden_states))  # [B, T, M]
        return tap(self, "out", self.dropout(self.c_proj(hidden_states)))  # [B, T, D]


class GPT2Block(nn.Module):
    """Add to the residual stream what attention, cross-attention and MLP make of it, each after a layer norm.

    Args:
        config: Sizes and switches.
        layer_idx: Number of the block, from 0.
    """

    def __init__(self, config: GPT2Config, layer_idx: int | None = None) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx=layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if config.add_cross_attention:
            self.crossattention = GPT2Attention(config, is_cross_attention=True, layer_idx=layer_idx)
            self.ln_cross_attn = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config.mlp_width, config)

    def forward(
        self,
        hidden_states: Tensor,
        layer_past: Slot | Sequence[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = False,
        output_attentions: bool | None = False,
        kernel: str = "auto",
    ) -> tuple[Tensor | tuple[Tensor, Tensor] | None, ...]:
        """Return the new residual stream [B, T, D]; then, as asked, the past, the weights, the cross weights.

        The arguments are those of `GPT2Attention.forward`.
        """
        normed = tap(self, "ln_1", self.ln_1(hidden_states))  # [B, T, D]
        output, *extras = self.attn(
            normed, layer_past, attention_mask, head_mask, None, None, use_cache, output_attentions, kernel
        )
        hidden_states = hidden_states + output  # [B, T, D]

        if encoder_hidden_states is not None:
            if not hasattr(self, "crossattention"):
                raise InputError(
                    "encoder_hidden_states were given to a model without cross-attention; build it with "
                    "add_cross_attention=True in its configuration."
                )
            hidden_states = tap(self, "cross_in", hidden_states)  # [B, T, D]
            normed = tap(self, "ln_cross_attn", self.ln_cross_attn(hidden_states))  # [B, T, D]
            output, _, *weights = self.crossattention(
                normed, None, None, head_mask, encoder_hidden_states, encoder_attention_mask, False,
                output_attentions, kernel,
            )  # fmt: skip
            hidden_states = hidden_states + output  # [B, T, D]
            extras += weights

        hidden_states = tap(self, "mid", hidden_states)  # [B, T, D]
        normed = tap(self, "ln_2", self.ln_2(hidden_states))  # [B, T, D]
        hidden_states = tap(self, "out", hidden_states + self.mlp(normed))  # [B, T, D]
        return (hidden_states, *(extras if use_cache else extras[1:]))
