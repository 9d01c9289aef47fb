"""Imports: what is loaded when, and what it costs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2kit

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax", "transformers"}
ROOMS = ("gpt2kit.torch", "gpt2kit.flax", "gpt2kit.tensorflow")
# A class of each room, and the libraries that the room is written with: what it may load, and no other.
DOORS = {
    "gpt2kit.torch": ("GPT2LMHeadModel", {"torch"}),
    "gpt2kit.flax": ("FlaxGPT2LMHeadModel", {"jax", "flax"}),
    "gpt2kit.tensorflow": ("TFGPT2Tokenizer", {"tensorflow", "keras"}),
}
# Rooms, the commands that run in one (imported only when they run), and what only a pickle needs.
NEEDS_FRAMEWORK = (
    *ROOMS,
    "gpt2kit.cli.torch",
    "gpt2kit.cli.flax",
    "gpt2kit.cli.tensorflow",
    "gpt2kit.__main__",
    "gpt2kit.cli.evaluator",
    "gpt2kit.harness",
)


def modules_after(*imports: str) -> set[str]:
    """Import modules in a fresh interpreter and return what is then loaded."""
    program = f"import sys, json, {', '.join(imports)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def asked_for_by(program: str) -> set[str]:
    """Run a program in a fresh interpreter and return the frameworks that it looked for, there or not."""
    watch = f"""
import json, sys

class Watch:
    def find_spec(name, path=None, target=None):
        if name in {sorted(FRAMEWORKS)}:
            asked.add(name)

asked = set()
sys.meta_path.insert(0, Watch)
"""
    program = f"{watch}\n{program}\nprint(json.dumps(sorted(asked)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def needs(module: str) -> None:
    """Skip a test of a room that is not installed."""
    for framework in DOORS.get(module, ("", ()))[1]:
        pytest.importorskip(framework, reason=f"{module} is not installed")


def core_modules() -> list[str]:
    """Every module of the package that must do without a framework."""
    package = Path(gpt2kit.__file__).parent
    paths = (path.relative_to(package.parent).with_suffix("") for path in sorted(package.rglob("*.py")))
    found = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    return [name for name in found if not name.startswith(NEEDS_FRAMEWORK)]


def processor_seconds(command: list[str], tries: int = 5) -> float:
    """Return the least processor time of several runs; other work on the machine adds nothing to it."""
    spent = []
    for _ in range(tries):
        before = os.times()
        subprocess.run(command, capture_output=True, check=True)
        after = os.times()
        spent.append(
            after.children_user - before.children_user + after.children_system - before.children_system
        )
    return min(spent)


def test_import_gpt2kit_loads_no_framework_and_not_even_numpy():
    loaded = modules_after("gpt2kit")
    assert not loaded & (FRAMEWORKS | {"numpy", "rich", "typer", "tokenizers", "huggingface_hub"})


def test_import_gpt2kit_takes_less_than_150_ms():
    program = "import time; start = time.process_time(); import gpt2kit; print(time.process_time() - start)"
    times = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(5)]
    assert min(times) < 0.15


def test_no_core_module_loads_a_framework():
    modules = core_modules()
    assert "gpt2kit.config" in modules
    assert "gpt2kit.checkpoint.layout" in modules
    assert "gpt2kit.cli.generate" in modules
    assert not modules_after(*modules) & FRAMEWORKS


def test_each_core_module_can_be_imported_first():
    """No module leans on another one of ours having been imported before it."""
    program = """
import importlib, sys
for module in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "gpt2kit"]:
        del sys.modules[name]
    importlib.import_module(module)
"""
    command = [sys.executable, "-c", program, *core_modules()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_a_class_of_a_room_loads_its_framework_and_looks_for_no_other(room: str):
    needs(room)
    name, framework = DOORS[room]
    of_itself = asked_for_by(f"import {', '.join(framework)}") - framework  # TensorFlow looks for JAX
    assert asked_for_by(f"import gpt2kit; gpt2kit.{name}") - of_itself == framework
    assert modules_after(room) & FRAMEWORKS - of_itself == framework


@pytest.mark.parametrize("missing", ["jax", "jaxlib", "flax"])
def test_without_jax_or_flax_a_model_and_the_command_say_what_to_install(missing: str):
    """None in sys.modules makes an import fail as if nothing were installed."""
    hidden = f"import sys; sys.modules['{missing}'] = None; "
    program = hidden + "import gpt2kit; gpt2kit.FlaxGPT2LMHeadModel"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingDependencyError" in done.stderr
    assert "gpt2kit[flax]" in done.stderr
    command = "sys.argv = ['gpt2kit', 'generate', 'a', '--framework', 'flax']"
    program = hidden + f"{command}; from gpt2kit.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "gpt2kit[flax]" in done.stderr


def test_without_tensorflow_its_tokenizer_says_what_to_install():
    """None in sys.modules makes an import fail as if nothing were installed."""
    program = "import sys; sys.modules['tensorflow'] = None; import gpt2kit; gpt2kit.TFGPT2Tokenizer"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingDependencyError" in done.stderr
    assert "gpt2kit[tensorflow]" in done.stderr


def test_without_pytorch_a_model_and_the_command_say_what_to_install():
    """None in sys.modules makes an import fail as if nothing were installed."""
    hidden = "import sys; sys.modules['torch'] = None; "
    program = hidden + "import gpt2kit; gpt2kit.GPT2LMHeadModel"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingDependencyError" in done.stderr
    assert "gpt2kit[torch]" in done.stderr
    program = hidden + "sys.argv = ['gpt2kit', 'generate', 'a']; from gpt2kit.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "gpt2kit[torch]" in done.stderr


def test_all_is_the_table_of_public_names_and_the_stub_tells_the_same():
    spec = importlib.util.spec_from_file_location("write_stub", ROOT / "tools" / "write_stub.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.STUB.read_text(encoding="utf-8") == tool.render(), "run: python tools/write_stub.py"


@pytest.mark.parametrize("name", gpt2kit.__all__)
def test_every_public_name_is_there(name):
    needs(gpt2kit._MODULE_OF.get(name, ""))
    assert getattr(gpt2kit, name) is not None
    assert name in dir(gpt2kit)


@pytest.mark.parametrize("module", gpt2kit._PUBLIC)
def test_a_public_name_is_public_where_it_lives(module: str):
    needs(module)
    assert set(gpt2kit._PUBLIC[module]) <= set(importlib.import_module(module).__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="GPT3"):
        gpt2kit.GPT3  # noqa: B018


def test_help_takes_less_than_half_a_second_and_loads_no_framework():
    assert processor_seconds([sys.executable, "-m", "gpt2kit", "--help"]) < 0.5
    loaded = modules_after("gpt2kit.cli.main")
    assert not loaded & (FRAMEWORKS | {"numpy", "tokenizers", "huggingface_hub"})
