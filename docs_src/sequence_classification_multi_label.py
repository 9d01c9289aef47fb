"""Any number of labels for a text: each is decided by itself, and trained with a one or a zero."""

import torch
import torch.nn.functional as F

from gpt2kit import AutoTokenizer, GPT2ForSequenceClassification

NAME = "microsoft/DialogRPT-updown"
KIND = "multi_label_classification"

tokenizer = AutoTokenizer.from_pretrained(NAME)
model = GPT2ForSequenceClassification.from_pretrained(NAME, problem_type=KIND)

batch = tokenizer("The kettle is on, the cups are out", return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits  # [B, N]
predicted = torch.arange(logits.shape[-1])[torch.sigmoid(logits)[0] > 0.5]
print("labels", [model.config.id2label[int(label)] for label in predicted])

num_labels = len(model.config.id2label)
model = GPT2ForSequenceClassification.from_pretrained(NAME, num_labels=num_labels, problem_type=KIND)
labels = F.one_hot(predicted[None], num_classes=num_labels).sum(dim=1).to(torch.float)  # [B, N]
loss = model(**batch, labels=labels).loss
loss.backward()
