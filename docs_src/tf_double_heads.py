"""Two heads in TensorFlow: one scores the next token, the other which of several endings is the right one."""

import tensorflow as tf

from gpt2kit import AutoTokenizer, TFGPT2DoubleHeadsModel

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = TFGPT2DoubleHeadsModel.from_pretrained("gpt2")

# A token to judge a text by; its embedding is random until it is trained.
tokenizer.add_special_tokens({"cls_token": "[CLS]"})
embeddings = model.resize_token_embeddings(len(tokenizer))

endings = ["The kettle is on, time for tea [CLS]", "The kettle is on, time for bed [CLS]"]
rows = [tokenizer.encode(ending) for ending in endings]
places = [row.index(tokenizer.cls_token_id) for row in rows]

input_ids = tf.constant([rows])  # [B, C, T]: one question with two choices
mc_token_ids = tf.constant([places])  # [B, C]: where in each choice its [CLS] stands

output = model(input_ids, mc_token_ids=mc_token_ids)
lm_logits, mc_logits = output[:2]  # [B, C, T, V], [B, C]
print("the better ending:", endings[int(tf.argmax(mc_logits[0]))])

# 4.34's TensorFlow class takes no labels; this one has a loss for each head.
output = model(input_ids, mc_token_ids=mc_token_ids, labels=input_ids, mc_labels=tf.constant([0]))
print("losses of", output.loss.shape, output.mc_loss.shape)
