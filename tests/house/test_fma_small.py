"""The list of FMA-small: what is chosen and what is left out, on a small folder and a table like the published ones."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from reencoder_pipeline.audio.survey import Survey
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.errors import CorpusError
from reencoder_pipeline.stores.digests import file_digest

sys.path.insert(0, str(Path(__file__).parents[2] / "data_manifests"))
fma: Any = importlib.import_module("fma_small")
RATE = 44_100
# All columns of the published table, in its order; names such as "title" and "id" are there more than once.
LEVELS = {
    "album": "comments date_created date_released engineer favorites id information listens producer tags title tracks "
    "type",
    "artist": "active_year_begin active_year_end associated_labels bio comments date_created favorites id latitude "
    "location longitude members name related_projects tags website wikipedia_page",
    "set": "split subset",
    "track": "bit_rate comments composer date_created date_recorded duration favorites genre_top genres genres_all "
    "information interest language_code license listens lyricist number publisher tags title",
}
COLUMNS = [(level, name) for level, names in LEVELS.items() for name in names.split()]

Table = Callable[..., Path]
Mp3 = dict[str, bytes]


def noise(seconds: float, *, highest: float = 20_000, seed: int = 0) -> np.ndarray:
    """(samples,) of noise with a brick wall at `highest` Hz."""
    samples = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    spectrum[np.fft.rfftfreq(samples, 1 / RATE) > highest] = 0
    audio = np.fft.irfft(spectrum, samples)
    return (0.1 * audio / audio.std()).astype(np.float32)


@pytest.fixture(scope="module")
def mp3(tmp_path_factory: pytest.TempPathFactory) -> Mp3:
    """MP3 files by what is special about them."""
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"

    def encoded(*channels: np.ndarray) -> bytes:
        audio = np.stack(channels, axis=1)
        soundfile.write(path, audio, RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.0)
        return path.read_bytes()

    left, right, dull = noise(1, seed=1), noise(1, seed=2), noise(1, seed=1, highest=9_000)
    stereo = encoded(left, left / 2 + right / 4)
    return {
        "stereo": stereo,
        "mono": encoded(left),
        "two equal channels": encoded(left, left),
        "dull": encoded(dull, dull / 2 + noise(1, seed=2, highest=9_000) / 4),
        "dull mono": encoded(dull),
        "silent": encoded(0 * left, 0 * left),
        "short": encoded(left[:20_000], right[:20_000]),
        "long": encoded(noise(2.5), noise(2.5, seed=3)),
        "truncated": stereo[: len(stereo) // 4],
        "empty": b"",
        "a tag and nothing else": b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(1742),
        "text": b"<html>404</html>\n" * 30,
    }


@pytest.fixture(autouse=True)
def _a_clip_is_a_second_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fma, "SHORTEST_SECONDS", 0.9)
    monkeypatch.setattr(fma, "LONGEST_SECONDS", 2.0)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """table(2, 5): tracks.csv with these tracks of the small subset."""

    def write(*small: int | str, medium: tuple[int, ...] = (), index_name: bool = True, **said: str) -> Path:
        path = tmp_path / "tracks.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(["", *(level for level, _ in COLUMNS)])
            lines.writerow(["", *(name for _, name in COLUMNS)])
            if index_name:
                lines.writerow(["track_id", *("" for _ in COLUMNS)])
            for number in (*small, *medium):
                cells = {f"{level}_{name}": f"the {level}'s {name}" for level, name in COLUMNS} | said
                cells["set_subset"] = "medium" if number in medium else "small"
                lines.writerow([number, *(cells[f"{level}_{name}"] for level, name in COLUMNS)])
        return path

    return write


def fill(folder: Path, clips: dict[int, bytes]) -> Path:
    for number, content in clips.items():
        path = folder / f"{number:06d}"[:3] / f"{number:06d}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def build(folder: Path, tracks: Path, **options: Any) -> Any:
    return fma.build_fma_manifest(folder, tracks, **{"out": folder / "list.jsonl", "say": lambda _: None, **options})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reasons(made: Any) -> dict[str, str]:
    return {failure["id"]: failure["reason"] for failure in made.failures}


def test_every_kind_of_clip_is_where_it_belongs(tmp_path: Path, table: Table, mp3: Mp3) -> None:
    numbers = {kind: 1000 * place + 7 for place, kind in enumerate(mp3)}
    folder = fill(tmp_path / "fma small", {numbers[kind]: content for kind, content in mp3.items()})
    made = build(folder, table(*numbers.values(), 155_066), num_clips=100)

    kinds = {f"{number:06d}": kind for kind, number in numbers.items()}
    assert {kinds[row["id"]]: row["tasks"] for row in made.rows} == {
        "stereo": ["bwe", "m2s"],
        "mono": ["bwe"],
        "two equal channels": ["bwe"],
        "dull": ["m2s"],
    }
    left_out = {kinds.get(name, name): reason for name, reason in reasons(made).items()}
    assert left_out.pop("155066") == "there is no such audio file"
    assert {kind: reason.split(",")[0].split(":")[0] for kind, reason in left_out.items()} == {
        "dull mono": "suits no task",
        "silent": "silent",
        "short": "too short",
        "long": "not a clip but a longer track",
        "truncated": "the file decodes to another length than its header says",
        "empty": "the file cannot be read as audio",
        "a tag and nothing else": "the file cannot be read as audio",
        "text": "the file cannot be read as audio",
    }
    assert lines(folder / "list.jsonl") == list(made.rows)
    assert lines(folder / "list.failures.jsonl") == list(made.failures)


def test_a_row_says_what_the_table_and_the_file_say(tmp_path: Path, table: Table, mp3: Mp3) -> None:
    folder = fill(tmp_path / "fma_small", {2: mp3["stereo"]})
    tracks = table(2, track_title='Füür\u2028\n, "loud"', track_license="Attribution 3.0", track_genre_top="")
    (row,) = build(folder, tracks).rows
    found = {key: row.pop(key) for key in ("bandwidth_hz", "side_mid_db", "level_db")}
    assert row == {
        "id": "000002",
        "path": "000/000002.mp3",
        "sha256": hashlib.sha256(mp3["stereo"]).hexdigest(),
        "seconds": 1.0,
        "sample_rate": RATE,
        "num_samples": RATE,
        "num_channels": 2,
        "licence": "Attribution 3.0",
        "title": 'Füür\u2028\n, "loud"',
        "artist": "the artist's name",
        "tasks": ["bwe", "m2s"],
        "split": "test",
    }
    assert found["bandwidth_hz"] == pytest.approx(20_000, abs=500)
    # mid 0.75 l + 0.125 r, side 0.25 l - 0.125 r, of independent l and r
    assert found["side_mid_db"] == pytest.approx(10 * np.log10((0.25**2 + 0.125**2) / (0.75**2 + 0.125**2)), abs=0.3)
    assert found["level_db"] == pytest.approx(10 * np.log10(0.01 * (1 + 0.25 + 0.0625) / 2), abs=0.3)
    (track,) = read_corpus(folder / "list.jsonl")
    assert file_digest(track.path) == track.sha256
    assert (track.id, track.split, track.licence) == ("000002", "test", "Attribution 3.0")


@pytest.mark.parametrize("out", ["lists/a/fma.jsonl", "fma_small/fma.jsonl", "link/fma.jsonl"])
def test_paths_lead_from_the_manifest_to_the_clips(tmp_path: Path, table: Table, mp3: Mp3, out: str) -> None:
    folder = fill(tmp_path / "fma_small", {2: mp3["stereo"]})
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "down")
    build(folder, table(2), out=tmp_path / out)
    (track,) = read_corpus(tmp_path / out)
    assert track.path.read_bytes() == mp3["stereo"]


def test_the_order_is_that_of_the_digests_with_the_demo_page_first() -> None:
    # printf 0/000002 | sha256sum, and so on
    clips = [fma.Clip(number, None, None, None, None) for number in (2, 5, 10, 140, 141, 72_076, 23_172)]
    expected = [23_172, 72_076, 141, 140, 5, 10, 2]
    for seed in range(5):
        random.Random(seed).shuffle(clips)
        assert [clip.number for clip in fma.walk(clips, seed=0)] == expected
    some = {clip.number for clip in clips[:4]}
    assert [clip.number for clip in fma.walk(clips[:4], seed=0)] == [number for number in expected if number in some]
    assert len({tuple(clip.number for clip in fma.walk(clips, seed=seed)) for seed in range(5)}) == 5


def test_a_shorter_list_begins_a_longer_one_and_the_tables_order_changes_nothing(
    tmp_path: Path, table: Table, mp3: Mp3
) -> None:
    kinds = ["stereo", "mono", "silent", "stereo", "truncated"] * 4
    folder = fill(tmp_path / "fma_small", {17 * place: mp3[kind] for place, kind in enumerate(kinds, start=1)})
    fill(folder, {108_416: mp3["stereo"], 107_425: mp3["short"]})
    numbers = [*(17 * place for place in range(1, 21)), 108_416, 107_425, 154_306]
    whole = build(folder, table(*numbers), num_clips=100)
    assert len(whole.rows) == 13
    assert [row["id"] for row in whole.rows if "musichifi_demo" in row] == ["108416"] == [whole.rows[0]["id"]]
    assert list(reasons(whole))[:2] == ["107425", "154306"]
    for num_clips in (1, 5, 13):
        first = build(folder, table(*numbers), num_clips=num_clips)
        assert first.rows == whole.rows[:num_clips]
        assert first.failures == whole.failures[: len(first.failures)]
    assert len(first.failures) <= len(whole.failures)

    content = (folder / "list.jsonl").read_bytes()
    random.Random(1).shuffle(numbers)
    assert build(folder, table(*numbers), num_clips=13, out=folder / "again.jsonl").rows == whole.rows
    assert (folder / "again.jsonl").read_bytes() == content
    other = build(folder, table(*numbers), num_clips=5, seed=1)
    assert other.rows[0] == whole.rows[0]
    assert other.rows != whole.rows[:5]


def test_files_that_the_table_does_not_list_are_named(tmp_path: Path, table: Table, mp3: Mp3) -> None:
    folder = fill(tmp_path / "fma_small", {2: mp3["stereo"], 3: mp3["stereo"], 5: mp3["stereo"]})
    (folder / "000" / "cover.mp3").write_bytes(mp3["stereo"])
    (folder / "checksums").write_text("0")
    said: list[str] = []
    made = build(folder, table(2, medium=(5,)), say=said.append)
    assert [row["id"] for row in made.rows] == ["000002"]
    assert reasons(made) == dict.fromkeys(["000/000003.mp3", "000/cover.mp3"], "the table does not list it")
    assert "1 of 8000 clips are there, and the table lists 1" in said[1]
    assert "can differ" in said[2]
    assert said[-1].startswith("1 of 673 clips: 1 for bwe, 1 for m2s, 0 of MusicHiFi's demo page; 2 files")


def test_failures_of_an_earlier_list_do_not_stay(tmp_path: Path, table: Table, mp3: Mp3) -> None:
    folder = fill(tmp_path / "fma_small", {2: mp3["stereo"], 5: mp3["text"]})
    build(folder, table(2, 5))
    assert (folder / "list.failures.jsonl").exists()
    build(folder, table(2, medium=(5,)))
    assert {path.name for path in folder.iterdir()} == {"000", "list.jsonl"}


@pytest.mark.parametrize("number", ["../../etc/passwd", "-2", "", "²", "١٢", "1234567", "2\n"])
def test_only_numbers_become_paths(tmp_path: Path, table: Table, mp3: Mp3, number: str) -> None:
    folder = fill(tmp_path / "fma_small", {2: mp3["stereo"]})
    made = build(folder, table(number, 2))
    assert [row["path"] for row in made.rows] == ["000/000002.mp3"]
    ((where, reason),) = reasons(made).items()
    assert where == ("tracks.csv:5" if number == "2\n" else "tracks.csv:4")
    assert "a damaged row" in reason


def test_a_row_that_breaks_off_is_named_and_the_others_are_read(table: Table) -> None:
    path = table(2, 5)
    path.write_bytes(path.read_bytes()[:-40])
    found = fma.read_tracks_csv(path)
    assert [clip.number for clip in found.clips] == [2]
    (failure,) = found.failures
    assert failure["id"] == "tracks.csv:5"
    assert "of 53 columns, track '5'" in failure["reason"]


def test_the_table_may_lack_the_name_of_its_index_and_hold_long_texts(table: Table) -> None:
    path = table(2, 5, medium=(3,), index_name=False, artist_bio="la " * 100_000)
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    before = csv.field_size_limit(99_999)
    found = fma.read_tracks_csv(path)
    assert [clip.number for clip in found.clips] == [2, 5]
    assert found.known == {2, 3, 5}
    assert not found.failures
    assert csv.field_size_limit(before) == 99_999


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"no column set\.subset, track\.title, artist\.name, track\.genre_top, track\.license"),
        (b"PK\x03\x04\xff\xfe\x00\x00" * 40, "cannot be read as CSV"),
        (b"genre_id,#tracks,parent,title\n1,8693,38,Avant-Garde\n", r"no column set\.subset"),
        (b",set,track,artist,track\n,subset,title,name,license\n2,small,a,b,c\n", r"no column track\.genre_top\n"),
        (b'"' + b"a" * (fma.LONGEST_FIELD + 2), "field larger than field limit"),
    ],
)
def test_what_is_not_the_table_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tracks.csv"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as raised:
        fma.read_tracks_csv(path)
    assert str(path) in str(raised.value)
    assert "fma_metadata.zip" in str(raised.value)


def test_tables_that_cannot_be_meant_are_errors(tmp_path: Path, table: Table) -> None:
    with pytest.raises(CorpusError, match=r"tracks\.csv:6: the table lists a track twice\n  found: 2"):
        fma.read_tracks_csv(table(2, 5, "000002"))
    with pytest.raises(CorpusError, match="lists no track of the small subset"):
        fma.read_tracks_csv(table(medium=(2, 5)))
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(CorpusError, match="cannot be opened"):
            fma.read_tracks_csv(path)


def test_a_folder_that_is_not_fma_small_is_an_error(tmp_path: Path, table: Table, mp3: Mp3) -> None:
    fill(tmp_path / "fma_small", {2: mp3["stereo"]})
    fill(tmp_path / "medium", {5: mp3["stereo"]})
    tracks = table(2, medium=(5,))
    for folder, found in ((tmp_path, "0 MP3"), (tmp_path / "medium", "1 MP3"), (tmp_path / "absent", "no such folder")):
        with pytest.raises(CorpusError, match=f"the folder is not FMA-small\n  found: {found}"):
            build(folder, tracks, out=tmp_path / "list.jsonl")
    assert not (tmp_path / "list.jsonl").exists()


def test_a_list_of_nothing_is_not_written(tmp_path: Path, table: Table, mp3: Mp3) -> None:
    folder = fill(tmp_path / "fma_small", {2: mp3["text"], 5: mp3["silent"]})
    with pytest.raises(CorpusError, match=r"no clip can be used\n(.*\n)*.*000002: the file cannot be read as audio"):
        build(folder, table(2, 5))
    assert not (folder / "list.jsonl").exists()
    assert len(lines(folder / "list.failures.jsonl")) == 2


def test_a_place_that_cannot_be_written_to_is_an_error_before_anything_is_measured(
    tmp_path: Path, table: Table, mp3: Mp3
) -> None:
    folder, tracks = fill(tmp_path / "fma_small", {2: mp3["stereo"]}), table(2)
    (tmp_path / "list.jsonl").mkdir()
    for out in (tracks, tmp_path / "list.jsonl", tracks / "list.jsonl"):
        said: list[str] = []
        with pytest.raises(CorpusError, match=r"cannot have this name|cannot be written"):
            build(folder, tracks, out=out, say=said.append)
        assert not any("clips:" in line for line in said)
    with pytest.raises(CorpusError, match="at least one clip"):
        build(folder, tracks, num_clips=0)
    assert tracks.stat().st_size > 1000


def test_the_command(
    tmp_path: Path, table: Table, mp3: Mp3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = fill(tmp_path / "fma_small", {2: mp3["stereo"]}), tmp_path / "list.jsonl"
    for tracks, num_clips, code in ((table(2), "1", 0), (table(2), "2", 3), (folder / "absent.csv", "1", 2)):
        line = ["fma_small.py", str(folder), "--tracks", str(tracks), "--out", str(out), "--num-clips", num_clips]
        monkeypatch.setattr("sys.argv", line)
        assert fma.main() == code
        said = capsys.readouterr()
        assert said.out == (f"{out}\n" if code != 2 else "")
        assert ("try: give tracks.csv" in said.err) == (code == 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"num_samples": 29 * RATE}, None),
        ({"num_samples": 29 * RATE - 441}, "too short, 28.99 s"),
        ({"num_samples": 240 * RATE}, "not a clip but a longer track, 240 s"),
        ({"level_db": -60.0}, None),
        ({"level_db": -60.1}, "silent, -60 dB"),
        ({"level_db": float("nan")}, "silent, nan dB"),
        ({"bandwidth_hz": 15_000.0}, None),
        ({"side_mid_db": -31.0}, None),
        (
            {"side_mid_db": -120.0, "bandwidth_hz": 15_000.0},
            "suits no task: ends at 15000 Hz, and its side is -120 dB to mid",
        ),
    ],
)
def test_the_limits(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str | None) -> None:
    monkeypatch.undo()  # clips are 30 s long again
    good = {"num_samples": 1_321_967, "sample_rate": RATE, "num_channels": 2, "bandwidth_hz": 19_000.0}
    found = Survey(**{**good, "side_mid_db": -9.0, "level_db": -20.0, **changes})  # type: ignore[arg-type]
    assert fma.reason_to_leave_out(found) == reason
