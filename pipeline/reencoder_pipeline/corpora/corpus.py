"""Reads a corpus of tracks from a folder, a text list, or a manifest in one of several common forms."""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reencoder_pipeline.corpora.discovery import LeftOut, find_files
from reencoder_pipeline.errors import CorpusError
from reencoder_pipeline.safe_text import parse_json, read_regular, require_regular
from reencoder_pipeline.tasks import TASKS

AUDIO_SUFFIXES = frozenset(
    [".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".rf64", ".caf", ".au"]
)
SPLITS = ("train", "valid", "test")
LARGEST_MANIFEST = 2**32  # bytes
MOST_UNPACKED = 200  # times the packed size; very similar paths are packed to a thirtieth
# Keys of NeMo, Hugging Face AudioFolder, audiocraft and this project; lhotse's `sources` is read below.
PATH_KEYS = ("path", "audio_filepath", "file_name")


@dataclass(frozen=True)
class Track:
    """One recording. Fields that a manifest leaves out are None; they are measured when the track is read."""

    id: str
    path: Path
    split: str | None = None
    sha256: str | None = None
    num_samples: int | None = None
    sample_rate: int | None = None
    tasks: tuple[str, ...] | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Corpus:
    """The tracks of a source, and the files and folders that were left out."""

    tracks: tuple[Track, ...]
    left_out: LeftOut


def read_corpus(source: Path) -> tuple[Track, ...]:
    """The tracks of `find_corpus`.

    Example::

        tracks = read_corpus(Path("/my/music"))  # or manifest.jsonl, manifest.jsonl.gz, files.txt
    """
    return find_corpus(source).tracks


def find_corpus(source: Path) -> Corpus:
    """Find the tracks of a folder and its subfolders, a .jsonl[.gz] manifest, or a text list of paths, in fixed order.

    Relative paths are relative to the manifest. CorpusError if there are no tracks, or a row is not valid.
    """
    if source.is_dir():
        found, left = find_files(source, taken=AUDIO_SUFFIXES)
        files = [path for path in found if path.suffix.lower() in AUDIO_SUFFIXES]
        tracks = tuple(Track(id=path.relative_to(source).as_posix(), path=path) for path in files)
    else:
        require_regular(source, kind=CorpusError, what="folder or manifest")
        tracks, left = tuple(_from_manifest(source)), LeftOut()
    if not tracks:
        kinds = " ".join(sorted(AUDIO_SUFFIXES))
        value = "; ".join(left.lines()) or None
        remedy = f"give a folder or list with audio files, which end in {kinds}"
        raise CorpusError("the source holds no tracks", where=source, value=value, remedy=remedy)
    repeated = [name for name, count in Counter(track.id for track in tracks).items() if count > 1]
    if repeated:
        value, remedy = ", ".join(repeated[:5]), "list each file once, or give every row its own `id`"
        raise CorpusError("track ids are not unique", where=source, value=value, remedy=remedy)
    return Corpus(tracks, left)


def _from_manifest(manifest: Path) -> Iterator[Track]:
    is_json = ".jsonl" in manifest.suffixes or manifest.suffix == ".json"
    content = read_regular(manifest, kind=CorpusError, what="manifest", limit=LARGEST_MANIFEST)
    try:
        text = (_unpacked(content, manifest) if manifest.suffix == ".gz" else content).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        remedy = "give a folder of audio, a .jsonl or .jsonl.gz manifest, or a text list of files"
        what = "the file cannot be read as a manifest"
        raise CorpusError(what, where=manifest, value=str(error), remedy=remedy) from None
    # Not splitlines: it also breaks at characters that JSON strings and file names may contain, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if text := line.strip():
            where, folder = f"{manifest}:{number}", manifest.parent
            yield _from_row(_parse(text, where), folder, where) if is_json else Track(text, _resolved(text, folder))


def _resolved(name: str, folder: Path) -> Path:
    return folder / (Path(name).expanduser() if name.startswith("~/") else name)


def _unpacked(content: bytes, manifest: Path) -> bytes:
    """Unpack all members of a gzip file. CorpusError if the result is far larger than a manifest would be."""
    most, unpacked = MOST_UNPACKED * len(content) + 2**24, bytearray()
    with gzip.open(io.BytesIO(content)) as file:
        while part := file.read(2**20):
            unpacked += part
            if len(unpacked) > most:
                what = "the file unpacks to far more than a manifest does"
                value, remedy = f"more than {most:,} bytes from {len(content):,}", "give it without compression"
                raise CorpusError(what, where=manifest, value=value, remedy=remedy)
    return bytes(unpacked)


def _parse(text: str, where: str) -> dict[str, Any]:
    row = parse_json(text, kind=CorpusError, where=where, what="manifest row")
    if not isinstance(row, dict):
        remedy = "write one JSON object a line"
        raise CorpusError("the manifest row is not a JSON object", where=where, value=text[:80], remedy=remedy)
    return row


def _from_row(row: dict[str, Any], folder: Path, where: str) -> Track:
    name = next((row[key] for key in PATH_KEYS if isinstance(row.get(key), str)), None)
    match row.get("sources"):
        case [{"source": source}, *_] if name is None:  # lhotse
            name = source
    if not isinstance(name, str):
        known = ", ".join((*PATH_KEYS, "sources[0].source"))
        what, remedy = "the manifest row names no audio file", f"add one of: {known}"
        raise CorpusError(what, where=where, value=sorted(row), remedy=remedy)
    if row.get("offset"):
        what, remedy = "excerpts (`offset`) are not supported", "cut the excerpt into a file of its own"
        raise CorpusError(what, where=where, value=row["offset"], remedy=remedy)
    split = row.get("split")
    if split is not None and split not in SPLITS:
        remedy = f"choose one of: {', '.join(SPLITS)}"
        raise CorpusError("the split is unknown", where=where, value=split, remedy=remedy)
    tasks = row.get("tasks")
    if tasks is not None and not (isinstance(tasks, list) and all(task in tuple(TASKS) for task in tasks)):
        what, remedy = "the tasks are not a list of known tasks", f"choose from: {', '.join(TASKS)}"
        raise CorpusError(what, where=where, value=tasks, remedy=remedy)
    sha256, num_samples = row.get("sha256"), row.get("num_samples")
    if not isinstance(sha256, str | None):
        remedy = "write the file's sha256 as hexadecimal text, or leave it out"
        raise CorpusError("sha256 is not text", where=where, value=sha256, remedy=remedy)
    if num_samples is not None and not (type(num_samples) is int and 0 < num_samples < 2**63):
        what, remedy = "num_samples is not a whole number", "write the samples of one channel, or leave it out"
        raise CorpusError(what, where=where, value=repr(num_samples)[:80], remedy=remedy)
    return Track(
        id=name if row.get("id") is None else str(row["id"]),
        path=_resolved(name, folder),
        split=split,
        sha256=sha256,
        num_samples=num_samples,
        sample_rate=row.get("sample_rate", row.get("sampling_rate")),
        tasks=None if tasks is None else tuple(tasks),
        licence=row.get("licence", row.get("license")),
    )
