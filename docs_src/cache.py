"""Compute nothing twice: keys and values of the text so far go into the next call as past_key_values."""

import torch

from gpt2kit import AutoTokenizer, GPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = GPT2LMHeadModel.from_pretrained("gpt2")

text = tokenizer("The kettle is on, the cups are out", return_tensors="pt").input_ids  # [B, T]
with torch.no_grad():
    whole = model(text).logits[:, -1]  # [B, V]
    before = model(text[:, :-1], use_cache=True)
    step = model(text[:, -1:], past_key_values=before.past_key_values).logits[:, -1]  # [B, V]
print("the largest difference:", (whole - step).abs().max().item())
