"""The body alone: one vector for each token of a text."""

import torch

from gpt2kit import AutoTokenizer, GPT2Model

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = GPT2Model.from_pretrained("gpt2")

batch = tokenizer("The kettle is on, the cups are out", return_tensors="pt")
with torch.no_grad():
    output = model(**batch)
last_hidden_state = output.last_hidden_state  # [B, T, D]
print(last_hidden_state.shape)
