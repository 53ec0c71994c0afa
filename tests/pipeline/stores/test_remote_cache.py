"""A cache behind a URL: the same frames as at home, fetched once, checked on arrival, over networks as they are."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import s3fs

from command_line import reencoder_cache
from flaky_network import FlakyNetwork, flaky
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.local_copy import LocalCopy, default_root
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import load_config
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores import checked_reader as object_reads
from reencoder_pipeline.stores import retry
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.windows.mapped_windows import WindowLoader
from sharded_cache import write_shards
from tiny_build import scratch_name

__all__ = ["flaky"]

LENGTHS = ((700, 500, 300), (1200,), (90, 80))
STORAGES = ["zarr", "webdataset"]


@pytest.fixture(scope="module", params=STORAGES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("home") / "cache", LENGTHS, storage=request.param)


@pytest.fixture(scope="module")
def zarr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("home") / "cache", LENGTHS)


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where local copies go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return default_root()


def uploaded(folder: Path, bucket: str, name: str = "cache") -> str:
    s3fs.S3FileSystem().put(f"{folder}/", f"{bucket}/{name}/", recursive=True)
    return f"{bucket}/{name}"


def everything(cache: LatentCache, *, streams: tuple[str, ...] = ("low_band", "mono")) -> dict[tuple[str, str], bytes]:
    return {(track.id, name): cache.read(track, name).tobytes() for track in cache.tracks for name in streams}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


def loader(cache: LatentCache) -> WindowLoader:
    return WindowLoader(cache, get_task("bwe"), split="train", num_frames=60, seed=0)


# The same frames


def test_what_is_read_is_what_is_at_home_and_only_what_was_asked_for_travels(
    folder: Path, s3_bucket: str, local: Path
) -> None:
    home, away = open_cache(folder), open_cache(uploaded(folder, s3_bucket))
    assert (away.digest, away.tracks) == (home.digest, home.tracks)
    assert not local.exists()  # an index alone leaves nothing behind
    ours, theirs = (loader(cache).batch(3, batch_size=16) for cache in (home, away))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert everything(away) == everything(home)
    assert away.path == local / home.digest
    expected = {
        name
        for shard in home.shards
        for name in shard.files
        if home.storage == "webdataset" or name.endswith(("mono/c/0/0", "low_band/c/0/0"))
    }
    assert files_in(away.path) == expected
    assert all((away.path / name).read_bytes() == (folder / name).read_bytes() for name in expected)


def test_only_the_shards_of_a_split_travel(tmp_path: Path, s3_bucket: str) -> None:
    path = write_shards(tmp_path / "cache", ((100, 90), (100,)), valid=1)
    cache = open_cache(uploaded(path, s3_bucket))
    WindowLoader(cache, get_task("bwe"), split="valid", num_frames=60, seed=0)
    assert {name.split("/")[1] for name in files_in(cache.path)} == {"shard000"}


def test_the_second_time_nothing_travels(folder: Path, s3_bucket: str, flaky: FlakyNetwork) -> None:
    url = uploaded(folder, s3_bucket)
    reports: list[tuple[int, int]] = []
    loader(open_cache(url, progress=lambda done, total: reports.append((done, total))))
    done, total = reports[-1]
    assert done == total == sum(path.stat().st_size for path in open_cache(url).path.rglob("*") if path.is_file())
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    reports.clear()
    before = flaky.answers
    loader(open_cache(url, progress=lambda done, total: reports.append((done, total))))
    assert reports == []
    assert flaky.answers - before <= 1  # the index


def test_another_writers_shards_are_not_read(tmp_path: Path, s3_bucket: str) -> None:
    import zarr

    path = write_shards(tmp_path / "cache", ((1500,),))
    frames = open_cache(path).read(open_cache(path).tracks[0], "mono")
    group = zarr.open_group(path / "shards" / "shard000", mode="a")
    array = group.create_array(
        "mono", shape=frames.shape, chunks=(1024, 8), shards=(2048, 8), dtype="float16", fill_value=0, overwrite=True
    )  # compressed
    array[:] = frames
    index = json.loads((path / "index.json").read_text())
    del index["digest"]
    index["shards"][0]["files"] = described(path)
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(CacheError, match=r"(?s)the index is damaged.*shard000/mono"):
        open_cache(uploaded(path, s3_bucket))


def described(path: Path) -> dict[str, tuple[int, str]]:
    import hashlib

    files = [file for file in (path / "shards").rglob("*") if file.is_file()]
    return {
        file.relative_to(path).as_posix(): (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in files
    }


# Networks


def test_cut_transfers_go_on_and_nothing_short_is_accepted(
    folder: Path, s3_bucket: str, flaky: FlakyNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_reads, "PIECE_BYTES", 10_000)
    url = uploaded(folder, s3_bucket)
    cache = open_cache(url)
    flaky.cuts = 12
    assert everything(cache) == everything(open_cache(folder))
    assert flaky.cuts == 0


def test_refused_connections_are_tried_again(folder: Path, s3_bucket: str, flaky: FlakyNetwork) -> None:
    url = uploaded(folder, s3_bucket)
    s3fs.S3FileSystem.clear_instance_cache()  # its open connections
    flaky.refusals = 3
    assert everything(open_cache(url)) == everything(open_cache(folder))
    assert flaky.refusals == 0


def test_a_slow_network_is_only_slow(zarr_folder: Path, s3_bucket: str, flaky: FlakyNetwork) -> None:
    url = uploaded(zarr_folder, s3_bucket)
    flaky.pause = 0.02
    assert everything(open_cache(url)) == everything(open_cache(zarr_folder))


def test_a_network_that_is_gone_is_one_error_after_a_few_attempts(
    zarr_folder: Path, s3_bucket: str, flaky: FlakyNetwork, local: Path
) -> None:
    cache = open_cache(uploaded(zarr_folder, s3_bucket))
    flaky.refusals = flaky.cuts = 10**6
    flaky.always_cut = True
    with pytest.raises(
        CacheError, match=r"(?s)s3://.*shards/shard.*failed again and again.*5 attempts.*try: check the net"
    ):
        everything(cache)
    assert files_in(local) == set()
    with pytest.raises(CacheError, match=r"index\.json: the request failed"):
        open_cache(f"{s3_bucket}/cache")
    flaky.refusals = flaky.cuts = 0
    assert everything(cache) == everything(open_cache(zarr_folder))


# What is there is not what was promised


def test_a_flipped_bit_far_away_is_found_on_arrival(folder: Path, s3_bucket: str, local: Path) -> None:
    url = uploaded(folder, s3_bucket)
    cache = open_cache(url)
    name = cache.format.data_name(cache.shards[1].key, "mono")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    s3fs.S3FileSystem().pipe_file(f"{url}/{name}", bytes(content))
    with pytest.raises(CacheError, match=rf"(?s){name}: .*not what the index says; it was read twice.*instead of"):
        cache.read(cache.tracks[3], "mono")
    assert files_in(local) == set()
    assert cache.read(cache.tracks[0], "mono").size  # the other shards can be used


def test_content_that_is_wrong_once_is_fetched_again(
    zarr_folder: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, calls, original = uploaded(zarr_folder, s3_bucket), [0], s3fs.S3FileSystem._cat_file

    async def cat_file(self: s3fs.S3FileSystem, path: str, **named: int) -> bytes:
        content = await original(self, path, **named)
        calls[0] += 1
        return content[:-1] + b"!" if calls[0] == 2 else content  # after the index

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", cat_file)
    s3fs.S3FileSystem.clear_instance_cache()
    cache = open_cache(url)
    track = cache.tracks[0]
    assert np.array_equal(cache.read(track, "mono"), open_cache(zarr_folder).read(track, "mono"))
    assert calls[0] == 3


@pytest.mark.parametrize("damage", ["short", "gone"])
def test_short_and_missing_objects_are_named(
    damage: str, zarr_folder: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)
    url = uploaded(zarr_folder, s3_bucket)
    cache = open_cache(url)
    name = cache.format.data_name(cache.shards[0].key, "mono")
    if damage == "short":
        s3fs.S3FileSystem().pipe_file(f"{url}/{name}", b"half")
    else:
        s3fs.S3FileSystem().rm_file(f"{url}/{name}")
    expected = r"again and again\n.*4 bytes instead of \d+.*5 attempts" if damage == "short" else "is missing"
    with pytest.raises(CacheError, match=rf"{name}: .*{expected}"):
        cache.read(cache.tracks[0], "mono")


def test_no_cache_and_no_finished_cache(s3_bucket: str) -> None:
    with pytest.raises(CacheError, match="no latent cache here"):
        open_cache(f"{s3_bucket}/cache")
    s3fs.S3FileSystem().pipe_file(f"{s3_bucket}/cache/settings.json", b"{}")
    with pytest.raises(CacheError, match="not complete"):
        open_cache(f"{s3_bucket}/cache")


# The local folder


def test_what_does_not_fit_says_how_to_stream(zarr_folder: Path, s3_bucket: str, local: Path) -> None:
    url = uploaded(zarr_folder, s3_bucket)
    with pytest.raises(CacheError, match=r"(?s)do not fit.*0\.000 GB are needed.*try: .*stream_shards"):
        loader(open_cache(url, local_gigabytes=1e-5))
    assert files_in(local) == set()


def test_what_does_not_fit_names_the_copies_that_could_go_and_deletes_nothing(tmp_path: Path, s3_bucket: str) -> None:
    urls = [
        uploaded(write_shards(tmp_path / str(seed), ((1000,),), seed=seed), s3_bucket, str(seed)) for seed in range(3)
    ]
    first, second = (open_cache(url) for url in urls[:2])
    before = everything(first), everything(second)
    size = sum((first.path / name).stat().st_size for name in files_in(first.path))
    os.utime(second.path, (1000, 1000))  # used longest ago
    with pytest.raises(CacheError, match=rf"(?s)do not fit.*delete.*{second.path}.*1970.*{first.path}"):
        loader(open_cache(urls[2], local_gigabytes=2.5 * size / 1e9))
    assert (everything(open_cache(urls[0])), everything(open_cache(urls[1]))) == before
    loader(open_cache(urls[2], local_gigabytes=3 * size / 1e9))


def test_of_several_processes_one_fetches(zarr_folder: Path, s3_bucket: str, flaky: FlakyNetwork) -> None:
    """As processes they differ only in their locks, which belong to open files, not to processes."""
    url, finished = uploaded(zarr_folder, s3_bucket), []
    files = {name: file for shard in open_cache(url).shards for name, file in shard.files.items()}
    flaky.pause = 0.01
    before = flaky.answers

    def fetch() -> None:
        reports = []
        LocalCopy(url, "digest", root=None, limit=None, progress=lambda done, total: reports.append(done)).fetch(files)
        finished.append(bool(reports))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(finished) == [False, False, False, True]
    assert flaky.answers > before


def test_a_file_of_another_size_is_fetched_again(zarr_folder: Path, s3_bucket: str) -> None:
    """As a kill between writing and renaming, or a full disk of another program, may leave one."""
    url = uploaded(zarr_folder, s3_bucket)
    cache = open_cache(url)
    frames = everything(cache)
    file = cache.path / cache.format.data_name(cache.shards[0].key, "mono")
    file.unlink()
    file.write_bytes(b"half")
    file.with_name(scratch_name()).write_bytes(b"left by a kill")
    assert everything(open_cache(url)) == frames
    assert not any("partial" in name for name in files_in(cache.path))


def test_an_interrupted_fetch_leaves_whole_files_and_goes_on(zarr_folder: Path, s3_bucket: str) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    url = uploaded(zarr_folder, s3_bucket)
    cache = open_cache(url, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        loader(cache)
    assert all((cache.path / n).read_bytes() == (zarr_folder / n).read_bytes() for n in files_in(cache.path))
    assert everything(open_cache(url)) == everything(open_cache(zarr_folder))


@pytest.mark.parametrize("place", ["/somewhere", "", "relative"])
def test_the_users_cache_directory(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    base = Path(place) if place == "/somewhere" else Path.home() / ".cache"
    assert default_root() == base / "reencoder" / "latent-caches"


# Where users meet it


def test_a_url_survives_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("cache: s3://bucket/cache\nout: out\n")
    config = load_config(path, TrainConfig)
    assert config.cache == config.model_dump(mode="json")["cache"] == "s3://bucket/cache"
    assert load_config(path, TrainConfig, ["cache=out/cache"]).cache == Path("out/cache")


def test_inspect_takes_a_url(zarr_folder: Path, s3_bucket: str) -> None:
    done = reencoder_cache("inspect", uploaded(zarr_folder, s3_bucket), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == open_cache(zarr_folder).digest


def test_training_from_a_url_is_training_from_the_folder(
    zarr_folder: Path, s3_bucket: str, tmp_path: Path, run_training: Callable[..., Path]
) -> None:
    a = run_training(zarr_folder, tmp_path / "a")
    b = run_training(uploaded(zarr_folder, s3_bucket), tmp_path / "b")
    assert a.read_bytes() == b.read_bytes()


@pytest.fixture
def run_training() -> Callable[..., Path]:
    from training_run import run

    return lambda cache, out: run(cache, out, steps=3, valid_every=0).module
