"""Verification: no flipped bit, cut or missing file escapes it, and what it discards is made again just as it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from reencoder_pipeline.cache.formats.zarr_shards import CHUNK_FRAMES
from reencoder_pipeline.cache.open_cache import open_cache, open_index
from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.inspection.finding import Finding
from reencoder_pipeline.inspection.verify import discard, verify_cache
from tar_members import members_in
from tiny_build import Built, build, leftovers, tree

STORAGES = ["zarr", "webdataset"]


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def copy(built: Built, storage: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built(storage), tmp_path / "cache"))


def damages(path: Path) -> list[Finding]:
    return verify_cache(open_index(path))


def flip(path: Path, position: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def shard_files(path: Path) -> list[Path]:
    return sorted(file for file in (path / "shards").rglob("*") if file.is_file())


def test_a_sound_cache_is_sound(copy: Path) -> None:
    assert damages(copy) == []


def test_every_flipped_bit_of_a_shard_is_found_and_its_file_named(copy: Path) -> None:
    """Two in every file (data, metadata and commit records), and more in the large ones: uncompressed Zarr and tar
    notice none by themselves."""
    rng = np.random.default_rng(0)
    files = shard_files(copy)
    large = [file for file in files if file.stat().st_size > 10_000]
    for file in [*files, *files, *rng.choice(np.array(large), size=20)]:
        content = file.read_bytes()
        flip(file, int(rng.integers(len(content))), int(rng.integers(8)))
        found = [damage.file for damage in damages(copy)]
        assert found == [file.relative_to(copy).as_posix()] or same_json(file, content)
        file.write_bytes(content)
    assert damages(copy) == []


def same_json(file: Path, before: bytes) -> bool:
    """Whether a commit record says the same as before: the last digit of a number may make no difference."""
    try:
        return file.parent.name == "shards" and json.loads(file.read_bytes()) == json.loads(before)
    except ValueError:
        return False


def test_the_block_of_a_flipped_frame_is_named(copy: Path, storage: str) -> None:
    rng = np.random.default_rng(1)
    cache = open_index(copy)
    width = cache.spec.channels * 2
    for _ in range(20):
        shard = cache.shards[rng.integers(len(cache.shards))]
        track = shard.tracks[rng.integers(len(shard.tracks))]
        stream = cache.streams[rng.integers(len(cache.streams))]
        frame = int(rng.integers(track.num_frames))
        if storage == "zarr":
            file = copy / "shards" / shard.key / stream / "c" / "0" / "0"
            position = (track.first_frame + frame) * width
        else:
            file = copy / "shards" / f"{shard.key}.tar"
            members = {name: member for name, member in members_in(file).items() if name.endswith(f".{stream}.npy")}
            number = shard.tracks.index(track)
            position = members[sorted(members)[number]].offset + frame * width
        position += int(rng.integers(width))
        flip(file, position)
        (damage,) = damages(copy)
        start = (track.first_frame + frame) // CHUNK_FRAMES * CHUNK_FRAMES
        stop = min(start + CHUNK_FRAMES, shard.num_frames)
        assert damage.shard == shard.key
        assert damage.problem == f"content changed: {stream}, frames {start} to {stop}"
        flip(file, position)


def test_damage_beside_the_frames_is_no_damage_of_the_frames(copy: Path, storage: str) -> None:
    cache = open_index(copy)
    shard = next(shard for shard in cache.shards if shard.num_frames % CHUNK_FRAMES > 2)
    if storage == "zarr":
        file = copy / "shards" / shard.key / "left" / "c" / "0" / "0"
        flip(file, shard.num_frames * cache.spec.channels * 2 + 1)  # padding
    else:
        file = copy / "shards" / f"{shard.key}.tar"
        flip(file, file.stat().st_size - 1)  # the end of the archive
    (damage,) = damages(copy)
    assert damage.problem == "content changed: outside the frames"
    open_cache(copy).read(shard.tracks[0], "left")


def test_a_shard_that_cannot_even_be_read_is_damaged(copy: Path, storage: str) -> None:
    shard = open_index(copy).shards[0]
    name = f"{shard.key}/mono/c/0/0" if storage == "zarr" else f"{shard.key}.tar"
    file = copy / "shards" / name
    flip(file, file.stat().st_size - 10 if storage == "zarr" else 0)  # the chunk index; the first member's name
    (damage,) = damages(copy)
    assert damage.file == f"shards/{name}"
    assert damage.problem.startswith("content changed: ")


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_a_file_of_another_length_is_found_and_not_opened(copy: Path, storage: str, keep: float) -> None:
    file = max(shard_files(copy), key=lambda file: file.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)] + b"x" * (keep == 1.0))
    (damage,) = damages(copy)
    assert damage.problem == f"{file.stat().st_size} bytes instead of {len(content)}"
    with pytest.raises(CacheError, match=r"(?s)a shard is damaged.*verify --discard"):
        open_cache(copy)


def test_quick_looks_at_sizes_alone(copy: Path) -> None:
    first, second = sorted(shard_files(copy), key=lambda file: file.stat().st_size)[-2:]
    flip(first, first.stat().st_size // 2)
    assert verify_cache(open_index(copy), quick=True) == []
    second.write_bytes(second.read_bytes()[:-1])
    (damage,) = verify_cache(open_index(copy), quick=True)
    assert (damage.file, damage.severity) == (second.relative_to(copy).as_posix(), "damage")
    second.unlink()
    (damage,) = verify_cache(open_index(copy), quick=True)
    assert damage.problem == "missing"


def test_progress_is_told_in_frames(built: Built, storage: str) -> None:
    cache, told = open_index(built(storage)), []
    verify_cache(cache, progress=lambda done, total: told.append((done, total)))
    frames = [shard.num_frames for shard in cache.shards]
    assert told == [(sum(frames[: number + 1]), sum(frames)) for number in range(len(frames))]


def test_damage_of_a_bucket_is_found_in_it_and_discarded_there(built: Built, s3_bucket: str) -> None:
    """Not in the local copies that training reads."""
    import s3fs

    files = s3fs.S3FileSystem()
    files.put(f"{built('webdataset')}/", f"{s3_bucket}/cache/", recursive=True)
    cache = open_index(f"{s3_bucket}/cache")
    assert verify_cache(cache) == []
    shard = cache.shards[1]
    name = max(shard.files, key=lambda name: shard.files[name][0])
    content = bytearray(bytes(files.cat_file(f"{s3_bucket}/cache/{name}")))  # type: ignore[arg-type]
    content[len(content) // 2] ^= 1
    files.pipe_file(f"{s3_bucket}/cache/{name}", bytes(content))
    (damage,) = verify_cache(cache)
    assert (damage.shard, damage.file) == (shard.key, name)
    assert damage.problem.startswith("content changed: ")
    assert verify_cache(cache, quick=True) == []
    assert discard(cache, [damage]) == 1
    files.invalidate_cache()
    assert not files.exists(f"{s3_bucket}/cache/index.json")
    assert not files.exists(f"{s3_bucket}/cache/shards/{shard.key}.json")
    assert files.exists(f"{s3_bucket}/cache/{name}")


def test_a_missing_file_is_found_and_the_cache_not_opened(copy: Path) -> None:
    """Zarr would read a deleted shard as fill values, without an error."""
    for file in [file for file in shard_files(copy) if not file.name.endswith(".json") or file.name == "zarr.json"][:6]:
        content = file.read_bytes()
        file.unlink()
        (damage,) = damages(copy)
        assert (damage.file, damage.problem) == (file.relative_to(copy).as_posix(), "missing")
        with pytest.raises(CacheError, match="missing"):
            open_cache(copy)
        file.write_bytes(content)


def test_a_cache_without_records_is_sound(copy: Path) -> None:
    """Records serve the build alone; a cache that was handed on may lack them."""
    for file in (copy / "shards").glob("*.json"):
        file.unlink()
    assert damages(copy) == []


def test_what_was_discarded_is_built_again_to_the_same_bytes(
    copy: Path, storage: str, built: Built, music: Path, tiny_autoencoder: Path
) -> None:
    cache = open_index(copy)
    data = [next(copy / name for name in shard.files if not name.endswith("json")) for shard in cache.shards]
    flip(data[0], 999)
    data[2].unlink()
    data[3].write_bytes(data[3].read_bytes()[:-7])
    flip(copy / "shards" / f"{cache.shards[4].key}.json", 99)
    found = damages(copy)
    assert {damage.shard for damage in found} == {cache.shards[number].key for number in (0, 2, 3, 4)}
    assert discard(cache, found) == 4
    with pytest.raises(CacheError, match="not complete"):
        open_cache(copy)
    result = build(music, copy, tiny_autoencoder, format=storage)
    assert (result.built, result.kept) == (4, len(cache.shards) - 4)
    assert open_cache(copy).digest == open_cache(built(storage)).digest
    assert tree(copy) == tree(built(storage))
    assert leftovers(copy) == []


def test_nothing_to_discard_leaves_the_cache(copy: Path) -> None:
    assert discard(open_index(copy), []) == 0
    open_cache(copy)


# The index


def test_every_flipped_bit_of_the_index_is_an_error_or_changes_nothing(copy: Path) -> None:
    """Also one within a digit of the statistics, which would spoil a training without a word."""
    rng = np.random.default_rng(2)
    file = copy / "index.json"
    content = file.read_bytes()
    whole = json.loads(content)
    text = content.decode()
    positions = [text.index('"std"') + 20, text.index('"mean"') + 22, *rng.integers(len(content), size=60).tolist()]
    refused = 0
    for position in positions:
        bit = int(rng.integers(8))
        flip(file, position, bit)
        try:
            open_index(copy)
        except CacheError as error:
            refused += 1
            assert "index" in str(error)  # noqa: PT017, most flips raise
        else:
            # The last digit of a number may not matter, nor the case of \\u00E4; a renamed digest is an absent one.
            now = json.loads(file.read_text(encoding="utf-8"))
            assert {**now, "digest": ""} == {**whole, "digest": ""} or "digest" not in now
        flip(file, position, bit)
    assert refused >= 0.9 * len(positions)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": "reencoder-cache-1"}', "\x00" * 50])
def test_a_damaged_index_is_named_and_building_again_mends_it(
    built: Built, music: Path, tiny_autoencoder: Path, tmp_path: Path, content: str
) -> None:
    copy = Path(shutil.copytree(built("zarr"), tmp_path / "cache", copy_function=os.link))
    (copy / "index.json").unlink()
    (copy / "index.json").write_text(content)
    with pytest.raises(CacheError, match=r"(?s)index\.json: the index is damaged.*build` again"):
        open_cache(copy)
    assert build(music, copy, tiny_autoencoder).built == 0
    assert open_cache(copy).digest == open_cache(built("zarr")).digest


def test_an_index_of_another_format_is_named(copy: Path) -> None:
    (copy / "index.json").write_text('{"format": "reencoder-cache-99"}')
    with pytest.raises(CacheError, match=r"(?s)another format.*reencoder-cache-99"):
        open_cache(copy)


def test_no_cache_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(CacheError, match="no latent cache here"):
            open_cache(path)
