"""Write on from a prompt in one program that XLA compiles, for prompts of any length."""

import tensorflow as tf

from gpt2kit import AutoTokenizer, TFGPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("gpt2", padding_side="left", pad_token="<|endoftext|>")
model = TFGPT2LMHeadModel.from_pretrained("gpt2")
model.generation_config.pad_token_id = tokenizer.pad_token_id
texts = ["The kettle", "The kettle is on", "The kettle is on, the cups are"]

# As in code for 4.34: a function of one's own, and prompts padded to few lengths, or it is compiled for each.
write = tf.function(model.generate, jit_compile=True)
for text in texts:
    batch = tokenizer([text], padding=True, pad_to_multiple_of=8, return_tensors="tf")
    written = write(**batch, max_new_tokens=4)  # [B, T]
    print(tokenizer.decode(written[0], skip_special_tokens=True))
print("compiled", write.experimental_get_tracing_count(), "time")

# Here the model does both: it pads, and it keeps the program.
for text in texts:
    batch = tokenizer([text], return_tensors="tf")
    written = model.generate(**batch, max_new_tokens=4, jit_compile=True)  # [B, T]
    print(tokenizer.decode(written[0]))
print("compiled", model.programs.traced, "time")
