"""The parts of a GPT-2 block: tables, Conv1D, attention, MLP, as Keras layers.

A weight has the official name of checkpoint/layout.py as its path through the attributes, and its official
shape: `transformer.h[0].attn.c_attn.weight` is [D, 3D]. A layer casts its inputs to the dtype that its policy
computes in, if it has weights; attention and block leave their inputs as they are, because what is added to
scores may not fit in that dtype.

Dimensions: B batch, T query positions, S key positions, D n_embd, H heads, K width of a head, M width of the
MLP, V vocabulary, N labels, E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.tensorflow.activation import ACTIVATIONS
from gpt2kit.tensorflow.cache import heads_of, pair, write
from gpt2kit.tensorflow.dropout import TFDropout
from gpt2kit.tensorflow.fresh import normal
from gpt2kit.tensorflow.mask import hide_later, padding_bias, score_dtype
from gpt2kit.tensorflow.product import affine
from gpt2kit.tensorflow.table import TFEmbedding, TFLinear, replace_variables, sizes

__all__ = ["TFMLP", "TFAttention", "TFBlock", "TFConv1D", "TFEmbedding", "TFLayerNorm", "TFLinear", "sizes"]


class TFConv1D(keras.layers.Layer):
    """Map the last axis affinely, with the weight as [in, out], as OpenAI's GPT-2 keeps it.

    Args:
        nf: Width of the output.
        nx: Width of the input.
        initializer_range: Deviation of a fresh weight.
        **kwargs: name, dtype and trainable, as of any Keras layer.

    Shapes:
        x: [..., nx]; returns [..., nf]
    """

    def __init__(self, nf: int, nx: int, initializer_range: float = 0.02, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.nf, self.nx, self.initializer_range = nf, nx, initializer_range

    def build(self, input_shape: Any = None) -> None:
        """Make the weights."""
        drawn = normal(self.initializer_range)
        self.weight = self.add_weight(name="weight", shape=(self.nx, self.nf), initializer=drawn)  # [nx, nf]
        self.bias = self.add_weight(name="bias", shape=(self.nf,), initializer="zeros")  # [nf]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return x @ weight + bias."""
        *leading, _ = sizes(x)
        rows = tf.reshape(x, [-1, self.nx])  # [B*T, nx]
        rows = affine(rows, self.weight, self.bias)  # [B*T, nf]
        return tf.reshape(rows, [*leading, self.nf])  # [B, T, nf]

    def keep(self, index: list[int], axis: int) -> None:
        """Keep only these rows (axis 0) or columns (axis 1) of the weight, and the biases of the columns."""
        kept = {"weight": tf.gather(tf.convert_to_tensor(self.weight), index, axis=axis)}  # [nx, nf]
        if axis == 1:
            kept["bias"] = tf.gather(tf.convert_to_tensor(self.bias), index)  # [nf]
        else:
            kept["bias"] = tf.convert_to_tensor(self.bias)  # [nf]; behind the weight, as before
        replace_variables(self, **kept)
        self.nx, self.nf = self.weight.shape


class TFLayerNorm(keras.layers.Layer):
    """Give every position mean 0 and variance 1, then scale and shift it; computed in float32 at least.

    Args:
        width: Width of a position.
        epsilon: Added to the variance.
        **kwargs: name, dtype and trainable, as of any Keras layer.

    Shapes:
        x: [..., D]; returns [..., D]
    """

    def __init__(self, width: int, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.epsilon = width, epsilon

    def build(self, input_shape: Any = None) -> None:
        """Make the weights."""
        self.weight = self.add_weight(name="weight", shape=(self.width,), initializer="ones")  # [D]
        self.bias = self.add_weight(name="bias", shape=(self.width,), initializer="zeros")  # [D]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return the normed positions."""
        exact = score_dtype(x.dtype)
        states = tf.cast(x, exact)  # [..., D]
        centred = states - tf.reduce_mean(states, axis=-1, keepdims=True)  # [..., D]
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)  # [..., 1]
        normed = centred * tf.math.rsqrt(variance + self.epsilon)  # [..., D]
        scaled = normed * tf.cast(self.weight, exact) + tf.cast(self.bias, exact)  # [..., D]
        return tf.cast(scaled, x.dtype)  # [..., D]


class TFAttention(keras.layers.Layer):
    """Mix information between positions: multi-head attention, causal or towards an encoder.

    For each head, with queries Q, keys K and values V of width K = D / H,

        weights = softmax(Q K^T / divisor)        mixed = weights V

    where divisor is sqrt(K) (if config.scale_attn_weights), times layer_idx + 1 (if
    config.scale_attn_by_inverse_layer_idx). A query at position t sees keys s <= t. Scores and softmax are
    float32 at least, whatever the dtype of the rest.

    Args:
        nx: D.
        config: Sizes, switches and dropout rates.
        scale: Divide the scores at all; a block asks for it.
        is_cross_attention: Take keys and values from the encoder.
        layer_idx: Number of the block, from 0; for the inverse-layer scale and for pruned heads.
        **kwargs: name, dtype and trainable, as of any Keras layer.

    Source:
        transformers v4.34.0, models/gpt2/modeling_tf_gpt2.py, TFAttention.
    """

    def __init__(
        self,
        nx: int,
        config: GPT2Config,
        scale: bool = False,
        is_cross_attention: bool = False,
        layer_idx: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.config, self.scale, self.layer_idx = config, scale, layer_idx
        self.is_cross_attention = is_cross_attention
        self.head_width = nx // config.n_head
        pruned = layer_idx is not None and not is_cross_attention
        self.n_head = heads_of(config, layer_idx) if pruned and layer_idx is not None else config.n_head
        width, kind = self.n_head * self.head_width, {"dtype": self.dtype_policy}
        deviation = config.initializer_range
        if is_cross_attention:
            self.c_attn = TFConv1D(2 * width, nx, deviation, name="c_attn", **kind)
            self.q_attn = TFConv1D(width, nx, deviation, name="q_attn", **kind)
        else:
            self.c_attn = TFConv1D(3 * width, nx, deviation, name="c_attn", **kind)
        residual = deviation / math.sqrt(2 * config.n_layer)
        self.c_proj = TFConv1D(nx, width, residual, name="c_proj", **kind)
        self.attn_dropout = TFDropout(config.attn_pdrop, name="attn_dropout", **kind)
        self.resid_dropout = TFDropout(config.resid_pdrop, name="resid_dropout", **kind)

    def build(self, input_shape: Any = None) -> None:
        """Make the weights of the parts."""
        self.c_attn.build()
        if self.is_cross_attention:
            self.q_attn.build()
        self.c_proj.build()

    def call(
        self,
        x: tf.Tensor,
        layer_past: Any = None,
        attention_mask: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
        filled: Any = None,
    ) -> tuple[Any, ...]:
        """Attend from x to itself and its past, or to the encoder.

        Args:
            x: [B, T, D]
            layer_past: Keys and values of earlier positions, [2, B, H, S, K] or a pair of [B, H, S, K].
            attention_mask: 1 to see and 0 for padding, [B, S] or [B, T, S].
            head_mask: Multiplied to the attention weights, broadcast to [B, H, T, S].
            encoder_hidden_states: What cross-attention looks at, [B, E, D].
            encoder_attention_mask: 1 to see and 0 for padding, [B, E] or [B, T, E].
            use_cache: Return keys and values.
            output_attentions: Return the weights.
            training: Apply dropout.
            filled: How many places of layer_past are filled; None where it has no others.

        Returns:
            Mixture [B, T, D], keys and values or None, and the weights [B, H, T, S] if asked for.
        """
        query, key, value = self._projections(x, encoder_hidden_states)  # [B, H, T, K]; E for T
        exact, T = score_dtype(query.dtype), sizes(query)[2]
        key, value, present = self._joined(key, value, layer_past, filled, use_cache)  # [B, H, S, K] both
        S = sizes(key)[2]
        scores = tf.matmul(tf.cast(query, exact), tf.cast(key, exact), transpose_b=True)  # [B, H, T, S]
        scores = scores / self._divisor()  # [B, H, T, S]
        if not self.is_cross_attention:
            start = S - T if filled is None else filled
            scores = hide_later(scores, attention_mask, start, T, S)  # [B, H, T, S]
        elif encoder_attention_mask is not None:
            scores = scores + padding_bias(encoder_attention_mask, exact)  # [B, H, T, E]
        weights = tf.cast(tf.nn.softmax(scores, axis=-1), value.dtype)  # [B, H, T, S]
        weights = self.attn_dropout(weights, training=training)  # [B, H, T, S]
        if head_mask is not None:
            weights = weights * tf.cast(self._kept(head_mask), weights.dtype)  # [B, H, T, S]
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])  # [B, T, H, K]
        B, T, H, K = sizes(mixed)
        output = self.c_proj(tf.reshape(mixed, [B, T, H * K]))  # [B, T, D]
        output = self.resid_dropout(output, training=training)  # [B, T, D]
        return (output, present, weights) if output_attentions else (output, present)

    def keep_heads(self, kept: list[int], config: GPT2Config) -> None:
        """Keep only these of the heads that are there, counted among them; config says which that are."""
        K, H = self.head_width, self.n_head
        places = [head * K + place for head in kept for place in range(K)]  # [H'*K]
        self.c_attn.keep([part * H * K + place for part in range(3) for place in places], axis=1)
        self.c_proj.keep(places, axis=0)
        self.n_head, self.config = len(kept), config

    def _projections(self, x: tf.Tensor, encoder_hidden_states: tf.Tensor | None) -> list[tf.Tensor]:
        """Return queries, keys and values, [B, H, T, K] each; an encoder's keys and values have E for T."""
        if self.is_cross_attention:
            if encoder_hidden_states is None:
                raise InputError("Cross-attention needs the states of an encoder, and none came.")
            query = self.q_attn(x)  # [B, T, D]
            parts = [query, *tf.split(self.c_attn(encoder_hidden_states), 2, axis=-1)]  # [B, E, D] the others
        else:
            parts = tf.split(self.c_attn(x), 3, axis=-1)  # [B, T, D] each
        return [self._split(part) for part in parts]  # [B, H, T, K] each

    def _split(self, states: tf.Tensor) -> tf.Tensor:
        """Give every head its part: [B, T, D] to [B, H, T, K]."""
        B, T, _ = sizes(states)
        heads = tf.reshape(states, [B, T, self.n_head, self.head_width])  # [B, T, H, K]
        return tf.transpose(heads, [0, 2, 1, 3])  # [B, H, T, K]

    def _joined(
        self, key: tf.Tensor, value: tf.Tensor, past: Any, filled: Any, use_cache: bool
    ) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """Return all keys and values, [B, H, S, K] both, and what a cache keeps of them."""
        if past is not None:
            keys, values = (tf.cast(states, key.dtype) for states in pair(past))  # [B, H, S, K] both
            if filled is None:
                key = tf.concat([keys, key], axis=2)  # [B, H, S, K]
                value = tf.concat([values, value], axis=2)  # [B, H, S, K]
            else:
                key, value = write(keys, key, filled), write(values, value, filled)  # [B, H, S, K] both
        if not use_cache:
            return key, value, None
        return key, value, tf.stack([key, value]) if filled is None else (key, value)

    def _divisor(self) -> float:
        """Return what the scores are divided by."""
        divisor = math.sqrt(self.head_width) if self.scale and self.config.scale_attn_weights else 1.0
        if not self.config.scale_attn_by_inverse_layer_idx:
            return divisor
        if self.layer_idx is None:
            raise ConfigError(
                "scale_attn_by_inverse_layer_idx needs the number of the layer: give layer_idx."
            )
        return divisor * (self.layer_idx + 1)

    def _kept(self, head_mask: tf.Tensor) -> tf.Tensor:
        """Leave out of a mask over all heads those that were pruned here."""
        if self.layer_idx is None or head_mask.shape[-3] in (1, self.n_head):
            return head_mask
        pruned = self.config.pruned_heads[self.layer_idx]
        kept = [head for head in range(head_mask.shape[-3]) if head not in pruned]
        return tf.gather(head_mask, kept, axis=-3)  # [B, H', T, S], broadcast


class TFMLP(keras.layers.Layer):
    """Transform each position by itself: c_proj(act(c_fc(x))), with M = 4 D in between.

    Args:
        n_state: M.
        config: Width, activation and dropout rate.
        **kwargs: name, dtype and trainable, as of any Keras layer.
    """

    def __init__(self, n_state: int, config: GPT2Config, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        kind = {"dtype": self.dtype_policy}
        deviation, D = config.initializer_range, config.n_embd
        self.c_fc = TFConv1D(n_state, D, deviation, name="c_fc", **kind)
        self.c_proj = TFConv1D(D, n_state, deviation / math.sqrt(2 * config.n_layer), name="c_proj", **kind)
        self.act = ACTIVATIONS[config.activation_function]
        self.dropout = TFDropout(config.resid_pdrop, name="dropout", **kind)

    def build(self, input_shape: Any = None) -> None:
        """Make the weights of the parts."""
        self.c_fc.build()
        self.c_proj.build()

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return the transformed positions, [B, T, D]."""
        hidden_states = self.act(self.c_fc(x))  # [B, T, M]
        return self.dropout(self.c_proj(hidden_states), training=training)  # [B, T, D]


class TFBlock(keras.layers.Layer):
    """Add to the residual stream what attention, cross-attention and MLP make of it, each after a layer norm.

    Args:
        config: Sizes and switches.
        scale: As `TFAttention`.
        layer_idx: Number of the block, from 0.
        **kwargs: name, dtype and trainable, as of any Keras layer.
    """

    def __init__(
        self, config: GPT2Config, scale: bool = False, layer_idx: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        D, epsilon, kind = config.n_embd, config.layer_norm_epsilon, {"dtype": self.dtype_policy}
        self.ln_1 = TFLayerNorm(D, epsilon, name="ln_1", **kind)
        self.attn = TFAttention(D, config, scale, layer_idx=layer_idx, name="attn", **kind)
        self.ln_2 = TFLayerNorm(D, epsilon, name="ln_2", **kind)
        self.has_cross_attention = config.add_cross_attention
        if self.has_cross_attention:
            self.crossattention = TFAttention(
                D, config, scale, True, layer_idx, name="crossattention", **kind
            )
            self.ln_cross_attn = TFLayerNorm(D, epsilon, name="ln_cross_attn", **kind)
        self.mlp = TFMLP(config.mlp_width, config, name="mlp", **kind)

    def build(self, input_shape: Any = None) -> None:
        """Make the weights of the parts."""
        parts: list[Any] = [self.ln_1, self.attn, self.ln_2, self.mlp]
        if self.has_cross_attention:
            parts += [self.crossattention, self.ln_cross_attn]
        for part in parts:
            part.build()

    def call(
        self,
        x: tf.Tensor,
        layer_past: Any = None,
        attention_mask: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
        filled: Any = None,
    ) -> tuple[Any, ...]:
        """Return the new residual stream [B, T, D], keys and values or None; then weights, cross weights.

        The arguments are those of `TFAttention`.
        """
        output, *extras = self.attn(
            self.ln_1(x),
            layer_past=layer_past,
            attention_mask=attention_mask,
            head_mask=head_mask,
            use_cache=use_cache,
            output_attentions=output_attentions,
            training=training,
            filled=filled,
        )
        x = x + output  # [B, T, D]
        if encoder_hidden_states is not None:
            if not self.has_cross_attention:
                raise InputError(
                    "encoder_hidden_states were given to a model without cross-attention; build it with "
                    "add_cross_attention=True in its configuration."
                )
            output, _, *weights = self.crossattention(
                self.ln_cross_attn(x),
                head_mask=head_mask,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                output_attentions=output_attentions,
                training=training,
            )
            x = x + output  # [B, T, D]
            extras += weights
        x = x + self.mlp(self.ln_2(x), training=training)  # [B, T, D]
        return (x, *extras)
