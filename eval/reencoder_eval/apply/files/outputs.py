"""Names the outputs of a call before the first is written: no two meet, none replaces an input or lies elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reencoder_eval.apply.files.inputs import InputFile
from reencoder_eval.apply.files.latents_io import NPY, is_latents
from reencoder_eval.apply.files.writing import Form
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.stores.atomic import beside


def require_folder(out: Path, *, dry_run: bool) -> None:
    """Make the folder for outputs, and try to write into it; a dry run only looks. ConfigError where that fails."""
    remedy = "choose another --out folder, or check its permissions"
    if out.exists() and not out.is_dir():
        raise ConfigError("the output folder is a file", where=out, remedy="choose another --out folder")
    if out.is_symlink() and not out.exists():
        remedy = "choose another --out folder, or make the one that it leads to"
        raise ConfigError("the output folder is a link to nothing", where=out, value=out.readlink(), remedy=remedy)
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise ConfigError("the output folder cannot be made: what is above it is a file", where=there, remedy=remedy)
    if dry_run:
        return
    trial = beside(out / "trial")
    try:
        out.mkdir(parents=True, exist_ok=True)
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise ConfigError(
            "the output folder cannot be written", where=out, value=error.strerror, remedy=remedy
        ) from None


@dataclass(frozen=True)
class Outputs:
    """Where the outputs of a call go, and in which form. `latents`: npy or safetensors instead of sound. `overwrite`
    replaces outputs that exist; a `dry_run` writes nothing. ConfigError for latents of another kind."""

    folder: Path
    form: Form = field(default_factory=Form)
    latents: str | None = None
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.latents not in (None, "npy", "safetensors"):
            remedy = "npy or safetensors"
            raise ConfigError("unknown value", where="--latents", value=self.latents, remedy=remedy)

    def suffixes(self, file: InputFile) -> set[str]:
        """The suffixes that an output may have, unless it is a copy: the file's content and peaks decide which one."""
        if self.latents or is_latents(file.path):
            return {f".{self.latents}" if self.latents else file.path.suffix.lower()}
        suffixes = {f".{self.form.format}"} if self.form.format else {file.path.suffix, ".flac"}
        return suffixes | ({".wav"} if self.form.peaks == "float" or self.form.depth == "float" else set())

    def possible(self, file: InputFile, names: Sequence[str]) -> set[Path]:
        """All that may be written for a file; `names` are those of its variants."""
        suffixes = self.suffixes(file)
        found = {file.output(self.folder, variant=name, suffix=suffix) for name in ("", *names) for suffix in suffixes}
        found |= {path.with_suffix(".json") for path in found if path.suffix == NPY}
        return found if self.latents or is_latents(file.path) else {*found, file.copy(self.folder)}

    def existing(self, file: InputFile, variant: str) -> Path | None:
        """The output of a variant that is there already, in one of the formats that it may have."""
        paths = (file.output(self.folder, variant=variant, suffix=suffix) for suffix in sorted(self.suffixes(file)))
        return next((path for path in paths if os.path.lexists(path)), None)

    def finished(self, file: InputFile, names: Sequence[str]) -> list[str]:
        """The outputs for a file where all are there, as a copy or as every variant; else none."""
        copy = file.copy(self.folder)
        if not (self.latents or is_latents(file.path)) and os.path.lexists(copy):
            return [str(copy)]
        # A file that was found to be stereo already has one output, however many variants are wanted.
        for wanted in [""], names:
            there = [self.existing(file, name) for name in wanted]
            if there and None not in there:
                return [str(path) for path in there]
        return []


def require_own_outputs(
    files: Sequence[InputFile], outputs: Outputs, *, names: Sequence[str], inputs: Iterable[Path] = ()
) -> None:
    """ConfigError, naming both, when two files may have one output, or an output may replace an input of the call or
    lie outside the folder of `outputs` (a link in there leads elsewhere). `inputs` are read besides `files`."""
    folders: dict[Path, Path] = {}

    def place_of(path: Path) -> Path:
        """Where its name lies, which is not what a link of this name leads to."""
        if path.parent not in folders:
            folders[path.parent] = path.parent.resolve()
        return folders[path.parent] / path.name

    read: dict[Path, Path] = {}
    for path in (*(file.path for file in files), *inputs):
        for one in (path, path.with_suffix(".json")) if path.suffix.lower() == NPY else (path,):
            read |= {place_of(one): one, one.resolve(): one}
    taken: dict[Path, InputFile] = {}
    root = outputs.folder.resolve()
    for file in files:
        for path in sorted(outputs.possible(file, names)):
            place = place_of(path)
            if not place.is_relative_to(root):
                value, remedy = f"{file.path} would be written to {place}", "choose another --out folder"
                raise ConfigError("an output would lie outside --out", where=path, value=value, remedy=remedy)
            if place in read:
                value, remedy = f"the output of {file.path}, and the input {read[place]}", "choose another --out folder"
                raise ConfigError("an output would replace an input", where=path, value=value, remedy=remedy)
            if taken.setdefault(place, file) is not file:
                value = f"{taken[place].path} and {file.path}"
                remedy = "rename one of them, or give them to two commands with an --out folder each"
                raise ConfigError("two inputs could have the same output", where=path, value=value, remedy=remedy)
