"""How likely the model finds a text: with labels a call returns the loss, beside the scores."""

import torch

from gpt2kit import AutoTokenizer, GPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = GPT2LMHeadModel.from_pretrained("gpt2")

batch = tokenizer("The kettle is on, the cups are out", return_tensors="pt")
with torch.no_grad():
    output = model(**batch, labels=batch["input_ids"])  # the model shifts the labels itself
loss, logits = output.loss, output.logits  # [], [B, T, V]
print(f"a perplexity of {loss.exp():.1f} over {logits.shape[1] - 1} predictions")
