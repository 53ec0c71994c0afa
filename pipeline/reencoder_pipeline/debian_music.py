"""Fetches freely licensed music from the machine's Debian mirror, as an ordinary user, and writes its manifest."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from reencoder_pipeline.corpus import file_digest
from reencoder_pipeline.durable import beside, write_text
from reencoder_pipeline.errors import FetchError
from reencoder_pipeline.own_folder import require_own_folder

COLLECTIONS = ("debian-music", "debian-unseen")  # the second: packages that nothing of ours is trained on
Row = dict[str, Any]
Progress = Callable[[str], None]

MARK = "fetch.json"  # says that the folder is ours: written first
OWN_MUSIC = "use your own music: make demo AUDIO=/my/music (any folder of audio files)"
NETWORK = f"check the network and the apt sources of this machine and run the same command again, or {OWN_MUSIC}"
PROGRESS_SECONDS = 5.0


def fetch_debian_music(
    out: Path, *, packages: Sequence[str] | None, progress: Progress, collection: str = "debian-music"
) -> Path:
    """Put the tracks of a collection's `packages` (None: all) into `out`; return `out`/manifest.jsonl, written last.

    A track lies at <package>/<its path inside>, a member of an archive at <package>/<archive>/<member>. Tracks already
    there with the right sha256 stay; with all of them there, nothing is downloaded. The manifest holds the tracks of
    `packages` that are as the collection's list in data_manifests/ says; others (the package was updated, or is not in
    this release) are left out and named in `out`/failures.jsonl. FetchError when there is nothing left to use.
    """
    rows = _rows_of(packages, manifest_path(collection))
    require_own_folder(out, marks={MARK: ("made_by", "collection"), "manifest.jsonl": ("id", "package", "sha256")})
    try:
        with _one_at_a_time(out):
            write_text(out / MARK, json.dumps({"made_by": "fetch", "collection": collection}) + "\n")
            present = {row["id"] for row in rows if _is_there(row, out)}
            missing = [row for row in rows if row["id"] not in present]
            failures: list[Row] = []
            if missing:
                progress(f"{len(present)} of {len(rows)} tracks are there, {len(missing)} to fetch")
                failures = _fetch_missing(missing, out, progress)
                present |= {row["id"] for row in missing} - {failure["id"] for failure in failures}
            return _finish(out, [row for row in rows if row["id"] in present], failures, progress)
    except OSError as error:
        where, remedy = error.filename or out, "make room, or choose another --out"
        raise FetchError("cannot be read or written", where=where, value=error.strerror, remedy=remedy) from error


def manifest_path(collection: str = "debian-music") -> Path:
    """data_manifests/debian_music.jsonl and its like, of an installed wheel or of a checkout."""
    here = Path(__file__).resolve()
    for folder in (here.parent, here.parents[2]):
        path = folder / "data_manifests" / f"{collection.replace('-', '_')}.jsonl"
        if path.is_file():
            return path
    raise FetchError("the list of Debian music is missing from this installation", where=here, remedy=OWN_MUSIC)


def track_path(row: Row) -> PurePosixPath:
    """Where a manifest row's track lies, relative to the fetched folder. FetchError for a path that would leave it."""
    package, path = PurePosixPath(row["package"]), PurePosixPath(row["path"].replace("!", "/"))
    if len(package.parts) != 1 or path.is_absolute() or ".." in (*package.parts, *path.parts):
        raise FetchError("a track's path leaves its package", where=row["id"], value=row["path"])
    return package / path


def _rows_of(packages: Sequence[str] | None, manifest: Path) -> list[Row]:
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    known = sorted({row["package"] for row in rows})
    wanted = known if packages is None else packages
    unknown = [package for package in wanted if package not in known]
    if unknown or not wanted:
        what, value = "not packages of Debian music that are known here", ", ".join(unknown) or "no name"
        raise FetchError(what, value=value, remedy=f"choose from {', '.join(known)}, or {OWN_MUSIC}")
    return [row for row in rows if row["package"] in wanted]


@contextmanager
def _one_at_a_time(out: Path) -> Iterator[None]:
    """One fetch in a folder at a time. The kernel drops the lock with the process, however that ends."""
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FetchError("another fetch is at work in this folder", where=out, remedy="wait for it to end") from None
    finally:
        os.close(folder)


def _is_there(row: Row, out: Path) -> bool:
    path = out / track_path(row)
    return path.is_file() and file_digest(path) == row["sha256"]


def _finish(out: Path, rows: list[Row], failures: list[Row], progress: Progress) -> Path:
    """failures.jsonl (none when nothing failed), then manifest.jsonl; each is written beside its place and renamed."""
    reasons = [f"{failure['id']}: {failure['reason']}" for failure in failures]
    if not rows:
        raise FetchError("none of the music can be used", where=out, value="\n  ".join(reasons[:5]), remedy=NETWORK)
    for reason in reasons:
        progress(f"left out: {reason}")
    (out / "failures.jsonl").unlink(missing_ok=True)
    if failures:
        _write_lines(out / "failures.jsonl", failures)
    _write_lines(out / "manifest.jsonl", [{**row, "path": track_path(row).as_posix()} for row in rows])
    hours = sum(row["seconds"] for row in rows) / 3600
    progress(f"{len(rows)} tracks, {hours:.2f} h" + (f"; {len(failures)} left out" if failures else ""))
    return out / "manifest.jsonl"


def _write_lines(path: Path, rows: list[Row]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _fetch_missing(missing: list[Row], out: Path, progress: Progress) -> list[Row]:
    """Download, unpack, check and place, package by package. Returns what had to be left out, with the reason."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            what = f"{program} is not on this machine, and the example music comes in Debian packages"
            raise FetchError(what, remedy=f"run this on Debian or Ubuntu (a container will do), or {OWN_MUSIC}")
    apt = _Apt(out / ".apt")
    apt.update(progress)
    (out / "manifest.jsonl").unlink(missing_ok=True)  # it is there when everything is: written last, removed first
    failures: list[Row] = []
    for package in dict.fromkeys(row["package"] for row in missing):
        wanted = [row for row in missing if row["package"] == package]
        deb = apt.download(package, progress)
        if deb is None:
            reasons = dict.fromkeys((row["id"] for row in wanted), "no such package in the release of this machine")
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
        raise FetchError(
            "cannot be unpacked", where=deb.name, value=done.stderr.strip(), remedy="run the command again"
        )


def _place(row: Row, unpacked: Path, out: Path) -> str | None:
    """Copy one track out of the unpacked package if its digest is the manifest's; otherwise return the reason."""
    target = out / track_path(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = beside(target)
    digest = hashlib.sha256()
    try:
        with _open_member(row["path"], unpacked) as source, scratch.open("wb") as copy:
            while block := source.read(1 << 20):
                digest.update(block)
                copy.write(block)
        if digest.hexdigest() != row["sha256"]:
            return f"the package holds another recording than the manifest's version {row['version']}"
        scratch.replace(target)
    except (KeyError, FileNotFoundError):
        return f"the package no longer holds {row['path']}"
    except (zipfile.BadZipFile, zlib.error) as error:
        return f"{row['path']} is damaged: {error}"
    finally:
        scratch.unlink(missing_ok=True)
    return None


@contextmanager
def _open_member(path: str, unpacked: Path) -> Iterator[IO[bytes]]:
    """A file of the package, or "archive.pk3!member". No link of the package is followed out of it."""
    name, _, member = path.partition("!")
    file = (unpacked / name).resolve()
    if not file.is_relative_to(unpacked.resolve()):
        raise FileNotFoundError(name)
    if not member:
        with file.open("rb") as opened:
            yield opened
    else:
        with zipfile.ZipFile(file) as archive, archive.open(member) as opened:
            yield opened


class _Apt:
    """apt-get with the machine's sources and keys, but lists, cache and downloads in a folder of our own: no root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # apt reads relative folders from its own root
        self._lists = self._folder / "state" / "lists"
        self._downloads = self._folder / "downloads"
        for made in (self._lists / "partial", self._folder / "cache" / "archives" / "partial", self._downloads):
            made.mkdir(parents=True, exist_ok=True)
        status = self._folder / "state" / "status"
        status.touch()
        settings = {
            "Dir::State": self._folder / "state",
            "Dir::State::lists": self._lists,
            "Dir::State::status": status,  # what is installed here does not matter
            "Dir::Cache": self._folder / "cache",
            "Dir::Log": self._folder,
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self._options = [f"-o{name}={value}" for name, value in settings.items()]

    def update(self, progress: Progress) -> None:
        """Read the package lists anew. One bad source among good ones does no harm: apt warns and goes on."""
        progress("reading the package lists of this machine's apt sources")
        code, said = self._run("update", cwd=self._folder)
        if not any(self._lists.glob("*_Packages*")):
            what = f"apt-get update brought no package lists (exit {code})"
            raise FetchError(what, value=_complaints(said), remedy=NETWORK)

    def download(self, package: str, progress: Progress) -> Path | None:
        """The .deb file, or the whole one that a killed run left. None when no source has the package."""
        _, said = self._run("download", "--print-uris", package, cwd=self._folder)  # it is silent about files it finds
        offered = re.search(r"^'[^']+' (\S+) (\d+)", said, flags=re.MULTILINE)
        if offered is None:
            return None
        deb, size = self._downloads / offered[1], int(offered[2])
        started = time.monotonic()

        def tell() -> None:
            have = deb.stat().st_size if deb.exists() else 0
            rate = have / (time.monotonic() - started)
            left = f", {(size - have) / rate:.0f} s left" if rate > 0 else ""
            progress(f"{package}: {have / 1e6:.0f} of {size / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s{left}")

        progress(f"{package}: downloading {size / 1e6:.0f} MB")
        code, said = self._run("download", package, cwd=self._downloads, meanwhile=tell)
        if code != 0 or not deb.is_file():
            raise FetchError(f"cannot download {package}", value=_complaints(said), remedy=NETWORK)
        return deb

    def _run(self, *arguments: str, cwd: Path, meanwhile: Callable[[], None] | None = None) -> tuple[int, str]:
        """Exit code and everything said; `meanwhile` is called every few seconds. apt ends when we are interrupted."""
        command = ["apt-get", "-q", *self._options, *arguments]
        log = self._folder / "apt.log"
        with log.open("w") as said:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "LC_ALL": "C"},
            )
            try:
                while True:
                    try:
                        code = process.wait(PROGRESS_SECONDS)
                        break
                    except subprocess.TimeoutExpired:
                        if meanwhile is not None:
                            meanwhile()
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        return code, log.read_text(encoding="utf-8", errors="replace")


def _complaints(said: str) -> str:
    """apt's errors and warnings, or its last words."""
    lines = said.strip().splitlines()
    return "\n  ".join([line for line in lines if line[:2] in {"E:", "W:"}][-4:] or lines[-1:])
