"""`gpt2kit doctor`: what is installed, which devices there are, and whether each computes right."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from gpt2kit.cli.console import stderr, stdout, write

__all__ = ["doctor"]

LIBRARIES = ("gpt2kit", "numpy", "tokenizers", "safetensors", "huggingface_hub")
FRAMEWORKS = ("torch", "tensorflow", "jax", "flax")
NOT_INSTALLED = "not installed"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Show versions and devices, and check each device's arithmetic.

    A tiny random model is computed on every device and compared with gpt2kit's NumPy model in float64. If one
    differs by more than rounding can explain, the exit code is 1.

    [bold]Examples[/bold]

    gpt2kit doctor

    gpt2kit doctor --json
    """
    with stderr.status("checking the devices") if stderr.is_terminal else nullcontext():
        facts = examine()
    if as_json:
        write(json.dumps(facts, indent=2) + "\n")
    else:
        for table in tables(facts):
            stdout.print(table)
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
    if importlib.util.find_spec("torch") is not None:
        from gpt2kit.cli import selfcheck

        facts["system"]["threads"] = selfcheck.threads()
        facts["devices"] = selfcheck.devices()
        facts["checks"] = list(selfcheck.checks([device["name"] for device in facts["devices"]]))
    return facts


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


def tables(facts: dict[str, Any]) -> Iterator[Table]:
    """Draw the facts for people."""
    system = Table(title="this machine", **TITLED, show_header=False)
    for name, value in facts["system"].items():
        system.add_row(name, str(value))
    hub = facts["hub"]
    state = "offline (HF_HUB_OFFLINE)" if hub["offline"] else "may ask the network"
    system.add_row("hub", f"{state}, cache {hub['cache']}{'' if hub['exists'] else ' (empty)'}")
    yield system
    versions = Table(title="libraries", **TITLED, show_header=False)
    for name, value in facts["versions"].items():
        versions.add_row(name, f"[dim]{value}[/dim]" if value == NOT_INSTALLED else value)
    yield versions
    devices = Table("device", "what it is", title="devices", **TITLED)
    for device in facts["devices"]:
        devices.add_row(device["name"], device["description"])
    yield devices
    checks = Table("device", "attention", "largest error", "allowed", "", title="against NumPy", **TITLED)
    for check in facts["checks"]:
        verdict = "[green]right[/green]" if check["ok"] else "[bold red]WRONG[/bold red]"
        error = check["said"] or f"{check['error']:.1e}"
        checks.add_row(check["device"], check["attention"], error, f"{check['allowed']:.0e}", verdict)
    yield checks


TITLED: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": SIMPLE_HEAD}
