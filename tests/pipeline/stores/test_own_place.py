"""What builds, conversions, imports and local copies leave alone: files that this program did not make."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reencoder_pipeline.cache.open_cache import open_cache, open_index
from reencoder_pipeline.errors import CacheError, ConfigError
from reencoder_pipeline.exchange.convert import convert_cache
from reencoder_pipeline.inspection.verify import discard, verify_cache
from reencoder_pipeline.shards.sweep import require_own_place, sweep
from reencoder_pipeline.stores.folder_store import FolderStore
from reencoder_pipeline.stores.own_folder import folder_lock
from reencoder_pipeline.stores.store import open_store
from sharded_cache import write_shards
from tiny_build import Built, build, copied, scratch_name, tree

THEIRS = (
    "shards/0123456789abcdef0123.tar",
    "shards/000000.tar", "shards/mine/part.npy", "films/holiday.partial.mp4", "notes.partial-draft.txt",
    "thesis.partial/chapter1.tex", "index.json", "a.builder", "failures.jsonl",
)  # fmt: skip


def lay(folder: Path, *names: str) -> dict[str, bytes]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"theirs: {name}")
    return tree(folder)


@pytest.mark.parametrize("name", [*THEIRS, "settings.json"])
def test_a_build_refuses_a_folder_of_others(music: Path, tiny_autoencoder: Path, tmp_path: Path, name: str) -> None:
    before = lay(tmp_path / "data", name)
    with pytest.raises(
        ConfigError, match=r"(?s)neither empty nor one that this command made.*" + name.split("/", maxsplit=1)[0]
    ):
        build(music, tmp_path / "data", tiny_autoencoder)
    assert tree(tmp_path / "data") == before


@pytest.mark.parametrize("name", ["shards/000000.tar", "readme.txt"])
def test_a_place_behind_a_url_is_looked_at_too(name: str) -> None:
    store = open_store("memory://somebodys/data")
    store.write(name, b"theirs")
    with pytest.raises(ConfigError, match="neither empty nor one that this command made"):
        require_own_place(store)
    assert store.read(name) == b"theirs"
    store.write("settings.json", json.dumps({"autoencoder": "house", "weights": "0"}).encode())
    require_own_place(store)
    store.remove("settings.json")
    store.remove(name)


def test_what_a_killed_build_left_is_its_own(tmp_path: Path) -> None:
    lay(tmp_path, scratch_name(), ".lock", "part-3-of-16.lock", f"shards/{scratch_name()}")
    require_own_place(FolderStore(tmp_path))
    lay(tmp_path, "shards/notes.txt")
    with pytest.raises(ConfigError, match="shards"):
        require_own_place(FolderStore(tmp_path))


def test_a_build_works_beside_files_of_others_in_its_own_folder(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path
) -> None:
    out = copied(built("zarr"), tmp_path / "cache")
    key = "0123456789abcdef0123"
    theirs = (
        "shards/notes.txt", "shards/000000.tar", "shards/mine/part.npy", "x.partial", f"shards/{key}.tar.bak",
        f"shards/{key}/mono/notes.txt",
    )  # fmt: skip
    before = lay(out, *theirs)
    lay(out, f"shards/{key[::-1]}.tar")  # of a build that was killed
    build(music, out, tiny_autoencoder)
    assert tree(out) == before


def test_a_shard_is_not_made_again_over_files_of_others(tmp_path: Path, built: Built, music: Path,
    tiny_autoencoder: Path) -> None:  # fmt: skip
    out = copied(built("zarr"), tmp_path / "cache")
    key = open_cache(out).shards[0].key
    (out / "shards" / f"{key}.json").unlink()
    lay(out, f"shards/{key}/mono/notes.txt")
    with pytest.raises(CacheError, match=r"notes\.txt"):
        build(music, out, tiny_autoencoder)
    assert (out / "shards" / key / "mono" / "notes.txt").exists()


@pytest.mark.parametrize("name", ["shards/notes.txt", "shards/0123456789abcdef0123.tar", "failures.jsonl"])
def test_a_conversion_refuses_a_folder_of_others(tmp_path: Path, name: str) -> None:
    source = write_shards(tmp_path / "cache", ((50,),))
    before = lay(tmp_path / "out", name)
    with pytest.raises(ConfigError, match="neither empty nor"):
        convert_cache(source, tmp_path / "out", storage="webdataset", progress=lambda done, total: None)
    assert tree(tmp_path / "out") == before


def test_a_conversion_sweeps_only_what_it_plans(tmp_path: Path) -> None:
    source, out = write_shards(tmp_path / "cache", ((50,), (60,))), tmp_path / "out"
    convert_cache(source, out, storage="webdataset", progress=lambda done, total: None)
    (out / "shards" / "shard000.json").unlink()
    before = lay(out, "shards/valid.tar", "shards/train.json")
    convert_cache(source, out, storage="webdataset", progress=lambda done, total: None)
    assert tree(out).keys() == before.keys() | {"shards/shard000.json"}


def test_a_lock_that_is_a_link_does_not_empty_what_it_leads_to(tmp_path: Path) -> None:
    source, out = write_shards(tmp_path / "cache", ((50,),)), tmp_path / "out"
    out.mkdir()
    (tmp_path / "thesis.tex").write_text("theirs")
    (out / ".lock").symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(ConfigError, match="cannot be written"):
        convert_cache(source, out, storage="webdataset", progress=lambda done, total: None)
    assert (tmp_path / "thesis.tex").read_text() == "theirs"


def test_a_second_conversion_is_refused_and_says_who_works_there(tmp_path: Path) -> None:
    source, out = write_shards(tmp_path / "cache", ((50,),)), tmp_path / "out"
    with folder_lock(out, what="a conversion"), pytest.raises(ConfigError, match=f"is running.*\n.*{os.getpid()}"):
        convert_cache(source, out, storage="webdataset", progress=lambda done, total: None)
    convert_cache(source, out, storage="webdataset", progress=lambda done, total: None)
    assert len(open_cache(out).tracks) == 1


def test_sweeping_knows_its_names(tmp_path: Path) -> None:
    ours = [f"shards/{'a' * 20}.tar", f"shards/{'b' * 20}/zarr.json", f"shards/{scratch_name()}", scratch_name()]
    theirs = [
        "shards/train.tar",
        f"shards/{'A' * 20}.tar",
        f"shards/{'a' * 19}.tar",
        ".x.partial",
        "shards/b/zarr.json",
    ]
    lay(tmp_path, *ours, *theirs)
    sweep(tmp_path)
    assert sorted(tree(tmp_path)) == sorted(theirs)


def test_discarding_leaves_a_file_that_is_no_record(tmp_path: Path) -> None:
    cache = write_shards(tmp_path / "cache", ((50,), (60,)))
    for key in ("shard000", "shard001"):
        (cache / "shards" / key / "mono" / "c" / "0" / "0").write_bytes(b"")
    lay(cache, "shards/shard000.json")
    opened = open_index(cache)
    assert discard(opened, verify_cache(opened)) == 2
    assert (cache / "shards" / "shard000.json").read_text() == "theirs: shards/shard000.json"


def _index_of_damaged(cache: Path):
    from reencoder_pipeline.cache.open_cache import open_index

    return open_index(cache)


def test_a_sound_record_proves_whose_folder_it_is(built: Built, tmp_path: Path) -> None:
    """Where settings and index were lost."""
    out = copied(built("zarr"), tmp_path / "cache")
    for name in ("settings.json", "index.json"):
        (out / name).unlink()
    require_own_place(FolderStore(out))
    for record in (out / "shards").glob("*.json"):
        content = record.read_bytes().replace(b'"retry": false', b'"retry": true')
        record.unlink()
        record.write_bytes(content)
    with pytest.raises(ConfigError, match="neither empty nor one that this command made"):
        require_own_place(FolderStore(out))
