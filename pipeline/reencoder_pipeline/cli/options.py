"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[Path, typer.Argument(help="A folder of audio, a .jsonl manifest, or a text list of files.")]
Place = Annotated[str, typer.Argument(help="A finished latent cache: a folder, or a URL such as s3://bucket/cache.")]
Config = Annotated[Path | None, typer.Option(help="YAML with cache settings; the defaults if not given.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--autoencoder",
        metavar="NAME",
        help="house, a folder or file of weights, a hub id, or package.module:function, which is imported and called; "
        "NAME#key=value,... gives options: revision, subfolder, local_files_only, form.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def option(key: str, value: str | int | None) -> list[str]:
    """An option of its own as a --set override. It is quoted, because a path may hold what means something in YAML."""
    return [] if value is None else [f"{key}={json.dumps(value)}"]
