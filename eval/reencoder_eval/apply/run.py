"""A trained module on many files: the main path of `reencoder-apply`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from soundfile import SoundFileError

from reencoder_eval.apply.conditions import condition_like, variants_of
from reencoder_eval.apply.decision import Wishes, decide
from reencoder_eval.apply.inputs import Job
from reencoder_eval.apply.latents_io import is_latents, read_latents, write_latents
from reencoder_eval.apply.make import Chain, make_latents, make_latents_of_sound, make_sound
from reencoder_eval.apply.reading import Sound, opened
from reencoder_eval.apply.segments import SEGMENT_SECONDS, Progress
from reencoder_eval.apply.writing import LOSSLESS, Form, container_of, copy_file, write_sound
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.errors import AutoencoderError, CheckpointError, ConfigError, ReencoderError
from reencoder_trainer.module_source import find_module
from reencoder_trainer.trained_module import TrainedModule, load_module


@dataclass(frozen=True)
class Outcome:
    """What became of one input. `status`: done, copied, skipped (its output exists), planned (a dry run), failed."""

    input: str
    status: str
    outputs: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def text(self) -> str:
        """One line for people."""
        about = f" ({'; '.join(self.notices)})" if self.notices else ""
        if self.status == "failed":
            return f"failed: {self.input}"
        return f"{self.status}: {', '.join(self.outputs) or self.input}{about}"


def apply_to(
    jobs: Sequence[Job],
    *,
    out: Path,
    upsample_module: str | Path | None,
    upmix_module: str | Path | None,
    autoencoder: str | None = None,
    band_hz: float | None = None,
    force: bool = False,
    crossover: bool = True,
    mono_compatible: bool = False,
    width: float = 1.0,
    seed: int | None = None,
    variants: int = 1,
    like: Path | None = None,
    share: float | None = None,
    latents: str | None = None,
    form: Form | None = None,
    device: str = "auto",
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Callable[[Job, float], None] = lambda job, share: None,
) -> Iterator[Outcome]:
    """Every job in order, with the one or two modules; an outcome for each, as soon as it is there.

    What concerns all files is an error before the first: modules, the autoencoder, the reference. What concerns one
    file is its outcome. An input that needs no work is copied. Outputs that exist are left as they are, without a look
    at how they were made, unless `overwrite`.
    """
    form = form or Form()
    device = device_of(device)
    wishes = Wishes(upsample_module is not None, upmix_module is not None, band_hz, force)
    first, second = _load(upsample_module, "bwe", device), _load(upmix_module, "m2s", device)
    loaded = [(path, one) for path, one in ((upsample_module, first), (upmix_module, second)) if one is not None]
    if len(loaded) == 2:
        loaded[0][1].spec.require_same(loaded[1][1].spec, where=upmix_module, remedy="use modules of one autoencoder")
    if not dry_run:
        out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.gettempdir()) if dry_run else out
    needed = not dry_run and (like is not None or not all(is_latents(job.path) for job in jobs))
    coder = _autoencoder(autoencoder, loaded[0], device) if needed else None
    oracle = None
    if like is not None and second is not None and coder is not None and second.encoder is not None:
        oracle = condition_like(like, second, coder, device=device, folder=folder)
    elif like is not None and second is not None:
        oracle = torch.zeros(1, second.module.condition_channels)  # a dry run: options alone are looked at
    chain = Chain(
        first,
        second,
        () if second is None else variants_of(second, seed=seed, variants=variants, oracle=oracle, share=share),
        device,
        crossover=crossover,
        mono_compatible=mono_compatible,
        width=width,
    )
    for job in jobs:
        try:
            if existing := [] if overwrite else _existing(job, out, chain, form, latents):
                yield Outcome(str(job.path), "skipped", existing, ["exists"])
            elif is_latents(job.path):
                yield _apply_to_latents(job, chain, out=out, latents=latents, folder=folder, dry_run=dry_run)
            else:
                with opened(job.path, folder=folder) as sound:
                    yield _apply_to_sound(
                        job,
                        sound,
                        wishes,
                        chain,
                        coder,
                        out=out,
                        form=form,
                        latents=latents,
                        progress=lambda share, job=job: progress(job, share),
                    )
        except (ReencoderError, OSError, MemoryError, SoundFileError, torch.OutOfMemoryError) as error:
            text = str(error) if isinstance(error, ReencoderError) else f"{job.path}: {type(error).__name__}: {error}"
            yield Outcome(str(job.path), "failed", error=text)


def _apply_to_sound(
    job: Job,
    sound: Sound,
    wishes: Wishes,
    chain: Chain,
    autoencoder: Autoencoder | None,
    *,
    out: Path,
    form: Form,
    latents: str | None,
    progress: Progress,
) -> Outcome:
    """Decide, make and write. Without an autoencoder, in a dry run, decide."""
    decision = decide(sound.survey, wishes)
    notices, container = list(decision.reasons), container_of(sound, form)
    copied = decision.copy and latents is None
    suffix = f".{latents}" if latents else container.suffix
    names = [variant.name for variant in chain.variants] if decision.upmix else [""]
    paths = {name: job.copy(out) if copied else job.output(out, variant=name, suffix=suffix) for name in names}
    if autoencoder is None:
        planned = "would be copied" if copied else "would be made"
        return Outcome(str(job.path), "planned", [str(path) for path in paths.values()], [planned, *notices])
    if copied:
        copy_file(job.path, paths[""])
        return Outcome(str(job.path), "copied", [str(paths[""])], notices)
    if not autoencoder.local and len(sound.audio) > SEGMENT_SECONDS * sound.rate:
        notices.append(
            f"the autoencoder looks at whole pieces: segments of {SEGMENT_SECONDS:g} s are close to them, not equal"
        )
    outputs = []
    if latents:
        for variant, made in make_latents_of_sound(sound, decision, chain, autoencoder, progress=progress):
            write_latents(made, paths[variant.name])
            outputs.append(str(paths[variant.name]))
        return Outcome(str(job.path), "done", outputs, notices)
    if sound.format not in LOSSLESS and form.format is None:
        notices.append("a lossy encoder would cut the band again: written as FLAC" if decision.upsample else "as FLAC")
    for variant, audio, rate in make_sound(sound, decision, chain, autoencoder, bits=container.bits, progress=progress):
        written, said = write_sound(audio, rate, paths[variant.name], container=container, peaks=form.peaks)
        outputs.append(str(written))
        notices += [f"{variant.name.strip('_')}: {text}" if variant.name else text for text in said]
    return Outcome(str(job.path), "done", outputs, notices)


def _apply_to_latents(
    job: Job, chain: Chain, *, out: Path, latents: str | None, folder: Path, dry_run: bool
) -> Outcome:
    suffix = f".{latents}" if latents else job.path.suffix.lower()
    if chain.width != 1 or chain.mono_compatible:
        raise ConfigError(
            "latents are not decoded, and these work on sound", where=job.path, value="--width, --mono-compatible",
            remedy="leave them out",
        )  # fmt: skip
    given = read_latents(job.path)
    notices = [] if given.spec else ["it does not say whose latents it holds: taken as the module's"]
    names = [variant.name for variant in chain.variants] or [""]
    outputs = [str(job.output(out, variant=name, suffix=suffix)) for name in names]
    if dry_run:
        return Outcome(str(job.path), "planned", outputs, ["would be made", *notices])
    for variant, made in make_latents(given, chain, path=job.path, folder=folder):
        write_latents(made, job.output(out, variant=variant.name, suffix=suffix))
    return Outcome(str(job.path), "done", outputs, notices)


def _existing(job: Job, out: Path, chain: Chain, form: Form, latents: str | None) -> list[str]:
    """The outputs of a job that are all there: a copy, or every variant in one of the formats it may have."""
    if latents or is_latents(job.path):
        suffixes = {f".{latents}" if latents else job.path.suffix.lower()}
    else:
        copy = job.copy(out)
        if copy.exists():
            return [str(copy)]
        suffixes = {f".{form.format}"} if form.format else {job.path.suffix, ".flac"}
        suffixes |= {".wav"} if form.peaks == "float" or form.depth == "float" else set()
    # A file that was found to be stereo already has one output, whatever number of variants was asked for.
    for names in [""], [variant.name for variant in chain.variants]:
        choices = [[job.output(out, variant=name, suffix=suffix) for suffix in sorted(suffixes)] for name in names]
        there = [next((str(path) for path in paths if path.exists()), None) for paths in choices]
        if there and None not in there:
            return [path for path in there if path is not None]
    return []


def device_of(name: str) -> str:
    """auto: CUDA where there is one. ConfigError for a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ConfigError("unknown device", where="--device", value=name, remedy="one of: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device is available", where="--device", value=name, remedy="use auto or cpu")
    return name


def _load(name: str | Path | None, task: str, device: str) -> TrainedModule | None:
    if name is None:
        return None
    trained = load_module(path := find_module(name))
    if trained.task.name != task:
        command = {"bwe": "upsample", "m2s": "upmix"}
        remedy = f"{command[trained.task.name]} is its command" if trained.task.name in command else None
        raise CheckpointError(
            f"the module is not one for {command[task]}", where=path, value=f"task {trained.task.name}", remedy=remedy
        )
    return trained.to(device)


def _autoencoder(name: str | None, module: tuple[str | Path | None, TrainedModule], device: str) -> Autoencoder:
    """The one that is named, or that of the module; an error unless it is the module's."""
    path, trained = module
    try:
        coder = load_autoencoder(name or trained.spec.autoencoder, device=device)
    except AutoencoderError as error:
        if name is not None:
            raise
        remedy = f"{error.remedy or ''}; or name it: --autoencoder NAME".lstrip("; ")
        raise AutoencoderError(error.what, where=path, value=trained.spec.autoencoder, remedy=remedy) from None
    trained.spec.require_same(coder.spec, where=path, remedy="use the autoencoder that the module was trained on")
    return coder
