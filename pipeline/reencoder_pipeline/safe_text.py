"""Reads foreign text files safely: regular files of bounded size, JSON and YAML of bounded depth and expansion."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from reencoder_pipeline.errors import ReencoderError

DEEPEST = 64  # nested lists and mappings; ours are less than ten deep
LARGEST_CONFIG = 2**18  # bytes; PyYAML reads less than 100 kB a second
LARGEST_FILE = 2**26
NUMBERS, LONGEST_NUMBER = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"), 400
MOST_VALUES = 100_000  # in a YAML file, with every alias expanded


def read_regular(path: Path, *, kind: type[ReencoderError], what: str = "file", limit: int = LARGEST_FILE) -> bytes:
    """Read a regular file of at most `limit` bytes; `kind` of error for anything else.

    A FIFO or a device is refused without opening it: reading one may never end.
    """
    require_regular(path, kind=kind, what=what)
    try:
        with path.open("rb") as file:
            # Python allocates as many bytes as are requested, however few the file holds.
            content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    except OSError as error:
        remedy = "check its permissions, or give another file"
        raise kind(f"the {what} cannot be read", where=path, value=error.strerror, remedy=remedy) from None
    if len(content) > limit:
        value = f"more than {limit:,} bytes"
        raise kind(f"the {what} is too large", where=path, value=value, remedy=_WRONG_FILE)
    return content


def require_regular(path: Path, *, kind: type[ReencoderError], what: str = "file") -> None:
    """Raise a `kind` of error unless the path is a regular file, or a link to one."""
    found = file_kind(path)
    if found == "nothing":
        raise kind(f"there is no such {what}", where=path, remedy="check the path")
    if found != "a file":
        raise kind(f"the {what} is not a regular file", where=path, value=found, remedy="give the path of a file")


def file_kind(path: Path) -> str:
    """Describe in words what a path is: "a file", "a folder", "nothing", "a FIFO (named pipe)" ..."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if path.is_symlink():
            return "a link to nothing"
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return "nothing" if missing else getattr(error, "strerror", None) or str(error)
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO (named pipe)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something that is not a file")


def parse_json(text: str | bytes, *, kind: type[ReencoderError], where: object, what: str = "file") -> Any:
    """Parse JSON; `kind` of error if it is not valid, or nested deeper than DEEPEST."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(kind, where, what) from None
    except ValueError as error:
        value = str(error)[:200]
        raise kind(f"the {what} is not valid JSON", where=where, value=value, remedy="correct it") from None
    brackets = (text.count("[") + text.count("{")) if isinstance(text, str) else (text.count(b"[") + text.count(b"{"))
    if brackets > DEEPEST and _is_deep(value):
        raise _too_deep(kind, where, what)
    return value


def parse_yaml(text: str, *, kind: type[ReencoderError], where: object, what: str = "file") -> Any:
    """Parse YAML; `kind` of error if it is not valid, nested deeper than DEEPEST, or holds over MOST_VALUES values."""
    if len(text) > LARGEST_CONFIG:
        value = f"more than {LARGEST_CONFIG:,} characters"
        raise kind(f"the {what} is too large", where=where, value=value, remedy=_WRONG_FILE)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        count, depth = _expanded(node, {})
        if count > MOST_VALUES:
            value = f"{count if count < 10**12 else 'more than 10^12'} values"
            remedy = "write the values out instead of using aliases (*name)"
            raise kind(
                f"the {what} is too large once its aliases are expanded", where=where, value=value, remedy=remedy
            )
        if depth > DEEPEST:
            raise _too_deep(kind, where, what)
        return loader.construct_document(node)
    except RecursionError:
        raise _too_deep(kind, where, what) from None
    # PyYAML also raises Python's own errors, for text such as 2020-13-45 or !!bool x.
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        value = str(error).replace("\n", " ")[:500]
        raise kind(f"the {what} is not valid YAML", where=where, value=value, remedy="correct it") from None


def _too_deep(kind: type[ReencoderError], where: object, what: str) -> ReencoderError:
    value = f"more than {DEEPEST} levels"
    return kind(f"the {what} is nested too deeply", where=where, value=value, remedy=_WRONG_FILE)


_WRONG_FILE = "check that this is the right file"


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested deeper than DEEPEST, found without recursion."""
    level = [value]
    for _ in range(DEEPEST + 1):
        containers = [one for one in level if isinstance(one, dict | list)]
        level = [item for one in containers for item in (one.values() if isinstance(one, dict) else one)]
        if not containers:
            return False
    return True


def _expanded(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(values, levels) of a node with its aliases expanded; both are huge for a node that contains itself."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(node.value)} characters")
        return 1, 0
    if id(node) not in known:
        known[id(node)] = (10**30, 10**30)  # used only if the node contains itself
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes = [_expanded(child, known) for child in children]
        known[id(node)] = (1 + sum(count for count, _ in sizes), 1 + max((depth for _, depth in sizes), default=0))
    return known[id(node)]


def read_json(path: Path, *, kind: type[ReencoderError], what: str = "file", limit: int = LARGEST_FILE) -> Any:
    """Read a file with `read_regular` and `parse_json`."""
    return parse_json(read_regular(path, kind=kind, what=what, limit=limit), kind=kind, where=path, what=what)


def read_text(path: Path, *, kind: type[ReencoderError], what: str = "file", limit: int = LARGEST_FILE) -> str:
    """Read a UTF-8 file with `read_regular`; a byte order mark is dropped."""
    try:
        return read_regular(path, kind=kind, what=what, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"the {what} is not UTF-8 text", where=path, value=str(error), remedy="save it as UTF-8") from None


def names_a_file(path: Path) -> bool:
    """Whether the path exists and is not a folder. A FIFO counts, so that the error can name it."""
    return os.path.lexists(path) and not path.is_dir()
