"""Writes a manifest of usable clips of FMA-small, chosen by a seed, as a test set. fma_small.md says which.

    python data_manifests/fma_small.py fma_small --tracks fma_metadata/tracks.csv --out fma_small/manifest.jsonl

A clip takes about 0.15 s, so 673 of them two minutes. Exit code 2: the folder or the table is something else; 3: there
are fewer usable clips than --num-clips.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reencoder_pipeline.audio.survey import Survey, suited_tasks, survey
from reencoder_pipeline.errors import AudioError, CorpusError, ReencoderError
from reencoder_pipeline.exit_codes import DONE, SOME_FAILED, USAGE
from reencoder_pipeline.plain_text import printable
from reencoder_pipeline.progress import Say
from reencoder_pipeline.stores.atomic import write_text
from reencoder_pipeline.stores.digests import file_digest
from reencoder_pipeline.stores.jsonl import json_lines
from reencoder_pipeline.stores.own_folder import require_own_file

Row = dict[str, Any]

# MusicHiFi was evaluated on 673 clips of the 8,000. Which ones is not public, except those of its demo page.
NUM_CLIPS, SMALL_SUBSET = 673, 8000
MUSICHIFI_DEMO = (
    23172, 46157, 54468, 72076, 107425, 108416, 108418, 108422, 110262, 114386,
    114389, 114396, 114409, 133448, 134937, 142081, 144809, 148217, 154306,
)  # fmt: skip

# Clips are just under 30 s long; what is longer is a track of fma_full, and not the same audio.
SHORTEST_SECONDS, LONGEST_SECONDS = 29.0, 31.0
LOWEST_LEVEL_DB = -60.0  # what an evaluation would not score

COLUMNS = (("set", "subset"), ("track", "title"), ("artist", "name"), ("track", "genre_top"), ("track", "license"))
LONGEST_FIELD = 1 << 24  # biographies are long; csv's own limit is 131,072 characters
METADATA = "give tracks.csv of fma_metadata.zip, as it was published"
AUDIO = "give the folder fma_small of fma_small.zip, the one with 000/000002.mp3 in it"
PROGRESS_SECONDS = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder fma_small, the one with 000/000002.mp3 in it")
    parser.add_argument("--tracks", type=Path, required=True, help="tracks.csv of fma_metadata.zip")
    parser.add_argument(
        "--out", type=Path, required=True, help="the manifest to write (.jsonl); paths are relative to it"
    )
    parser.add_argument("--num-clips", type=int, default=NUM_CLIPS, help="how many clips to choose")
    parser.add_argument("--seed", type=int, default=0, help="what the choice depends on")
    given = parser.parse_args()
    try:
        made = build_fma_manifest(
            given.folder,
            given.tracks,
            out=given.out,
            num_clips=given.num_clips,
            seed=given.seed,
            say=lambda message: print(message, file=sys.stderr),
        )
    except ReencoderError as error:
        print(f"error: {printable(error, lines=True)}", file=sys.stderr)
        return USAGE
    print(made.path)
    return DONE if len(made.rows) >= given.num_clips else SOME_FAILED


@dataclass(frozen=True)
class Clip:
    """A clip as tracks.csv describes it; None where the table is silent."""

    number: int
    title: str | None
    artist: str | None
    genre: str | None
    licence: str | None

    @property
    def id(self) -> str:
        return f"{self.number:06d}"


@dataclass(frozen=True)
class TracksCsv:
    """`clips` are those of the small subset, `known` the numbers of all tracks, `failures` the damaged rows."""

    clips: tuple[Clip, ...]
    known: frozenset[int]
    failures: tuple[Row, ...]


@dataclass(frozen=True)
class FmaManifest:
    """A finished manifest, its rows, and what was met on the way and left out, with the reasons."""

    path: Path
    rows: tuple[Row, ...]
    failures: tuple[Row, ...]


def build_fma_manifest(
    folder: Path,
    tracks_csv: Path,
    *,
    out: Path,
    num_clips: int = NUM_CLIPS,
    seed: int = 0,
    say: Say,
) -> FmaManifest:
    """Write the manifest `out` (paths relative to it) of `num_clips` clips, and <name>.failures.jsonl beside it.

    The clips of MusicHiFi's demo page come first, the others in the order of sha256("<seed>/<id>"). Each file is
    measured in turn, and the first `num_clips` that are sound, 29 s long, not silent and suit a task are taken. So with
    the same files, a shorter list is the beginning of a longer one. `out` holds fewer rows where the folder holds no
    more usable clips. All rows are of the split "test". CorpusError when `folder` or `tracks_csv` is something else, or
    no clip can be used.
    """
    if out.suffix != ".jsonl" or out.is_dir():
        remedy = "give --out the name of a file that ends in .jsonl"
        raise CorpusError("the manifest cannot have this name", where=out, remedy=remedy)
    if num_clips < 1:
        remedy = "give --num-clips a number of 1 or more"
        raise CorpusError("a manifest has at least one clip", where="--num-clips", value=num_clips, remedy=remedy)
    left_out = out.with_suffix(".failures.jsonl")
    for path, holds in ((out, b'"split": "test"'), (left_out, b'"reason": ')):
        require_own_file(path, holds=holds, remedy="give another --out, or move it away")
    say(f"reading {tracks_csv}")
    listed = read_tracks_csv(tracks_csv)
    failures = [*listed.failures, *_unlisted(folder, listed, say)]
    _write(left_out, failures)  # now too, so that a place that cannot be written to is known at once
    # Relative to where the manifest really is, so that ".." leads out of no link.
    prefix = Path(os.path.relpath(folder.resolve(), out.parent.resolve()))
    rows: list[Row] = []
    started = told = time.monotonic()
    for looked_at, clip in enumerate(walk(listed.clips, seed=seed), start=1):
        path = folder / _path_of(clip.number)
        try:
            found, digest = survey(path), file_digest(path)
            reason = reason_to_leave_out(found)
        except AudioError as error:
            reason = error.what
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        if reason is not None:
            failures.append({"id": clip.id, "reason": reason})
            continue
        rows.append(_row_of(clip, prefix, digest, found))
        if len(rows) == num_clips:
            break
        if (now := time.monotonic()) - told > PROGRESS_SECONDS:
            told, left = now, (now - started) / len(rows) * (num_clips - len(rows))
            rate = looked_at / (now - started)
            say(f"{len(rows)} of {num_clips} clips, {rate:.1f} files a second, {left:.0f} s left")
    _write(left_out, failures)
    if not rows:
        reasons = "\n  ".join(f"{failure['id']}: {failure['reason']}" for failure in failures[:5])
        raise CorpusError("no clip can be used", where=folder, value=reasons, remedy=AUDIO)
    _write(out, rows)
    for_task = Counter(task for row in rows for task in row["tasks"])
    demo = sum("musichifi_demo" in row for row in rows)
    shares = f"{for_task['bwe']} for bwe, {for_task['m2s']} for m2s, {demo} of MusicHiFi's demo page"
    say(f"{len(rows)} of {num_clips} clips: {shares}; {len(failures)} files or rows left out")
    return FmaManifest(out, tuple(rows), tuple(failures))


def walk(clips: Sequence[Clip], *, seed: int) -> list[Clip]:
    """MusicHiFi's demo clips, then the others in an order that depends on the seed and each one's own id alone."""
    demo = sorted((clip for clip in clips if clip.number in MUSICHIFI_DEMO), key=lambda clip: clip.number)
    others = (clip for clip in clips if clip.number not in MUSICHIFI_DEMO)
    return [*demo, *sorted(others, key=lambda clip: hashlib.sha256(f"{seed}/{clip.id}".encode()).digest())]


def reason_to_leave_out(found: Survey) -> str | None:
    if found.seconds < SHORTEST_SECONDS:
        return f"too short, {found.seconds:.2f} s"
    if found.seconds > LONGEST_SECONDS:
        return f"not a clip but a longer track, {found.seconds:.0f} s"
    if not found.level_db >= LOWEST_LEVEL_DB:  # so written, NaN is left out as well
        return f"silent, {found.level_db:.0f} dB"
    if not suited_tasks(found):
        return f"suits no task: ends at {found.bandwidth_hz:.0f} Hz, and its side is {found.side_mid_db:.0f} dB to mid"
    return None


def read_tracks_csv(path: Path) -> TracksCsv:
    """Read two rows of column names, perhaps one with the index' name, then a row a track with its number first."""
    limit = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            columns = list(zip(next(reader, []), next(reader, []), strict=False))
            missing = [f"{level}.{name}" for level, name in COLUMNS if (level, name) not in columns]
            if missing:
                value = f"no column {', '.join(missing)}"
                raise CorpusError("the table is not FMA's table of tracks", where=path, value=value, remedy=METADATA)
            return _read_rows(reader, columns, path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(
            "the table of tracks cannot be read as CSV", where=path, value=str(error), remedy=METADATA
        ) from None
    except OSError as error:
        raise CorpusError(
            "the table of tracks cannot be opened", where=path, value=error.strerror, remedy=METADATA
        ) from None
    finally:
        csv.field_size_limit(limit)


def _read_rows(reader: Any, columns: list[tuple[str, str]], path: Path) -> TracksCsv:
    places = [columns.index(column) for column in COLUMNS]
    clips: list[Clip] = []
    known: set[int] = set()
    failures: list[Row] = []
    for row in reader:
        if not any(row) or row[0] == "track_id":
            continue
        number = _number(row[0])
        if number is None or len(row) != len(columns):
            value = f"{len(row)} of {len(columns)} columns, track {row[0][:20]!r}"
            failures.append({"id": f"{path.name}:{reader.line_num}", "reason": f"a damaged row: {value}"})
            continue
        if number in known:
            raise CorpusError(
                "the table lists a track twice", where=f"{path}:{reader.line_num}", value=number, remedy=METADATA
            )
        known.add(number)
        subset, *said = (row[place].strip() or None for place in places)
        if subset == "small":
            clips.append(Clip(number, *said))
    if not clips:
        raise CorpusError("the table lists no track of the small subset", where=path, remedy=METADATA)
    return TracksCsv(tuple(clips), frozenset(known), tuple(failures))


def _number(text: str) -> int | None:
    """A track's number, of up to six digits. Nothing else of the table goes into a path."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None


def _path_of(number: int) -> str:
    return f"{number // 1000:03d}/{number:06d}.mp3"


def _unlisted(folder: Path, listed: TracksCsv, say: Say) -> list[Row]:
    """Files that the table does not know. CorpusError where the folder has no clip at all."""
    here = {path.relative_to(folder).as_posix() for path in folder.glob("*/*.mp3")}
    present = sum(_path_of(clip.number) in here for clip in listed.clips)
    if present == 0:
        value = f"{len(here)} MP3 files, none of the small subset" if folder.is_dir() else "no such folder"
        raise CorpusError("the folder is not FMA-small", where=folder, value=value, remedy=AUDIO)
    say(f"{present} of {SMALL_SUBSET} clips are there, and the table lists {len(listed.clips)} as FMA-small")
    if min(present, len(listed.clips)) < SMALL_SUBSET:
        say("without all of them, the list can differ from the one that others get by the same seed")
    unlisted = sorted(here - {_path_of(number) for number in listed.known})
    return [{"id": name, "reason": "the table does not list it"} for name in unlisted]


def _row_of(clip: Clip, prefix: Path, sha256: str, found: Survey) -> Row:
    said = {"licence": clip.licence, "title": clip.title, "artist": clip.artist, "genre": clip.genre}
    return {
        "id": clip.id,
        "path": (prefix / _path_of(clip.number)).as_posix(),
        "sha256": sha256,
        "seconds": round(found.seconds, 3),
        "sample_rate": found.sample_rate,
        "num_samples": found.num_samples,
        "num_channels": found.num_channels,
        **{key: value for key, value in said.items() if value is not None},
        "bandwidth_hz": round(found.bandwidth_hz),
        "side_mid_db": round(found.side_mid_db, 1),
        "level_db": round(found.level_db, 1),
        "tasks": list(suited_tasks(found)),
        "split": "test",
        **({"musichifi_demo": True} if clip.number in MUSICHIFI_DEMO else {}),
    }


def _write(path: Path, rows: Sequence[Row]) -> None:
    """All of the rows, whole or not at all; no file for no rows."""
    text = json_lines(rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if rows:
            write_text(path, text)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CorpusError(
            "the manifest cannot be written", where=path, value=error.strerror, remedy="choose another --out"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
