"""What every Flax GPT-2 can do besides what it does with its parameters: start, be called, make a cache."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import unfreeze

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.flax import arguments, tree
from gpt2kit.flax.cache import Cache, empty_cache
from gpt2kit.flax.parameters import ParameterMixin
from gpt2kit.flax.tree import Tree
from gpt2kit.generation import GenerationConfig

__all__ = ["FlaxGPT2PreTrainedModel"]


class _Call(NamedTuple):
    """The arguments of one call, checked and in the form that the module takes."""

    input_ids: Any
    attention_mask: Any
    position_ids: Any
    encoder_hidden_states: Any
    encoder_attention_mask: Any
    token_type_ids: Any
    head_mask: Any


class FlaxGPT2PreTrainedModel(ParameterMixin):
    """Base of the Flax models: a configuration, a Linen module, and the parameters beside it.

    Args:
        config: The configuration; it is checked here.
        input_shape: Batch and positions of the input that the parameters are drawn with; any will do.
        seed: What the parameters are drawn from.
        dtype: Of the computation; the parameters keep their own.
        _do_init: Draw the parameters. Without, they are given to every call as `params`.
        **kwargs: More attributes of the module.

    Source:
        transformers v4.34.0, modeling_flax_utils.py, FlaxPreTrainedModel, and modeling_flax_gpt2.py.
    """

    config_class = GPT2Config
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    framework = "flax"
    module_class: ClassVar[Any] = None

    def __init__(
        self,
        config: GPT2Config,
        input_shape: tuple[int, int] = (1, 1),
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(config, GPT2Config):
            raise ConfigError(
                f"{type(self).__name__} needs a GPT2Config, but a {type(config).__name__} came. To load a "
                f"model by its name or folder, call {type(self).__name__}.from_pretrained(...)."
            )
        config.validate()
        arguments.input_shape(input_shape)
        self.config = config
        self.name_or_path = config.name_or_path
        self.generation_config: Any = (
            GenerationConfig.from_model_config(config) if self.can_generate() else None
        )
        self.dtype = arguments.computation_dtype(dtype)
        self.module = self.module_class(config, self.dtype, **kwargs)
        self.key = jax.random.PRNGKey(seed)
        self.input_shape = input_shape
        self._is_initialized = _do_init
        self._params_shape_tree = jax.eval_shape(lambda rng: self.init_weights(rng, input_shape), self.key)
        self._params: Tree = self.init_weights(self.key, input_shape) if _do_init else {}

    @classmethod
    def can_generate(cls) -> bool:
        """Tell whether the model has `generate`."""
        return hasattr(cls, "generate")

    def enable_gradient_checkpointing(self) -> None:
        """Keep nothing of the blocks in training: less memory, and each block is computed twice."""
        self.module = self.module.clone(gradient_checkpointing=True)

    # ------------------------------------------------------------------ calls

    def init_cache(self, batch_size: int, max_length: int) -> Cache:
        """Make a cache with nothing in it, to be given to a call as past_key_values.

        Args:
            batch_size: B.
            max_length: Places of every sequence, padding included.

        Raises:
            InputError: A size that is none.
        """
        for name, size in (("batch_size", batch_size), ("max_length", max_length)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"{name} should be a whole number of at least 1, but it is {size!r}.")
        cache = empty_cache(self.config, batch_size, max_length, self.dtype)
        return {self.base_model_prefix: cache} if self._has_head() else cache

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        params: Tree | None = None,
        past_key_values: Cache | None = None,
        dropout_rng: Any = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        token_type_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
    ) -> Any:
        """Compute what the model says about T positions that follow those of the cache.

        It may be called as it is, or within jax.jit, jax.grad and jax.vmap. Values that cannot be honoured
        are refused where they can be seen; where they are being traced they give NaN.

        Args:
            input_ids: Tokens, [B, T].
            attention_mask: 1 for the positions to see and 0 for padding, [B, S]; with a cache S may be
                anything from the positions so far to all its places. Or for each query which positions it
                sees, [B, T, S]; a position after the query stays hidden.
            position_ids: Place of each token, [B, T]. By default counted from the attention mask, so that
                padding on either side changes nothing; without a mask, from what the cache holds.
            encoder_hidden_states: What cross-attention looks at, [B, E, D]; needs add_cross_attention.
            encoder_attention_mask: 1 for the encoder positions to see, [B, E] or [B, T, E].
            params: Parameters in place of the model's own.
            past_key_values: A cache, from `init_cache` or an earlier call.
            dropout_rng: What dropout draws from.
            train: Apply dropout.
            output_attentions: Return the attention weights (config.output_attentions).
            output_hidden_states: Return the hidden states between the blocks (config.output_hidden_states).
            return_dict: Return an object rather than a tuple (config.use_return_dict).
            token_type_ids: More token ids whose embeddings are added, [B, T].
            head_mask: Factors on the attention weights: [H], [L, H], or [L, B, H, T, S] with ones where it
                shall repeat.
            inputs_embeds: Embeddings in place of input_ids, which then is None, [B, T, D].

        Returns:
            The states [B, T, D] or logits [B, T, V]; the cache, if one came; and what was asked for.

        Raises:
            InputError: Arguments that exclude each other, of a shape that fits nothing or of a value that
                names nothing; a cache that is too short; train=True without dropout_rng.
            LengthError: More positions than the model has.
        """
        config = self.config
        body = self._body_cache(past_key_values)
        call = self._checked(
            input_ids, attention_mask, position_ids, encoder_hidden_states, encoder_attention_mask, body,
            token_type_ids, head_mask, inputs_embeds,
        )  # fmt: skip
        variables: dict[str, Any] = {
            "params": self.params if params is None else tree.checked(params, self._params_shape_tree)
        }
        if past_key_values is not None:
            variables["cache"] = past_key_values
        return_dict = config.use_return_dict if return_dict is None else return_dict
        outputs = self.module.apply(
            variables,
            *call[:5],
            not train,
            False,
            config.output_attentions if output_attentions is None else output_attentions,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            return_dict,
            call.token_type_ids,
            call.head_mask,
            inputs_embeds,
            rngs=arguments.rngs(config, dropout_rng, train),
            mutable=["cache"] if past_key_values is not None else False,
        )
        if past_key_values is None:
            return outputs
        outputs, changed = outputs
        cache = unfreeze(changed["cache"])
        return outputs.replace(past_key_values=cache) if return_dict else (outputs[0], cache, *outputs[1:])

    def _has_head(self) -> bool:
        """Tell whether the body is a part of the module, rather than the module itself."""
        return self.base_model_prefix in self._params_shape_tree

    def _body_cache(self, past_key_values: Any) -> Any:
        """Return the cache of the body."""
        if past_key_values is None or not self._has_head():
            return past_key_values
        try:
            return past_key_values[self.base_model_prefix]
        except (KeyError, TypeError, IndexError):
            raise InputError(
                f"past_key_values has no {self.base_model_prefix!r}; give what init_cache or a call of this "
                "model returned."
            ) from None

    def _checked(
        self,
        input_ids: Any,
        attention_mask: Any,
        position_ids: Any,
        encoder_hidden_states: Any,
        encoder_attention_mask: Any,
        past_key_values: Any,
        token_type_ids: Any,
        head_mask: Any,
        inputs_embeds: Any,
    ) -> _Call:
        """Refuse what cannot be computed, and bring the rest into the form that the module takes."""
        config = self.config
        arguments.arrays(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
        )
        B, T = arguments.inputs(input_ids, inputs_embeds, config.n_embd)
        places = arguments.past(past_key_values, config, B)
        start = arguments.filled(past_key_values, T, places)  # []
        mask = arguments.padding(attention_mask, B, start, T, places)  # [B, S] or [B, T, S]
        states, encoder_mask = arguments.encoder(
            encoder_hidden_states, encoder_attention_mask, config, B, T
        )  # [B, E, D], [B, E] or [B, T, E]
        E = None if states is None else states.shape[1]
        V = config.vocab_size
        if input_ids is not None:
            input_ids = arguments.ids("input_ids", input_ids, V, "vocab_size")  # [B, T]
        if token_type_ids is not None:
            types = arguments.rows("token_type_ids", token_type_ids, B, T)  # [B or 1, T]
            token_type_ids = arguments.ids("token_type_ids", types, V, "vocab_size")  # [B or 1, T]
        return _Call(
            input_ids,
            mask,
            arguments.positions(position_ids, mask, B, start, T, config.n_positions),  # [B or 1, T]
            states,
            encoder_mask,
            token_type_ids,
            arguments.head_masks(head_mask, config, B, T, places or T, E),
        )
