"""Doors that look at what lies behind a name, and open it only if it is a GPT-2."""

from gpt2kit import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

config = AutoConfig.from_pretrained("gpt2")
body = AutoModel.from_pretrained("gpt2")
writer = AutoModelForCausalLM.from_pretrained("gpt2")
judge = AutoModelForSequenceClassification.from_config(config)  # random weights
print(type(config).__name__, type(body).__name__, type(writer).__name__, type(judge).__name__)

try:
    AutoModel.from_pretrained("google-bert/bert-base-uncased")
except ValueError as error:
    print(error)
