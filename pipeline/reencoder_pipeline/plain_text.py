"""Makes foreign text (labels, file names, licences) safe to show on a terminal, in Markdown and in pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

# Control characters, bytes that are not text, line breaks, and characters that change the writing direction.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MARKDOWN = re.compile(r"([\\`*_\[\]|#~$]|&(?=#?\w+;))")
_ENTITIES = str.maketrans({"<": "&lt;", ">": "&gt;"})  # after a backslash, programs that are not strict see a tag
_INSIDE = re.compile(r"(?<=[A-Za-z0-9])\\_(?=[A-Za-z0-9])")
_NUMBERS = re.compile(r"\\\[([-+0-9.,%a-z ]*)\\\](?![(\[:])")


def printable(text: object, *, lines: bool = False) -> str:
    r"""Replace invisible characters by Python's escapes: control characters, changes of the writing direction, bytes of
    a file name that are not text. `lines`: line breaks and tabs stay.

    Example::

        printable("a\x1b[2J.wav")  # a\\x1b[2J.wav
    """
    return _UNSEEN.sub(lambda found: _written(found[0], lines=lines), str(text))


def _written(one: str, *, lines: bool) -> str:
    return one if lines and one in "\n\t" else one.encode("unicode_escape").decode()


def markdown_text(value: object) -> str:
    """Escape text so that Markdown shows it unchanged, in one line, also inside a table."""
    return _MARKDOWN.sub(r"\\\1", _line(value)).translate(_ENTITIES)


def markdown_cell(value: object) -> str:
    """The same, but intervals such as [1.30, 1.52] keep their brackets and x86_64 its underscore."""
    return _INSIDE.sub("_", _NUMBERS.sub(r"[\1]", markdown_text(value)))


def markdown_code(value: object) -> str:
    """Format text as code in one line, fenced by more backticks than it holds, its bars escaped for tables."""
    line = _line(value)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def rendered(template: Path, values: Mapping[str, object]) -> str:
    """Markdown from a Jinja template; its filters `text` and `code` are `markdown_text` and `markdown_code`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=False, undefined=StrictUndefined,  # Markdown, not HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"text": markdown_text, "code": markdown_code}
    return environment.get_template(template.name).render(values)


def front_matter(licence: str | None, *, tags: Sequence[str], more: Mapping[str, object] | None = None) -> str:
    """The YAML at the head of a model card, as the Hugging Face hub reads it.

    The hub knows licences by short lower-case names. Any other is "other" with a license_name.
    """
    import yaml

    known = licence is None or re.fullmatch(r"[A-Za-z0-9.-]+", licence) is not None
    named = {} if licence is None else {"license": licence.lower() if known else "other"}
    values = {
        **named,
        **({} if known else {"license_name": licence}),
        "library_name": "reencoder",
        "pipeline_tag": "audio-to-audio",
        "tags": list(tags),
        **(more or {}),
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)


def _line(value: object) -> str:
    return printable(" ".join(str(value).split()))
