"""What a build refuses, what it leaves out, and a full disk: whatever happens on the way, no wrong cache is left."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from command_line import reencoder_cache
from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.weights import save_vocos
from reencoder_pipeline.build.local_workers import run_jobs
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import AutoencoderError, CacheError, ConfigError, CorpusError
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.shards import write_shard
from reencoder_pipeline.stores.digests import canonical_digest
from reencoder_pipeline.stores.folder_store import FolderStore
from tiny_build import (
    MUSIC,
    NUM_SHARDS,
    SHAPE,
    Built,
    build,
    copied,
    placed_files,
    scratch_name,
    shard_files,
    tree,
)
from tiny_build import music as render

# Refusals


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"precision": "float32"}, "precision: 'float16' then, 'float32' now"),
        ({"streams": ["mono"]}, "streams"),
        ({"format": "webdataset"}, "format: 'zarr' then, 'webdataset' now"),
        ({"resampler": "torchaudio_default", "low_band_rate": 16_000}, "resampler"),
        ({"segment_seconds": 2.0}, "segment_seconds: 1.5 then, 2.0 now"),
        ({"tasks": ["bwe"]}, "tasks"),
    ],
    ids=str,
)
def test_other_settings_need_another_folder(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    with pytest.raises(CacheError, match="was begun with other settings") as caught:
        build(music, out, tiny_autoencoder, **settings)
    assert all(name in str(caught.value) for name in (named, *settings))
    assert "another --out folder" in str(caught.value)
    assert tree(out) == tree(built("zarr"))


def test_other_weights_need_another_folder(built: Built, music: Path, tmp_path: Path) -> None:

    other = tmp_path / "tiny.safetensors"  # of the same name and shape
    save_vocos(Vocos(SHAPE), other, training={})
    out = copied(built("zarr"), tmp_path / "cache")
    with pytest.raises(CacheError, match=r"(?s)other settings.*weights: "):
        build(music, out, other)
    assert tree(out) == tree(built("zarr"))


def test_the_same_weights_elsewhere_are_the_same(
    built: Built, music: Path, tmp_path: Path, tiny_autoencoder: Path
) -> None:
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(tiny_autoencoder, tmp_path / "moved" / tiny_autoencoder.name)
    out = copied(built("zarr"), tmp_path / "cache")
    assert build(music, out, moved).built == 0


def signed(record: dict[str, Any]) -> bytes:
    """A record whose own digest is right."""
    values = {name: value for name, value in record.items() if name != "digest"}
    return json.dumps({**values, "digest": canonical_digest(values)}).encode()


WRONG_RECORDS: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "a copy of another's": lambda record, other: other,
    "another's, renamed": lambda record, other: json.loads(
        json.dumps(other).replace(other["shard"]["key"], record["shard"]["key"])
    ),
    "another's tracks": lambda record, other: {
        **record,
        "shard": {
            **record["shard"],
            "tracks": [
                {**track, "id": its["id"]}
                for track, its in zip(record["shard"]["tracks"], other["shard"]["tracks"], strict=False)
            ],
        },
    },
    "another's recipes": lambda record, other: {**record, "recipes": ["0" * 64 for _ in record["recipes"]]},
}


@pytest.mark.parametrize("storage", ["zarr", "webdataset"])
@pytest.mark.parametrize("name", WRONG_RECORDS)
def test_the_record_of_another_shard_is_none_of_this_one(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path, storage: str, name: str
) -> None:
    out = copied(built(storage), tmp_path / "cache")
    first, second = sorted((out / "shards").glob("*.json"))[:2]
    wrong = signed(WRONG_RECORDS[name](json.loads(first.read_bytes()), json.loads(second.read_bytes())))
    first.unlink()
    first.write_bytes(wrong)
    damages = [finding for finding in verify_cache(open_cache(out)) if finding.severity == "damage"]
    if name != "another's recipes":  # which an index does not hold
        assert [damage.file for damage in damages] == [f"shards/{first.name}"]
    build(music, out, tiny_autoencoder, format=storage)
    assert tree(out) == tree(built(storage))


def test_damaged_settings_are_an_error(built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    for content in ("{", "[1]", ""):
        (out / "settings.json").unlink()
        (out / "settings.json").write_text(content)
        with pytest.raises(CacheError, match=r"settings\.json: the settings file is damaged"):
            build(music, out, tiny_autoencoder)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made(music: Path, tiny_autoencoder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the output folder is a file"):
        build(music, tmp_path / name, tiny_autoencoder)


def test_nothing_to_encode_leaves_no_cache(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        build(tmp_path / "gone", tmp_path / "cache", tiny_autoencoder)
    with pytest.raises(AutoencoderError, match="no such autoencoder"):
        build(music, tmp_path / "cache", tmp_path / "gone.safetensors")
    with pytest.raises(CacheError, match=r"not complete|no latent cache"):
        open_cache(tmp_path / "cache")


def test_tracks_that_suit_nothing_are_an_error(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "tracks.jsonl"
    manifest.write_text(json.dumps({"path": str(music / "mono.wav"), "tasks": []}) + "\n")
    with pytest.raises(CacheError, match=r"(?s)not one track.*1 tracks that suit no task"):
        build(manifest, tmp_path / "cache", tiny_autoencoder)


# Bad files


def bad_corpus(folder: Path, music: Path) -> dict[str, str]:
    """Every kind of bad file between good ones; name -> what has to be said of it."""
    (folder / "some").mkdir(parents=True)
    for name in ("mono.wav", "fourth.FLAC", "short.wav"):
        shutil.copy(music / name, folder / "some" / name)
    audio = render(seconds=1.0).T
    for name, kind in (("cut.wav", "WAV"), ("cut.mp3", "MP3"), ("cut.flac", "FLAC")):
        soundfile.write(folder / name, audio, 44_100, format=kind)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not audio\n" * 100)
    soundfile.write(folder / "nan.wav", np.where(np.arange(len(audio))[:, None] == 7, np.nan, audio), 44_100, "FLOAT")
    soundfile.write(folder / "surround.wav", np.repeat(audio, 3, axis=1), 44_100)
    soundfile.write(folder / "one.wav", audio[:1], 44_100)
    (folder / "link.wav").symlink_to(folder / "gone")
    (folder / os.fsdecode(b"some/caf\xe9.wav")).write_bytes((music / "short.wav").read_bytes())  # good, oddly named
    return {
        "cut.wav": "ends before its header says",
        "cut.mp3": "another length than its header says",
        "cut.flac": "cannot be read as audio",
        "empty.wav": "cannot be read as audio",
        "text.wav": "cannot be read as audio",
        "nan.wav": "not numbers",
        "surround.wav": "6 channels",
        "one.wav": "shorter than one latent frame",
        "link.wav": "no such audio file",
    }


def test_bad_files_are_named_and_not_tried_again(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "music", tmp_path / "cache"
    bad = bad_corpus(folder, music)
    result = build(folder, out, tiny_autoencoder, streams=["mono"])
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert list(result.failures) == rows
    assert sorted(row["id"] for row in rows) == sorted(bad)
    for row in rows:
        assert row["path"] == str(folder / row["id"])
        assert row["error"].startswith(f"{folder / row['id']}: ")
        assert bad[row["id"]] in row["error"]
    good = {os.fsdecode(b"some/caf\xe9.wav"), "some/mono.wav", "some/fourth.FLAC", "some/short.wav"}
    assert {track.id for track in open_cache(out).tracks} == good

    listing = reencoder_cache("inspect", out, "--tracks")  # also a name that no encoding can print
    assert listing.returncode == 0, listing.stderr
    assert listing.stdout.count("some/") == len(good)

    again = build(folder, out, tiny_autoencoder, streams=["mono"])
    assert (again.built, again.failures) == (0, result.failures)


def test_only_bad_files_is_an_error(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "music"
    bad_corpus(folder, music)
    shutil.rmtree(folder / "some")
    for name in ("cut.mp3", "cut.flac", "nan.wav", "one.wav"):  # which only decoding shows
        (folder / name).unlink()
    with pytest.raises(CacheError, match="not one track could be encoded") as caught:
        build(folder, tmp_path / "cache", tiny_autoencoder)
    assert f"5 failures, the first: {folder / 'cut.wav'}: the file ends before" in str(caught.value)
    assert len((tmp_path / "cache" / "failures.jsonl").read_text().splitlines()) == 5
    with pytest.raises(CacheError, match="not complete"):
        open_cache(tmp_path / "cache")


def test_a_file_that_goes_away_for_a_while_is_tried_again(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    """A disk that is unmounted during a build must not leave a record that says for ever: bad file."""
    folder, out = tmp_path / "music", tmp_path / "cache"
    shutil.copytree(music, folder)
    path = folder / "Album 1" / "01 first.wav"

    def goes_away(*arguments: Any) -> Any:
        path.rename(f"{path}.away")
        return run_jobs(*arguments, workers=1)

    result = build(folder, out, tiny_autoencoder, run=goes_away)
    assert [failure["id"] for failure in result.failures] == ["Album 1/01 first.wav"]
    assert "No such file" in result.failures[0]["error"]
    assert len(open_cache(out).tracks) == len(MUSIC) - 1
    Path(f"{path}.away").rename(path)
    result = build(folder, out, tiny_autoencoder)
    assert (result.built, result.failures) == (1, ())
    assert tree(out) == tree(built("zarr"))


# A full disk


def test_a_full_disk_is_named_and_the_build_resumes(
    music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    """Two shards can be written; in the middle of the third the disk is full."""
    out, whole, calls = tmp_path / "cache", write_shard.write_zarr_shard, iter(range(1000))

    def write(folder: Path, streams: dict[str, np.ndarray], **compression: Any) -> None:
        if next(calls) < 2:
            return whole(folder, streams, **compression)
        whole(folder, dict(list(streams.items())[:2]), **compression)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_shard, "write_zarr_shard", write)
        with pytest.raises(CacheError, match=r"(?s)shards/.*: the disk is full.*make room and run the same command"):
            build(music, out, tiny_autoencoder)
    with pytest.raises(CacheError, match="not complete"):
        open_cache(out)
    quiet = shard_files(built("zarr"))
    assert len(list((out / "shards").glob("*.json"))) == 2
    made = placed_files(out)
    assert all(content == quiet[name] for name, content in made.items())  # no torn one at its final place
    result = build(music, out, tiny_autoencoder)
    assert (result.built, result.kept) == (NUM_SHARDS - 2, 2)
    assert tree(out) == tree(built("zarr"))


@pytest.mark.parametrize("name", ["settings.json", "failures.jsonl", "index.json"])
def test_no_room_for_the_last_lines_either(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    (out / "index.json").unlink()
    (out / "settings.json").unlink()
    (out / "failures.jsonl").unlink()
    write, create = FolderStore.write, FolderStore.create

    def no_room(original: Any) -> Any:
        def put(store: FolderStore, its_name: str, content: bytes) -> Any:
            if its_name == name:
                (out / scratch_name()).write_text("torn")
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(store, its_name, content)

        return put

    monkeypatch.setattr(FolderStore, "write", no_room(write))
    monkeypatch.setattr(FolderStore, "create", no_room(create))
    with pytest.raises(CacheError, match="the disk is full"):
        build(music, out, tiny_autoencoder)
    monkeypatch.undo()
    assert build(music, out, tiny_autoencoder).built == 0
    assert tree(out) == tree(built("zarr"))


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="400k") as disk:
        with pytest.raises(CacheError, match="the disk is full"):
            build(music, disk / "cache", tiny_autoencoder, format="webdataset")
        whole = shard_files(built("webdataset"))
        final = placed_files(disk / "cache")
        assert all(content == whole[name] for name, content in final.items())
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert build(music, disk / "cache", tiny_autoencoder, format="webdataset").kept > 0
        assert tree(disk / "cache") == tree(built("webdataset"))
