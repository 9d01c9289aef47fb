"""`gpt2kit doctor`: what is installed, which devices there are, and whether each computes right."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2kit.cli.console import note, show, stderr, write
from gpt2kit.cli.framework import ROOMS, Framework, part
from gpt2kit.errors import GPT2KitError

__all__ = ["doctor"]

LIBRARIES = ("gpt2kit", "numpy", "tokenizers", "safetensors", "huggingface_hub")
FRAMEWORKS = ("torch", "tensorflow", "jax", "jaxlib", "flax")
NOT_INSTALLED = "not installed"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Show versions and devices, and check each device's arithmetic.

    A tiny random model is computed on every device of every framework that is installed, and compared with
    gpt2kit's NumPy model in float64. If one differs by more than rounding can explain, the exit code is 1.

    [bold]Examples[/bold]

    gpt2kit doctor

    gpt2kit doctor --json
    """
    with stderr.status("checking the devices") if stderr.is_terminal else nullcontext():
        facts = examine()
    if as_json:
        write(json.dumps(facts, indent=2) + "\n")
    else:
        draw(facts)
    if not all(check["ok"] for check in facts["checks"]):
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Collect everything as plain data, the form that --json writes."""
    facts: dict[str, Any] = {
        "system": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
        },
        "versions": {name: version(name) for name in (*LIBRARIES, *FRAMEWORKS)},
        "hub": {"cache": str(hub_cache()), "exists": hub_cache().is_dir(), "offline": offline()},
        "devices": [],
        "checks": [],
    }
    for framework, room in ROOMS.items():
        if room.installed():
            devices, checks = compute(framework)
            facts["devices"] += devices
            facts["checks"] += checks
    return facts


def compute(framework: Framework) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Return the devices of a framework, and what came of the check on each of them."""
    from gpt2kit.cli.selfcheck import checks, failed

    told = {"framework": framework.value}
    try:
        computer = part(framework, "selfcheck")
        devices = computer.devices()
    except (GPT2KitError, ImportError, OSError, RuntimeError) as reason:
        # Libraries that do not fit together, or no driver.
        return [], [{**told, **failed(str(reason))}]
    found = checks(computer, [device["name"] for device in devices])
    return [{**told, **device} for device in devices], [{**told, **check} for check in found]


def version(distribution: str) -> str:
    """Look up the version of a library without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def processor() -> str:
    """Name the processor, as Linux or Python knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def hub_cache() -> Path:
    """Return the folder where huggingface_hub keeps downloads, by the variables that it reads."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def draw(facts: dict[str, Any]) -> None:
    """Show the facts to people."""
    hub = facts["hub"]
    asked = "never asked (HF_HUB_OFFLINE)" if hub["offline"] else "asked for names that are not on this disk"
    cache = hub["cache"] if hub["exists"] else f"{hub['cache']} (not there yet)"
    show(
        "this machine",
        [
            *((name, str(value)) for name, value in facts["system"].items()),
            ("hub", asked),
            ("hub cache", cache),
        ],
    )
    show("libraries", list(facts["versions"].items()))
    if not facts["checks"]:
        extras = " or ".join(f"'gpt2kit[{framework.value}]'" for framework in ROOMS)
        names = " nor ".join(room.name for room in ROOMS.values())
        note(f"Neither {names} is installed, so there is no model to check: pip install {extras}")
        return
    show(
        "devices",
        [(device["framework"], device["name"], device["description"]) for device in facts["devices"]],
    )
    show(
        "a tiny model on each device, against NumPy in float64",
        [
            (
                check["framework"],
                check["device"],
                check["attention"],
                check["failure"] or f"{check['error']:.1e}",
                f"{check['allowed']:.0e}",
                "right" if check["ok"] else "WRONG",
            )
            for check in facts["checks"]
        ],
        header=("framework", "device", "attention", "largest error", "allowed", ""),
    )
