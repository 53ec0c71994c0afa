"""Hypothesis strategies that damage a sound file: its bytes, its numbers, or the values of its JSON."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

MAGIC = tuple(
    struct.pack(form, value)
    for form, value in (
        ("<I", 0), ("<I", 0x7FFFFFFF), ("<I", 0xFFFFFFFF), (">I", 0x7FFFFFFF), ("<Q", 2**62), ("<Q", 2**64 - 1),
        ("<I", 2**24), (">I", 2**24), ("<H", 0xFFFF), ("<I", 1),
    )
)  # fmt: skip
"""Numbers that sizes, counts and offsets are replaced by."""


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 2**31, 2**63, 10**30, -(10**30), 1e308, float("nan"), float("inf"), "", ".",
    "..", "../x", "/etc/passwd", "os:system", "a" * 5000, "\x00", "\ud800", "1e999", "<b>&|`$", [], {}, [[]], {"": {}},
    _nested(150), list(range(300)), {"__class__": "x"}, "house", "mono", "s3://nowhere/x", "0" * 64,
)  # fmt: skip
"""Values that no writer of ours writes in most places."""


@st.composite
def damaged_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` after one to four edits: flips, other numbers, and pieces cut, repeated, removed or foreign."""
    content = bytearray(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(("flip", "magic", "cut", "repeat", "remove", "insert", "head")))
        # Headers are where a reader decides: half of the edits fall into the first 512 bytes.
        reach = min(len(content), 512) if draw(st.booleans()) else len(content)
        place = draw(st.integers(0, max(0, reach - 1)))
        size = draw(st.integers(1, 64))
        if kind == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "magic":
            number = draw(st.sampled_from(MAGIC))
            content[place : place + len(number)] = number
        elif kind == "cut":
            del content[place:]
        elif kind == "repeat":
            content[place:place] = bytes(content[place : place + size]) * draw(st.integers(1, 40))
        elif kind == "remove":
            del content[place : place + size]
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=64))
        elif kind == "head":
            content = content[place:]
    return bytes(content)


@st.composite
def damaged_json(draw: st.DrawFn, seeds: Sequence[Any]) -> Any:
    """One of `seeds`, values as `json.loads` gives them, after one to three edits of its members."""
    value = copy.deepcopy(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return value
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.sampled_from(("nasty", "nasty", "nasty", "remove", "swap", "double", "add")))
        if kind == "nasty":
            holder[key] = copy.deepcopy(draw(st.sampled_from(NASTY)))
        elif kind == "remove":
            del holder[key]
        elif kind == "swap":
            other, name = places[draw(st.integers(0, len(places) - 1))]
            holder[key] = copy.deepcopy(other[name])
        elif kind == "double" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=8))] = copy.deepcopy(draw(st.sampled_from(NASTY)))
    return value


def as_json(value: Any) -> bytes:
    """The text of a value; NaN and lone surrogates stay what they are, as a careless or hostile writer leaves them."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every member of nested dicts and lists; long lists by their first and last members alone."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict):
            keys: list[Any] = list(holder)
        elif isinstance(holder, list):
            keys = list(range(len(holder))) if len(holder) < 8 else [0, 1, 2, len(holder) - 1]
        else:
            continue
        for key in keys:
            found.append((holder, key))
            waiting.append(holder[key])
    return found
