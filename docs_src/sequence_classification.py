"""One label for a text, and training on other labels."""

import torch

from gpt2kit import AutoTokenizer, GPT2ForSequenceClassification

NAME = "microsoft/DialogRPT-updown"  # GPT-2 with a score for replies in a conversation

tokenizer = AutoTokenizer.from_pretrained(NAME)
model = GPT2ForSequenceClassification.from_pretrained(NAME)

batch = tokenizer("The kettle is on, the cups are out", return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits  # [B, N]
predicted = logits.argmax().item()
print("label", model.config.id2label[predicted])

# With one label it is a regression: the label is a number, and the loss a mean of squares.
num_labels = len(model.config.id2label)
model = GPT2ForSequenceClassification.from_pretrained(NAME, num_labels=num_labels)
loss = model(**batch, labels=torch.tensor([1.0])).loss

# Another number of labels needs another head; the body is kept and the head starts at random.
three = GPT2ForSequenceClassification.from_pretrained(NAME, num_labels=3, ignore_mismatched_sizes=True)
loss_of_three = three(**batch, labels=torch.tensor([2])).loss
loss_of_three.backward()
