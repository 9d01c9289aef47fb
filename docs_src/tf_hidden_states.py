"""Text into vectors in TensorFlow, one for each token; the arguments come in one of three forms."""

import tensorflow as tf

from gpt2kit import AutoTokenizer, TFGPT2Model

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = TFGPT2Model.from_pretrained("gpt2")

batch = tokenizer("The kettle is on, the cups are out", return_tensors="tf")
last_hidden_state = model(batch).last_hidden_state  # [B, T, D]; all arguments in one mapping
print(last_hidden_state.shape)

by_name = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
in_a_list = model([batch["input_ids"], None, batch["attention_mask"]])  # in the order of `call`
for output in (by_name, in_a_list):
    print(bool(tf.reduce_all(output.last_hidden_state == last_hidden_state)))
