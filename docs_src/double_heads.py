"""Two heads: one scores the next token, the other which of several endings is the right one."""

import torch

from gpt2kit import AutoTokenizer, GPT2DoubleHeadsModel

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = GPT2DoubleHeadsModel.from_pretrained("gpt2")

# GPT-2 has no token to judge a whole text by. A new one goes into the vocabulary and gets an embedding,
# which is random until it is trained.
tokenizer.add_special_tokens({"cls_token": "[CLS]"})
embeddings = model.resize_token_embeddings(len(tokenizer))

endings = ["The kettle is on, time for tea [CLS]", "The kettle is on, time for bed [CLS]"]
rows = [tokenizer.encode(ending) for ending in endings]
places = [row.index(tokenizer.cls_token_id) for row in rows]

input_ids = torch.tensor([rows])  # [B, C, T]: one question with two choices
mc_token_ids = torch.tensor([places])  # [B, C]: where in each choice its [CLS] stands

with torch.no_grad():
    output = model(input_ids, mc_token_ids=mc_token_ids)
lm_logits, mc_logits = output.logits, output.mc_logits  # [B, C, T, V], [B, C]
print("the better ending:", endings[int(mc_logits.argmax())])

# Both heads are trained at once, each with labels of its own.
output = model(input_ids, mc_token_ids=mc_token_ids, labels=input_ids, mc_labels=torch.tensor([0]))
(output.loss + output.mc_loss).backward()
