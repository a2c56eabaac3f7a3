"""Writes the command line's reference from the commands themselves, when the site is built."""

import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from typer.main import get_command

from transunet.cli.main import app

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put every command in the place of the mark (called by mkdocs for each page)."""
    if MARK not in markdown:
        return markdown
    return markdown.replace(MARK, "\n".join(_all_commands(get_command(app), "transunet")))


def _all_commands(group: Any, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _all_commands(command, f"{path} {name}")
        else:
            yield from _described(command, f"{path} {name}")


def _described(command: Any, path: str) -> Iterator[str]:
    words = [_argument(p) for p in command.params if p.param_type_name == "argument"]
    yield from (f"## {path}", "", "```text", " ".join([path, *words, "[OPTIONS]"]), "```", "")
    yield from (_text(command.help), "")
    if command.epilog:
        yield from (f"`{command.epilog.removeprefix('Example: ')}`", "")
    for panel, params in _panels(command).items():
        yield from (f"**{panel}**", "", "| name | what | default |", "|---|---|---|")
        yield from (_row(param) for param in params)
        yield ""


def _panels(command: Any) -> dict[str, list[Any]]:
    """Arguments, then options as `--help` groups them."""
    panels: dict[str, list[Any]] = {}
    for param in command.params:
        own = "Arguments" if param.param_type_name == "argument" else "Options"
        if not getattr(param, "hidden", False):
            panels.setdefault(getattr(param, "rich_help_panel", None) or own, []).append(param)
    return panels


def _row(param: Any) -> str:
    argument = param.param_type_name == "argument"
    names = [_argument(param)] if argument else [*param.opts, *param.secondary_opts]
    shown = ", ".join(f"`{name}`" for name in names)
    default = "required" if param.required else _default(param)
    return f"| {shown}{_choices(param)} | {_cell(_text(param.help))} | {_cell(default)} |"


def _argument(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _choices(param: Any) -> str:
    wanted = param.type_descriptor.annotation
    literals = [part for part in (wanted, *get_args(wanted)) if get_origin(part) is Literal]
    values = [str(value) for literal in literals for value in get_args(literal)]
    return f": {' · '.join(values)}" if values else ""


def _default(param: Any) -> str:
    return "" if param.default in (None, False, "", ()) else str(param.default)


def _text(text: str | None) -> str:
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text or "").replace("\b", "").strip()


def _cell(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).replace("|", "\\|").replace("<", "&lt;")
