"""Latents that others made become a cache, checked, or do not come in at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exchanged import JOINT, bring_in, music, stop
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError, ConfigError, CorpusError
from reencoder_pipeline.exchange.items import folders_of
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.tasks import get_task
from stable_audio_folder import write_item
from tiny_build import tree
from tiny_cache import SPEC, STREAMS

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
    "no fields": (lambda path: path.with_suffix(".json").unlink(), "there is no such item's .json file"),
    "torn fields": (lambda path: path.with_suffix(".json").write_text('{"padding_'), "not valid JSON"),
    "a list": (lambda path: path.with_suffix(".json").write_text("[1, 2]"), "not a JSON object"),
    "nested": (lambda path: path.with_suffix(".json").write_text("[" * 100_000), "nested too deeply"),
    "not text": (lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe"), "not valid JSON"),
    "no mask": (fields(padding_mask=None), "no padding_mask"),
    "mask is a number": (fields(padding_mask=10), "no padding_mask"),
    "all padding": (fields(padding_mask=[0] * 10), "does not consist of at least one 1"),
    "a hole": (fields(padding_mask=[1] * 4 + [0] + [1] * 5), "followed by zeros"),
    "twos": (fields(padding_mask=[1] * 8 + [2] * 2), "does not consist of at least one 1"),
    "short mask": (fields(padding_mask=[1] * 9), r"\(8, 10\)"),
    "mask in samples": (fields(padding_mask=[1] * 10_240), "from the autoencoder and the padding_mask"),
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
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
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
    "long": (
        lambda path: path.write_bytes(path.read_bytes() + bytes(100_000)),
        "file of 10 frames of latents is too large",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
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
    with pytest.raises(CacheError, match=r"no item could be imported[^~]*do not fit float16"):
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
        ("a", ["stereo"], SPEC, "the stream is unknown"),
        ("a", ["drums"], SPEC, "the stream is unknown"),
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
    with pytest.raises(ConfigError, match="neither empty nor"):
        bring_in({"mono": tmp_path / "items"}, tmp_path / "out")
    assert [path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["theirs"]


def test_nothing_to_import_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        bring_in({"mono": tmp_path / "missing"}, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match=r"no \.npy files there"):
        bring_in({"mono": tmp_path / "empty"}, tmp_path / "out")
