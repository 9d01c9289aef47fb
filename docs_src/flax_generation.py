"""Write on from a prompt in JAX, by compiled programs: the likeliest token each time, or drawn by chance."""

import jax

from gpt2kit import AutoTokenizer, FlaxGPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = FlaxGPT2LMHeadModel.from_pretrained("gpt2")
prompt = tokenizer("The kettle is on,", return_tensors="jax")

greedy = model.generate(**prompt, max_new_tokens=8, pad_token_id=tokenizer.eos_token_id)
print(tokenizer.decode(greedy.sequences[0]))

options = {"max_new_tokens": 8, "do_sample": True, "top_k": 50, "num_return_sequences": 3}
for temperature in (0.8, 1.2):  # another number: nothing is compiled again
    drawn = model.generate(
        **prompt,
        **options,
        temperature=temperature,
        prng_key=jax.random.PRNGKey(42),
        pad_token_id=tokenizer.eos_token_id,
    )
    for row in tokenizer.batch_decode(drawn.sequences, skip_special_tokens=True):
        print(row)
print(model.programs.traced, "programs")
