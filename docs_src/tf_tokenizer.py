"""The tokenizer as a part of the model: text goes in, and what comes out needs no Python to be made."""

import keras
import tensorflow as tf

from gpt2kit import AutoTokenizer, TFGPT2LMHeadModel, TFGPT2Tokenizer

tokenizer = AutoTokenizer.from_pretrained("gpt2")
in_graph = TFGPT2Tokenizer.from_tokenizer(tokenizer)
the_same = TFGPT2Tokenizer.from_pretrained("gpt2")
print(in_graph(["Hello world"])["input_ids"].to_list(), the_same(["Hello world"])["input_ids"].to_list())


class Scorer(keras.Model):
    """Turn texts into the scores of the next token."""

    def __init__(self):
        super().__init__()
        self.tokenizer = TFGPT2Tokenizer.from_pretrained("gpt2", max_length=9, pad_token_id=50256)
        self.model = TFGPT2LMHeadModel.from_pretrained("gpt2")

    def call(self, texts):
        """Return [B, V]."""
        batch = self.tokenizer(texts)
        last = tf.reduce_sum(batch["attention_mask"], axis=1) - 1  # [B]
        return tf.gather(self.model(batch).logits, last, axis=1, batch_dims=1)  # [B, V]


scorer = Scorer()
texts = tf.constant(["The kettle is on, the cups are out", "The kettle is"])
scores = tf.function(scorer)(texts)  # [B, V]
print(scores.shape)
