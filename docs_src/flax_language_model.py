"""How likely the model finds a text, in JAX: a function of the parameters, compiled, and its gradient."""

import jax
import jax.numpy as jnp

from gpt2kit import AutoTokenizer, FlaxGPT2LMHeadModel
from gpt2kit.flax.loss import next_token_loss

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = FlaxGPT2LMHeadModel.from_pretrained("gpt2")
batch = tokenizer("The kettle is on, the cups are out", return_tensors="np")


@jax.jit
@jax.value_and_grad
def loss_and_gradient(params, input_ids):
    """Return the mean over the predicted tokens, and how it changes with each parameter."""
    logits = model(input_ids, params=params).logits  # [B, T, V]
    return next_token_loss(logits, input_ids)  # []; it shifts the labels itself


loss, gradient = loss_and_gradient(model.params, batch["input_ids"])
print(f"a perplexity of {jnp.exp(loss):.1f} over {batch['input_ids'].shape[1] - 1} predictions")

logits = model(**batch).logits  # [B, T, V]
next_token_logits = logits[:, -1]  # [B, V]
print("next comes", repr(tokenizer.decode(next_token_logits.argmax(-1))))
