"""The body alone, in JAX: one vector for each token of a text."""

from gpt2kit import AutoTokenizer, FlaxGPT2Model

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = FlaxGPT2Model.from_pretrained("gpt2")

batch = tokenizer("The kettle is on, the cups are out", return_tensors="jax")
output = model(**batch)
last_hidden_state = output.last_hidden_state  # [B, T, D]
print(last_hidden_state.shape)
