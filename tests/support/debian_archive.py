"""A Debian archive in a folder, with a script in place of apt-get."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

# What fetch_debian_music uses of apt-get: `update` fills the lists folder, `download` copies from $ARCHIVE, and both
# are written down in $ARCHIVE/calls. A file $ARCHIVE/<package>.slow or .broken changes what happens to that package.
APT_GET = """#!/bin/sh
for argument; do case "$argument" in
    -oDir::State::lists=*) lists="${argument#*=}" ;;
    update|download|--print-uris) words="$words $argument" ;;
    -*) ;;
    *) words="$words $argument"; package="$argument" ;;
esac; done
echo "$words" >> "$ARCHIVE/calls"
case "$words" in
    " update")
        [ -e "$ARCHIVE/offline" ] && { echo "W: Failed to fetch: Temporary failure resolving"; exit 0; }
        touch "$lists/mirror_main_Packages" ;;
    " download --print-uris"*)
        [ -e "$ARCHIVE/$package.deb" ] || { echo "E: Unable to locate package $package"; exit 100; }
        echo "'http://mirror/$package.deb' ${package}_1_all.deb 12345 SHA256:0" ;;
    " download"*)
        [ -e "$ARCHIVE/$package.broken" ] && { echo "E: Failed to fetch $package  Connection timed out"; exit 100; }
        if [ -e "$ARCHIVE/$package.slow" ]; then
            echo half > "${package}_1_all.deb"; echo $$ > "$ARCHIVE/pid"; exec sleep 60
        fi
        cp "$ARCHIVE/$package.deb" "${package}_1_all.deb" ;;
esac
"""


class Archive:
    """A mirror of tiny packages, and the manifest that describes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "debian_music.jsonl"
        self.rows: list[dict[str, Any]] = []
        folder.mkdir()

    def add(self, package: str, files: dict[str, bytes], *, links: dict[str, str] | None = None) -> None:
        """Build a .deb of `files`; a value for "x.pk3!member" goes into the archive x.pk3."""
        root = self.folder / package
        shutil.rmtree(root, ignore_errors=True)
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN" / "control").write_text(
            f"Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: music\n"
        )
        for name, content in files.items():
            path, _, member = name.partition("!")
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if member:
                with zipfile.ZipFile(root / path, "a") as archive:
                    archive.writestr(member, content)
            else:
                (root / path).write_bytes(content)
        for name, target in (links or {}).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(target)
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", root, self.folder / f"{package}.deb"]
        subprocess.run(command, check=True, capture_output=True)

    def describe(self, package: str, files: dict[str, bytes]) -> None:
        """Add `files` to the manifest, whatever the package holds."""
        for name, content in files.items():
            row = {"id": f"{package}/{Path(name).stem}", "package": package, "version": "1", "path": name}
            row |= {"sha256": hashlib.sha256(content).hexdigest(), "seconds": 60.0, "tasks": ["bwe"], "split": "train"}
            self.rows.append(row)
        self.manifest.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return [line.strip() for line in log.read_text().splitlines()] if log.exists() else []

    def downloads(self) -> list[str]:
        return [call.split()[1] for call in self.calls() if call.startswith("download") and "--print" not in call]

    def forget_calls(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)


SONGS = {"usr/share/songs/one.ogg": b"one" * 1000, "usr/share/songs/two words.ogg": b"two" * 1000}
GAME = {"usr/games/music.pk3!music/theme.ogg": b"theme" * 1000, "usr/games/music.pk3!music/end.ogg": b"end" * 1000}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
