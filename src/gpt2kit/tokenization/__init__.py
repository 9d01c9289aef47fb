"""Text to tokens and back: GPT-2's byte-level BPE, once to read (slow) and once to run fast.

Read in this order: bytes.py, bpe.py, slow.py; then base.py, which both tokenizers share.
"""

from __future__ import annotations

from gpt2kit.tokenization.auto import AutoTokenizer
from gpt2kit.tokenization.batch import BatchEncoding
from gpt2kit.tokenization.fast import GPT2TokenizerFast
from gpt2kit.tokenization.slow import GPT2Tokenizer
from gpt2kit.tokenization.special import AddedToken

__all__ = ["AddedToken", "AutoTokenizer", "BatchEncoding", "GPT2Tokenizer", "GPT2TokenizerFast"]
