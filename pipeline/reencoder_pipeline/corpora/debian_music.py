"""Fetches freely licensed music from the machine's Debian mirror, without root, and writes its manifest."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from reencoder_pipeline.corpora.apt import NETWORK, OWN_MUSIC, Apt
from reencoder_pipeline.errors import FetchError
from reencoder_pipeline.progress import Say
from reencoder_pipeline.stores.atomic import write_whole
from reencoder_pipeline.stores.digests import file_digest
from reencoder_pipeline.stores.jsonl import write_json_lines
from reencoder_pipeline.stores.own_folder import folder_lock, require_own_folder

COLLECTIONS = ("debian-music", "debian-unseen")  # no released module is trained on the second
Row = dict[str, Any]

MARK = "fetch.json"  # written first; marks the folder as one of this command


def fetch_debian_music(
    out: Path, *, packages: Sequence[str] | None, say: Say, collection: str = "debian-music"
) -> Path:
    """Put the tracks of a collection's `packages` (None: all) into `out`; return `out`/manifest.jsonl, written last.

    A track lies at <package>/<its path inside>, a member of an archive at <package>/<archive>/<member>. Tracks already
    there with the right sha256 are kept; if all are there, nothing is downloaded. The manifest holds the tracks that
    match the collection's list in data_manifests/; others (of an updated or missing package) are left out and listed in
    `out`/failures.jsonl. FetchError if nothing usable is left.
    """
    rows = _rows_of(packages, manifest_path(collection))
    require_own_folder(out, marks={MARK: ("made_by", "collection"), "manifest.jsonl": ("id", "package", "sha256")})
    try:
        with folder_lock(out, what="a fetch"):
            write_json_lines(out / MARK, [{"made_by": "fetch", "collection": collection}])
            present = {row["id"] for row in rows if _is_there(row, out)}
            missing = [row for row in rows if row["id"] not in present]
            failures: list[Row] = []
            if missing:
                say(f"{len(present)} of {len(rows)} tracks are there, {len(missing)} to fetch")
                failures = _fetch_missing(missing, out, say)
                present |= {row["id"] for row in missing} - {failure["id"] for failure in failures}
            return _finish(out, [row for row in rows if row["id"] in present], failures, say)
    except OSError as error:
        what, remedy = "the file cannot be read or written", "free some space, or choose another --out"
        raise FetchError(what, where=error.filename or out, value=error.strerror, remedy=remedy) from error


def manifest_path(collection: str = "debian-music") -> Path:
    """The list of a collection, data_manifests/<collection>.jsonl, in an installed wheel or a checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1], here.parents[3]):
        path = folder / "data_manifests" / f"{collection.replace('-', '_')}.jsonl"
        if path.is_file():
            return path
    raise FetchError("the list of Debian music is missing from this installation", where=here, remedy=OWN_MUSIC)


def track_path(row: Row) -> PurePosixPath:
    """The path of a row's track, relative to the fetched folder. FetchError for a path that leaves it."""
    package, path = PurePosixPath(row["package"]), PurePosixPath(row["path"].replace("!", "/"))
    if len(package.parts) != 1 or path.is_absolute() or ".." in (*package.parts, *path.parts):
        what, remedy = "the track's path leaves its package", "restore the list in data_manifests/"
        raise FetchError(what, where=row["id"], value=row["path"], remedy=remedy)
    return package / path


def _rows_of(packages: Sequence[str] | None, manifest: Path) -> list[Row]:
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    known = sorted({row["package"] for row in rows})
    wanted = known if packages is None else packages
    unknown = [package for package in wanted if package not in known]
    if unknown or not wanted:
        what, value = "the list of Debian music has no such packages", ", ".join(unknown) or "no name"
        raise FetchError(what, value=value, remedy=f"choose from {', '.join(known)}, or {OWN_MUSIC}")
    return [row for row in rows if row["package"] in wanted]


def _is_there(row: Row, out: Path) -> bool:
    path = out / track_path(row)
    return path.is_file() and file_digest(path) == row["sha256"]


def _finish(out: Path, rows: list[Row], failures: list[Row], say: Say) -> Path:
    """Write failures.jsonl (none if nothing failed), then manifest.jsonl, each atomically."""
    reasons = [f"{failure['id']}: {failure['reason']}" for failure in failures]
    if not rows:
        raise FetchError("none of the music can be used", where=out, value="\n  ".join(reasons[:5]), remedy=NETWORK)
    for reason in reasons:
        say(f"left out: {reason}")
    (out / "failures.jsonl").unlink(missing_ok=True)
    if failures:
        _write_lines(out / "failures.jsonl", failures)
    _write_lines(out / "manifest.jsonl", [{**row, "path": track_path(row).as_posix()} for row in rows])
    hours = sum(row["seconds"] for row in rows) / 3600
    say(f"{len(rows)} tracks, {hours:.2f} h" + (f"; {len(failures)} left out" if failures else ""))
    return out / "manifest.jsonl"


def _write_lines(path: Path, rows: list[Row]) -> None:
    write_json_lines(path, rows, ascii_only=False)


def _fetch_missing(missing: list[Row], out: Path, say: Say) -> list[Row]:
    """Download, unpack, check and place, package by package. Returns the tracks left out, with the reasons."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            what = f"this machine has no {program}, and the example music comes in Debian packages"
            raise FetchError(what, remedy=f"run this on Debian or Ubuntu (a container will do), or {OWN_MUSIC}")
    apt = Apt(out / ".apt")
    apt.update(say)
    (out / "manifest.jsonl").unlink(missing_ok=True)  # it marks a complete folder: written last, removed first
    failures: list[Row] = []
    for package in dict.fromkeys(row["package"] for row in missing):
        wanted = [row for row in missing if row["package"] == package]
        deb = apt.download(package)
        if deb is None:
            reasons = dict.fromkeys((row["id"] for row in wanted), "this machine's release has no such package")
        else:
            unpacked = out / ".apt" / "unpacked"
            _unpack(deb, unpacked)
            reasons = {row["id"]: _place(row, unpacked, out) for row in wanted}
            shutil.rmtree(unpacked)
            deb.unlink()
        failures += [{"id": name, "reason": reason} for name, reason in reasons.items() if reason]
    shutil.rmtree(out / ".apt")
    return failures


def _unpack(deb: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    done = subprocess.run(["dpkg-deb", "-x", deb, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        deb.unlink()
        what, remedy = "the package cannot be unpacked", "run the command again"
        raise FetchError(what, where=deb.name, value=done.stderr.strip(), remedy=remedy)


def _place(row: Row, unpacked: Path, out: Path) -> str | None:
    """Copy one track out of the unpacked package and return None; return the reason if that is not possible."""
    target = out / track_path(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        content = _content(row["path"], unpacked)
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            return f"the recording differs from the one in the list (version {row['version']})"
        write_whole(target, content)
    except (KeyError, FileNotFoundError):
        return f"the package no longer holds {row['path']}"
    except (zipfile.BadZipFile, zlib.error) as error:
        return f"{row['path']} is damaged: {error}"
    return None


def _content(path: str, unpacked: Path) -> bytes:
    """Read a file of the package, or "archive.pk3!member". Links that leave the package are not followed."""
    name, _, member = path.partition("!")
    file = (unpacked / name).resolve()
    if not file.is_relative_to(unpacked.resolve()):
        raise FileNotFoundError(name)
    if not member:
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return archive.read(member)
