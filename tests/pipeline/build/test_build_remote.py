"""Builds into object storage, a real S3 server on loopback: the cache that a folder gets, whatever the network does."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from changing_songs import ONE, SONGS, change, songs_in_a_folder  # noqa: F401, a fixture
from command_line import reencoder_cache
from cutting_proxy import proxy
from encode_here import noting_what_is_encoded  # noqa: F401, a fixture
from reencoder_pipeline.build.local_workers import run_jobs
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.verify import verify_cache
from reencoder_pipeline.shards.reused_tracks import TEMPORARY
from reencoder_pipeline.stores import object_store, retry
from reencoder_pipeline.stores import writer_id as owners
from reencoder_pipeline.stores.store import open_store
from tiny_build import NUM_SHARDS, Built, build, scratch_name, tree

NOBODY = f"{owners.owner().partition('-')[0]}-{2**22 + 1}-1"  # a process of this machine that has ended


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retries within s3fs and botocore, which take half a minute, are off: ours are tested."""
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.3)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(object_store, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(retry, "ATTEMPTS", 3)


def reach(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    s3fs.S3FileSystem.clear_instance_cache()


def downloaded(url: str, to: Path) -> Path:
    remote = open_store(url)
    for name in remote.sizes():
        remote.download(name, to / name)
    return to


def ours(folder: Path) -> list[Path]:
    return list(folder.glob(f"{TEMPORARY}*"))


def test_the_cache_in_a_bucket_is_the_cache_in_a_folder(
    s3_bucket: str, music: Path, built: Built, tiny_autoencoder: Path, tmp_path: Path, encodes_here: list[str]
) -> None:
    out = f"{s3_bucket}/some/cache"
    first = build(music, out, tiny_autoencoder)
    assert (first.built, first.kept, str(first.path)) == (NUM_SHARDS, 0, out)
    cache = open_cache(downloaded(out, tmp_path / "cache"))
    assert cache.digest == open_cache(built("zarr")).digest
    assert tree(cache.path) == tree(built("zarr"))
    assert verify_cache(cache) == []
    encodes_here.clear()
    assert build(music, out, tiny_autoencoder).kept == NUM_SHARDS
    assert encodes_here == []


@pytest.mark.parametrize("storage", ["zarr", "webdataset"])
def test_a_corpus_that_changed_in_a_bucket(
    storage: str, s3_bucket: str, songs: Path, tiny_autoencoder: Path, tmp_path: Path, encodes_here: list[str],
) -> None:  # fmt: skip
    out = f"{s3_bucket}/cache"
    assert build(songs, out, tiny_autoencoder, **ONE, format=storage).encoded == len(SONGS)
    change(songs)
    encodes_here.clear()
    result = build(songs, out, tiny_autoencoder, **ONE, format=storage)
    assert sorted(encodes_here) == ["a new.wav", "e.wav"]
    assert result.reused > 1
    build(songs, tmp_path / "fresh", tiny_autoencoder, **ONE, format=storage)
    assert tree(downloaded(out, tmp_path / "cache")) == tree(tmp_path / "fresh")
    assert ours(Path(tempfile.gettempdir())) == []


def test_what_killed_builds_left_is_swept_away(
    s3_bucket: str, songs: Path, tiny_autoencoder: Path, tmp_path: Path, encodes_here: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, remote = f"{s3_bucket}/cache", open_store(f"{s3_bucket}/cache")
    build(songs, out, tiny_autoencoder, **ONE)
    whole = list(remote.sizes())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    mine, dead = f"{TEMPORARY}{owners.owner()}.x", f"{TEMPORARY}{NOBODY}.x"
    for name in (mine, dead):
        (tmp_path / "tmp" / name / "shards").mkdir(parents=True)
    remote.write("build.lock", json.dumps({"writer": NOBODY}).encode())
    remote.write("part-1-of-2.lock", json.dumps({"writer": NOBODY}).encode())
    for name in (
        scratch_name(),  # the mark of a build on Ray
        f"shards/{'0123456789' * 2}/mono/zarr.json",
        f"shards/{'98' * 10}/zarr.json",
        f"shards/{'8' * 20}.tar",
    ):
        remote.write(name, b"sent before the kill")
    build(songs, out, tiny_autoencoder, **ONE)
    assert list(remote.sizes()) == whole
    assert [path.name for path in ours(tmp_path / "tmp")] == [mine]


# Networks


def test_cut_connections_are_tried_again_and_change_nothing(
    s3_bucket: str, songs: Path, tiny_autoencoder: Path, tmp_path: Path, encodes_here: list[str],
    monkeypatch: pytest.MonkeyPatch, impatient: None,
) -> None:  # fmt: skip
    """Each fifth connection: among them creations of which only the answer is lost, which are this build's own."""
    hows = ("cut", "cut answer", "503", "500", "cut answer")
    with proxy(os.environ["AWS_ENDPOINT_URL"], lambda n: hows[n // 5 % len(hows)] if n % 5 == 0 else "") as (url, log):
        reach(url, monkeypatch)
        result = build(songs, f"{s3_bucket}/cache", tiny_autoencoder, **ONE)
        downloaded(f"{s3_bucket}/cache", tmp_path / "cache")
    assert set(log) == {"", *hows}
    assert result.encoded == len(SONGS)  # once each
    build(songs, tmp_path / "fresh", tiny_autoencoder, **ONE)
    assert tree(tmp_path / "cache") == tree(tmp_path / "fresh")


def test_a_server_that_goes_away_is_one_clear_error_and_the_same_command_goes_on(
    s3_bucket: str, songs: Path, tiny_autoencoder: Path, tmp_path: Path, encodes_here: list[str],
    monkeypatch: pytest.MonkeyPatch, impatient: None,
) -> None:  # fmt: skip
    server, out, gone = os.environ["AWS_ENDPOINT_URL"], f"{s3_bucket}/cache", list[bool]()

    def goes_away(*arguments: Any) -> Any:
        for count, record in enumerate(run_jobs(*arguments, workers=1)):
            gone.extend([True] * (count == 1))
            yield record

    with proxy(server, lambda n: "cut" if gone else "") as (url, _):
        reach(url, monkeypatch)
        with pytest.raises(
            CacheError, match=r"(?s)cache/.*failed again and again.*3 attempts.*run the same command again"
        ):
            build(songs, out, tiny_autoencoder, **ONE, run=goes_away)
    reach(server, monkeypatch)
    assert open_store(out).size("index.json") is None
    assert build(songs, out, tiny_autoencoder, **ONE).kept == 2
    build(songs, tmp_path / "fresh", tiny_autoencoder, **ONE)
    assert tree(downloaded(out, tmp_path / "cache")) == tree(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("how", "requests", "said"),
    [
        ("silent", 3, "the request failed again and again.*3 attempts.*run the same command again"),
        ("503", 3, "the request failed again and again.*3 attempts.*run the same command again"),
        ("403", 1, "access is refused.*credentials"),
        ("404", 1, "cannot write here.*create the bucket first"),
    ],
)
def test_failures_are_told_apart_and_a_final_one_is_not_tried_again(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, impatient: None, how: str, requests: int, said: str
) -> None:
    with proxy(os.environ["AWS_ENDPOINT_URL"], lambda n: how) as (url, log):
        reach(url, monkeypatch)
        with pytest.raises(CacheError, match=rf"(?s)^s3://test-.*: {said}"):
            open_store(f"{s3_bucket}/cache").write("a", b"-")
    assert 1 <= len(log) <= requests  # an attempt may end at a connection that was kept from the one before
    assert (len(log) > 1) == (requests > 1)


def test_the_command_line_takes_a_url_and_says_at_once_that_no_server_answers(
    s3_bucket: str, songs: Path, tiny_autoencoder: Path, monkeypatch: pytest.MonkeyPatch, impatient: None,
) -> None:  # fmt: skip
    """Before the corpus is read: a typing mistake is not found after hours."""
    reach("http://127.0.0.1:9", monkeypatch)
    done = reencoder_cache("build", songs / "gone", "--out", f"{s3_bucket}/cache", "--autoencoder", tiny_autoencoder)
    assert done.returncode == 2
    assert done.stderr.count("failed again and again") == 1
    assert f"{s3_bucket}/cache/" in done.stderr
    assert "Could not connect" in done.stderr
    assert "Traceback" not in done.stderr
