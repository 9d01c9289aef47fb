"""gpt2kit's models in EleutherAI's lm-evaluation-harness, under the name "gpt2kit". Needs `gpt2kit[eval]`.

    python -m gpt2kit.harness run --model gpt2kit --model_args pretrained=gpt2 --tasks lambada_openai

or, from Python, `import gpt2kit.harness` and then `lm_eval.simple_evaluate(model="gpt2kit", ...)`.
The harness decides what a request is and how texts become tokens; the log-probabilities are `score_pairs`'.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from gpt2kit.errors import InputError, MissingDependencyError

try:
    import lm_eval  # noqa: F401  # only to know that it is there
except ModuleNotFoundError as _error:
    if _error.name != "lm_eval":
        raise
    raise MissingDependencyError(
        "gpt2kit.harness needs lm-evaluation-harness, which is not installed: pip install 'gpt2kit[eval]'"
    ) from None

import numpy as np
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from gpt2kit.evaluation.pair import Pair
from gpt2kit.evaluation.window import batches, check_count
from gpt2kit.tokenization import AutoTokenizer
from gpt2kit.torch import GPT2LMHeadModel
from gpt2kit.torch.scoring import score_pairs

__all__ = ["GPT2KitLM"]

# What a task may write where it does not say; the harness's own models have the same.
MOST_NEW_TOKENS = 256
# Prompts that are written on together where no batch size is given.
GENERATED_TOGETHER = 8
DTYPES = {
    **{name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")},
    "auto": "auto",
}
# What a model's own options say of sampling is nothing to greedy decoding, and not worth a warning here.
GREEDY = {"temperature": 1.0, "top_p": 1.0}


@register_model("gpt2kit")
class GPT2KitLM(TemplateLM):  # type: ignore[misc]  # the harness has no types to subclass
    """A GPT-2 that answers the requests of lm-evaluation-harness.

    Args:
        pretrained: A folder, a hub name, or a model with its tokenizer given too.
        tokenizer: Its folder, name or object; by default that of `pretrained`.
        revision: Branch, tag or commit on the hub; by default main.
        dtype: How the weights are held: float32 (the default), bfloat16, float16, float64, or auto, as saved.
        device: cpu, cuda, cuda:1; by default a CUDA device where there is one. Where there is none, cuda:0 is
            the CPU, with a warning: the harness's command line says cuda:0 where nobody says anything.
        batch_size: Rows that go through the model at once; "auto" is as many as `model.score` takes.
        max_length: Positions to use, at most n_positions.
        max_gen_toks: What a task may write where it does not say.
        max_batch_size: Not there: a batch is bounded by its positions.

    Raises:
        InputError: An argument that cannot be honoured.

    Source:
        lm-evaluation-harness 0.4.13, api/model.py, TemplateLM; models/huggingface.py for windows and
        truncation.
    """

    def __init__(
        self,
        pretrained: Any = "pocket",
        *,
        tokenizer: Any = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = MOST_NEW_TOKENS,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if max_batch_size is not None:
            raise InputError("max_batch_size is not there: give batch_size, or batch_size='auto'.")
        self.batch_size = _rows_at_once(batch_size)
        check_count("max_length", max_length)
        check_count("max_gen_toks", max_gen_toks)
        self._device = _device(device)
        model, self.tokenizer = _load(pretrained, tokenizer, revision, dtype)
        self.model = model.to(self._device).eval()
        positions = self.model.config.n_positions
        self.max_length = positions if max_length is None else max_length
        if self.max_length > positions:
            raise InputError(f"max_length={max_length} should be 1 to {positions}, the model's n_positions.")
        self.max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        if self.tokenizer.eos_token_id is None:
            raise InputError("The tokenizer has no eos_token, which the harness needs; give it one.")
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text: bos, else eos."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """What the harness keys its cache of requests by."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Turn a text into tokens; by default with what the tokenizer adds, unless it begins with it."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = bos is None or not string.startswith(str(bos))
        ids: list[int] = self.tokenizer(string, add_special_tokens=add_special_tokens, verbose=False)[
            "input_ids"
        ]
        return ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write a chat as one text, by the tokenizer's template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Score continuations: the sum of their log p, and whether greedy decoding would write them.

        White space alone is no context, because it went to the continuation: the prefix stands there.
        """
        pairs = []
        for request, given, continuation in requests:
            if not continuation:
                raise InputError(f"The continuation of the request {request!r} adds no token to its context.")
            context = given or [self.prefix_token_id]
            pairs.append(Pair(np.array([*context, *continuation], np.int64), len(context)))
        with tqdm(total=0, desc="Scoring tokens", disable=disable_tqdm) as bar:

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            scores = score_pairs(
                self.model,
                pairs,
                window=self.max_length,
                stride=self.max_length,  # one window where the continuation fits into one, as in the harness
                batch_size=self.batch_size,
                greedy=True,
                progress=tell,
            )
        answers = [(score.log_prob, bool(np.all(score.greedy))) for score in scores]
        for request, answer in zip(requests, answers, strict=True):
            if request[0] is not None:  # windows of a long text have no name in the cache
                self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, in the harness's own disjoint windows behind the prefix token."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            for pair in get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            ):
                context, continuation = make_disjoint_window(pair)
                windows.append((None, context, continuation))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (log_prob, _) in zip(
            owners, self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm), strict=True
        ):
            totals[number] += log_prob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Write on from contexts until a stop sequence; greedily unless the task says otherwise."""
        texts = [""] * len(requests)
        order = sorted(range(len(requests)), key=lambda number: repr(requests[number].args[1]))
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm) as bar:
            for _, numbers in groupby(order, key=lambda number: repr(requests[number].args[1])):
                alike = list(numbers)
                options = requests[alike[0]].args[1]
                prompts = [self.tok_encode(requests[number].args[0]) for number in alike]
                for batch in batches([*map(len, prompts)], rows=self.batch_size or GENERATED_TOGETHER):
                    written = self._write([prompts[place] for place in batch], options)
                    for place, text in zip(batch, written, strict=True):
                        texts[alike[place]] = text
                        self.cache_hook.add_partial("generate_until", requests[alike[place]].args, text)
                    bar.update(len(batch))
        return texts

    def _write(self, prompts: list[list[int]], options: dict[str, Any]) -> list[str]:
        """Write on from a batch of prompts with the same options."""
        settings = normalize_gen_kwargs(options, self.max_gen_toks)
        end = self.tokenizer.decode([self.eot_token_id])
        stops = handle_stop_sequences(settings.pop("until", None), eos=end)
        count = settings.pop("max_gen_toks")
        room = self.max_length - count
        if room < 1:
            raise InputError(
                f"max_gen_toks={count} leaves no room for a context in {self.max_length} positions: give "
                "fewer in the task's generation_kwargs or in the model's arguments."
            )
        if not settings.get("do_sample"):
            settings.pop("temperature", None)  # 0, if any
            settings = {**GREEDY, **settings}
        kept = [prompt[-room:] or [self.prefix_token_id] for prompt in prompts]
        longest = max(map(len, kept))
        pad = self.eot_token_id
        rows = [[pad] * (longest - len(prompt)) + prompt for prompt in kept]
        masks = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in kept]
        output = self.model.generate(
            torch.tensor(rows, device=self.model.device),  # [B, T]
            attention_mask=torch.tensor(masks, device=self.model.device),  # [B, T]
            max_new_tokens=count,
            stop_strings=[stop for stop in stops if stop],
            tokenizer=self.tokenizer,
            eos_token_id=self.eot_token_id,
            pad_token_id=pad,
            **{"do_sample": False, **settings},
        )
        return [
            postprocess_generated_text(
                self.tokenizer.decode(row[longest:], clean_up_tokenization_spaces=False), stops, None
            )
            for row in output.tolist()
        ]


def _load(pretrained: Any, tokenizer: Any, revision: str | None, dtype: str | None) -> tuple[Any, Any]:
    """Return model and tokenizer, loaded unless they are objects already."""
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype should be {', '.join(DTYPES)}, got {dtype!r}.")
    if isinstance(pretrained, str):
        model = GPT2LMHeadModel.from_pretrained(
            pretrained, revision=revision or "main", torch_dtype=DTYPES[dtype or "float32"]
        )
        tokenizer = pretrained if tokenizer is None else tokenizer
    elif tokenizer is None:
        raise InputError("A model was given as an object; give tokenizer= too.")
    elif dtype is not None or revision is not None:
        raise InputError(
            "dtype and revision are for loading, and a model was given as an object: leave them out."
        )
    else:
        model = pretrained
    if isinstance(tokenizer, str):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, revision=revision or "main")
    return model, tokenizer


def _device(name: str | None) -> torch.device:
    """Return the device of a name; the CPU for cuda where there is none, as the harness's own models do."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"PyTorch knows no device {name!r}; give cpu, cuda, cuda:1 or mps.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("There is no device %s here: the CPU does the work.", name)
        return torch.device("cpu")
    return device


def _rows_at_once(batch_size: int | str | None) -> int | None:
    """Read the harness's batch size: a number, or "auto", which is None here."""
    if batch_size is None or re.fullmatch(r"auto(:\d+)?", str(batch_size)):
        return None
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise InputError(f"batch_size should be a whole number of at least 1 or 'auto', got {batch_size!r}.")
    return int(batch_size)


def main() -> None:
    """Run the harness's own command line with this model registered."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
