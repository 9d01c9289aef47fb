"""Text into ids and back; a space before a word is a part of its token."""

from gpt2kit import GPT2Tokenizer

tokenizer = GPT2Tokenizer.from_pretrained("gpt2")

at_the_start = tokenizer("Hello world")["input_ids"]
after_a_space = tokenizer(" Hello world")["input_ids"]
print(at_the_start, after_a_space)

# A tokenizer that puts this space before every text treats a first word as it treats all others.
spacious = GPT2Tokenizer.from_pretrained("gpt2", add_prefix_space=True)
print(spacious("Hello world")["input_ids"])
print(spacious.decode(after_a_space))
