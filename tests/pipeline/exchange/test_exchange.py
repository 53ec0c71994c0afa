"""Latents go to stable-audio-tools and come back bit for bit; those that others made come in checked, or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reencoder_pipeline.cache.formats.zarr_shards import data_file
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.errors import CacheError, ConfigError, CorpusError
from reencoder_pipeline.exchange import export_latents
from reencoder_pipeline.exchange.convert import convert_cache
from reencoder_pipeline.exchange.export_latents import Exported, export_cache
from reencoder_pipeline.exchange.import_latents import Imported, import_latents
from reencoder_pipeline.exchange.items import folders_of
from reencoder_pipeline.exchange.stable_audio_format import Origin, fields_of
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.shards import commit_frames
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.tasks import get_task
from stable_audio_folder import batch, read_dataset, write_item
from tiny_build import leftovers, tree
from tiny_cache import SPEC, STREAMS, write_cache

JOINT = LatentSpec("joint", "1" * 64, sample_rate=44100, hop=1024, channels=8, stereo="joint")


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def export(source: Path, out: Path, **options: Any) -> Exported:
    return export_cache(source, out, progress=options.pop("progress", silent), **options)


def bring_in(
    folders: dict[str, Path], out: Path, *, spec: LatentSpec = SPEC, **settings: Any
) -> tuple[Imported, list[dict[str, str]]]:
    progress = settings.pop("progress", silent)
    return import_latents(folders, out, spec, CacheConfig(**settings), progress=progress)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    """A small cache with checksums, two shards, all four streams. Not to be changed."""
    folder = tmp_path_factory.mktemp("cache")
    convert_cache(write_cache(folder / "first"), folder / "zarr", storage="zarr", progress=silent)
    return open_cache(folder / "zarr")


def music(frames: int, *, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SPEC.channels, frames)).astype(dtype)


# Export


def test_every_item_reads_as_stable_audio_tools_reads_it(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*STREAMS, "details.json", "manifest.jsonl"}
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    for stream in STREAMS:
        items = read_dataset(tmp_path / "out" / stream)
        assert len(items) == len(cache.tracks)
        for track, (latents, info) in zip(cache.tracks, items, strict=True):
            assert np.array_equal(latents.numpy().T, cache.read(track, stream))
            assert info["relpath"] == track.id
            assert info["padding_mask"][0].tolist() == [1] * track.num_frames
    for row in rows:
        track = next(track for track in cache.tracks if track.id == row["id"])
        assert (row["sha256"], row["split"]) == (track.sha256, track.split)
        assert row["latent_spec"] == canonical_digest(cache.spec.to_dict())
        assert row["file"].startswith(row["stream"] + "/")
        assert np.load(tmp_path / "out" / row["file"]).shape == (SPEC.channels, track.num_frames)
    assert len(rows) == len(STREAMS) * len(cache.tracks)


def test_fields_say_where_in_its_file_an_item_lies() -> None:
    """65.5 s of audio; 43.07 frames a second. The second item begins at 29.72 s, the last one is padded."""
    origin = {"id": "a.wav", "sha256": "0" * 64, "split": "train", "stream": "mono", "latent_spec": "x", "tasks": []}
    origin |= {"bandwidth_hz": None, "side_mid_db": None, "track_samples": 2_888_000}
    second = Origin(**origin, first_frame=1280, num_samples=1280 * 1024)
    fields = fields_of(second, SPEC, length=1280)
    assert (fields["seconds_start"], fields["seconds_total"]) == (29, 66)
    assert fields["timestamps"] == [1280 * 1024 / 2_888_000, 2 * 1280 * 1024 / 2_888_000]
    assert fields["padding_mask"] == [1] * 1280
    last = fields_of(Origin(**origin, first_frame=2560, num_samples=2_888_000 - 2560 * 1024), SPEC, length=1280)
    assert last["padding_mask"] == [1] * 261 + [0] * 1019  # 260.3 frames
    assert last["timestamps"][1] == 1.0


def test_items_of_one_length_make_batches(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "out", streams=["mono"], length=64)
    latents, masks = batch(read_dataset(tmp_path / "out" / "mono"))
    assert latents.shape == (sum(-(-t.num_frames // 64) for t in cache.tracks), SPEC.channels, 64)
    assert int(masks.sum()) == sum(track.num_frames for track in cache.tracks)
    joined = np.concatenate([cache.read(track, "mono") for track in cache.tracks])
    assert np.array_equal(latents.transpose(1, 2)[masks.bool()].numpy(), joined)
    assert not latents.transpose(1, 2)[~masks.bool()].any()
    cropped, _ = batch(read_dataset(tmp_path / "out" / "mono", crop=10))
    assert torch.equal(cropped, latents[:, :, :10])


def test_streams_and_splits_are_chosen_and_names_stay(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "all")
    export(cache.path, tmp_path / "some", streams=["left"], splits=["valid"])
    items = {name: content for name, content in tree(tmp_path / "some").items() if name.startswith("left/")}
    assert len(items) == 2 * sum(track.split == "valid" for track in cache.tracks)
    assert items.items() <= tree(tmp_path / "all").items()
    for options in ({"streams": ["stereo"]}, {"splits": ["training"]}, {"splits": ["test"]}):
        with pytest.raises(CacheError, match=r"no such|no tracks"):
            export(cache.path, tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs/olute.wav", "a.npy/b.npy", "Ängste\n\u2028.wav", "x" * 300, "\udcff"]
)
def test_names_of_files_are_safe_and_ids_come_back(tmp_path: Path, name: str) -> None:
    source = write_cache(tmp_path / "cache", valid_frames=())
    index = (source / "index.json").read_text()
    (source / "index.json").write_text(index.replace('"train-1"', json.dumps(name)))
    export(source, tmp_path / "deep" / "out", streams=["mono"])
    names = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "deep" / "out" / "mono").iterdir()]
    assert len(names) == 12
    assert all(name.isascii() and name.isprintable() and name.count(".") == 1 and len(name) < 120 for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "deep"}
    read_dataset(tmp_path / "deep" / "out" / "mono")
    _, failures = bring_in({"mono": tmp_path / "deep" / "out" / "mono"}, tmp_path / "back")
    assert failures == []
    assert name in [track.id for track in open_cache(tmp_path / "back").tracks]


def stop(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_an_export_goes_on_and_nothing_else_is_touched(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        export(cache.path, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    torn = next((tmp_path / "out" / "mono").glob("*.json"))
    torn.unlink()  # killed between the two files of an item
    done = export(cache.path, tmp_path / "out")
    assert (done.items_written, done.items_kept) == (1 + 2 * 4, 6 * 4 - 1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert leftovers(tmp_path / "out") == []
    with pytest.raises(CacheError, match="something else was begun here"):
        export(cache.path, tmp_path / "out", length=64)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(CacheError, match="not empty"):
        export(cache.path, tmp_path / "mine")
    assert tree(tmp_path / "mine") == {"notes.txt": b""}


def test_damaged_latents_are_not_exported(cache: LatentCache, tmp_path: Path) -> None:
    source = Path(shutil.copytree(cache.path, tmp_path / "cache"))
    file = data_file(source / "shards" / "valid", "mono")
    content = bytearray(file.read_bytes())
    content[7] ^= 4
    file.write_bytes(content)
    with pytest.raises(CacheError, match="not what the index says"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_a_full_disk_is_one_clear_error(cache: LatentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export_latents, "write_whole", no_room)
    with pytest.raises(CacheError, match="disk is full"):
        export(cache.path, tmp_path / "out")
    monkeypatch.undo()
    export(cache.path, tmp_path / "out")
    monkeypatch.setattr(commit_frames, "write_record", no_room)
    with pytest.raises(CacheError, match="disk is full"):
        bring_in({"mono": tmp_path / "out" / "mono"}, tmp_path / "back")


# There and back


@pytest.mark.parametrize("storage", ["zarr", "webdataset"])
@pytest.mark.parametrize("length", [None, 64])
def test_an_exported_cache_comes_back_bit_for_bit(
    cache: LatentCache, tmp_path: Path, storage: str, length: int | None
) -> None:
    export(cache.path, tmp_path / "out", length=length)
    folders = {stream: tmp_path / "out" / stream for stream in STREAMS}
    _, failures = bring_in(folders, tmp_path / "back", format=storage, shard_frames=1024)
    back = open_cache(tmp_path / "back")
    assert failures == []
    assert verify_cache(back) == []
    assert (back.storage, back.spec, back.notes) == (storage, SPEC, ())
    pieces = defaultdict(list)
    for track in back.tracks:
        pieces[track.id.split("#")[0]].append(track)
    assert list(pieces) == [track.id for track in cache.tracks]
    for track in cache.tracks:
        same = ("split", "sha256", "tasks", "bandwidth_hz", "side_mid_db")
        for piece in pieces[track.id]:
            assert [getattr(piece, name) for name in same] == [getattr(track, name) for name in same]
        assert sum(piece.num_samples for piece in pieces[track.id]) == track.num_samples
        for stream in STREAMS:
            joined = np.concatenate([back.read(piece, stream) for piece in pieces[track.id]])
            assert np.array_equal(joined.view(np.uint16), cache.read(track, stream).view(np.uint16))
    for stream in STREAMS:
        np.testing.assert_allclose(back.statistics[stream].mean, cache.statistics[stream].mean, rtol=1e-6, atol=1e-9)


def test_an_export_of_another_stream_or_autoencoder_is_refused(cache: LatentCache, tmp_path: Path) -> None:
    export(cache.path, tmp_path / "out")
    other = LatentSpec("tiny", "f" * 64, sample_rate=44100, hop=1024, channels=8)
    with pytest.raises(CacheError, match="another autoencoder"):
        bring_in({"mono": tmp_path / "out" / "mono"}, tmp_path / "a", spec=other)
    with pytest.raises(CacheError, match="is the stream mono, not left"):
        bring_in({"left": tmp_path / "out" / "mono"}, tmp_path / "b")


# Import of what others made


def test_foreign_latents_become_a_cache(tmp_path: Path) -> None:
    pieces = {f"{n:03d}": music(n + 3, seed=n) for n in range(12)}
    for n, piece in enumerate(pieces.values()):
        write_item(tmp_path / "sat", n, piece, length=20, file=f"album/{n // 2}.flac", start=n / 100)
    (tmp_path / "sat" / "details.json").write_text("{}")
    _, failures = bring_in(
        {"mono": tmp_path / "sat"}, tmp_path / "out", valid_share=0.3, test_share=0.3, shard_frames=1024
    )
    found = open_cache(tmp_path / "out")
    assert failures == []
    assert verify_cache(found) == []
    assert [track.num_frames for track in found.tracks] == [n + 3 for n in range(12)]
    for n, (track, piece) in enumerate(zip(found.tracks, pieces.values(), strict=True)):
        assert track.id == f"album/{n // 2}.flac#0/000{n:06d}0000"
        assert np.array_equal(found.read(track, "mono"), piece.T.astype(np.float16))
        assert (track.sha256, track.bandwidth_hz, track.side_mid_db) == ("unknown", None, None)
        assert track.num_samples == track.num_frames * SPEC.hop
    splits = [track.split for track in found.tracks]
    assert splits[::2] == splits[1::2], "excerpts of one recording lie in two splits"
    assert set(splits) == {"train", "valid", "test"}
    assert "12 tracks are imported latents" in found.notes[0]
    assert found.low_band == {"rate": "unknown", "resampler": "unknown"}


def test_streams_of_several_folders_are_joined_by_name(tmp_path: Path) -> None:
    for n in range(5):
        for seed, stream in enumerate(("mono", "left", "right")):
            write_item(tmp_path / stream, n, music(9, seed=10 * n + seed), length=9, file=f"{n}.wav", start=n / 10)
    write_item(tmp_path / "left", 5, music(9), length=9)
    write_item(tmp_path / "right", 1, music(9), length=9, file="1.wav", start=0.3)  # cut elsewhere
    write_item(tmp_path / "right", 2, music(8), length=9, file="2.wav", start=0.2)  # another length
    folders = {stream: tmp_path / stream for stream in ("mono", "left", "right")}
    _, failures = bring_in(folders, tmp_path / "out", valid_share=0.2, test_share=0.2)
    errors = {failure["id"]: failure["error"] for failure in failures}
    assert list(errors) == ["0/0000000010000", "0/0000000020000", "0/0000000050000"]
    assert "mono and right show different excerpts" in errors["0/0000000010000"]
    assert "mono and right show different excerpts" in errors["0/0000000020000"]
    assert "is missing in other streams" in errors["0/0000000050000"]
    assert "mono, right" in errors["0/0000000050000"]
    found = open_cache(tmp_path / "out")
    assert [track.id[:5] for track in found.tracks] == ["0.wav", "3.wav", "4.wav"]
    assert all(track.tasks == ("m2s",) for track in found.tracks)
    assert found.select(get_task("m2s"), split="train")
    assert np.array_equal(found.read(found.tracks[1], "right"), music(9, seed=32).T.astype(np.float16))


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode() + bytes(8 * 10 * 4)


def described(shape: object, dtype: str = "<f4", fortran: object = False) -> bytes:
    return header(f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}}}\n")


def save(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def fields(**changed: Any) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        file = path.with_suffix(".json")
        values = {**json.loads(file.read_text()), **changed}
        file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))

    return change


def with_nan(array: np.ndarray, value: float = np.nan) -> np.ndarray:
    array[3, 4] = value
    return array


PICKLE = np.array([[{"a": 1}] * 10] * 8, dtype=object)
ORIGIN = {
    "id": "a", "sha256": "0" * 64, "split": "train", "stream": "mono", "tasks": [], "bandwidth_hz": None,
    "latent_spec": canonical_digest(SPEC.to_dict()), "side_mid_db": 0.0, "first_frame": 0,
    "num_samples": 10 * 1024, "track_samples": 10 * 1024,
}  # fmt: skip
BAD = {
    "no fields": (lambda path: path.with_suffix(".json").unlink(), "no fields beside it"),
    "torn fields": (lambda path: path.with_suffix(".json").write_text('{"padding_'), "not a JSON object"),
    "a list": (lambda path: path.with_suffix(".json").write_text("[1, 2]"), "not a JSON object"),
    "nested": (lambda path: path.with_suffix(".json").write_text("[" * 100_000), "not a JSON object"),
    "not text": (lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe"), "not a JSON object"),
    "no mask": (fields(padding_mask=None), "no padding_mask"),
    "mask is a number": (fields(padding_mask=10), "no padding_mask"),
    "all padding": (fields(padding_mask=[0] * 10), "ones, at least one"),
    "a hole": (fields(padding_mask=[1] * 4 + [0] + [1] * 5), "and then zeros"),
    "twos": (fields(padding_mask=[1] * 8 + [2] * 2), "ones, at least one"),
    "short mask": (fields(padding_mask=[1] * 9), r"\(8, 10\)"),
    "mask in samples": (fields(padding_mask=[1] * 10_240), "by the autoencoder and the padding_mask"),
    "channels": (save(music(10)[:7]), r"\(7, 10\)"),
    "frames first": (save(music(10).T), r"\(10, 8\)"),
    "a batch": (save(music(10)[None]), r"\(1, 8, 10\)"),
    "nan": (save(with_nan(music(10))), "not finite"),
    "inf": (save(with_nan(music(10), np.inf)), "not finite"),
    "too loud": (save(with_nan(music(10), 1e6)), "do not fit float16"),
    "tokens": (save(np.ones((8, 10), np.int64)), "discrete tokens"),
    "complex": (save(np.ones((8, 10), np.complex64)), "floating-point"),
    "pickle": (save(PICKLE), "floating-point"),
    "records": (save(np.zeros((8, 10), dtype=[("a", "<f4")])), "floating-point"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut short"),
    "empty": (content(b""), "not a .npy"),
    "a zip": (content(b"PK\x03\x04" + bytes(100)), "not a .npy"),
    "huge": (described((8, 10**18)), "channels, frames"),
    "beyond": (described((2**62, 2**62)), "channels, frames"),
    "negative": (described((-8, -10)), "channels, frames"),
    "minus one": (described((-1, 10)), "channels, frames"),
    "true": (described((True, 10)), "channels, frames|not a .npy"),
    "code": (header("__import__('os').abort()\n"), "not a .npy"),
    "unclosed": (header("{'descr': '<f4', 'shape': (((\n"), "not a .npy"),
    "version": (header("{}\n", version=b"\x09\x00"), "not a .npy"),
    "long": (lambda path: path.write_bytes(path.read_bytes() + bytes(100_000)), "larger than 10 frames"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is missing"),
    "origin": (fields(reencoder={"id": "a"}), "`reencoder` is damaged"),
    "origin split": (fields(reencoder={**ORIGIN, "split": "all"}), "`reencoder` is damaged"),
    "origin length": (fields(reencoder={**ORIGIN, "num_samples": 9 * 1024}), "contradict"),
    "origin size": (fields(reencoder={**ORIGIN, "num_samples": -1}), "`reencoder` is damaged"),
    "origin nan": (fields(reencoder={**ORIGIN, "side_mid_db": float("nan")}), "`reencoder` is damaged"),
    "origin sha256": (fields(reencoder={**ORIGIN, "sha256": "../.."}), "`reencoder` is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_is_named_and_left_out(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    write_item(tmp_path / "sat", 0, music(10), length=12, file="good.wav")
    bad = write_item(tmp_path / "sat", 1, music(10), length=10, file="bad.wav")
    content(spoil)(bad) if isinstance(spoil, bytes) else spoil(bad)
    _, failures = bring_in({"mono": tmp_path / "sat"}, tmp_path / "out")
    (failure,) = failures
    assert failure["id"] == "0/0000000010000"
    assert re.search(message, failure["error"])
    assert (tmp_path / "out" / "failures.jsonl").read_text() == json.dumps(failure) + "\n"
    assert [track.id for track in open_cache(tmp_path / "out").tracks] == ["good.wav#0/0000000000000"]


@pytest.mark.parametrize("name", ["silence", "0/silence", "SILENCE"])
def test_padding_beside_the_items_is_no_failure(tmp_path: Path, name: str) -> None:
    write_item(tmp_path / "sat", 0, music(10), length=12, file="good.wav")
    np.save(tmp_path / f"sat/{name}.npy", np.zeros((1, SPEC.channels, 100), "float32"))
    _, failures = bring_in({"mono": tmp_path / "sat"}, tmp_path / "out")
    assert failures == []
    assert [track.id for track in open_cache(tmp_path / "out").tracks] == ["good.wav#0/0000000000000"]
    bad = write_item(tmp_path / "sat", 1, music(10), length=10, file="bad.wav")
    bad.with_suffix(".json").unlink()
    _, failures = bring_in({"mono": tmp_path / "sat"}, tmp_path / "out")
    assert [failure["id"] for failure in failures] == ["0/0000000010000"]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_floating_point_in_any_order_is_the_same_latents(tmp_path: Path, dtype: str, order: Any) -> None:
    latents = music(10, dtype="float16")
    path = write_item(tmp_path / "sat", 0, latents, length=10)
    np.save(path, np.asarray(latents.astype(dtype), order=order))
    bring_in({"mono": tmp_path / "sat"}, tmp_path / "out", format="webdataset")
    found = open_cache(tmp_path / "out")
    assert np.array_equal(found.read(found.tracks[0], "mono"), latents.T)


def test_float32_keeps_what_float16_cannot_hold(tmp_path: Path) -> None:
    latents = with_nan(music(10), 1e6)
    write_item(tmp_path / "sat", 0, latents, length=10)
    with pytest.raises(CacheError, match=r"not one item[^~]*do not fit float16"):
        bring_in({"mono": tmp_path / "sat"}, tmp_path / "a")
    bring_in({"mono": tmp_path / "sat"}, tmp_path / "b", precision="float32")
    found = open_cache(tmp_path / "b")
    assert np.array_equal(found.read(found.tracks[0], "mono"), latents.T)


def test_two_items_of_one_id_are_not_both_taken(tmp_path: Path) -> None:
    for n in range(2):
        write_item(tmp_path / "sat", n, music(10, seed=n), length=10, reencoder=ORIGIN)
    _, failures = bring_in({"mono": tmp_path / "sat"}, tmp_path / "out")
    assert ["same id" in failure["error"] for failure in failures] == [True]
    assert [track.id for track in open_cache(tmp_path / "out").tracks] == ["a"]


def test_an_import_goes_on_and_follows_its_folder(tmp_path: Path) -> None:
    sat = {"mono": tmp_path / "sat"}
    for n in range(3):
        write_item(tmp_path / "sat", n, music(1100, seed=n), length=1100, file=f"{n}.wav")
    bring_in(sat, tmp_path / "whole", shard_frames=1024)
    with pytest.raises(KeyboardInterrupt):
        bring_in(sat, tmp_path / "out", shard_frames=1024, progress=stop)
    with pytest.raises(CacheError, match="not complete"):
        open_cache(tmp_path / "out")
    done, failures = bring_in(sat, tmp_path / "out", shard_frames=1024)
    assert (done.shards_written, done.shards_kept) == (2, 1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    np.save(write_item(tmp_path / "sat", 1, music(1100, seed=1), length=1100, file="1.wav"), with_nan(music(1100)))
    done, failures = bring_in(sat, tmp_path / "out", shard_frames=1024)
    assert (done.shards_written, done.shards_kept, len(failures)) == (1, 2, 1)
    assert bring_in(sat, tmp_path / "out", shard_frames=1024)[1] == failures
    write_item(tmp_path / "sat", 1, music(1100, seed=1), length=1100, file="1.wav")
    assert bring_in(sat, tmp_path / "out", shard_frames=1024)[1] == []
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    with pytest.raises(CacheError, match="precision: 'float16' then, 'float32' now"):
        bring_in(sat, tmp_path / "out", precision="float32")


def test_tasks_are_those_of_the_streams_or_of_the_configuration(tmp_path: Path) -> None:
    for stream in STREAMS:
        write_item(tmp_path / stream, 0, music(10), length=10)
    folders = {stream: tmp_path / stream for stream in STREAMS}
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [({}, ("bwe", "m2s")), ({"tasks": ["bwe"]}, ("bwe",))]
    for number, (settings, expected) in enumerate(cases):
        bring_in(folders, tmp_path / str(number), resampler="soxr_vhq", **settings)
        found = open_cache(tmp_path / str(number))
        assert found.tracks[0].tasks == expected
        assert found.low_band == {"rate": "unknown", "resampler": "soxr_vhq"}
    with pytest.raises(ConfigError, match="hours"):
        bring_in(folders, tmp_path / "hours", hours=1.0)


@pytest.mark.parametrize(
    ("folder", "streams", "spec", "expected"),
    [
        ("a", [], SPEC, {"mono": Path("a")}),
        ("a", [], JOINT, {"stereo": Path("a")}),
        ("a", ["left"], SPEC, {"left": Path("a")}),
        (None, ["mono=a", "left=b=c"], SPEC, {"mono": Path("a"), "left": Path("b=c")}),
        ("a", ["stereo"], SPEC, "not the name of a stream"),
        ("a", ["drums"], SPEC, "not the name of a stream"),
        (None, ["mono=a", "mono=b"], SPEC, "named twice"),
        ("a", ["mono=b"], SPEC, "which folder"),
        ("a", ["mono", "left"], SPEC, "which folder"),
        (None, [], SPEC, "which folder"),
        (None, ["mono="], SPEC, "which folder"),
    ],
)
def test_folders_are_told_apart(folder: str | None, streams: list[str], spec: LatentSpec, expected: Any) -> None:
    path = None if folder is None else Path(folder)
    if isinstance(expected, dict):
        assert folders_of(path, streams, spec) == expected
        return
    with pytest.raises(ConfigError, match=expected):
        folders_of(path, streams, spec)


@pytest.mark.parametrize("name", ["shards/000000.tar", "film.partial", "index.json"])
def test_an_import_refuses_a_folder_of_others(name: str, tmp_path: Path) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    (tmp_path / "items").mkdir()
    with pytest.raises(CacheError, match="is not empty"):
        bring_in({"mono": tmp_path / "items"}, tmp_path / "out")
    assert [path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["theirs"]


def test_nothing_to_import_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        bring_in({"mono": tmp_path / "missing"}, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match=r"no \.npy files there"):
        bring_in({"mono": tmp_path / "empty"}, tmp_path / "out")


# The commands


def command(*arguments: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, Any]:
    from reencoder_pipeline.cli import main

    monkeypatch.setattr("sys.argv", ["reencoder-cache", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    code = left.value.code or 0
    return int(code), json.loads(printed.out) if printed.out.startswith("{") else printed.out + printed.err


def test_the_commands(
    cache: LatentCache,
    tiny_autoencoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from reencoder_pipeline.autoencoder import load_autoencoder

    def run(*arguments: object) -> tuple[int, Any]:
        return command(*arguments, capsys=capsys, monkeypatch=monkeypatch)

    spec = load_autoencoder(str(tiny_autoencoder)).spec
    source = write_cache(tmp_path / "cache", spec=spec)
    code, done = run("convert", source, "--out", tmp_path / "tar", "--format", "webdataset", "--json")
    assert (code, done["shards_written"], done["tracks"]) == (0, 2, 8)
    assert done["digest"] == open_cache(tmp_path / "tar").digest
    code, message = run("convert", source, "--out", tmp_path / "x", "--format", "tar")
    assert code == 2
    assert "'zarr' or 'webdataset'" in message
    sat = tmp_path / "sat"
    code, done = run("export", tmp_path / "tar", "--out", sat, "--stream", "mono", "--split", "train", "--json")
    assert (code, done["items_written"], done["items_kept"]) == (0, 6, 0)
    assert {path.name for path in sat.iterdir()} == {"mono", "details.json", "manifest.jsonl"}
    arguments = ("import", sat / "mono", "--out", tmp_path / "back", "--autoencoder", tiny_autoencoder)
    code, done = run(*arguments, "--json")
    assert (code, done["tracks"], done["failures"]) == (0, 6, 0)
    write_item(sat / "mono", 9, music(10), length=10)
    write_item(sat / "mono", 10, music(10)[:5], length=10)
    code, done = run(*arguments, "--json")
    assert (code, done["tracks"], done["failures"]) == (3, 7, 1)
    code, message = run("inspect", tmp_path / "back", "--tracks")
    assert code == 0
    assert "1 tracks are imported latents" in message
    code, message = run("verify", tmp_path / "back")
    assert code == 0, message
    code, message = run("export", source, "--out", "s3://bucket/x")
    assert code == 2
    assert "only a build writes to a URL" in message
