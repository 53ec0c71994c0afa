"""Writes a model card to a new file, or over an earlier card of this program."""

from __future__ import annotations

from pathlib import Path

from reencoder_eval.evaluation_folder import named_if_not_writable
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.stores.atomic import write_text
from reencoder_pipeline.stores.own_folder import require_own_file

MARK = b"\nlibrary_name: reencoder\n"  # in the front matter of every card


def require_card_place(path: Path, *, overwrite: bool) -> None:
    """ConfigError if `path` is a folder or, unless `overwrite`, a file that is not a card of this program."""
    if path.is_dir():
        raise ConfigError("the path of the card is a folder", where=path, remedy="name a file in it: README.md")
    if not overwrite:
        require_own_file(path, holds=MARK, remedy="choose another --out, or replace the file with --overwrite")


def write_card_file(path: Path, text: str, *, overwrite: bool) -> None:
    """Write the card and the folders above it. EvaluationError if it cannot be written."""
    require_card_place(path, overwrite=overwrite)
    try:
        with named_if_not_writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except (FileExistsError, NotADirectoryError):
        remedy = "choose another --out"
        raise ConfigError("a folder of the card's path is a file", where=path, remedy=remedy) from None
