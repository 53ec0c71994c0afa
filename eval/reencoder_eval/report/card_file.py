"""Where a card goes: a new file, or one that is a card of this program already."""

from __future__ import annotations

from pathlib import Path

from reencoder_eval.evaluation_folder import named_if_not_writable
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.stores.atomic import write_text
from reencoder_pipeline.stores.own_folder import require_own_file

MARK = b"\nlibrary_name: reencoder\n"  # in the front matter of every card


def require_card_place(path: Path, *, overwrite: bool) -> None:
    """ConfigError where `path` is a folder, or, unless `overwrite`, a file that is no card of ours."""
    if path.is_dir():
        raise ConfigError("the place of the card is a folder", where=path, remedy="name a file in it: README.md")
    if not overwrite:
        require_own_file(path, holds=MARK, remedy="give another --out, or --overwrite replaces it")


def write_card_file(path: Path, text: str, *, overwrite: bool) -> None:
    """The folders above it are made. EvaluationError where it cannot be written."""
    require_card_place(path, overwrite=overwrite)
    try:
        with named_if_not_writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except (FileExistsError, NotADirectoryError):
        remedy = "give another --out"
        raise ConfigError("what is above the card is a file", where=path, remedy=remedy) from None
