"""GPT-2 without a head: embeddings, blocks, a last layer norm.

Dimensions: B batch, T query positions, S key positions (past and present), P n_positions, D n_embd, H heads,
K width of a head, L layers, E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.tensorflow import arguments, keywords
from gpt2kit.tensorflow.cache import FixedCache
from gpt2kit.tensorflow.checkpointing import recomputed
from gpt2kit.tensorflow.dropout import TFDropout
from gpt2kit.tensorflow.layers import TFBlock, TFEmbedding, TFLayerNorm, sizes
from gpt2kit.tensorflow.outputs import TFBaseModelOutputWithPastAndCrossAttentions
from gpt2kit.tensorflow.pretrained import TFGPT2PreTrainedModel

__all__ = ["TFGPT2MainLayer", "TFGPT2Model"]


class _Call(NamedTuple):
    """The arguments of one call, checked and in the form that the blocks take.

    Attributes:
        embeds: h_0 before its dropout, [B, T, D].
        shape: Of the tokens as they came, [B, T] or with more leading axes.
        pasts: Keys and values of earlier positions, for each layer.
        filled: How many places of a cache of fixed size are filled; None where there is no such.
        mask: 1 to see and 0 for padding, [B, S] or [B, T, S].
        head_masks: Multiplied to the attention weights, L of [B, H, T, S], broadcast.
        encoder: What cross-attention looks at, [B, E, D].
        encoder_mask: 1 to see and 0 for padding, [B, E] or [B, T, E].
    """

    embeds: tf.Tensor
    shape: Sequence[Any]
    pasts: Sequence[Any]
    filled: Any
    mask: tf.Tensor | None
    head_masks: Sequence[tf.Tensor | None]
    encoder: tf.Tensor | None
    encoder_mask: tf.Tensor | None


@keras.saving.register_keras_serializable("gpt2kit")
class TFGPT2MainLayer(keras.layers.Layer):
    """Turn token ids into hidden states: the body of every GPT-2, as a Keras layer.

        h_0 = wte[input_ids] + wpe[position_ids]        h_(l+1) = block_l(h_l)        output = ln_f(h_L)

    Args:
        config: Sizes and switches.
        **kwargs: name, dtype and trainable, as of any Keras layer.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3;
        transformers v4.34.0, models/gpt2/modeling_tf_gpt2.py, TFGPT2MainLayer.
    """

    config_class = GPT2Config

    def __init__(self, config: GPT2Config, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.config = config
        D, deviation, kind = config.n_embd, config.initializer_range, {"dtype": self.dtype_policy}
        self.wte = TFEmbedding(config.vocab_size, D, deviation, name="wte", **kind)
        self.wpe = TFEmbedding(config.n_positions, D, deviation, name="wpe", **kind)
        self.drop = TFDropout(config.embd_pdrop, name="drop", **kind)
        self.h = [
            TFBlock(config, scale=True, layer_idx=layer, name=f"h_._{layer}", **kind)
            for layer in range(config.n_layer)
        ]
        self.ln_f = TFLayerNorm(D, config.layer_norm_epsilon, name="ln_f", **kind)
        # A state from now on, which is not saved; as in 4.34's PyTorch classes.
        self.gradient_checkpointing = bool(vars(config).pop("gradient_checkpointing", False))

    def get_input_embeddings(self) -> TFEmbedding:
        """Return the layer of token embeddings."""
        return self.wte

    def build(self, input_shape: Any = None) -> None:
        """Make the weights of the parts."""
        parts: list[Any] = [self.wte, self.wpe, *self.h, self.ln_f]
        for part in parts:
            part.build()

    def _lock_state(self) -> None:
        """Leave the layer open, so that other embeddings may be put in their place.

        Keras calls this when it has built a layer, and has no public way to keep one open.
        """

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` makes the same layer of, with fresh weights."""
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TFGPT2MainLayer:
        """Make a layer with fresh weights."""
        policy = keras.saving.deserialize_keras_object(config["dtype"])
        own = GPT2Config.from_dict(config["config"])
        return cls(own, name=config["name"], trainable=config["trainable"], dtype=policy)

    @keywords.plainly
    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = False,
    ) -> tuple[Any, ...] | TFBaseModelOutputWithPastAndCrossAttentions:
        """Compute the hidden states of T positions that follow those of the cache, as `TFGPT2Model.call`."""
        config = self.config
        use_cache = config.use_cache if use_cache is None else use_cache
        wants_weights = config.output_attentions if output_attentions is None else output_attentions
        wants_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        call = self._checked(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, head_mask,
            inputs_embeds, encoder_hidden_states, encoder_attention_mask,
        )  # fmt: skip
        hidden_states = self.drop(call.embeds, training=training)  # [B, T, D]
        presents: list[Any] = []
        all_states: list[tf.Tensor] = []
        attentions: list[tf.Tensor] = []
        cross_attentions: list[tf.Tensor] = []
        for layer, block in enumerate(self.h):
            all_states.append(hidden_states)
            run = recomputed(block) if self.gradient_checkpointing and training else block
            hidden_states, present, *weights = run(
                hidden_states,
                layer_past=call.pasts[layer],
                attention_mask=call.mask,
                head_mask=call.head_masks[layer],
                encoder_hidden_states=call.encoder,
                encoder_attention_mask=call.encoder_mask,
                use_cache=use_cache,
                output_attentions=wants_weights,
                training=training,
                filled=call.filled,
            )
            presents.append(present)
            attentions += weights[:1]
            cross_attentions += weights[1:]
        hidden_states = self.ln_f(hidden_states)  # [B, T, D]
        hidden_states = tf.reshape(hidden_states, [*call.shape, config.n_embd])  # [..., T, D]
        all_states.append(hidden_states)
        output = TFBaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            past_key_values=self._present(presents, call) if use_cache else None,
            hidden_states=tuple(all_states) if wants_states else None,
            attentions=tuple(attentions) if wants_weights else None,
            cross_attentions=tuple(cross_attentions) if cross_attentions else None,
        )
        return (
            output if (config.use_return_dict if return_dict is None else return_dict) else output.to_tuple()
        )

    @staticmethod
    def _present(presents: list[Any], call: _Call) -> Any:
        """Return the new cache, of the kind that came."""
        if call.filled is None:
            return tuple(presents)
        return FixedCache(tuple(presents), tf.convert_to_tensor(call.filled + sizes(call.embeds)[1]))  # []

    def _checked(
        self,
        input_ids: Any,
        past_key_values: Any,
        attention_mask: Any,
        token_type_ids: Any,
        position_ids: Any,
        head_mask: Any,
        inputs_embeds: Any,
        encoder_hidden_states: Any,
        encoder_attention_mask: Any,
    ) -> _Call:
        """Refuse what cannot be computed, and bring the rest into the form that the blocks take."""
        config, tensor = self.config, arguments.tensor
        arguments.check_keras_mask(inputs_embeds, attention_mask)
        input_ids, embeds, shape = arguments.inputs(
            tensor("input_ids", input_ids), tensor("inputs_embeds", inputs_embeds), config
        )  # [B, T], [B, T, D]
        B, T = sizes(embeds if input_ids is None else input_ids)[:2]
        pasts, places, filled = arguments.past(past_key_values, config, B)
        start = places if filled is None else filled
        reached = start + T
        S = reached if filled is None else places
        _refuse_overflow(filled, T, places)
        mask = arguments.padding(tensor("attention_mask", attention_mask), shape, T, reached, S)  # [B, S]
        position_ids = arguments.positions(
            tensor("position_ids", position_ids), mask, start, B, T, config.n_positions
        )  # [B or 1, T]
        states, encoder_mask = arguments.encoder(
            tensor("encoder_hidden_states", encoder_hidden_states),
            tensor("encoder_attention_mask", encoder_attention_mask),
            config, B, T,
        )  # fmt: skip  # [B, E, D], [B, E] or [B, T, E]
        E = None if states is None else sizes(states)[1]
        embeds = self.wte(input_ids) if embeds is None else tf.cast(embeds, self.compute_dtype)  # [B, T, D]
        embeds = embeds + self.wpe(position_ids)  # [B, T, D]
        if token_type_ids is not None:
            types = arguments.rows("token_type_ids", tensor("token_type_ids", token_type_ids), B, T)
            types = arguments.ids("token_type_ids", types, config.vocab_size, "vocab_size")  # [B or 1, T]
            embeds = embeds + self.wte(types)  # [B, T, D]
        if filled is not None and not isinstance(filled, int):  # XLA would write over the last places
            embeds = tf.where(reached <= places, embeds, tf.constant(math.nan, embeds.dtype))  # [B, T, D]
        head_masks = arguments.head_masks(tensor("head_mask", head_mask), config, B, T, S, E)
        return _Call(embeds, shape, pasts, filled, mask, head_masks, states, encoder_mask)


def _refuse_overflow(filled: Any, T: Any, places: Any) -> None:
    """Refuse new positions that a cache of fixed size has no room for, as far as that can be seen."""
    if filled is None or not isinstance(T, int):
        return
    known = filled if isinstance(filled, int) else 0
    if known + T > places:
        raise InputError(
            f"The cache is too short: it has {places} places and {known} are filled, and {T} new positions "
            "came. Make a longer one."
        )


@keras.saving.register_keras_serializable("gpt2kit")
class TFGPT2Model(TFGPT2PreTrainedModel):
    """Turn token ids into hidden states: the body of every GPT-2.

    Args:
        config: Sizes and switches. The weights are random until some are loaded.
        **kwargs: name, dtype and trainable, as of any Keras model.

    Source:
        transformers v4.34.0, models/gpt2/modeling_tf_gpt2.py, TFGPT2Model.

    Example:
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = TFGPT2Model(config)
        >>> model(tf.constant([[2, 3, 5, 7, 11]])).last_hidden_state.shape
        TensorShape([1, 5, 33])
    """

    scores_tokens = False

    def __init__(self, config: GPT2Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.transformer = TFGPT2MainLayer(config, name="transformer", dtype=self.dtype_policy)
        self.build()

    @keywords.plainly
    def call(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = False,
    ) -> tuple[Any, ...] | TFBaseModelOutputWithPastAndCrossAttentions:
        """Compute the hidden states of T positions that follow those of the cache.

        Every array may be a tensor or one of NumPy. The first argument may hold several: a list or tuple in
        this order, or a mapping by these names.

        Args:
            input_ids: Tokens, [B, T]. In a graph ids outside the vocabulary are not looked for.
            past_key_values: What an earlier call returned: L tensors [2, B, H, S, K].
            attention_mask: 1 for the positions to see and 0 for padding, [B, S]: past and present. Or for
                each query which positions it sees, [B, T, S]; a position after the query stays hidden.
            token_type_ids: More token ids whose embeddings are added, [B, T].
            position_ids: Place of each token, [B, T]. By default counted from the attention mask, so that
                padding on either side changes nothing; without a mask, from the length of the past.
            head_mask: Factors on the attention weights: [H], [L, H], or [L, B, H, T, S] with ones where it
                shall repeat.
            inputs_embeds: Embeddings in place of input_ids, [B, T, D].
            encoder_hidden_states: What cross-attention looks at, [B, E, D]; needs add_cross_attention.
            encoder_attention_mask: 1 for the encoder positions to see, [B, E] or [B, T, E].
            use_cache: Return past_key_values (config.use_cache).
            output_attentions: Return the attention weights (config.output_attentions).
            output_hidden_states: Return the hidden states between the blocks (config.output_hidden_states).
            return_dict: Return an object rather than a tuple (config.use_return_dict).
            training: Apply dropout.

        Returns:
            The states after the last layer norm, [B, T, D], and what was asked for.

        Raises:
            InputError: Arguments that exclude each other, or of a shape that fits nothing.
            LengthError: Past and present are more than n_positions.
        """
        return self.transformer(
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            training=training,
        )
