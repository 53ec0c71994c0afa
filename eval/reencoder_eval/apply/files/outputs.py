"""Names of the outputs of a call: planned before the first is written; none is another's, an input, or elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from reencoder_eval.apply.files.inputs import Job
from reencoder_eval.apply.files.latents_io import NPY, is_latents
from reencoder_eval.apply.files.writing import Form
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.stores.atomic import beside


def require_folder(out: Path, *, dry_run: bool) -> None:
    """Make the folder for output, and find out that it can be written into; a dry run only looks. ConfigError."""
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


def suffixes_of(job: Job, *, form: Form, latents: str | None) -> set[str]:
    """Those that an output which is no copy may have: which one, the file's content and its peaks decide."""
    if latents or is_latents(job.path):
        return {f".{latents}" if latents else job.path.suffix.lower()}
    suffixes = {f".{form.format}"} if form.format else {job.path.suffix, ".flac"}
    return suffixes | ({".wav"} if form.peaks == "float" or form.depth == "float" else set())


def possible_outputs(job: Job, out: Path, *, names: Sequence[str], form: Form, latents: str | None) -> set[Path]:
    """All files that a job may write; `names` are those of its variants."""
    suffixes = suffixes_of(job, form=form, latents=latents)
    found = {job.output(out, variant=name, suffix=suffix) for name in ("", *names) for suffix in suffixes}
    found |= {path.with_suffix(".json") for path in found if path.suffix == NPY}
    return found if latents or is_latents(job.path) else {*found, job.copy(out)}


def require_own_outputs(
    jobs: Sequence[Job],
    out: Path,
    *,
    names: Sequence[str],
    form: Form,
    latents: str | None,
    inputs: Iterable[Path] = (),
) -> None:
    """ConfigError, naming both, when two jobs may write one file, or one may replace an input of the call or lies
    outside `out` (a link in there leads elsewhere). `inputs` are those that are no jobs."""
    folders: dict[Path, Path] = {}

    def place_of(path: Path) -> Path:
        """Where its name lies, which is not what a link of this name leads to."""
        if path.parent not in folders:
            folders[path.parent] = path.parent.resolve()
        return folders[path.parent] / path.name

    read: dict[Path, Path] = {}
    for path in (*(job.path for job in jobs), *inputs):
        for one in (path, path.with_suffix(".json")) if path.suffix.lower() == NPY else (path,):
            read |= {place_of(one): one, one.resolve(): one}
    taken: dict[Path, Job] = {}
    root = out.resolve()
    for job in jobs:
        for path in sorted(possible_outputs(job, out, names=names, form=form, latents=latents)):
            place = place_of(path)
            if not place.is_relative_to(root):
                value, remedy = f"{job.path} would be written to {place}", "choose another --out folder"
                raise ConfigError("an output would lie outside --out", where=path, value=value, remedy=remedy)
            if place in read:
                value, remedy = f"the output of {job.path}, and the input {read[place]}", "choose another --out folder"
                raise ConfigError("an output would replace an input", where=path, value=value, remedy=remedy)
            if taken.setdefault(place, job) is not job:
                value = f"{taken[place].path} and {job.path}"
                remedy = "rename one of them, or give them to two commands with an --out folder each"
                raise ConfigError("two inputs could have the same output", where=path, value=value, remedy=remedy)


def existing_output(job: Job, out: Path, *, variant: str, form: Form, latents: str | None) -> Path | None:
    """The output of a variant that is there already, in one of the formats that it may have."""
    suffixes = sorted(suffixes_of(job, form=form, latents=latents))
    paths = (job.output(out, variant=variant, suffix=suffix) for suffix in suffixes)
    return next((path for path in paths if os.path.lexists(path)), None)


def existing_outputs(job: Job, out: Path, *, names: Sequence[str], form: Form, latents: str | None) -> list[str]:
    """The outputs of a job that are all there: a copy, or every variant."""
    if not (latents or is_latents(job.path)) and os.path.lexists(job.copy(out)):
        return [str(job.copy(out))]
    # A file that was found to be stereo already has one output, whatever number of variants was asked for.
    for wanted in [""], names:
        there = [existing_output(job, out, variant=name, form=form, latents=latents) for name in wanted]
        if there and None not in there:
            return [str(path) for path in there]
    return []
