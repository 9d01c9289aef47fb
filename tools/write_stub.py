"""Write src/gpt2kit/__init__.pyi, which tells type checkers the names that __init__.py looks up lazily.

    python tools/write_stub.py

tests/contracts/test_imports.py holds the file equal to what this prints.
"""

from __future__ import annotations

from pathlib import Path

import gpt2kit

STUB = Path(gpt2kit.__file__).with_name("__init__.pyi")


def in_import_order(names: tuple[str, ...]) -> list[str]:
    """Sort names as ruff sorts imports: classes before functions, whatever the case of later letters."""
    return sorted(names, key=lambda name: (not name[0].isupper(), name.lower()))


def render() -> str:
    """Return the stub for the table of public names in gpt2kit/__init__.py."""
    lines = []
    for module, names in sorted(gpt2kit._PUBLIC.items()):
        line = f"from {module} import " + ", ".join(in_import_order(names))
        if len(line) > 110:
            line = (
                f"from {module} import (\n"
                + "".join(f"    {name},\n" for name in in_import_order(names))
                + ")"
            )
        lines.append(line)
    ordered = sorted(gpt2kit.__all__, key=lambda name: (not name[0].isupper(), name))  # as ruff wants it
    names = "".join(f'    "{name}",\n' for name in ordered)
    return "\n".join(lines) + f"\n\n__all__ = [\n{names}]\n\n__version__: str\n"


if __name__ == "__main__":
    STUB.write_text(render(), encoding="utf-8")
