"""Finds the items to import: latents and their fields in one folder for each stream, joined by relative path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from reencoder_pipeline.errors import CacheError, ConfigError, CorpusError
from reencoder_pipeline.exchange.stable_audio_format import FIELDS, LATENTS, Fields, read_fields
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards.job import failure_row
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.tasks import StreamName

PADDING = "silence"


@dataclass(frozen=True)
class Item:
    """An excerpt of a recording: one `.npy` for each stream, and their common fields. It becomes one track."""

    name: str
    files: Mapping[str, Path]
    fields: Fields

    @property
    def recording(self) -> str:
        """The name of its recording, whose excerpts all belong to one split."""
        return self.fields.recording or self.name

    @property
    def id(self) -> str:
        return self.fields.origin.name if self.fields.origin else f"{self.recording}#{self.name}"


def folders_of(folder: Path | None, streams: Sequence[str], spec: LatentSpec) -> dict[str, Path]:
    """Stream -> folder, from the command line's FOLDER with at most one stream's name, or NAME=FOLDER for each stream.

    A FOLDER without a stream's name holds `stereo` if the autoencoder encodes both channels together, else `mono`.
    """
    named = [text.partition("=") for text in streams or (["stereo"] if spec.stereo == "joint" else ["mono"])]
    if folder is not None and len(named) == 1 and not named[0][1]:
        folders = {named[0][0]: folder}
    elif folder is None and all(equals and path for _, equals, path in named):
        folders = {name: Path(path) for name, _, path in named}
    else:
        remedy = "give FOLDER [--stream NAME], or --stream NAME=FOLDER for each stream"
        what = "the command does not say which folder holds which stream"
        raise ConfigError(what, value=" ".join(streams), remedy=remedy)
    known = [name for name in get_args(StreamName) if name != "stereo" or spec.stereo == "joint"]
    if len(folders) < len(named) or (unknown := [name for name in folders if name not in known]):
        value = "a stream is named twice" if len(folders) < len(named) else unknown[0]
        remedy = f"choose from the streams of {spec.autoencoder}: {', '.join(known)}"
        raise ConfigError("the stream is unknown or repeated", where="--stream", value=value, remedy=remedy)
    return folders


def find_items(
    folders: Mapping[str, Path], spec: LatentSpec, *, say: Callable[[str], None] = lambda message: None
) -> tuple[list[Item], list[dict[str, str]]]:
    """All items below the folders, ordered by relative path, and a line of failures.jsonl for each unusable one.

    `say` reports a file of padding that lies beside the items."""
    found: dict[str, dict[str, Path]] = {}
    for stream, folder in folders.items():
        if not folder.is_dir():
            raise CorpusError("there is no such folder", where=folder, remedy="check the path")
        for path in folder.rglob("*"):
            if path.suffix.lower() == LATENTS and not path.name.startswith("."):
                name = path.relative_to(folder).with_suffix("").as_posix()
                found.setdefault(name, {})[stream] = path
    items, failures, ids = [], [], set()
    for name, files in sorted(found.items()):
        path = next(iter(files.values()))
        if path.stem.lower() == PADDING and not any(file.with_suffix(FIELDS).exists() for file in files.values()):
            say(f"{path} is left out: it is the padding that stable-audio-tools leaves beside its items")
            continue
        try:
            item = Item(name, files, _agreed_fields(files, tuple(folders), spec))
            if item.id in ids:
                remedy = "rename one of them, or leave one out"
                raise CacheError("another item has the same id", where=path, value=item.id, remedy=remedy)
        except (CacheError, OSError) as error:
            failures.append(failure_row(name, path, error))
        else:
            ids.add(item.id)
            items.append(item)
    return items, failures


def _agreed_fields(files: Mapping[str, Path], streams: Sequence[str], spec: LatentSpec) -> Fields:
    """The fields of an item. CacheError unless they are the same for all streams and fit the autoencoder."""
    where = next(iter(files.values()))
    if missing := [name for name in streams if name not in files]:
        what, remedy = "the item is missing in other streams", "export all streams alike, or leave the item out"
        raise CacheError(what, where=where, value=", ".join(missing), remedy=remedy)
    fields = {name: read_fields(files[name].with_suffix(FIELDS)) for name in streams}
    first = fields[streams[0]]
    for name, other in fields.items():
        if other.cut != first.cut:
            what = f"the streams {streams[0]} and {name} show different excerpts"
            remedy = "cut all streams alike: without random_crop, from files of the same names"
            raise CacheError(what, where=where, remedy=remedy)
        if other.origin and other.origin.stream != name:
            what = f"the file holds the stream {other.origin.stream}, not {name}"
            raise CacheError(what, where=files[name], remedy="give each stream its own folder")
    if origin := first.origin:
        if origin.latent_spec != canonical_digest(spec.to_dict()):
            value = f"latent_spec {origin.latent_spec[:12]}, not {canonical_digest(spec.to_dict())[:12]}"
            what, remedy = "the file holds latents of another autoencoder", "name the autoencoder that made them"
            raise CacheError(what, where=where, value=value, remedy=remedy)
        if spec.num_frames(origin.num_samples) != first.num_frames:
            value = f"{origin.num_samples} samples in {first.num_frames} frames"
            what, remedy = "the item's fields contradict each other", "export the item again"
            raise CacheError(what, where=where, value=value, remedy=remedy)
    return first
