"""What every store promises: whole objects, one creator, names in order; in a folder and on a real S3 server."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.store import Store, open_store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "store")
    return open_store(request.getfixturevalue("s3_bucket") + "/a/cache")


def test_an_object_is_what_was_written_last(store: Store) -> None:
    assert store.read("shards/a.json") is None
    assert store.size("shards/a.json") is None
    store.write("shards/a.json", b"first")
    store.write("shards/a.json", b"second!")
    assert store.read("shards/a.json") == b"second!"
    assert store.size("shards/a.json") == 7


def test_only_the_first_creates(store: Store) -> None:
    assert store.create("claim", b"mine")
    assert not store.create("claim", b"theirs")
    assert store.read("claim") == b"mine"
    store.remove("claim")
    assert store.create("claim", b"theirs")


def test_names_are_listed_at_any_depth_in_order_and_folders_removed_whole(store: Store) -> None:
    for name in ("b/2", "a", "b/1/x"):
        store.write(name, b"-")
    assert list(store.sizes()) == ["a", "b/1/x", "b/2"]
    assert list(store.sizes("b")) == ["b/1/x", "b/2"]
    store.remove("b")
    assert list(store.sizes()) == ["a"]
    store.remove("b")
    assert list(store.sizes("b")) == []


def test_files_go_up_and_come_down(store: Store, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "up").write_bytes(content)
    store.upload(tmp_path / "up", "shards/x/c/0/0")
    assert store.size("shards/x/c/0/0") == len(content)
    store.download("shards/x/c/0/0", tmp_path / "down" / "file")
    assert (tmp_path / "down" / "file").read_bytes() == content
    assert [path.name for path in (tmp_path / "down").iterdir()] == ["file"]
    with pytest.raises(CacheError, match="is missing"):
        store.download("shards/y", tmp_path / "down" / "other")


def test_a_store_travels_to_other_processes(store: Store) -> None:
    store.write("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


def test_an_unknown_protocol_is_an_error_with_a_remedy() -> None:
    with pytest.raises(CacheError, match="pip install"):
        open_store("nosuch://bucket/cache").read("index.json")
