"""A commit record that is not that of its shard is not believed: the shard is made again; the cache is as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.exchange.convert import convert_cache
from reencoder_pipeline.exchange.export_latents import export_cache
from reencoder_pipeline.exchange.import_latents import import_latents
from reencoder_pipeline.stores.digests import canonical_digest
from tiny_build import build, music, tree


def swapped_tracks(record: dict[str, Any]) -> None:
    """The order of the tracks, and with it whose frames are whose."""
    tracks, first = record["shard"]["tracks"], 0
    tracks.reverse()
    record["recipes"].reverse()
    for track in tracks:
        track["first_frame"] = first
        first += track["num_frames"]


def moved_border(record: dict[str, Any]) -> None:
    one, other = record["shard"]["tracks"]
    one["num_frames"], other["num_frames"] = one["num_frames"] - 1, other["num_frames"] + 1
    other["first_frame"] -= 1


def sums(**values: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for streams in record["sums"].values():
            for one in streams.values():
                one.update({name: value(one[name]) for name, value in values.items()})

    return change


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tracks in another order": swapped_tracks,
    "another border between tracks": moved_border,
    "the digest of other audio": lambda record: record["shard"]["tracks"][0].update(sha256="0" * 64),
    "no files": lambda record: record["shard"].update(files={}),
    "a file less": lambda record: record["shard"]["files"].popitem(),
    "no checksums": lambda record: record["shard"].update(blocks={}),
    "no sums": lambda record: record.update(sums={}),
    "no sums of training": lambda record: record["sums"].pop("train"),
    "sums of one stream less": lambda record: record["sums"]["all"].pop("mono"),
    "sums of no frames": sums(count=lambda count: 0),
    "sums of one channel": sums(total=lambda values: values[:1], squares=lambda values: values[:1]),
    "sums beyond their squares": sums(total=lambda values: [1e9 for _ in values]),
}  # fmt: skip
BY_A_BUILD = ("tracks in another order", "no files", "no sums")  # of both formats


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of equal length, which make one shard."""
    import soundfile

    folder = tmp_path_factory.mktemp("two_tracks")
    for number in range(2):
        soundfile.write(folder / f"t{number}.wav", music(seconds=2.9, seed=number).T, 44_100)
    return folder


def edit(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the one record, which then holds the digest that fits."""
    (file,) = out.glob("shards/*.json")
    record = json.loads(file.read_bytes())
    record.pop("digest")
    change(record)
    file.write_text(json.dumps({**record, "digest": canonical_digest(record)}))


@pytest.mark.parametrize(
    ("name", "storage", "precision"),
    [(name, "zarr", "float16") for name in CHANGES] + [(name, "webdataset", "int8") for name in BY_A_BUILD],
)
def test_a_build_makes_the_shard_again(
    name: str, storage: str, precision: str, source: Path, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    def run() -> dict[str, bytes]:
        build(source, tmp_path / "cache", tiny_autoencoder, format=storage, precision=precision, valid_share=0)
        return tree(tmp_path / "cache")

    before = run()
    edit(tmp_path / "cache", CHANGES[name])
    assert run() == before


@pytest.mark.parametrize("name", ["tracks in another order", "no files", "no sums"])
@pytest.mark.parametrize("command", ["convert", "import"])
def test_so_do_a_conversion_and_an_import(
    command: str, name: str, source: Path, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    build(source, tmp_path / "cache", tiny_autoencoder, streams=["mono", "low_band"], valid_share=0)

    def run() -> dict[str, bytes]:
        out = tmp_path / "out"
        if command == "convert":
            convert_cache(tmp_path / "cache", out, storage="webdataset", progress=lambda done, total: None)
        else:
            export_cache(tmp_path / "cache", tmp_path / "latents", progress=lambda done, total: None)
            folders = {stream: tmp_path / "latents" / stream for stream in ("mono", "low_band")}
            spec, config = load_autoencoder(str(tiny_autoencoder)).spec, CacheConfig.model_validate({})
            import_latents(folders, out, spec, config, progress=lambda done, total: None)
        assert len(open_cache(out).tracks) == 2
        return tree(out)

    before = run()
    edit(tmp_path / "out", CHANGES[name])
    assert run() == before
