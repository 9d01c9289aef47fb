"""One vector for a sequence: what the multiple-choice head reads.

Dimensions: C choices, T positions, D n_embd, N labels (docs/shapes.md); a star stands for any leading axes.
"""

from __future__ import annotations

from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.torch.activation import Activation
from gpt2kit.torch.fresh import unfilled_while_loading

__all__ = ["SequenceSummary", "check_summary_type"]


class SequenceSummary(nn.Module):
    """Take one vector from the hidden states of a sequence, and map it by a small layer.

        vector = pick(hidden_states)        summary = dropout(activation(W dropout(vector) + b))

    Args:
        config: summary_type picks the "last" position, the "first", the "mean" of all, or the one that the
            caller names ("cls_index"). summary_use_proj switches the layer W on; its outputs are num_labels
            with summary_proj_to_labels, else n_embd. summary_activation is the name of an activation or None.
            summary_first_dropout and summary_last_dropout are the two rates; 4.34's configuration has no
            default for the second, which is 0.

    Raises:
        ConfigError: summary_type="attn", which nobody has ever defined.

    Source:
        transformers v4.34.0, modeling_utils.py, SequenceSummary.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        check_summary_type(config)
        self.summary_type = config.summary_type
        self.out_features = config.n_embd
        self.summary: nn.Module = nn.Identity()
        if config.summary_use_proj:
            if config.summary_proj_to_labels:
                self.out_features = config.num_labels
            with unfilled_while_loading():
                self.summary = nn.Linear(config.n_embd, self.out_features)
        self.activation = Activation(config.summary_activation or "linear")
        self.first_dropout = nn.Dropout(config.summary_first_dropout)
        self.last_dropout = nn.Dropout(getattr(config, "summary_last_dropout", None) or 0.0)

    def forward(self, hidden_states: Tensor, cls_index: Tensor | None = None) -> Tensor:
        """Return the summary of each sequence.

        Args:
            hidden_states: [*, T, D]
            cls_index: For summary_type "cls_index", the position to read, [*]; None reads the last.

        Returns:
            [*, N] or [*, D]
        """
        vector = self.pick(hidden_states, cls_index)  # [*, D]
        summary = self.summary(self.first_dropout(vector))  # [*, N or D]
        return self.last_dropout(self.activation(summary))  # [*, N or D]

    def pick(self, hidden_states: Tensor, cls_index: Tensor | None) -> Tensor:
        """Return the vector of each sequence, [*, D], before any layer."""
        if self.summary_type == "first":
            return hidden_states[..., 0, :]  # [*, D]
        if self.summary_type == "mean":
            return hidden_states.mean(dim=-2)  # [*, D]
        if self.summary_type == "last" or cls_index is None:
            return hidden_states[..., -1, :]  # [*, D]
        index = cls_index.to(hidden_states.device)[..., None, None]  # [*, 1, 1]
        return hidden_states.take_along_dim(index, dim=-2).squeeze(-2)  # [*, D]


def check_summary_type(config: GPT2Config) -> None:
    """Refuse the one type that has a name and no meaning.

    Raises:
        ConfigError: summary_type="attn".
    """
    if config.summary_type == "attn":
        raise ConfigError(
            "summary_type='attn' was never defined, in transformers neither. Choose 'cls_index', 'last', "
            "'first' or 'mean'."
        )
