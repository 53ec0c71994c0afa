"""The command `reencoder-cache fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reencoder_pipeline.exit_codes import SOME_FAILED
from reencoder_pipeline.progress import say


def fetch(
    collection: Annotated[str, typer.Argument(help="debian-music, or debian-unseen: packages we never train on")],
    out: Annotated[Path, typer.Option(help="Folder to lay the music out in.")],
    packages: Annotated[str | None, typer.Option(help="Comma-separated; default: all of the manifest.")] = None,
) -> None:
    """Fetch free music, checked against its manifest. Needs no root."""
    from reencoder_pipeline.corpora.debian_music import COLLECTIONS, fetch_debian_music

    if collection not in COLLECTIONS:
        raise typer.BadParameter(f"{collection!r} is not known; there are {', '.join(COLLECTIONS)}")
    chosen = None if packages is None else [name.strip() for name in packages.split(",") if name.strip()]
    print(fetch_debian_music(out, packages=chosen, say=say, collection=collection))
    if (out / "failures.jsonl").exists():
        say(f"some tracks are not what the manifest promises and were left out, see {out / 'failures.jsonl'}")
        raise typer.Exit(SOME_FAILED)
