"""Write on from a prompt: the likeliest token each time, or drawn by chance, or by keeping several beams."""

from gpt2kit import AutoModelForCausalLM, AutoTokenizer, TextStreamer, set_seed

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = AutoModelForCausalLM.from_pretrained("gpt2")
prompt = tokenizer("The kettle is on,", return_tensors="pt")

greedy = model.generate(**prompt, max_new_tokens=8, pad_token_id=tokenizer.eos_token_id)
print(tokenizer.decode(greedy[0]))

set_seed(42)
drawn = model.generate(
    **prompt,
    max_new_tokens=8,
    do_sample=True,
    top_k=50,
    top_p=0.95,
    temperature=0.8,
    num_return_sequences=3,
    pad_token_id=tokenizer.eos_token_id,
)
for row in tokenizer.batch_decode(drawn, skip_special_tokens=True):
    print(row)

beams = model.generate(**prompt, max_new_tokens=8, num_beams=4, pad_token_id=tokenizer.eos_token_id)
print(tokenizer.decode(beams[0]))

streamer = TextStreamer(tokenizer)  # prints while the model writes
streamed = model.generate(**prompt, max_new_tokens=8, streamer=streamer, pad_token_id=tokenizer.eos_token_id)
