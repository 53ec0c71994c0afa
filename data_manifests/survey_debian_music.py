"""Regenerates debian_music.jsonl from unpacked Debian packages: survey, near-duplicates, groups, splits, licences.

    python data_manifests/survey_debian_music.py UNPACKED            # UNPACKED/<package>/usr/share/...  (dpkg-deb -x)
    python data_manifests/survey_debian_music.py UNPACKED --unseen   # debian_unseen.jsonl, all of it test

Takes about 10 minutes on one core. The splits are a promise to everyone who has trained on them: where a track that is
already in the manifest would change its split, nothing is written unless --new-splits is given.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import soundfile
from near_duplicates import Fingerprint, close_pairs, fingerprint

from reencoder_pipeline.audio.survey import Survey, suited_tasks, survey
from reencoder_pipeline.errors import AudioError

MANIFEST = Path(__file__).with_name("debian_music.jsonl")
UNSEEN = MANIFEST.with_name("debian_unseen.jsonl")
MUSIC_FOLDERS = {
    "drascula-music": "usr/share/scummvm/drascula/audio",
    "hyperrogue-music": "usr/share/hyperrogue/music",
    "nexuiz-music": "usr/share/games/nexuiz/data",
    "planetblupi-music-ogg": "usr/share/planetblupi/music",
    "singularity-music": "usr/share/games/singularity/music",
    "ufoai-music": "usr/share/games/ufoai/base",
    "warzone2100-music": "usr/share/games/warzone2100/music",
    "wesnoth-1.16-music": "usr/share/games/wesnoth/1.16/data/core/music",
}
UNSEEN_FOLDERS = {
    "ardentryst": "usr/share/games/ardentryst/Music",
    "colobot-common-sounds": "usr/share/games/colobot/music",
    "extremetuxracer-data": "usr/share/games/etr/music",
    "lincity-ng-data": "usr/share/games/lincity-ng/music",
    "lordsawar-data": "usr/share/games/lordsawar/music",
    "xmoto-data": "usr/share/games/xmoto/Textures/Musics",
}
SHORTEST_SECONDS = 10.0
LOWEST_LEVEL_DB = -60.0
SOUND_EFFECTS = {"thunder.ogg"}

# Copyright files that are prose, read by hand: (licence, author).
STATED: dict[str, tuple[str, str | None]] = {
    "nexuiz-music": ("GPL-2.0-or-later", None),
    "singularity-music": ("CC-BY-SA-3.0", "Max McCracken"),
    "wesnoth-1.16-music": ("GPL-2.0-or-later", None),
}
SPDX = {
    "GPL-2": "GPL-2.0-only",
    "GPL-2+": "GPL-2.0-or-later",
    "GPL-3+": "GPL-3.0-or-later",
    "Drascula-License": "LicenseRef-Drascula",
}

# Chains of digits and these words do not make another theme: battle-epic is battle, track3_enhanced is track3.
VARIANT = re.compile(r"[-_]*(\d+|old|enhanced|revisited|epic)$")
NUMBERED_ONLY = {"track", "music"}
SERIES = {  # names with a common beginning: one composer's set for one game
    "hyperrogue-music": re.compile(r"hr3|hr-savino|hr-domina"),
    "ufoai-music": re.compile(r"van(?=_)|dynamictest"),
}

SEED = "reencoder-debian-music-1"
SHARES = (("test", 0.12), ("valid", 0.08))
LARGEST_PACKAGE_SHARE = 0.3


@dataclass(frozen=True)
class Recording:
    """One file of a package: `path` inside it ("x.pk3!music/y.ogg" in an archive) and its bytes."""

    package: str
    path: str
    data: bytes

    @property
    def name(self) -> str:
        return PurePosixPath(self.path.replace("!", "/")).name

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9_-]+", "-", self.name.rsplit(".", 1)[0].lower()).strip("-")

    @property
    def id(self) -> str:
        return f"{self.package}/{self.slug}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("unpacked", type=Path, help="folder that holds one folder per unpacked package")
    parser.add_argument("--unseen", action="store_true", help="the packages that are for tests alone")
    parser.add_argument("--out", type=Path, help="default: the manifest that is there")
    parser.add_argument("--new-splits", action="store_true", help="write even if known tracks change their split")
    arguments = parser.parse_args()
    folders, manifest = (UNSEEN_FOLDERS, UNSEEN) if arguments.unseen else (MUSIC_FOLDERS, MANIFEST)
    manifest = arguments.out or manifest

    rows: list[dict[str, Any]] = []
    fingerprints: list[Fingerprint] = []
    for recording in recordings(arguments.unpacked, folders):
        try:
            measured = survey_of(recording)
        except AudioError as error:
            report(f"{recording.id}: left out, {error.what}")
            continue
        if reason := reason_to_leave_out(recording, measured):
            report(f"{recording.id}: left out, {reason}")
            continue
        rows.append(row_of(recording, measured, arguments.unpacked / recording.package))
        fingerprints.append(fingerprint(recording.data))
        report(f"{recording.id}: {rows[-1]['bandwidth_hz']} Hz, {rows[-1]['side_mid_db']} dB")
    for key in ("id", "sha256"):
        repeated = [value for value, count in Counter(row[key] for row in rows).items() if count > 1]
        if repeated:
            raise SystemExit(f"{key} is not unique: {', '.join(repeated)}")

    pairs = close_pairs(fingerprints)
    for pair in pairs:
        verdict = "near-duplicates" if pair.linked else "not linked"
        first, second = rows[pair.first]["id"], rows[pair.second]["id"]
        report(f"{verdict}: {first}, {second} (chroma {pair.chroma:.3f}, peaks {pair.peaks})")
    set_groups(rows, [(pair.first, pair.second) for pair in pairs if pair.linked])
    if arguments.unseen:
        for row in rows:
            row["split"] = "test"
    else:
        set_splits(rows)
    rows.sort(key=lambda row: row["id"])
    report_shares(rows)
    if not arguments.new_splits and (changed := changed_splits(rows, manifest)):
        raise SystemExit(f"nothing written, splits would change (--new-splits allows it): {', '.join(changed)}")
    beside = manifest.with_name(f"{manifest.name}.tmp")
    beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    beside.replace(manifest)


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def recordings(unpacked: Path, folders: Mapping[str, str]) -> Iterator[Recording]:
    """Every audio file of the music folders, in a fixed order. Symbolic links only repeat files met elsewhere."""
    for package, folder in folders.items():
        root = unpacked / package
        for file in sorted((root / folder).rglob("*")):
            path = file.relative_to(root).as_posix()
            if file.is_symlink() or not file.is_file():
                continue
            if file.suffix in {".ogg", ".opus"}:
                yield Recording(package, path, file.read_bytes())
            elif file.suffix == ".pk3":
                with zipfile.ZipFile(file) as archive:
                    for member in sorted(name for name in archive.namelist() if name.endswith(".ogg")):
                        yield Recording(package, f"{path}!{member}", archive.read(member))


def survey_of(recording: Recording) -> Survey:
    with tempfile.NamedTemporaryFile(suffix=PurePosixPath(recording.name).suffix) as file:
        file.write(recording.data)
        file.flush()
        return survey(Path(file.name))


def reason_to_leave_out(recording: Recording, measured: Survey) -> str | None:
    if recording.name in SOUND_EFFECTS:
        return "a sound effect"
    if measured.seconds < SHORTEST_SECONDS:
        return f"{measured.seconds:.1f} s is a jingle"
    if measured.level_db < LOWEST_LEVEL_DB:
        return f"silence, {measured.level_db:.0f} dB"
    return None


def row_of(recording: Recording, measured: Survey, root: Path) -> dict[str, Any]:
    licence, author = licence_and_author(recording, root)
    return {
        "id": recording.id,
        "package": recording.package,
        "version": version_of(recording.package, root),
        "path": recording.path,
        "sha256": hashlib.sha256(recording.data).hexdigest(),
        "seconds": round(measured.seconds, 3),
        "sample_rate": measured.sample_rate,
        "num_samples": measured.num_samples,
        "num_channels": measured.num_channels,
        "licence": licence,
        **({"author": author} if author else {}),
        "bandwidth_hz": round(measured.bandwidth_hz),
        "side_mid_db": round(measured.side_mid_db, 1),
        "tasks": list(suited_tasks(measured)),
    }


def version_of(package: str, root: Path) -> str:
    with gzip.open(root / "usr/share/doc" / package / "changelog.Debian.gz", "rt", encoding="utf-8") as changelog:
        found = re.search(r"\((\S+)\)", changelog.readline())
    if found is None:
        raise SystemExit(f"{package}: the changelog states no version")
    return found[1]


def licence_and_author(recording: Recording, root: Path) -> tuple[str, str | None]:
    """What the package's copyright file states for this file; the author also from album lists and the file's tags."""
    if recording.package in STATED:
        licence, author = STATED[recording.package]
    else:
        licence, author = _machine_readable(recording, root / "usr/share/doc" / recording.package / "copyright")
    album = (root / recording.path).with_name("album.json")
    if author is None and album.is_file():
        tracks = json.loads(album.read_text(encoding="utf-8"))["tracks"]
        author = next((track["author"] for track in tracks if track["filename"] == recording.name), None)
    if author is None:
        tag = soundfile.SoundFile(io.BytesIO(recording.data)).copy_metadata().get("artist", "").strip()
        author = None if not tag or tag == "<Unknown>" or tag.startswith("www.") else tag
    return SPDX.get(licence, licence), author


def _machine_readable(recording: Recording, copyright_file: Path) -> tuple[str, str | None]:
    """The last paragraph whose Files match. Its holder counts as the author if alone and not of the whole package."""
    path, licence, author = PurePosixPath(recording.path.replace("!", "/")), "", None
    for paragraph in copyright_file.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(
            re.findall(r"^(Files|Copyright|License):((?:.*\n?)(?:[ \t].*\n?)*)", paragraph, flags=re.MULTILINE)
        )
        patterns = fields.get("Files", "").split()
        if any(pattern == "*" or path.match("/".join(pattern.split("/")[-2:])) for pattern in patterns):
            licence = fields["License"].split()[0]
            holders = [line.strip() for line in fields["Copyright"].strip().splitlines()]
            author = re.sub(r" \(.*\)$", "", holders[0]) if len(holders) == 1 and patterns != ["*"] else None
    if not licence:
        raise SystemExit(f"{recording.id}: {copyright_file} states no licence")
    return licence, author


def theme(row: dict[str, Any]) -> tuple[str, str]:
    """The piece that a name says it is: without numbers and words for variants, unless it says only a number."""
    package, name = row["id"].split("/")
    if package in SERIES and (series := SERIES[package].match(name)):
        return package, series[0]
    stem = name
    while (shorter := VARIANT.sub("", stem).strip("-_")) and shorter != stem:
        stem = shorter
    return package, name if stem in NUMBERED_ONLY else stem


def set_groups(rows: list[dict[str, Any]], links: list[tuple[int, int]]) -> None:
    """Tracks joined by theme or link, in any number of steps, share a group: the id of the first of them."""
    group = {row["id"]: row["id"] for row in rows}
    by_theme: dict[tuple[str, str], str] = {}
    pairs = [(by_theme.setdefault(theme(row), row["id"]), row["id"]) for row in rows]
    pairs += [(rows[first]["id"], rows[second]["id"]) for first, second in links]
    for one, other in pairs:
        low, high = sorted((group[one], group[other]))
        group = {name: low if its == high else its for name, its in group.items()}
    for row in rows:
        row["group"] = group[row["id"]]


def set_splits(rows: list[dict[str, Any]]) -> None:
    """Groups in the order of a seeded hash fill test, then valid, and the rest is train.

    A group is passed over where it would overfill the split by more than 5 % or give one package more than 30 % of it.
    First the groups that serve bwe, by their seconds for it; then the others by all their seconds, with no limit for
    packages (there are few).
    """
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        seconds[row["group"]] += row["seconds"] * ("bwe" in row["tasks"])
    for_bwe = {group: total for group, total in seconds.items() if total > 0}
    others: dict[str, float] = defaultdict(float)
    for row in rows:
        if row["group"] not in for_bwe:
            others[row["group"]] += row["seconds"] * ("m2s" in row["tasks"])
    split = {**_fill(for_bwe, LARGEST_PACKAGE_SHARE), **_fill(others, 2.0)}
    for row in rows:
        row["split"] = split[row["group"]]


def _fill(seconds: dict[str, float], package_share: float) -> dict[str, str]:
    split = dict.fromkeys(
        sorted(seconds, key=lambda group: hashlib.sha256(f"{SEED}:{group}".encode()).hexdigest()), "train"
    )
    for name, share in SHARES:
        target, filled, of_package = share * sum(seconds.values()), 0.0, defaultdict[str, float](float)
        for group in split:
            package = group.split("/")[0]
            fits = filled + seconds[group] <= 1.05 * target
            fits &= of_package[package] + seconds[group] <= package_share * target
            if fits and split[group] == "train" and filled < 0.97 * target:
                split[group] = name
                filled += seconds[group]
                of_package[package] += seconds[group]
    return split


def changed_splits(rows: list[dict[str, Any]], manifest: Path) -> list[str]:
    if not manifest.is_file():
        return []
    before = {row["id"]: row["split"] for row in map(json.loads, manifest.read_text(encoding="utf-8").splitlines())}
    return [row["id"] for row in rows if before.get(row["id"], row["split"]) != row["split"]]


def report_shares(rows: list[dict[str, Any]]) -> None:
    for task in ("bwe", "m2s"):
        of_task = [row for row in rows if task in row["tasks"]]
        total = sum(row["seconds"] for row in of_task)
        for split in ("train", "valid", "test"):
            chosen = [row for row in of_task if row["split"] == split]
            seconds, packages = sum(row["seconds"] for row in chosen), len({row["package"] for row in chosen})
            share = f"{seconds / 3600:.2f} h, {seconds / total:.1%}"
            report(f"{task} {split}: {share}, {len(chosen)} tracks of {packages} packages")


if __name__ == "__main__":
    main()
