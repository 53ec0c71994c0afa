"""The commands that a README shows, with each of their alternatives spelled out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from command_line import PROGRAMS, ROOT, entry_point

READMES = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("**/README.md")) if ".venv" not in path.parts]
FIRST_WORDS = (*PROGRAMS, "make", "python", "pytest", "torchrun")


def commands_of(readme: str) -> list[str]:
    """Lines of its blocks, and pieces of code in its text, that begin with a program; without their comments."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    lines = [*re.findall(r"^(?: {4})?([a-z][^\n]*)$", text, re.M), *re.findall(r"`([^`\n]+)`", text)]
    bare = [re.split(r"\s+#\s", line)[0].strip() for line in lines]
    # A line of prose may begin with "make" too, and has a comma or a full stop.
    commands = [line for line in bare if line.split()[0] in FIRST_WORDS and not re.search(r"[,;:] |[.,;:]$", line)]
    return [line for line in dict.fromkeys(commands) if " " in line]


def variants(line: str) -> Iterator[list[str]]:
    """`x [--a N | --b]` means `x`, `x --a N` and `x --b`."""
    groups = re.findall(r"\[(-[^\]]*)\]", line)
    bare = re.sub(r"\s*\[-[^\]]*\]", "", line)
    choices = [[choice.strip() for choice in re.split(r"\s\|\s", group)] for group in groups]
    yield from _with_values(bare)
    for number in range(max(map(len, choices), default=0)):
        for one in _with_values(" ".join([bare, *(group[min(number, len(group) - 1)] for group in choices)])):
            yield [word.strip("[]") for word in one]


def _with_values(line: str) -> Iterator[list[str]]:
    """`--format zarr|webdataset` means one of them at a time."""
    words = shlex.split(line)
    count = max(len(word.split("|")) for word in words)
    for number in range(count):
        yield [word.split("|")[min(number, word.count("|"))] for word in words]


def parsed(program: str, arguments: list[str]) -> dict[str, Any]:
    """What the command would be called with, once its own parser has taken `arguments`. Nothing is run."""
    taken: dict[str, Any] = {}
    app = typer.main.get_command(entry_point(program).app)
    if arguments[1:] == [] and arguments[0] in getattr(app, "commands", {}):
        return {"command": arguments[0]}  # the text names a command
    for command in getattr(app, "commands", {"": app}).values():
        command.callback = lambda name=command.name, **values: taken.update(values, command=name)
    app.main(arguments, prog_name=program, standalone_mode=False)
    assert taken, f"{program} {arguments} reached no command"
    return taken
