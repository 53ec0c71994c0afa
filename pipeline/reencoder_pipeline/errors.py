"""Defines the errors that a user can act on: what is wrong, where, the value found, and the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

MOST_SHOWN = 2_000  # characters of a value
MOST_SAID = 20_000  # characters of `what`, which may list many problems


def shown(value: object, *, limit: int = MOST_SHOWN, quoted: bool = False) -> str:
    """Write a value as text of about `limit` characters at most, without ever building a longer text.

    A few hundred bytes of YAML can hold a value whose `repr` takes gigabytes. `quoted`: strings as `repr` shows them.
    """
    pieces, length = [], 0
    for piece in _pieces(value, limit=limit, quoted=quoted):
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            return "".join(pieces)[:limit] + " ... (shortened)"
    return "".join(pieces)


def in_one_line(value: object) -> str:
    """Write foreign text in one line of bounded length; characters that are not printable as escapes."""
    text = shown(str(value), limit=200)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _pieces(value: object, *, limit: int, quoted: bool = True, level: int = 0) -> Iterator[str]:
    match value:
        case str():
            part = value[: limit + 1]
            yield repr(part) if quoted else part
        case bytes():
            yield repr(value[: limit + 1])
        case bool():
            yield str(value)
        case int() if value.bit_length() > 256:
            yield f"a whole number of {value.bit_length()} bits"
        case Mapping() | list() | tuple() | set() | frozenset() if level > 8:
            yield "..."
        case Mapping():
            yield "{"
            for number, (key, item) in enumerate(value.items()):
                yield ", " if number else ""
                yield from _pieces(key, limit=limit, level=level + 1)
                yield ": "
                yield from _pieces(item, limit=limit, level=level + 1)
            yield "}"
        case list() | tuple() | set() | frozenset():
            first, last = {list: "[]", tuple: "()"}.get(type(value), "{}")
            yield first
            for number, item in enumerate(islice(value, limit)):
                yield ", " if number else ""
                yield from _pieces(item, limit=limit, level=level + 1)
            yield ("," if isinstance(value, tuple) and len(value) == 1 else "") + last
        case _:
            yield repr(value) if quoted else str(value)


class ReencoderError(Exception):
    """Base of every expected error: the command line prints it and exits 2. Any other exception is a bug.

    `what` is a sentence that says what is wrong; `where` names a file, key or track; `value` is what was found;
    `remedy` says what to try. The message shortens long values; the attributes keep them whole.

    Example::

        raise ReencoderError("the file holds no samples", where=path, value="0 samples", remedy="fetch it again")
    """

    def __init__(self, what: str, *, where: object = None, value: object = None, remedy: str | None = None) -> None:
        self.what, self.where, self.value, self.remedy = what, where, value, remedy
        said = shown(what, limit=MOST_SAID)
        lines = [said if where is None else f"{shown(where)}: {said}"]
        if value is not None:
            lines.append(f"  found: {shown(value)}")
        if remedy is not None:
            lines.append(f"  try: {shown(remedy)}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and build workers send errors between processes.
        return (_rebuild, (type(self), self.what, self.where, self.value, self.remedy))


def _rebuild(kind: type[ReencoderError], what: str, where: object, value: object, remedy: str | None) -> ReencoderError:
    return kind(what, where=where, value=value, remedy=remedy)


class ConfigError(ReencoderError):
    """A configuration file, an option or a `--set` is not valid."""


class CorpusError(ReencoderError):
    """A folder, list or manifest cannot be read as a corpus of tracks."""


class AudioError(ReencoderError):
    """One audio file cannot be used; a build leaves it out and goes on."""


class AutoencoderError(ReencoderError):
    """An autoencoder cannot be loaded or does not fit the audio or latents given to it."""


class CacheError(ReencoderError):
    """A latent cache is missing, incomplete, damaged or of another kind than requested."""


class FetchError(ReencoderError):
    """Music could not be fetched, or differs from its manifest."""


class CheckpointError(ReencoderError):
    """A module or training state cannot be loaded, or does not belong to this run."""


class TrainingError(ReencoderError):
    """Training cannot continue, for example because a loss is not finite."""


class EvaluationError(ReencoderError):
    """An evaluation has nothing to compare, or a system cannot be run on the clips."""
