"""One label for each token; a word of several tokens gets several."""

import torch

from gpt2kit import AutoTokenizer, GPT2ForTokenClassification

NAME = "brad1141/gpt2-finetuned-comp2"  # GPT-2 that marks the parts of an argument

tokenizer = AutoTokenizer.from_pretrained(NAME)
model = GPT2ForTokenClassification.from_pretrained(NAME)

text = "Tea should be drunk hot because it warms the hands"
batch = tokenizer(text, add_special_tokens=False, return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits  # [B, T, N]
predicted = logits.argmax(-1)  # [B, T]
names = [model.config.id2label[label.item()] for label in predicted[0]]
for token, name in zip(batch.tokens(), names, strict=True):
    print(f"{token:10} {name}")

labels = predicted
loss = model(**batch, labels=labels).loss
print(round(loss.item(), 2))
