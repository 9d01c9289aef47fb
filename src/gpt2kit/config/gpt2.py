"""The configuration of a GPT-2: every number and switch, checked when it is made.

`GPT2Config` has the arguments, the defaults and the JSON of transformers 4.34, so a `config.json` goes from
one library to the other and back. What differs is told in docs/differences.md: values that cannot work are
refused with the fix, and `n_ctx` is written beside `n_positions` because llama.cpp's converter asks for it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from gpt2kit.config.base import BaseConfig
from gpt2kit.config.checks import check_config
from gpt2kit.errors import ConfigError

__all__ = ["GPT2Config"]

_logger = logging.getLogger(__name__)


def _alias(name: str) -> Any:
    """Make a property that is another spelling of the attribute `name`."""

    def read(self: GPT2Config) -> Any:
        return getattr(self, name)

    def write(self: GPT2Config, value: Any) -> None:
        setattr(self, name, value)

    return property(read, write, doc=f"Another spelling of `{name}`.")


class GPT2Config(BaseConfig):
    """Everything that tells one GPT-2 from another, under the names of transformers 4.34.

    Args:
        vocab_size: Number of tokens, V.
        n_positions: Longest sequence, P.
        n_embd: Width of the residual stream, D.
        n_layer: Number of blocks, L.
        n_head: Attention heads in a block, H; they share D evenly.
        n_inner: Width of the MLP, M; None is 4 * n_embd.
        activation_function: Nonlinearity of the MLP, one of `ACTIVATIONS`.
        resid_pdrop: Dropout after each projection into the residual stream.
        embd_pdrop: Dropout after the embeddings.
        attn_pdrop: Dropout on the attention probabilities.
        layer_norm_epsilon: What layer normalization adds to the variance.
        initializer_range: Standard deviation of fresh weights.
        summary_type: Which position the multiple-choice head reads.
        summary_use_proj: Whether that head ends in a linear layer.
        summary_activation: Activation after it, None for no activation.
        summary_proj_to_labels: Whether that layer has num_labels outputs (else n_embd).
        summary_first_dropout: Dropout before that layer.
        scale_attn_weights: Whether attention scores are divided by sqrt(K).
        use_cache: Whether a model returns its keys and values for the next call.
        bos_token_id: Token that begins a text.
        eos_token_id: Token that ends a text, or a list of such tokens.
        scale_attn_by_inverse_layer_idx: Whether the scores of layer i are divided by i + 1 as well.
        reorder_and_upcast_attn: Whether scores are computed in float32, with the scaling inside the product.
        **kwargs: The keywords that 4.34 gives every model (see the attributes below), the aliases
            `hidden_size`, `max_position_embeddings`, `num_attention_heads` and `num_hidden_layers`,
            `num_labels`, and anything else, which is kept as an attribute.

    Raises:
        ConfigError: A value cannot work; the message says what would. Values set later are checked by
            `validate`, which every model calls when it is built.

    Source:
        transformers v4.34.0, models/gpt2/configuration_gpt2.py and configuration_utils.py.

    Example:
        >>> config = GPT2Config(n_layer=3, n_embd=33, n_head=3)
        >>> config.hidden_size, config.mlp_width, config.num_labels
        (33, 132, 2)
    """

    model_type: ClassVar[str] = "gpt2"
    is_composition: ClassVar[bool] = False
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    hidden_size = _alias("n_embd")
    max_position_embeddings = _alias("n_positions")
    num_attention_heads = _alias("n_head")
    num_hidden_layers = _alias("n_layer")

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        n_inner: int | None = None,
        activation_function: str = "gelu_new",
        resid_pdrop: float = 0.1,
        embd_pdrop: float = 0.1,
        attn_pdrop: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        summary_type: str = "cls_index",
        summary_use_proj: bool = True,
        summary_activation: str | None = None,
        summary_proj_to_labels: bool = True,
        summary_first_dropout: float = 0.1,
        scale_attn_weights: bool = True,
        use_cache: bool = True,
        bos_token_id: int | None = 50256,
        eos_token_id: int | list[int] | None = 50256,
        scale_attn_by_inverse_layer_idx: bool = False,
        reorder_and_upcast_attn: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.n_positions = n_positions
        self.n_embd = n_embd
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_inner = n_inner
        self.activation_function = activation_function
        self.resid_pdrop = resid_pdrop
        self.embd_pdrop = embd_pdrop
        self.attn_pdrop = attn_pdrop
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.summary_type = summary_type
        self.summary_use_proj = summary_use_proj
        self.summary_activation = summary_activation
        self.summary_proj_to_labels = summary_proj_to_labels
        self.summary_first_dropout = summary_first_dropout
        self.scale_attn_weights = scale_attn_weights
        self.use_cache = use_cache
        self.scale_attn_by_inverse_layer_idx = scale_attn_by_inverse_layer_idx
        self.reorder_and_upcast_attn = reorder_and_upcast_attn
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id

        self._check_model_type(kwargs.pop("model_type", self.model_type))
        for name, default in self.defaults().items():
            setattr(self, name, kwargs.pop(name, default))
        self._name_or_path = str(kwargs.pop("name_or_path", kwargs.pop("_name_or_path", "")))
        self._commit_hash = kwargs.pop("_commit_hash", None)
        self.transformers_version = kwargs.pop("transformers_version", None)
        if kwargs.pop("xla_device", None) is not None:
            _logger.warning("`xla_device` has had no meaning since transformers 4.4; remove it.")
        self.set_labels(kwargs)
        self._set_the_rest(kwargs)
        self.validate()

    @classmethod
    def _check_model_type(cls, model_type: object) -> None:
        if model_type not in ("", cls.model_type):
            raise ConfigError(
                f"This is the configuration of a model of type {model_type!r}, and {cls.__name__} reads only "
                f"{cls.model_type!r}. Choose a GPT-2 checkpoint; if it is one, correct `model_type`."
            )

    def _set_the_rest(self, kwargs: dict[str, Any]) -> None:
        """Set aliases and unknown keywords as attributes; they must not hide a part of the class."""
        defaults = self.own_defaults()
        for alias, name in self.attribute_map.items():
            default, value = defaults[name], getattr(self, name)
            if alias in kwargs and value not in (default, kwargs[alias]):
                raise ConfigError(
                    f"{name}={value} and {alias}={kwargs[alias]} are two values of one setting. Give one."
                )
        for name, value in kwargs.items():
            if hasattr(type(self), name) and name not in self.attribute_map and name != "n_ctx":
                raise ConfigError(f"`{name}` is a part of {type(self).__name__} and cannot be an argument.")
            setattr(self, name, value)

    @classmethod
    def own_defaults(cls) -> dict[str, Any]:
        """Return the defaults of the named arguments."""
        parameters = inspect.signature(GPT2Config.__init__).parameters.values()
        return {item.name: item.default for item in parameters if item.default is not item.empty}

    @classmethod
    def modernize(cls, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return a read config.json in the words of 4.34: what other versions say otherwise is translated."""
        values = dict(config_dict)
        if "dtype" in values and values.get("torch_dtype") is None:  # transformers 5 writes it so
            values["torch_dtype"] = values.pop("dtype")
        length = values.get("n_positions", values.get("max_position_embeddings"))
        n_ctx = values.pop("n_ctx", None)
        if n_ctx is not None and length is None:  # the first release's only name for it
            values["n_positions"] = n_ctx
        elif n_ctx is not None and n_ctx != length:
            _logger.warning("n_ctx=%s is ignored: the model's length is n_positions=%s.", n_ctx, length)
        if isinstance(pruned := values.get("pruned_heads"), dict):  # JSON's keys are words
            values["pruned_heads"] = {int(key) if str(key).isdigit() else key: pruned[key] for key in pruned}
        labels, count = values.get("id2label"), values.get("num_labels")
        if labels is not None and count is not None:
            del values["num_labels"]
            if count != len(labels):
                _logger.warning("num_labels=%s is ignored: id2label names %d labels.", count, len(labels))
        return values

    def validate(self) -> None:
        """Refuse values that cannot work.

        The constructor calls it; so does every model when it is built, for what was set in between.

        Raises:
            ConfigError: With the value that came and one that would do.
        """
        check_config(self)

    @property
    def mlp_width(self) -> int:
        """Width of the MLP, M."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd

    @property
    def n_ctx(self) -> int:
        """The name that n_positions had in GPT-2's first release; it can only be the same number."""
        return self.n_positions

    @n_ctx.setter
    def n_ctx(self, value: int) -> None:
        if value != self.n_positions:
            raise ConfigError(
                f"n_ctx={value} differs from n_positions={self.n_positions}. The length of a GPT-2 is "
                f"n_positions; pass n_positions={value} if that is what you want."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute, ready for JSON; `n_ctx` is there for llama.cpp's converter."""
        return super().to_dict() | {"n_ctx": self.n_positions}
