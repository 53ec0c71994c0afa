"""Finds the file of a module from a path, a run folder, the name of a released module, or a hub id."""

from __future__ import annotations

import difflib
from pathlib import Path

from reencoder_pipeline.autoencoders.hub import looks_like_hub_id
from reencoder_pipeline.errors import CheckpointError, in_one_line

RUN_NAME, HUB_NAME = "module.safetensors", "model.safetensors"  # the hub counts the parameters of a file of that name
RELEASED = Path(__file__).parents[1] / "released"


def released_modules() -> tuple[str, ...]:
    """Names of the modules that come with the package, each with its card beside it."""
    return tuple(sorted(path.stem for path in RELEASED.glob("*.safetensors")))


def find_module(
    name: str | Path,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Path:
    """The module file that `name` stands for: a path on disk, else a released module, else a hub id (downloaded).

    CheckpointError if `name` is none of these.

    Example::

        find_module("bwe_s")  # .../reencoder_trainer/released/bwe_s.safetensors
    """
    path, there = _on_disk(name)
    if not there and str(name) in released_modules():
        path, there = RELEASED / f"{name}.safetensors", True
    if there:
        if revision is not None:
            remedy = "leave the revision out, or give a hub id (owner/name)"
            raise CheckpointError("a file on disk has no revisions", where=path, value=revision, remedy=remedy)
        return module_file(path)
    if not looks_like_hub_id(str(name)):
        like = difflib.get_close_matches(str(name), released_modules(), n=1)
        remedy = f"give a module file, a folder with {RUN_NAME} or {HUB_NAME}, a hub id (owner/name), or the name of a"
        remedy += f" released module: {', '.join(released_modules())}" + (f" (did you mean {like[0]}?)" if like else "")
        raise CheckpointError("there is no such module", where=f"'{in_one_line(name)}'", remedy=remedy)
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(
            str(name), HUB_NAME, revision=revision, local_files_only=local_files_only, cache_dir=cache_dir
        )
    except Exception as error:  # offline, a typing mistake, no access: the hub raises some dozen classes
        value = f"{type(error).__name__}: {str(error).strip()[:200]}"
        remedy = "correct the path or the id; offline, only modules downloaded earlier can be loaded"
        raise CheckpointError(
            "no such file or released module exists, and the download from the hub failed",
            where=name,
            value=value,
            remedy=remedy,
        ) from error
    return Path(found)


def _on_disk(name: str | Path) -> tuple[Path, bool]:
    """The path, and whether it exists."""
    try:
        return Path(name).expanduser(), bool(str(name)) and Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, with a NUL
        return Path(name), False


def module_file(path: Path) -> Path:
    """The module file in a run folder or a folder of save_pretrained; the path of a file is returned as it is."""
    if not path.is_dir():
        return path
    for name in (RUN_NAME, HUB_NAME):
        if (path / name).is_file():
            return path / name
    found = ", ".join(sorted(child.name for child in path.iterdir())[:12]) or "nothing"
    remedy = "give the folder of a finished run or of save_pretrained, or the module file itself"
    raise CheckpointError(f"the folder holds no {RUN_NAME} or {HUB_NAME}", where=path, value=found, remedy=remedy)
