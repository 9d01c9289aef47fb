"""The parts of a GPT-2 block: tables, Conv1D, attention, MLP.

Dimensions: B batch, T query positions, S key positions, D n_embd, H heads, K width of a head, M width of the
MLP, V vocabulary, E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.flax.activation import ACTIVATIONS
from gpt2kit.flax.cache import heads_of, turned, turned_back, write
from gpt2kit.flax.mask import hide_later, padding_bias, score_dtype

__all__ = [
    "FlaxConv1D",
    "FlaxEmbedding",
    "FlaxGPT2Attention",
    "FlaxGPT2Block",
    "FlaxGPT2MLP",
    "attend",
    "layer_norm",
]


class FlaxConv1D(nn.Module):
    """Map the last axis affinely, with the kernel as [out, in]: the transpose of what PyTorch's Conv1D keeps.

    Attributes:
        features: Width of the output.
        use_bias: Add a bias.
        dtype: Of the computation.
        precision: Of the product, as `jax.lax.Precision`.
        stddev: Deviation of a fresh kernel.

    Shapes:
        inputs: [..., nx]; returns [..., features]
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    precision: Any = None
    stddev: float = 0.02

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Return inputs @ kernel.T + bias."""
        shape = (self.features, inputs.shape[-1])
        kernel = self.param("kernel", nn.initializers.normal(self.stddev, jnp.float32), shape)  # [nf, nx]
        inputs, kernel = jnp.asarray(inputs, self.dtype), jnp.asarray(kernel, self.dtype)
        axes = (((inputs.ndim - 1,), (1,)), ((), ()))
        outputs = lax.dot_general(inputs, kernel, axes, precision=self.precision)  # [B, T, nf]
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)  # [nf]
            outputs = outputs + jnp.asarray(bias, self.dtype)  # [B, T, nf]
        return outputs


class FlaxEmbedding(nn.Module):
    """Look vectors up in a table, `embedding`; the other way round, score every vector of it.

    An id outside the table gives NaN, where nothing could be refused because the ids are being traced.

    Attributes:
        num_embeddings: Rows of the table.
        features: Width of a vector.
        dtype: Of the computation.
        stddev: Deviation of a fresh table.
    """

    num_embeddings: int
    features: int
    dtype: Any = jnp.float32
    stddev: float = 0.02

    def setup(self) -> None:
        """Name the table."""
        shape = (self.num_embeddings, self.features)
        self.embedding = self.param("embedding", nn.initializers.normal(self.stddev, jnp.float32), shape)

    def __call__(self, inputs: Array) -> Array:
        """Return the vectors of ids: [B, T] to [B, T, D]."""
        table = jnp.asarray(self.embedding)  # [V, D]; parameters may be NumPy's
        rows = table.at[inputs].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)  # [B, T, D]
        return jnp.asarray(rows, self.dtype)  # [B, T, D]

    def attend(self, query: Array) -> Array:
        """Return a score for each row of the table: [B, T, D] to [B, T, V]."""
        query, table = jnp.asarray(query, self.dtype), jnp.asarray(self.embedding, self.dtype)
        return lax.dot_general(query, table, (((query.ndim - 1,), (1,)), ((), ())))  # [B, T, V]


def layer_norm(config: GPT2Config, dtype: Any, name: str | None = None) -> nn.LayerNorm:
    """Make a layer norm; its variance is that of the centred numbers, which loses no digits."""
    return nn.LayerNorm(epsilon=config.layer_norm_epsilon, dtype=dtype, use_fast_variance=False, name=name)


def attend(
    query: Array,
    key: Array,
    value: Array,
    hide: Callable[[Array], Array],
    divisor: float,
    dropout: Any,
    head_mask: Array | None = None,
) -> tuple[Array, Array]:
    """Mix the values by the attention weights, and return both: the equations as they stand.

        weights = softmax(hide(Q K^T / divisor))        mixed = weights V

    Scores and softmax are float32 at least, whatever the dtype of the rest.

    Args:
        query: [B, T, H, K]
        key: [B, S, H, K]
        value: [B, S, H, K]
        hide: Takes scores, [B, H, T, S], and lowers those of hidden positions.
        divisor: What the scores are divided by.
        dropout: Applied to the weights.
        head_mask: Multiplied to the weights, broadcast to [B, H, T, S].

    Returns:
        The mixture [B, T, H, K] and the weights [B, H, T, S].
    """
    exact = score_dtype(query.dtype)
    T = query.shape[1]
    axes = (((3,), (3,)), ((0, 2), (0, 2)))
    if T == 1:  # XLA turns one operand or the result round: for one query the result costs nothing
        scores = lax.dot_general(key, query, axes, preferred_element_type=exact)  # [B, H, S, T]
        scores = scores.swapaxes(2, 3)  # [B, H, T, S]
    else:
        scores = lax.dot_general(query, key, axes, preferred_element_type=exact)  # [B, H, T, S]
    scores = hide(scores / divisor)  # [B, H, T, S]
    weights = dropout(jax.nn.softmax(scores, axis=-1).astype(value.dtype))  # [B, H, T, S]
    if head_mask is not None:
        weights = weights * head_mask.astype(value.dtype)  # [B, H, T, S]
    mixed = lax.dot_general(weights, value, (((3,), (1,)), ((0, 1), (0, 2))))  # [B, H, T, K]
    return mixed.swapaxes(1, 2), weights  # [B, T, H, K], [B, H, T, S]


class FlaxGPT2Attention(nn.Module):
    """Mix information between positions: multi-head attention, causal or towards an encoder.

    For each head, with queries Q, keys K and values V of width K = D / H,

        weights = softmax(Q K^T / divisor)        mixed = weights V

    where divisor is sqrt(K) (if config.scale_attn_weights), times layer_idx + 1 (if
    config.scale_attn_by_inverse_layer_idx). A query at position t sees keys s <= t.

    Attributes:
        config: Sizes, switches and dropout rates.
        dtype: Of the computation.
        causal: Hide later positions, and go on from the cache where there is one.
        is_cross_attention: Take keys and values from the encoder; then `causal` has to be False.
        layer_idx: Number of the block, from 0; for the inverse-layer scale and for pruned heads.

    Source:
        transformers v4.34.0, models/gpt2/modeling_flax_gpt2.py, FlaxGPT2Attention.
    """

    config: GPT2Config
    dtype: Any = jnp.float32
    causal: bool = True
    is_cross_attention: bool = False
    layer_idx: int | None = None

    @nn.compact
    def __call__(
        self,
        hidden_states: Array,
        key_value_states: Array | None = None,
        attention_mask: Array | None = None,
        deterministic: bool = True,
        init_cache: bool = False,
        output_attentions: bool = False,
        head_mask: Array | None = None,
    ) -> tuple[Array, ...]:
        """Attend from hidden_states to itself and its past, or to the encoder.

        Args:
            hidden_states: [B, T, D]
            key_value_states: States of the encoder, [B, E, D], for cross-attention only.
            attention_mask: 1 to see and 0 for padding, [B, S] or [B, T, S]; E for S in cross-attention.
            deterministic: Without dropout.
            init_cache: Make a cache as long as hidden_states, with nothing in it.
            output_attentions: Return the weights.
            head_mask: Multiplied to the weights, broadcast to [B, H, T, S].

        Returns:
            Mixture [B, T, D], and the weights [B, H, T, S] if asked for.
        """
        query, key, value = self._projections(hidden_states, key_value_states)  # [B, T, H, K]; E for T
        start: Array | int = 0
        if self.causal and (self.has_variable("cache", "cache_index") or init_cache):
            query, key, value, start = self._cached(query, key, value, attention_mask)

        def hide(scores: Array) -> Array:
            if self.causal:
                return hide_later(scores, attention_mask, start)  # [B, H, T, S]
            if attention_mask is None:
                return scores
            return scores + padding_bias(attention_mask, scores.dtype)  # [B, H, T, E]

        dropout = nn.Dropout(self.config.attn_pdrop, deterministic=deterministic)
        mixed, weights = attend(
            query, key, value, hide, self._divisor(), dropout, self._kept(head_mask)
        )  # [B, T, H, K], [B, H, T, S]
        mixed = mixed.reshape(*mixed.shape[:2], -1)  # [B, T, H*K]
        deviation = self.config.initializer_range / math.sqrt(2 * self.config.n_layer)
        output = FlaxConv1D(self.config.n_embd, dtype=self.dtype, stddev=deviation, name="c_proj")(mixed)
        output = nn.Dropout(self.config.resid_pdrop)(output, deterministic=deterministic)  # [B, T, D]
        return (output, weights) if output_attentions else (output,)

    def _projections(self, hidden_states: Array, key_value_states: Array | None) -> tuple[Array, ...]:
        """Return queries, keys and values, [B, T, H, K] each; an encoder's keys and values have E for T."""
        config, H = self.config, self._heads()
        K = config.n_embd // config.n_head

        def project(width: int, name: str, states: Array) -> Array:
            layer = FlaxConv1D(width, dtype=self.dtype, stddev=config.initializer_range, name=name)
            return layer(states)  # [B, T, width]

        if self.is_cross_attention:
            if key_value_states is None:
                raise InputError("Cross-attention needs the states of an encoder, and none came.")
            query = project(H * K, "q_attn", hidden_states)  # [B, T, D]
            parts = [query, *jnp.split(project(2 * H * K, "c_attn", key_value_states), 2, axis=-1)]
        else:
            parts = jnp.split(project(3 * H * K, "c_attn", hidden_states), 3, axis=-1)  # [B, T, D] each
        return tuple(part.reshape(*part.shape[:2], H, K) for part in parts)  # [B, T, H, K] each

    def _cached(
        self, query: Array, key: Array, value: Array, attention_mask: Array | None
    ) -> tuple[Array, Array, Array, Array | int]:
        """Write keys and values into the cache; return the query, all keys and values, and where it begins.

        Where the cache has no room left, or the mask does not reach so far, the numbers are NaN: inside a
        compiled program nothing can be refused.
        """
        is_there = self.has_variable("cache", "cache_index")
        is_turned = self.has_variable("cache", "turned_key")
        names = ("turned_key", "turned_value") if is_turned else ("cached_key", "cached_value")
        cached_key = self.variable("cache", names[0], jnp.zeros, key.shape, key.dtype)
        cached_value = self.variable("cache", names[1], jnp.zeros, value.shape, value.dtype)
        cache_index = self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)
        if not is_there:
            return query, key, value, 0
        start, T, room = cache_index.value, query.shape[1], cached_key.value.shape[1]
        if attention_mask is not None:
            room = min(room, attention_mask.shape[-1])
        query, key, value = (
            jnp.where(start + T <= room, states, jnp.nan) for states in (query, key, value)
        )  # [B, T, H, K] each
        for cached, new in ((cached_key, key), (cached_value, value)):
            new = turned(new) if is_turned else new  # [B, T, H, K] or [B*H, T, K]
            cached.value = write(cached.value, new, start)  # [B, max_length, H, K] or [B*H, max_length, K]
        cache_index.value = start + T  # []
        key, value = cached_key.value, cached_value.value  # [B, max_length, H, K] or [B*H, max_length, K]
        if is_turned:
            key, value = turned_back(key, len(query)), turned_back(value, len(query))
        return query, key, value, start  # [B, T, H, K]; [B, max_length, H, K] each

    def _divisor(self) -> float:
        """Return what the scores are divided by."""
        config = self.config
        divisor = math.sqrt(config.n_embd // config.n_head) if config.scale_attn_weights else 1.0
        if not config.scale_attn_by_inverse_layer_idx:
            return divisor
        if self.layer_idx is None:
            raise ConfigError(
                "scale_attn_by_inverse_layer_idx needs the number of the layer: give layer_idx."
            )
        return divisor * (self.layer_idx + 1)

    def _heads(self) -> int:
        """Return H; only self-attention is ever pruned."""
        if self.is_cross_attention or self.layer_idx is None:
            return self.config.n_head
        return heads_of(self.config, self.layer_idx)

    def _kept(self, head_mask: Array | None) -> Array | None:
        """Leave out of a mask over all heads those that were pruned here."""
        if head_mask is None or self.layer_idx is None or head_mask.shape[-3] in (1, self._heads()):
            return head_mask
        pruned = self.config.pruned_heads[self.layer_idx]
        kept = jnp.array([head for head in range(head_mask.shape[-3]) if head not in pruned])  # [H']
        return head_mask[..., kept, :, :]  # [B, H', T, S], broadcast


class FlaxGPT2MLP(nn.Module):
    """Transform each position by itself: c_proj(act(c_fc(x))), with M = 4 D in between.

    Attributes:
        config: Width, activation and dropout rate.
        intermediate_size: M.
        dtype: Of the computation.
    """

    config: GPT2Config
    intermediate_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden_states: Array, deterministic: bool = True) -> Array:
        """Return the transformed positions, [B, T, D]."""
        config = self.config
        deviation = config.initializer_range
        c_fc = FlaxConv1D(self.intermediate_size, dtype=self.dtype, stddev=deviation, name="c_fc")
        deviation = deviation / math.sqrt(2 * config.n_layer)
        c_proj = FlaxConv1D(config.n_embd, dtype=self.dtype, stddev=deviation, name="c_proj")
        hidden_states = ACTIVATIONS[config.activation_function](c_fc(hidden_states))  # [B, T, M]
        return nn.Dropout(config.resid_pdrop)(c_proj(hidden_states), deterministic=deterministic)  # [B, T, D]


class FlaxGPT2Block(nn.Module):
    """Add to the residual stream what attention, cross-attention and MLP make of it, each after a layer norm.

    Attributes:
        config: Sizes and switches.
        dtype: Of the computation.
        layer_idx: Number of the block, from 0.
    """

    config: GPT2Config
    dtype: Any = jnp.float32
    layer_idx: int | None = None

    @nn.compact
    def __call__(
        self,
        hidden_states: Array,
        attention_mask: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        deterministic: bool = True,
        init_cache: bool = False,
        output_attentions: bool = False,
        head_mask: Array | None = None,
    ) -> tuple[Array, ...]:
        """Return the new residual stream [B, T, D]; then, if asked for, the weights, the cross weights.

        The arguments are those of `FlaxGPT2Attention`.
        """
        config, dtype, layer = self.config, self.dtype, self.layer_idx
        normed = layer_norm(config, dtype, "ln_1")(hidden_states)  # [B, T, D]
        attn = FlaxGPT2Attention(config, dtype, layer_idx=layer, name="attn")
        output, *weights = attn(
            normed, None, attention_mask, deterministic, init_cache, output_attentions, head_mask
        )
        hidden_states = hidden_states + output  # [B, T, D]

        if encoder_hidden_states is not None:
            if not config.add_cross_attention:
                raise InputError(
                    "encoder_hidden_states were given to a model without cross-attention; build it with "
                    "add_cross_attention=True in its configuration."
                )
            normed = layer_norm(config, dtype, "ln_cross_attn")(hidden_states)  # [B, T, D]
            crossattention = FlaxGPT2Attention(config, dtype, False, True, layer, name="crossattention")
            output, *cross_weights = crossattention(
                normed, encoder_hidden_states, encoder_attention_mask, deterministic, False,
                output_attentions, head_mask,
            )  # fmt: skip
            hidden_states = hidden_states + output  # [B, T, D]
            weights += cross_weights

        normed = layer_norm(config, dtype, "ln_2")(hidden_states)  # [B, T, D]
        mlp = FlaxGPT2MLP(config, config.mlp_width, dtype, name="mlp")
        hidden_states = hidden_states + mlp(normed, deterministic)  # [B, T, D]
        return (hidden_states, *weights)
