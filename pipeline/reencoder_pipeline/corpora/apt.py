"""Downloads Debian packages with apt, without root."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from reencoder_pipeline.errors import FetchError
from reencoder_pipeline.progress import ProgressLine, Say

OWN_MUSIC = "use your own music: make demo AUDIO=/my/music (any folder of audio files)"
NETWORK = f"check the network and the apt sources of this machine and run the same command again, or {OWN_MUSIC}"
PROGRESS_SECONDS = 5.0


class Apt:
    """Runs apt-get with the machine's sources and keys, but with lists, cache and downloads in one folder: no root."""

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
            "Dir::State::status": status,  # empty: installed packages do not matter
            "Dir::Cache": self._folder / "cache",
            "Dir::Log": self._folder,
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self._options = [f"-o{name}={value}" for name, value in settings.items()]

    def update(self, say: Say) -> None:
        """Fetch the package lists. One bad source among good ones does no harm: apt warns and goes on."""
        say("reading the package lists of this machine's apt sources")
        code, said = self._run("update", cwd=self._folder)
        if not any(self._lists.glob("*_Packages*")):
            what = f"apt-get update fetched no package lists (exit {code})"
            raise FetchError(what, value=_complaints(said), remedy=NETWORK)

    def download(self, package: str) -> Path | None:
        """Download the .deb file, unless an earlier run has. None if no source has the package."""
        _, said = self._run("download", "--print-uris", package, cwd=self._folder)  # apt omits files in its own cwd
        offered = re.search(r"^'[^']+' (\S+) (\d+)", said, flags=re.MULTILINE)
        if offered is None:
            return None
        deb, size = self._downloads / offered[1], int(offered[2])
        with ProgressLine(package, unit="B", scaled=True) as progress:

            def tell() -> None:
                progress(deb.stat().st_size if deb.exists() else 0, size)

            code, said = self._run("download", package, cwd=self._downloads, meanwhile=tell)
        if code != 0 or not deb.is_file():
            raise FetchError(f"{package} cannot be downloaded", value=_complaints(said), remedy=NETWORK)
        return deb

    def _run(self, *arguments: str, cwd: Path, meanwhile: Callable[[], None] = lambda: None) -> tuple[int, str]:
        """The exit code and all output; calls `meanwhile` every few seconds. An interruption also ends apt."""
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
                while process.poll() is None:
                    meanwhile()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(PROGRESS_SECONDS)
            finally:
                process.terminate()  # does nothing to one that has ended
                process.wait()
        return process.returncode, log.read_text(encoding="utf-8", errors="replace")


def _complaints(said: str) -> str:
    """apt's last errors and warnings, or the last line of its output."""
    lines = said.strip().splitlines()
    return "\n  ".join([line for line in lines if line[:2] in {"E:", "W:"}][-4:] or lines[-1:])
