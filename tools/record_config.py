"""Record what transformers 4.34.0 makes of a configuration; run by tools/record_golden.py in its venv.

    python tools/record_config.py tests/golden

writes config_defaults.json: the named arguments in their order with their defaults, `to_dict()` and the saved
JSON of several configurations.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sizes": {"vocab_size": 101, "n_positions": 13, "n_embd": 33, "n_layer": 3, "n_head": 3, "n_inner": 47},
    "aliases": {
        "hidden_size": 35,
        "num_attention_heads": 5,
        "num_hidden_layers": 2,
        "max_position_embeddings": 17,
    },
    "switches": {
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
        "use_cache": False,
    },
    "labels": {"num_labels": 3, "problem_type": "regression"},
    "two_maps": {
        "id2label": {"0": "no", "1": "yes", "2": "perhaps"},
        "label2id": {"no": 0, "yes": 1, "perhaps": 2},
    },
    "tokens": {"bos_token_id": None, "eos_token_id": [3, 5], "pad_token_id": 7},
    "common": {
        "output_attentions": True,
        "max_length": 50,
        "top_k": 0,
        "torch_dtype": "float16",
        "is_decoder": True,
    },
    "unknown": {"gradient_checkpointing": True, "anything": {"at": ["all"]}},
}


def record(folder: Path) -> list[Path]:
    """Write config_defaults.json into a folder."""
    from transformers import GPT2Config

    parameters = inspect.signature(GPT2Config.__init__).parameters.values()
    named = {item.name: item.default for item in parameters if item.default is not item.empty}
    result = {
        "arguments": list(named.items()),
        "cases": {
            name: {
                "arguments": arguments,
                "to_dict": GPT2Config(**arguments).to_dict(),
                "to_json_string": GPT2Config(**arguments).to_json_string(),
            }
            for name, arguments in CASES.items()
        },
    }
    path = folder / "config_defaults.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return [path]


if __name__ == "__main__":
    record(Path(sys.argv[1]))
