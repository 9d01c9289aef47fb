# The commands of this project. `make` alone lists them. All they need is Python 3.11 or newer with pip.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ROOMS  := flax tensorflow
COMPANIONS := $(VENV)-companions
# As many processes as there are cores; a file of tests stays in one, which keeps what it has compiled.
PYTEST := -m pytest --numprocesses auto --dist loadfile
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test alone companions check format bench golden wheel clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.torch ## install gpt2kit with PyTorch and let the pocket model write a text
	@$(BIN)/gpt2kit generate "ROMEO:" --seed 7

test: $(VENV)/.dev ## install what the tests need and run them all
	@$(BIN)/python $(PYTEST)

alone: $(ROOMS:%=alone-%) ## test the rooms of Flax and of TensorFlow, each where no other framework is installed

# What needs another framework is skipped there, and what takes long is left out: `make test` has run both.
alone-%: $(VENV)-%/.ready
	@$(VENV)-$*/bin/python -c 'from importlib.util import find_spec; own = {"flax": ("jax", "flax"), "tensorflow": ("tensorflow", "keras")}["$*"]; found = [name for name in ("torch", "jax", "flax", "tensorflow", "keras", "transformers") if name not in own and find_spec(name)]; assert not found, f"installed in $(VENV)-$*: {found}"'
	@$(VENV)-$*/bin/python $(PYTEST) -m 'not slow' tests/rooms/$* tests/agreement/test_goldens.py tests/contracts \
		tests/apps/test_*_$*.py tests/apps/test_*_$*_*.py tests/docs/test_page_code.py tests/docs/test_docs_src_$*.py \
		tests/unit/test_checkpoint_*.py tests/unit/test_tokenization_batch.py

companions: $(COMPANIONS)/.ready ## test with lm-evaluation-harness, PEFT and accelerate, in an environment of its own
	@$(COMPANIONS)/bin/python $(PYTEST) tests/apps/test_harness.py tests/rooms/torch/test_torch_companions.py

check: $(VENV)/.dev ## format, lint, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## write the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## compare speed with transformers, in an environment of its own
	@$(BIN)/python benchmarks/bench_generate.py

golden: $(VENV)/.dev ## record the reference numbers again from transformers 4.34.0
	@$(BIN)/python tools/record_golden.py

wheel: $(VENV)/.dev ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation

clean: ## remove what these commands made
	rm -rf $(VENV) .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# A marker file for each set of packages, made anew when the lists change.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit("gpt2kit needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing gpt2kit and PyTorch into $(VENV) (once; a few minutes of downloads) ..."
	@$(PIP) --editable '.[torch]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	@echo "Installing what development needs into $(VENV) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

$(ROOMS:%=$(VENV)-%/.ready): $(VENV)-%/.ready: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing gpt2kit and what its room of $* needs into $(VENV)-$* ..."
	@$(PYTHON) -m venv $(VENV)-$*
	@$(VENV)-$*/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
		--editable '.[$*,test]'
	@touch $@

$(COMPANIONS)/.ready: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing the libraries that take gpt2kit's models into $(COMPANIONS) ..."
	@$(PYTHON) -m venv $(COMPANIONS)
	@$(COMPANIONS)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
		--editable '.[dev,eval]' 'accelerate>=1.15' 'peft>=0.21'
	@touch $@
