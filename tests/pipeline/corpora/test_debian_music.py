"""Fetching Debian music: complete, resumable, checked and confined to its folder, with apt-get played by a script."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from debian_archive import APT_GET, GAME, SONGS, Archive, lines
from reencoder_pipeline.corpora import debian_music
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.corpora.debian_music import MARK, fetch_debian_music, manifest_path, track_path
from reencoder_pipeline.errors import ConfigError, FetchError

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Two packages, songs (plain files) and game (a zip archive), and apt-get before all else on PATH."""
    made = Archive(tmp_path / "archive")
    for package, files in (("songs", SONGS), ("game", GAME)):
        made.add(package, files)
        made.describe(package, files)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "apt-get").write_text(APT_GET)
    (tmp_path / "bin" / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ARCHIVE", str(made.folder))
    monkeypatch.setattr(debian_music, "manifest_path", lambda *_: made.manifest)
    return made


def fetch(out: Path, packages: list[str] | None = None) -> list[str]:
    """Fetch and return what progress said."""
    said: list[str] = []
    assert fetch_debian_music(out, packages=packages, say=said.append) == out / "manifest.jsonl"
    return said


def files_in(folder: Path) -> set[str]:
    """All but the mark that says whose folder it is."""
    files = [path for path in folder.rglob("*") if not path.is_dir() and path.name != MARK]
    return {path.relative_to(folder).as_posix() for path in files}


EVERYTHING = {
    "manifest.jsonl",
    "songs/usr/share/songs/one.ogg",
    "songs/usr/share/songs/two words.ogg",
    "game/usr/games/music.pk3/music/theme.ogg",
    "game/usr/games/music.pk3/music/end.ogg",
}


@needs_dpkg
def test_tracks_are_laid_out_and_nothing_else_is_left(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "my music"
    said = fetch(out)
    assert files_in(out) == EVERYTHING
    assert (out / "game/usr/games/music.pk3/music/end.ogg").read_bytes() == GAME["usr/games/music.pk3!music/end.ogg"]
    tracks = read_corpus(out / "manifest.jsonl")  # its paths are relative to it
    assert [track.id for track in tracks] == [row["id"] for row in archive.rows]
    assert all(hashlib.sha256(track.path.read_bytes()).hexdigest() == track.sha256 for track in tracks)
    assert said[-1] == "4 tracks, 0.07 h"


@needs_dpkg
def test_only_the_packages_asked_for(archive: Archive, tmp_path: Path) -> None:
    fetch(tmp_path / "out", ["game"])
    assert archive.downloads() == ["game"]
    assert [row["package"] for row in lines(tmp_path / "out" / "manifest.jsonl")] == ["game", "game"]


@needs_dpkg
def test_a_relative_folder_will_do(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fetch(Path("music"))
    assert files_in(tmp_path / "here" / "music") == EVERYTHING
    assert files_in(tmp_path / "here") == {f"music/{name}" for name in EVERYTHING}


@needs_dpkg
def test_with_everything_there_nothing_is_downloaded(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    fetch(out)
    manifest = (out / "manifest.jsonl").read_bytes()
    archive.forget_calls()
    monkeypatch.setenv("PATH", "")  # not even apt is needed
    fetch(out)
    assert archive.calls() == []
    assert (out / "manifest.jsonl").read_bytes() == manifest
    (out / "manifest.jsonl").unlink()
    fetch(out)
    assert (out / "manifest.jsonl").read_bytes() == manifest


@needs_dpkg
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"two" * 999)])
def test_a_lost_or_damaged_track_is_fetched_again(archive: Archive, tmp_path: Path, harm: Any) -> None:
    out = tmp_path / "out"
    fetch(out)
    archive.forget_calls()
    harm(out / "songs/usr/share/songs/two words.ogg")
    fetch(out)
    assert archive.downloads() == ["songs"]
    assert files_in(out) == EVERYTHING
    assert (out / "songs/usr/share/songs/two words.ogg").read_bytes() == b"two" * 1000


@needs_dpkg
def test_what_an_updated_package_changed_is_left_out_and_named(archive: Archive, tmp_path: Path) -> None:
    archive.add("songs", {**SONGS, "usr/share/songs/one.ogg": b"remix"})
    archive.add("game", {"usr/games/music.pk3!music/theme.ogg": GAME["usr/games/music.pk3!music/theme.ogg"]})
    out = tmp_path / "out"
    said = fetch(out)
    assert [row["id"] for row in lines(out / "manifest.jsonl")] == ["songs/two words", "game/theme"]
    assert {row["id"] for row in lines(out / "failures.jsonl")} == {"songs/one", "game/end"}
    assert any("songs/one" in line and "the recording differs" in line for line in said)
    assert any("game/end" in line and "no longer holds" in line for line in said)
    assert not (out / "songs/usr/share/songs/one.ogg").exists()
    archive.add("songs", SONGS)
    archive.add("game", GAME)
    fetch(out)
    assert files_in(out) == EVERYTHING  # and no failures.jsonl


@needs_dpkg
def test_a_package_that_the_release_lacks_is_left_out(archive: Archive, tmp_path: Path) -> None:
    (archive.folder / "songs.deb").unlink()
    said = fetch(tmp_path / "out")
    assert {row["package"] for row in lines(tmp_path / "out" / "manifest.jsonl")} == {"game"}
    assert sum("no such package" in line for line in said) == 2


@needs_dpkg
def test_nothing_usable_is_an_error_and_writes_no_manifest(archive: Archive, tmp_path: Path) -> None:
    archive.add("songs", dict.fromkeys(SONGS, b"other"))
    with pytest.raises(FetchError, match="the recording differs") as caught:
        fetch(tmp_path / "out", ["songs"])
    assert "make demo AUDIO=/my/music" in str(caught.value)
    assert files_in(tmp_path / "out") == set()


@needs_dpkg
def test_a_damaged_archive_is_left_out(archive: Archive, tmp_path: Path) -> None:
    archive.add("game", {"usr/games/music.pk3": b"PK\x03\x04 no archive"})
    said = fetch(tmp_path / "out")
    assert sum("is damaged" in line for line in said) == 2
    assert {row["package"] for row in lines(tmp_path / "out" / "manifest.jsonl")} == {"songs"}


@needs_dpkg
def test_members_that_climb_out_of_an_archive_stay_in_it(archive: Archive, tmp_path: Path) -> None:
    archive.add("game", {**GAME, "usr/games/music.pk3!../../../../evil.ogg": b"evil"})
    fetch(tmp_path / "out", ["game"])
    assert not list(tmp_path.rglob("evil.ogg"))
    archive.describe("game", {"usr/games/music.pk3!../../../../../evil.ogg": b"evil"})
    with pytest.raises(FetchError, match="leaves its package"):
        fetch(tmp_path / "out", ["game"])
    assert not list(tmp_path.rglob("evil.ogg"))


@pytest.mark.parametrize(
    ("package", "path"), [("p", "../x"), ("p", "a/../../x"), ("p", "/x"), ("p", "a!/../x"), ("..", "x"), ("p/q", "x")]
)
def test_rows_that_point_outside_are_refused(package: str, path: str) -> None:
    with pytest.raises(FetchError, match="leaves its package"):
        track_path({"id": "a", "package": package, "path": path})


@needs_dpkg
def test_links_out_of_the_package_are_not_followed(archive: Archive, tmp_path: Path) -> None:
    secret = tmp_path / "secret.ogg"
    secret.write_bytes(b"secret")
    archive.add("songs", SONGS, links={"usr/share/songs/link.ogg": str(secret)})
    archive.describe("songs", {"usr/share/songs/link.ogg": b"secret"})
    fetch(tmp_path / "out", ["songs"])
    assert [row["id"] for row in lines(tmp_path / "out" / "failures.jsonl")] == ["songs/link"]


def only(folder: Path, *programs: str) -> str:
    """A PATH with nothing on it but these programs."""
    folder.mkdir()
    for program in programs:
        (folder / program).symlink_to("/bin/true")
    return str(folder)


@needs_dpkg
@pytest.mark.parametrize(("there", "missing"), [((), "apt-get"), (("apt-get",), "dpkg-deb")])
def test_without_apt_the_message_says_what_else_to_do(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], missing: str
) -> None:
    monkeypatch.setenv("PATH", only(tmp_path / "programs", *there))
    with pytest.raises(FetchError, match=f"this machine has no {missing}") as caught:
        fetch(tmp_path / "out")
    assert "make demo AUDIO=/my/music" in str(caught.value)


@needs_dpkg
def test_without_network_the_message_repeats_what_apt_says(archive: Archive, tmp_path: Path) -> None:
    (archive.folder / "offline").touch()
    with pytest.raises(FetchError, match="Temporary failure resolving") as caught:
        fetch(tmp_path / "out")
    assert "make demo AUDIO=/my/music" in str(caught.value)


@needs_dpkg
@pytest.mark.parametrize("packages", [["songs", "sonks"], []])
def test_unknown_packages_are_refused_with_the_known_ones(
    archive: Archive, tmp_path: Path, packages: list[str]
) -> None:
    with pytest.raises(FetchError, match="choose from game, songs") as caught:
        fetch(tmp_path / "out", packages)
    assert "make demo AUDIO=/my/music" in str(caught.value)
    assert archive.calls() == []


@needs_dpkg
def test_a_failed_download_keeps_what_is_there_and_the_next_run_goes_on(archive: Archive, tmp_path: Path) -> None:
    (archive.folder / "game.broken").touch()
    out = tmp_path / "out"
    with pytest.raises(FetchError, match="Connection timed out"):
        fetch(out)
    assert not (out / "manifest.jsonl").exists()
    (archive.folder / "game.broken").unlink()
    archive.forget_calls()
    fetch(out)
    assert archive.downloads() == ["game"]
    assert files_in(out) == EVERYTHING


@needs_dpkg
def test_no_manifest_stays_behind_that_promises_too_much(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(out)
    (out / "game/usr/games/music.pk3/music/end.ogg").unlink()
    (archive.folder / "game.broken").touch()
    with pytest.raises(FetchError, match="Connection timed out"):
        fetch(out)
    assert not (out / "manifest.jsonl").exists()


def test_a_folder_that_cannot_be_made_is_named(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the output folder is a file"):
        fetch(tmp_path / "file" / "out")


@pytest.mark.parametrize("theirs", ["failures.jsonl", "manifest.jsonl", ".apt/unpacked/notes.txt", "game/mine.ogg"])
def test_a_folder_of_somebody_else_is_left_alone(archive: Archive, tmp_path: Path, theirs: str) -> None:
    out = tmp_path / "out"
    (out / theirs).parent.mkdir(parents=True)
    (out / theirs).write_text("theirs")
    with pytest.raises(ConfigError, match="neither empty nor one that this command made"):
        fetch(out)
    assert [path.read_text() for path in out.rglob("*") if path.is_file()] == ["theirs"]


@pytest.fixture
def halfway(archive: Archive, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A fetch in another process that hangs while the second package comes in, and the process id of its apt-get."""
    (archive.folder / "game.slow").touch()
    program = (
        # A suite that runs in the background of a shell inherits an ignored SIGINT.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys; from pathlib import Path; from reencoder_pipeline.corpora import debian_music;"
        f"debian_music.manifest_path = lambda *_: Path({str(archive.manifest)!r});"
        f"debian_music.fetch_debian_music(Path({str(tmp_path / 'out')!r}), packages=None, say=print)"
    )
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pid = archive.folder / "pid"
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text().strip()):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    apt = int(pid.read_text())
    yield running, apt
    for process in (running.pid, apt):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    running.wait()


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@needs_dpkg
def test_a_killed_fetch_is_incomplete_and_the_next_one_completes_it(
    archive: Archive, tmp_path: Path, halfway: tuple[subprocess.Popen[bytes], int]
) -> None:
    running, apt = halfway
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="a fetch is running in this folder"):
        fetch(out)
    os.kill(running.pid, signal.SIGKILL)
    os.kill(apt, signal.SIGKILL)
    running.wait()
    assert not (out / "manifest.jsonl").exists()
    assert (out / "songs/usr/share/songs/one.ogg").read_bytes() == b"one" * 1000
    assert (out / ".apt/downloads/game_1_all.deb").read_text() == "half\n"
    (archive.folder / "game.slow").unlink()
    archive.forget_calls()
    fetch(out)
    assert archive.downloads() == ["game"]
    assert files_in(out) == EVERYTHING


@needs_dpkg
def test_an_interrupt_ends_apt_too(halfway: tuple[subprocess.Popen[bytes], int]) -> None:
    running, apt = halfway
    assert is_alive(apt)
    running.send_signal(signal.SIGINT)
    assert running.wait(20) != 0
    assert not is_alive(apt)


@needs_dpkg
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not on this machine")
def test_the_real_apt_get_understands_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror in a folder, the real apt-get, and no right to touch the machine's own state."""
    archive = Archive(tmp_path / "archive")
    archive.add("songs", SONGS)
    archive.describe("songs", SONGS)
    archive.describe("gone", {"x.ogg": b"x"})
    deb = (archive.folder / "songs.deb").read_bytes()
    (archive.folder / "Packages").write_text(
        "Package: songs\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: music\n"
        f"Filename: ./songs.deb\nSize: {len(deb)}\nSHA256: {hashlib.sha256(deb).hexdigest()}\n\n"
    )
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] copy:{archive.folder} ./\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc {{ sourcelist "{tmp_path}/sources.list"; sourceparts "/dev/null"; parts "/dev/null"; }}\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(debian_music, "manifest_path", lambda *_: archive.manifest)
    out = tmp_path / "my music"
    fetch(out)
    assert files_in(out) == {name for name in EVERYTHING if not name.startswith("game")} | {"failures.jsonl"}
    # A whole .deb that a killed run left is used, and apt-get says so by saying nothing.
    (out / "songs/usr/share/songs/one.ogg").unlink()
    (out / ".apt/downloads").mkdir(parents=True)
    (out / ".apt/downloads/songs_1_all.deb").write_bytes(deb)
    fetch(out, ["songs"])
    assert [row["id"] for row in lines(out / "manifest.jsonl")] == ["songs/one", "songs/two words"]


def test_the_manifest_is_found_in_a_checkout_and_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert manifest_path().is_file()
    package = tmp_path / "site-packages" / "reencoder_pipeline"
    (package / "data_manifests").mkdir(parents=True)
    (package / "data_manifests" / "debian_music.jsonl").touch()
    monkeypatch.setattr(debian_music, "__file__", str(package / "corpora" / "debian_music.py"))
    assert manifest_path() == package / "data_manifests" / "debian_music.jsonl"
    (package / "data_manifests" / "debian_music.jsonl").unlink()
    with pytest.raises(FetchError, match="missing from this installation"):
        manifest_path()
