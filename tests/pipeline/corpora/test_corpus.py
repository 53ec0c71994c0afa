"""Corpora: folders, lists and manifests as people have them, errors that name the line, and splits that stay put."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reencoder_pipeline.corpora.corpus import SPLITS, Track, read_corpus
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.errors import CorpusError
from reencoder_pipeline.stores.digests import file_digest


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def manifest(folder: Path, *rows: dict[str, Any] | str, name: str = "tracks.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def problem(source: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        read_corpus(source)
    return str(caught.value)


# Folders


def test_a_folder_is_searched_with_its_subfolders_in_a_fixed_order(tmp_path: Path) -> None:
    names = ["b/2.flac", "a.wav", "b/10.OGG", "Ä ö/名前 [1].Mp3", "b/c/d/e.opus", "b.c/x.y.aiff"]
    touch(tmp_path, *names, "cover.jpg", "notes.txt", "wav", "list.wav.txt")
    tracks = read_corpus(tmp_path)
    assert [track.id for track in tracks] == ["a.wav", "b/10.OGG", "b/2.flac", "b/c/d/e.opus", "b.c/x.y.aiff", names[3]]
    assert all(track.path == tmp_path / track.id and track.path.is_file() for track in tracks)
    assert all(track.split is None and track.tasks is None for track in tracks)


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", ".hidden.wav", "._a.wav", ".trash/b.wav", "c/.d/e.wav")
    assert [track.id for track in read_corpus(tmp_path)] == ["a.wav"]


def test_a_hidden_folder_can_itself_be_the_corpus(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/music/a.wav")
    assert [track.id for track in read_corpus(tmp_path / ".cache")] == ["music/a.wav"]


def test_a_link_to_nothing_is_a_track_and_a_folder_with_an_audio_name_is_not(tmp_path: Path) -> None:
    touch(tmp_path, "x.wav/inside.flac")
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    assert [track.id for track in read_corpus(tmp_path)] == ["dangling.wav", "x.wav/inside.flac"]


def test_a_name_that_is_no_text_is_a_track_with_a_split(tmp_path: Path) -> None:
    """On Linux a file's name is bytes; Python carries those that are not UTF-8 as lone surrogates."""
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"")
    (track,) = assign_splits(read_corpus(tmp_path), valid_share=0.0, test_share=0.0)
    assert track.path.is_file()
    assert track.split == "train"


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "cover.jpg")
    assert ".flac" in problem(tmp_path)
    assert str(tmp_path) in problem(tmp_path)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'gone'}: there is no such folder or manifest" in problem(tmp_path / "gone")


# Lists and manifests


def test_a_text_list_is_relative_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "lists" / "music.txt"
    path.parent.mkdir()
    path.write_text("\n ../a b.wav \r\n\n/abs/c.flac\nsub/d\u2028e.ogg\n", encoding="utf-8")
    tracks = read_corpus(path)
    assert [track.id for track in tracks] == ["../a b.wav", "/abs/c.flac", "sub/d\u2028e.ogg"]
    assert [track.path for track in tracks] == [
        tmp_path / "lists/../a b.wav",
        Path("/abs/c.flac"),
        tmp_path / "lists/sub/d\u2028e.ogg",
    ]


def test_home_is_expanded_but_a_tilde_in_a_name_is_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    path = manifest(tmp_path, "~/a.wav", "~b.wav", "~nobody-here/c.wav", name="list.txt")
    expected = [Path("/home/someone/a.wav"), tmp_path / "~b.wav", tmp_path / "~nobody-here/c.wav"]
    assert [track.path for track in read_corpus(path)] == expected


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.wav\r\nb.wav\r\n")
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"path": "a.wav"}\r\n{"path": "b.wav"}\r\n')
    for name in ("list.txt", "rows.jsonl"):
        assert [track.id for track in read_corpus(tmp_path / name)] == ["a.wav", "b.wav"]


ROWS = {
    "ours": {"path": "x/a.wav"},
    "nemo": {"audio_filepath": "x/a.wav", "duration": 3.2, "text": "la", "offset": 0},
    "audiofolder": {"file_name": "x/a.wav", "genre": "folk"},
    "lhotse": {"id": "rec-1", "sources": [{"type": "file", "channels": [0, 1], "source": "x/a.wav"}]},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json"])
@pytest.mark.parametrize("kind", ROWS)
def test_manifests_are_read_as_people_have_them(tmp_path: Path, kind: str, suffix: str) -> None:
    (track,) = read_corpus(manifest(tmp_path, ROWS[kind], name=f"tracks{suffix}"))
    assert track.path == tmp_path / "x/a.wav"
    assert track.id == ("rec-1" if kind == "lhotse" else "x/a.wav")


def test_what_a_manifest_knows_is_kept(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "path": "/music/a.wav",
        "split": "test",
        "sha256": "ab" * 32,
        "num_samples": 441_000,
        "sampling_rate": 44_100,
        "tasks": ["bwe"],
        "license": "CC0",
        "comment": "x\u2028y\u0085z",
    }
    (track,) = read_corpus(manifest(tmp_path, row, "", "   "))
    assert track == Track("7", Path("/music/a.wav"), "test", "ab" * 32, 441_000, 44_100, ("bwe",), "CC0")


def test_null_is_the_same_as_nothing(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("id", "split", "sha256", "num_samples", "sample_rate", "tasks", "offset"))
    (track,) = read_corpus(manifest(tmp_path, {"path": "a.wav", **nothing}))
    assert track == Track("a.wav", tmp_path / "a.wav")


BAD_ROWS: list[tuple[Any, str]] = [
    ("{", "the manifest row is not valid JSON"),
    ('{"path": "b.wav"} x', "the manifest row is not valid JSON"),
    ('["b.wav"]', "the manifest row is not a JSON object"),
    ({"title": "b"}, "path, audio_filepath, file_name"),
    ({"path": 5}, "names no audio file"),
    ({"sources": ["b.wav"]}, "names no audio file"),
    ({"sources": []}, "names no audio file"),
    ({"sources": [{"source": None}]}, "names no audio file"),
    ({"path": "b.wav", "split": "dev"}, "one of: train, valid, test"),
    ({"path": "b.wav", "split": ["train"]}, "the split is unknown"),
    ({"path": "b.wav", "tasks": "bwe"}, "choose from: bwe, m2s"),
    ({"path": "b.wav", "tasks": ["bwe", "denoise"]}, "denoise"),
    ({"path": "b.wav", "tasks": [["bwe"]]}, "the tasks are not a list of known tasks"),
    ({"path": "b.wav", "offset": 1.5}, "excerpts"),
    ({"path": "b.wav", "num_samples": "441000"}, "'441000'"),
    ({"path": "b.wav", "num_samples": 3.2}, "not a whole number"),
    ({"path": "b.wav", "num_samples": True}, "not a whole number"),
    ({"path": "b.wav", "num_samples": -3}, "not a whole number"),
    ({"path": "b.wav", "num_samples": 10**400}, "not a whole number"),
    ({"path": "b.wav", "sha256": 12}, "sha256 is not text"),
]


@pytest.mark.parametrize(("row", "text"), BAD_ROWS, ids=str)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: Any, text: str) -> None:
    path = manifest(tmp_path, {"path": "a.wav"}, "", row, {"path": "c.wav"})
    message = problem(path)
    assert f"{path}:3: " in message
    assert text in message


def test_ids_are_unique(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"path": "a.wav"}, {"path": "b.wav"}, {"id": "a.wav", "path": "c.wav"})
    assert "not unique" in problem(path)
    assert "found: a.wav" in problem(path)


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.txt", "empty.jsonl.gz"])
def test_an_empty_manifest_is_an_error(tmp_path: Path, name: str) -> None:
    assert "the source holds no tracks" in problem(manifest(tmp_path, "", name=name))


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_damaged_gzip_is_an_error(tmp_path: Path, damage: str) -> None:
    path = manifest(
        tmp_path, *({"path": f"{hashlib.sha256(bytes([n])).hexdigest()}.wav"} for n in range(50)), name="a.jsonl.gz"
    )
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes({"cut": content[:-20], "flipped": content, "not gzip": b"{}\n"}[damage])
    assert f"{path}: the file cannot be read as a manifest" in problem(path)


def test_an_audio_file_is_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(range(256)))
    assert "cannot be read as a manifest" in problem(path)


# Splits

IDS = st.lists(st.text(min_size=1), unique=True, max_size=30)
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda shares: sum(shares) < 1)
Splits = dict[str, str | None]


def splits(ids: Sequence[str], *, valid: float, test: float) -> Splits:
    tracks = [Track(name, Path(f"{number}.wav")) for number, name in enumerate(ids)]
    return {track.id: track.split for track in assign_splits(tracks, valid_share=valid, test_share=test)}


@given(ids=IDS, more=IDS, shares=SHARES)
def test_a_track_has_one_split_in_any_corpus(ids: list[str], more: list[str], shares: tuple[float, float]) -> None:
    """Beside tracks that fill the splits, so that none is moved into an empty one."""
    valid, test = shares
    fillers = [f"filler {number}" for number in range(200)] if min(shares) > 0.05 else []
    valid, test = (valid, test) if fillers else (0.0, 0.0)
    alone = splits([*ids, *fillers], valid=valid, test=test)
    together = splits([*(name for name in more if name not in ids), *fillers, *ids[::-1]], valid=valid, test=test)
    assert set(alone.values()) <= set(SPLITS)
    assert {name: together[name] for name in alone} == alone


@given(ids=IDS, shares=SHARES, data=st.data())
def test_order_does_not_matter_and_no_wanted_split_is_empty(
    ids: list[str], shares: tuple[float, float], data: st.DataObject
) -> None:
    valid, test = shares
    assigned = splits(ids, valid=valid, test=test)
    assert splits(data.draw(st.permutations(ids)), valid=valid, test=test) == assigned
    assert set(assigned) == set(ids)
    counts = Counter(assigned.values())
    if counts["train"] > 1:
        assert counts["test"] or not test
        assert counts["valid"] or not valid


def test_a_small_corpus_gives_up_one_track_for_each_empty_split() -> None:
    ids = [f"track {number}" for number in range(12)]
    assigned = splits(ids, valid=1e-6, test=1e-6)
    assert Counter(assigned.values()) == {"train": 10, "valid": 1, "test": 1}
    assert set(splits(ids, valid=0.0, test=0.0).values()) == {"train"}


def test_a_split_that_some_track_was_given_is_not_filled() -> None:
    tracks = [Track("a", Path("a.wav"), split="test"), *(Track(f"{n}", Path(f"{n}.wav")) for n in range(5))]
    assigned = assign_splits(tracks, valid_share=0.0, test_share=1e-9)
    assert [track.split for track in assigned] == ["test"] + ["train"] * 5


def test_shares_are_kept_to() -> None:
    counts = Counter(splits([f"track {number}" for number in range(4000)], valid=0.05, test=0.10).values())
    assert counts["valid"] / 4000 == pytest.approx(0.05, abs=0.01)
    assert counts["test"] / 4000 == pytest.approx(0.10, abs=0.015)


def test_splits_are_what_they_were() -> None:
    """Golden: a track that moved from test to train would spoil every published number."""
    ids = ["a", "b", "f", "g", "m", "v", "Album/01 Ä.flac", "音楽.wav"]
    expected = ["train", "test", "test", "train", "valid", "valid", "test", "train"]
    assert list(splits(ids, valid=0.25, test=0.25).values()) == expected


def test_a_split_that_is_given_stays() -> None:
    tracks = [Track("a", Path("a.wav"), split="test"), Track("b", Path("b.wav"))]
    assert [track.split for track in assign_splits(tracks, valid_share=0, test_share=0)] == ["test", "train"]


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
