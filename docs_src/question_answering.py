"""Where in a text the answer to a question begins and ends."""

import torch

from gpt2kit import AutoTokenizer, GPT2ForQuestionAnswering

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = GPT2ForQuestionAnswering.from_pretrained("gpt2")  # the head is new, and random until it is trained

question, text = "Who poured the tea?", "It was the Hatter who poured the tea"
batch = tokenizer(question, text, return_tensors="pt")
with torch.no_grad():
    output = model(**batch)
first, last = output.start_logits.argmax(), output.end_logits.argmax()
answer = tokenizer.decode(batch.input_ids[0, first : last + 1])

# Training needs the place of the answer, counted in tokens; " Hatter" is two of them.
tokens = batch.tokens()
start_positions = torch.tensor([tokens.index("ĠH")])
end_positions = torch.tensor([tokens.index("atter")])
output = model(**batch, start_positions=start_positions, end_positions=end_positions)
loss = output.loss
loss.backward()
