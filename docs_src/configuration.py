"""A model of your own: choose the sizes, get random weights, ask the model what it was made with."""

from gpt2kit import GPT2Config, GPT2Model

config = GPT2Config()  # without arguments: the sizes of the smallest GPT-2 that was released
smaller = GPT2Config(n_layer=2, n_head=4, n_embd=64)  # anything that is not named keeps its default

model = GPT2Model(smaller)
print(f"{model.num_parameters():,} parameters in {model.config.num_hidden_layers} layers")
