"""Fine-tune in Keras: rows become batches, compile() takes the model's own loss, and fit() learns."""

import math
import tempfile

import keras

from gpt2kit import AutoTokenizer, TFGPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("gpt2")
model = TFGPT2LMHeadModel.from_pretrained("gpt2")

# One long text, cut into blocks of one length: no padding, and labels are the ids themselves.
text = "The kettle is on, the cups are out. The tea is hot, the milk is cold. " * 12
ids = tokenizer(text)["input_ids"]
blocks = [ids[start : start + 16] for start in range(0, len(ids) - 15, 16)]
rows = [{"input_ids": block, "labels": block} for block in blocks]

learn = model.prepare_tf_dataset(rows[:-4], batch_size=4, shuffle=True)
check = model.prepare_tf_dataset(rows[-4:], batch_size=4, shuffle=False)

# Without a loss the model's own is taken. XLA would still be compiling when so short a run is over.
model.compile(optimizer=keras.optimizers.AdamW(1e-2, weight_decay=0.01), jit_compile=False)
before = model.evaluate(check, verbose=0)
history = model.fit(learn, validation_data=check, epochs=3, shuffle=False, verbose=0).history
print(f"perplexity {math.exp(before):.1f}, then {math.exp(history['val_loss'][-1]):.1f}")

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)  # PyTorch and JAX open it, too
    again = TFGPT2LMHeadModel.from_pretrained(folder)
