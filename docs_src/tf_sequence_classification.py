"""One label for a text, in TensorFlow, and a loss for other labels."""

import tensorflow as tf

from gpt2kit import AutoTokenizer, TFGPT2ForSequenceClassification

NAME = "microsoft/DialogRPT-updown"  # GPT-2 with a score for replies in a conversation

tokenizer = AutoTokenizer.from_pretrained(NAME)
model = TFGPT2ForSequenceClassification.from_pretrained(NAME)

batch = tokenizer("The kettle is on, the cups are out", return_tensors="tf")
logits = model(**batch).logits  # [B, N]
predicted = int(tf.argmax(logits, axis=-1)[0])
print("label", model.config.id2label[predicted])

# With one label it is a regression: the label is a number, and the loss a mean of squares.
num_labels = len(model.config.id2label)
model = TFGPT2ForSequenceClassification.from_pretrained(NAME, num_labels=num_labels)
loss = model(**batch, labels=tf.constant(1)).loss  # [B]

# Another number of labels needs another head; the body is kept and the head starts at random.
three = TFGPT2ForSequenceClassification.from_pretrained(NAME, num_labels=3, ignore_mismatched_sizes=True)
loss_of_three = three(**batch, labels=tf.constant([2])).loss  # [B]
