"""The two switches that keep attention in range when a large GPT-2 is trained in half precision."""

import torch

from gpt2kit import GPT2Config, GPT2LMHeadModel

config = GPT2Config(
    vocab_size=101,
    n_positions=32,
    n_embd=48,
    n_layer=3,
    n_head=4,
    scale_attn_by_inverse_layer_idx=True,  # the scores of layer i are divided by i + 1
    reorder_and_upcast_attn=True,  # scores are scaled before they are multiplied, and computed in float32
)
model = GPT2LMHeadModel(config).train()

ids = torch.randint(config.vocab_size, (2, 17))  # [B, T]
with torch.autocast("cpu", dtype=torch.bfloat16):
    loss = model(ids, labels=ids).loss
loss.backward()
print(f"loss {loss.item():.2f}")
