"""Write on from a prompt in TensorFlow, token by token, and tell how good each token was."""

import numpy as np
import tensorflow as tf

from gpt2kit import AutoTokenizer, TFGPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = TFGPT2LMHeadModel.from_pretrained("gpt2")
model.generation_config.pad_token_id = tokenizer.eos_token_id
prompt = tokenizer("The kettle is on,", return_tensors="tf")
length = prompt["input_ids"].shape[1]
kept = {"return_dict_in_generate": True, "output_scores": True}

greedy = model.generate(**prompt, max_new_tokens=5, **kept)
scores = model.compute_transition_scores(greedy.sequences, greedy.scores, normalize_logits=True)
for token, score in zip(greedy.sequences[0, length:], scores[0], strict=True):
    print(f"{tokenizer.decode(token)!r}: {np.exp(score):.2%}")

# The scores of beams add up to those of the texts.
beams = model.generate(**prompt, max_new_tokens=5, num_beams=4, num_return_sequences=2, **kept)
scores = model.compute_transition_scores(beams.sequences, beams.scores, beams.beam_indices)
lengths = length + np.sum(scores.numpy() < 0, axis=1)
added_up = np.sum(scores, axis=1) / lengths**model.generation_config.length_penalty
print(np.allclose(added_up, beams.sequences_scores))

drawn = model.generate(**prompt, max_new_tokens=5, do_sample=True, top_k=50, seed=(42, 0))
again = model.generate(**prompt, max_new_tokens=5, do_sample=True, top_k=50, seed=(42, 0))
print("the same seed, the same text:", bool(tf.reduce_all(drawn == again)))
