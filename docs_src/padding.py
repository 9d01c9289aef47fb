"""Texts of different lengths in one batch: positions are absolute, and the mask says where the text is."""

import torch

from gpt2kit import AutoTokenizer, GPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("gpt2", padding_side="right")
tokenizer.pad_token = tokenizer.eos_token  # GPT-2 has no token for padding
model = GPT2LMHeadModel.from_pretrained("gpt2")

texts = ["The kettle is on", "The kettle is on, the cups are out"]
batch = tokenizer(texts, padding=True, return_tensors="pt")
alone = tokenizer(texts[0], return_tensors="pt")
with torch.no_grad():
    padded = model(**batch).logits[0, : alone.input_ids.shape[1]]  # [T, V]
    unpadded = model(**alone).logits[0]  # [T, V]
print("the largest difference:", (padded - unpadded).abs().max().item())
