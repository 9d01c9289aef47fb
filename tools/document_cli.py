"""Write the reference half of docs/cli.md from the commands themselves.

    python tools/document_cli.py           # write the page anew
    python tools/document_cli.py --check   # only say whether it is up to date (exit code 1 if not)

Above the marker the page is written by hand; below it, by this script.
tests/docs/test_cli_page.py holds the two equal.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer

from gpt2kit.cli.main import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
MARKER = "<!-- below this line: written by tools/document_cli.py -->\n"


def flags(option: Any) -> str:
    """Spell an option as a user types it: `--max-new-tokens N`."""
    value = f" {option.metavar}" if option.metavar else ""
    return ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))


def default(option: Any) -> str:
    """Say what holds where the option is not given."""
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.default
    if value is None or value == () or value is False or option.show_default is False:
        return ""
    if value is True:
        return f"`{option.opts[0]}`" if option.secondary_opts else ""
    return f"`{getattr(value, 'value', value)}`"


def table(options: list[Any]) -> str:
    """Draw the options of one panel, with a column of defaults where one of them has one."""
    rows: list[tuple[str, ...]] = [
        (flags(option), option.help.replace("|", "\\|"), default(option)) for option in options
    ]
    if any(row[2] for row in rows):
        head = "| option | what it does | default |\n|---|---|---|"
    else:
        head, rows = "| option | what it does |\n|---|---|", [row[:2] for row in rows]
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def section(name: str, command: Any) -> str:
    """Write the section of one command."""
    text = re.sub(r"\[/?bold\]", "**", command.help or "").replace("\n\ngpt2kit ", "\n\n    gpt2kit ")
    text = re.sub(r"\n\n(echo|cat) ", r"\n\n    \1 ", text)
    out = [f"## gpt2kit {name}\n", text.strip() + "\n"]
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    if arguments:
        out.append("| argument | what it is |\n|---|---|")
        out.append("\n".join(f"| `{item.name.upper()}` | {item.help} |" for item in arguments) + "\n")
    panels: dict[str, list[Any]] = {}
    for item in command.params:
        if item.param_type_name == "option" and item.name != "help":
            panels.setdefault(item.rich_help_panel or "Options", []).append(item)
    for panel, options in panels.items():
        out += [f"**{panel}**\n", table(options)]
    return "\n".join(out)


def render() -> str:
    """Return the whole page: the part above the marker as it stands, the part below made anew."""
    above = PAGE.read_text(encoding="utf-8").split(MARKER)[0]
    group: Any = typer.main.get_command(app)
    return above + MARKER + "\n" + "\n".join(section(name, group.commands[name]) for name in group.commands)


def main() -> int:
    """Write or check the page."""
    page = render()
    if "--check" in sys.argv[1:]:
        return int(page != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
