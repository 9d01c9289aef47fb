"""How likely the model finds a text, in TensorFlow: its loss, the gradient of it, and the next token."""

import tensorflow as tf

from gpt2kit import AutoTokenizer, TFGPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = TFGPT2LMHeadModel.from_pretrained("gpt2")
batch = tokenizer("The kettle is on, the cups are out", return_tensors="tf")

with tf.GradientTape() as tape:
    output = model(batch, labels=batch["input_ids"])  # the model shifts the labels itself
    loss = output.loss  # [1]: the mean over the predicted tokens
gradient = tape.gradient(loss, model.trainable_weights[0].value)  # [V, D]: of the token embeddings
print(f"a perplexity of {tf.exp(loss)[0]:.1f} over {batch['input_ids'].shape[1] - 1} predictions")

next_token_logits = output.logits[:, -1]  # [B, V]
print("next comes", repr(tokenizer.decode(tf.argmax(next_token_logits, axis=-1))))
