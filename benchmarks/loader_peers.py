"""Other loaders: the same windows from .npy files, zarr-python, WebDataset, litdata and mosaicml-streaming.

zarr-python reads our cache. The others have their own files of a task's streams. Except in plain .npy, a track is
stored as (T, streams, C), so that a window lies in one piece, and the positions of a whole batch are drawn at once.
litdata and mosaicml-streaming are optional, and so is zarrs, a faster pipeline for zarr-python.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from loader_rows import Batches, Row, Windows, stream_first
from numpy.typing import NDArray
from random_cache import STREAMS, pack, track_id
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from reencoder_pipeline.cache.open_cache import open_cache

Record = NDArray[np.float16]
"""(T, streams, C): a track or a window of it."""
Kept = Literal["loaded per item", "mapped per item", "kept mapped"]

BUFFER = 2000  # windows that are shuffled where windows cannot be drawn
WORKERS = 2
ENDLESS = 10**12
CHUNK_BYTES = 512 << 20  # litdata keeps four chunks mapped
SHARD_BYTES = 64 << 20  # mosaicml-streaming's default
TORCHVISION = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")


def peer_rows(wanted: Windows, zarr_cache: Path, folder: Path) -> list[Row]:
    """All rows that can run here; their files are written into `folder` if they are missing."""
    rows = [*npy_rows(wanted, folder), *zarr_rows(zarr_cache), *webdataset_rows(wanted, folder)]
    if find_spec("litdata"):
        rows += litdata_rows(wanted, folder)
    if find_spec("streaming"):
        rows += mosaic_rows(wanted, folder)
    return rows


def made(path: Path, write: Callable[[Path], None]) -> Path:
    """Makes `path` complete or absent: it is written under another name and renamed."""
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(path)
    return path


# --- one .npy per track -----------------------------------------------------------------------------------------------


class NpyTracks(Dataset[dict[str, Tensor]]):
    """The usual dataset: an item is a random window of its track, stream -> (T, C)."""

    def __init__(self, tracks: Sequence[Mapping[str, Path]], *, frames: int, kept: Kept) -> None:
        self._tracks, self._frames, self._mapped = tracks, frames, kept != "loaded per item"
        self._maps = [self._load(number) for number in range(len(tracks))] if kept == "kept mapped" else []

    def __len__(self) -> int:
        return len(self._tracks)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        track = self._maps[number] if self._maps else self._load(number)
        length = len(next(iter(track.values())))
        start = int(torch.randint(length - self._frames + 1, ()))
        return {stream: latents[start : start + self._frames] for stream, latents in track.items()}

    def _load(self, number: int) -> dict[str, Tensor]:
        return {stream: npy_tensor(file, mapped=self._mapped) for stream, file in self._tracks[number].items()}


class TunedTracks(Dataset[Tensor]):
    """Item (track, first frame) is a window (T, streams, C): one slice of a file that stays mapped."""

    def __init__(self, files: Sequence[Path], *, frames: int) -> None:
        self._maps, self._frames = [npy_tensor(file, mapped=True) for file in files], frames

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        return self._maps[place[0]][place[1] : place[1] + self._frames]


def npy_tensor(file: Path, *, mapped: bool) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tensor of a read-only array
        return torch.from_numpy(np.load(file, mmap_mode="r" if mapped else None))


def npy_rows(wanted: Windows, folder: Path) -> list[Row]:
    """Map-style datasets in a torch DataLoader. The last two rows are as fast as we could make them: a file holds all
    streams of the task frame by frame, and a whole batch of places is drawn at once."""

    def write(partial: Path) -> None:
        for number in range(len(wanted.noise.lengths)):
            for stream in wanted.streams:
                np.save(partial / f"{track_id(number)}.{stream}.npy", wanted.noise.track(number)[STREAMS.index(stream)])

    def write_tuned(partial: Path) -> None:
        for number in range(len(wanted.noise.lengths)):
            np.save(partial / f"{track_id(number)}.npy", wanted.record(number))

    path, tuned = made(folder / "npy", write), made(folder / "npy_tuned", write_tuned)
    kept: tuple[Kept, ...] = ("loaded per item", "mapped per item", "kept mapped")
    return [
        *(_npy_row(path, how, workers) for how in kept for workers in (0, WORKERS)),
        *(_tuned_row(tuned, workers) for workers in (0, WORKERS)),
    ]


def _npy_row(path: Path, kept: Kept, workers: int) -> Row:
    def batches(wanted: Windows) -> Batches:
        ids = [track_id(number) for number in range(len(wanted.noise.lengths))]
        tracks = [{stream: path / f"{each}.{stream}.npy" for stream in wanted.streams} for each in ids]
        dataset = NpyTracks(tracks, frames=wanted.frames, kept=kept)
        sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)
        return (batch for batch in DataLoader(dataset, wanted.batch, sampler=sampler, num_workers=workers))

    reads = "track" if kept == "loaded per item" else "around"
    return Row(f".npy {kept}, {workers} workers", path, batches, reads=reads, workers=workers)


def _tuned_row(path: Path, workers: int) -> Row:
    def batches(wanted: Windows) -> Batches:
        dataset = TunedTracks(sorted(path.iterdir()), frames=wanted.frames)
        loader = DataLoader(dataset, batch_sampler=wanted.places(), num_workers=workers)  # type: ignore[arg-type]
        return (batch for batch in loader)

    return Row(f".npy kept mapped, tuned, {workers} workers", path, batches, workers=workers, tuned=True)


# --- zarr-python ------------------------------------------------------------------------------------------------------


def zarr_rows(path: Path) -> list[Row]:
    """The Zarr cache of our own row, its arrays opened once and sliced window by window."""
    return [_zarr_row(path, rust=False), *([_zarr_row(path, rust=True)] if find_spec("zarrs") else [])]


def _zarr_row(path: Path, *, rust: bool) -> Row:
    def batches(wanted: Windows) -> Batches:
        import zarr

        cache, arrays = open_cache(path), {}
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}) if rust else nullcontext():
            for shard in cache.shards:
                group: Any = zarr.open_group(path / "shards" / shard.key, mode="r")
                arrays[shard.key] = [group[stream] for stream in wanted.streams]

        def read(places: Sequence[tuple[int, int]]) -> Tensor:
            batch = stream_first(wanted)
            for window, (number, start) in zip(batch, places, strict=True):
                track = cache.tracks[number]
                first = track.first_frame + start
                for target, array in zip(window, arrays[track.shard], strict=True):
                    target[:] = array[first : first + wanted.frames]
            return torch.from_numpy(batch).transpose(1, 2)  # (B, streams, T, C) -> (B, T, streams, C)

        return (read(places) for places in wanted.places())

    return Row("zarr-python with zarrs" if rust else "zarr-python", path, batches)


# --- passes over whole tracks, whose windows go through a buffer ------------------------------------------------------


def cut(tracks: Iterable[Record], wanted: Windows) -> Iterator[Record]:
    """All windows of each track, end to end from a random first frame."""
    generator = np.random.default_rng(0)
    for track in tracks:
        first = int(generator.integers(min(wanted.frames, len(track) - wanted.frames + 1)))
        for start in range(first, len(track) - wanted.frames + 1, wanted.frames):
            yield track[start : start + wanted.frames]


def shuffled(windows: Iterator[Record], wanted: Windows) -> Batches:
    """Shuffles windows in a full buffer, from which random ones leave and into which the next ones go."""
    generator = np.random.default_rng(0)
    buffer = [next(windows) for _ in range(BUFFER)]
    while True:
        batch = []
        for place in generator.integers(BUFFER, size=wanted.batch).tolist():
            batch.append(buffer[place])
            buffer[place] = next(windows)
        yield stack(batch)


def stack(windows: Sequence[Record]) -> Tensor:
    return torch.from_numpy(np.stack(windows))


def webdataset_rows(wanted: Windows, folder: Path) -> list[Row]:
    """Tars as large as our shards, one member a track; shards drawn with replacement; its own shuffle."""

    def write(partial: Path) -> None:
        import webdataset

        for members in pack(wanted.noise):
            with webdataset.TarWriter(str(partial / f"{members.start:05d}.tar")) as writer:  # type: ignore[attr-defined]
                for number in members:
                    writer.write({"__key__": track_id(number), "latents.npy": wanted.record(number)})

    path = made(folder / "webdataset", write)
    return [_webdataset_row(path, workers) for workers in (0, WORKERS)]


def _webdataset_row(path: Path, workers: int) -> Row:
    def batches(wanted: Windows) -> Batches:
        import webdataset

        def windows(samples: Iterable[dict[str, Any]]) -> Iterator[Record]:
            return cut((sample["latents.npy"] for sample in samples), wanted)

        urls = [str(file) for file in sorted(path.iterdir())]
        dataset: Any = webdataset.WebDataset(urls, resampled=True, shardshuffle=False, seed=0)  # type: ignore[attr-defined]
        dataset = dataset.decode().compose(windows).shuffle(BUFFER, initial=BUFFER)
        dataset = dataset.batched(wanted.batch, collation_fn=stack)
        return (batch for batch in DataLoader(dataset, batch_size=None, num_workers=workers))

    name = f"webdataset, shuffle({BUFFER}), {workers} workers"
    return Row(name, path, batches, independent=False, reads="sequence", workers=workers)


def litdata_rows(wanted: Windows, folder: Path) -> list[Row]:
    """Whole tracks in its layout for time series: windows of it by `read_window`, and iteration."""
    from litdata import StreamingDataset, TemporalArrayLoader  # type: ignore[import-not-found]

    def write(partial: Path) -> None:
        from litdata.streaming.cache import Cache  # type: ignore[import-not-found]  # what `optimize` writes with

        writer = Cache(str(partial), chunk_bytes=CHUNK_BYTES, item_loader=TemporalArrayLoader())
        for number in range(len(wanted.noise.lengths)):
            writer[number] = {"latents": wanted.record(number)}
        writer.done()
        writer.merge()

    path = made(folder / "litdata", write)

    def drawn(wanted: Windows) -> Batches:
        dataset = StreamingDataset(str(path), item_loader=TemporalArrayLoader())
        assert dataset.frame_counts == wanted.noise.lengths.tolist()  # opens it, too

        def read(places: Sequence[tuple[int, int]]) -> Tensor:
            return stack([dataset.read_window(number, start, wanted.frames)["latents"] for number, start in places])

        return (read(places) for places in wanted.places())

    def iterated(wanted: Windows) -> Batches:
        dataset = StreamingDataset(str(path), item_loader=TemporalArrayLoader(), shuffle=True)
        return shuffled(cut((record["latents"] for record in _again(dataset)), wanted), wanted)

    return [
        Row("litdata, read_window", path, drawn, reads="exactly"),
        Row(f"litdata, iteration, buffer of {BUFFER}", path, iterated, independent=False, reads="sequence"),
    ]


def mosaic_rows(wanted: Windows, folder: Path) -> list[Row]:
    """Whole tracks; an item of it for a window, and iteration."""
    with torchvision_or_stub():
        from streaming import LocalDataset, MDSWriter, StreamingDataset  # type: ignore[import-not-found]

    def write(partial: Path) -> None:
        columns = {"latents": "ndarray:float16"}
        with MDSWriter(out=str(partial), columns=columns, size_limit=SHARD_BYTES) as writer:
            for number in range(len(wanted.noise.lengths)):
                writer.write({"latents": wanted.record(number)})

    path = made(folder / "mosaic", write)

    def drawn(wanted: Windows) -> Batches:
        dataset = LocalDataset(str(path))

        def read(places: Sequence[tuple[int, int]]) -> Tensor:
            return stack([dataset[number]["latents"][start : start + wanted.frames] for number, start in places])

        return (read(places) for places in wanted.places())

    def iterated(wanted: Windows) -> Batches:
        dataset = StreamingDataset(local=str(path), shuffle=True, batch_size=1)
        return shuffled(cut((record["latents"] for record in _again(dataset)), wanted), wanted)

    return [
        Row("mosaicml-streaming, an item a window", path, drawn, reads="track"),
        Row(f"mosaicml-streaming, iteration, buffer of {BUFFER}", path, iterated, independent=False, reads="sequence"),
    ]


def _again(dataset: Iterable[Any]) -> Iterator[Any]:
    """Repeats the loader for ever."""
    while True:
        yield from dataset


@contextmanager
def torchvision_or_stub() -> Iterator[None]:
    """mosaicml-streaming imports two names of torchvision for its image data sets. If torchvision is missing, empty
    modules replace it during that import. transformers also looks for torchvision, so it is imported first."""
    if find_spec("torchvision"):
        yield
        return
    import transformers.feature_extraction_utils  # noqa: F401

    stubs = {name: ModuleType(name) for name in TORCHVISION}
    for name, stub in stubs.items():
        stub.__spec__ = ModuleSpec(name, None)
    stubs["torchvision.datasets"].__dict__["VisionDataset"] = object
    stubs["torchvision.transforms.functional"].__dict__["to_tensor"] = None
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name in stubs:
            del sys.modules[name]
