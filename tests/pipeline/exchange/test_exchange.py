"""Latents go to stable-audio-tools and come back bit for bit; those that others made come in checked, or not at all."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exchanged import bring_in, export, music
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.latents import LatentSpec
from stable_audio_folder import write_item
from tiny_cache import SPEC, STREAMS, write_cache

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
    with pytest.raises(CacheError, match="holds the stream mono, not left"):
        bring_in({"left": tmp_path / "out" / "mono"}, tmp_path / "b")


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
