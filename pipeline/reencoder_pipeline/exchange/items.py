"""Items to import: latents and their fields in one folder a stream, joined by their relative paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from reencoder_pipeline.errors import CacheError, ConfigError, CorpusError
from reencoder_pipeline.exchange.stable_audio_format import FIELDS, LATENTS, Fields, read_fields
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.tasks import StreamName

PADDING = "silence"


@dataclass(frozen=True)
class Item:
    """An excerpt of a recording: a `.npy` a stream, and fields on which they agree. It becomes one track."""

    name: str
    files: Mapping[str, Path]
    fields: Fields

    @property
    def recording(self) -> str:
        """What it was cut from: all its excerpts belong to one split."""
        return self.fields.recording or self.name

    @property
    def id(self) -> str:
        return self.fields.origin.name if self.fields.origin else f"{self.recording}#{self.name}"


def folders_of(folder: Path | None, streams: Sequence[str], spec: LatentSpec) -> dict[str, Path]:
    """What the command line says: FOLDER with at most one stream's name, or stream=FOLDER for each.

    A FOLDER without a stream's name holds `stereo` where the autoencoder encodes both channels together, else `mono`.
    """
    named = [text.partition("=") for text in streams or (["stereo"] if spec.stereo == "joint" else ["mono"])]
    if folder is not None and len(named) == 1 and not named[0][1]:
        folders = {named[0][0]: folder}
    elif folder is None and all(equals and path for _, equals, path in named):
        folders = {name: Path(path) for name, _, path in named}
    else:
        remedy = "give FOLDER [--stream NAME], or --stream NAME=FOLDER for each stream"
        raise ConfigError("cannot tell which folder holds which stream", value=" ".join(streams), remedy=remedy)
    known = [name for name in get_args(StreamName) if name != "stereo" or spec.stereo == "joint"]
    if len(folders) < len(named) or (unknown := [name for name in folders if name not in known]):
        value = "a stream is named twice" if len(folders) < len(named) else unknown[0]
        remedy = f"{spec.autoencoder} has: {', '.join(known)}"
        raise ConfigError("not the name of a stream", where="--stream", value=value, remedy=remedy)
    return folders


def find_items(
    folders: Mapping[str, Path], spec: LatentSpec, *, say: Callable[[str], None] = lambda message: None
) -> tuple[list[Item], list[dict[str, str]]]:
    """All `.npy` below the folders, in order of their relative paths; and lines of failures.jsonl for those that cannot
    be used, by what their `.json` says. `say` is told of padding that lies beside the items."""
    found: dict[str, dict[str, Path]] = {}
    for stream, folder in folders.items():
        if not folder.is_dir():
            raise CorpusError("no such folder", where=folder)
        for path in folder.rglob("*"):
            if path.suffix.lower() == LATENTS and not path.name.startswith("."):
                name = path.relative_to(folder).with_suffix("").as_posix()
                found.setdefault(name, {})[stream] = path
    items, failures, ids = [], [], set()
    for name, files in sorted(found.items()):
        path = next(iter(files.values()))
        if path.stem.lower() == PADDING and not any(file.with_suffix(FIELDS).exists() for file in files.values()):
            say(f"{path} is the padding that stable-audio-tools leaves beside its items: it is no item")
            continue
        try:
            item = Item(name, files, _agreed_fields(files, tuple(folders), spec))
            if item.id in ids:
                raise CacheError("another item has the same id", where=path, value=item.id)
        except (CacheError, OSError) as error:
            failures.append(failure_of(name, path, error))
        else:
            ids.add(item.id)
            items.append(item)
    return items, failures


def _agreed_fields(files: Mapping[str, Path], streams: Sequence[str], spec: LatentSpec) -> Fields:
    """The fields of an item, once they are the same for all its streams and fit the autoencoder."""
    where = next(iter(files.values()))
    if missing := [name for name in streams if name not in files]:
        raise CacheError("is missing in other streams", where=where, value=", ".join(missing))
    fields = {name: read_fields(files[name].with_suffix(FIELDS)) for name in streams}
    first = fields[streams[0]]
    for name, other in fields.items():
        if other.cut != first.cut:
            what = f"the streams {streams[0]} and {name} show different excerpts"
            remedy = "cut all streams alike: without random_crop, from files of the same names"
            raise CacheError(what, where=where, remedy=remedy)
        if other.origin and other.origin.stream != name:
            raise CacheError(f"is the stream {other.origin.stream}, not {name}", where=files[name])
    if origin := first.origin:
        if origin.latent_spec != canonical_digest(spec.to_dict()):
            value = f"latent_spec {origin.latent_spec[:12]}, not {canonical_digest(spec.to_dict())[:12]}"
            raise CacheError("holds latents of another autoencoder", where=where, value=value)
        if spec.num_frames(origin.num_samples) != first.num_frames:
            value = f"{origin.num_samples} samples in {first.num_frames} frames"
            raise CacheError("its fields contradict each other", where=where, value=value)
    return first


def failure_of(name: str, path: Path, error: Exception) -> dict[str, str]:
    """A line of failures.jsonl."""
    return {"id": name, "path": str(path), "error": str(error) or repr(error)}
