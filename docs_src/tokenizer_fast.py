"""The fast tokenizer: the same ids, and where in the text each of them comes from."""

from gpt2kit import GPT2TokenizerFast

tokenizer = GPT2TokenizerFast.from_pretrained("gpt2")

at_the_start = tokenizer("Hello world")["input_ids"]
after_a_space = tokenizer(" Hello world")["input_ids"]
print(at_the_start, after_a_space)

# Words that were cut already need the space before each of them.
spacious = GPT2TokenizerFast.from_pretrained("gpt2", add_prefix_space=True)
encoding = spacious(["Hello", "world"], is_split_into_words=True, return_offsets_mapping=True)
print(encoding["input_ids"], encoding.word_ids(), encoding["offset_mapping"])
