"""A trained module on many files: the main path of `reencoder-apply`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from soundfile import SoundFileError

from reencoder_eval.apply.conditions import condition_like, variant_names, variants_of
from reencoder_eval.apply.decision import Wishes, decide
from reencoder_eval.apply.files.inputs import Job
from reencoder_eval.apply.files.latents_io import is_latents, read_latents, write_latents
from reencoder_eval.apply.files.outputs import existing_output, existing_outputs, require_folder, require_own_outputs
from reencoder_eval.apply.files.reading import Sound, opened
from reencoder_eval.apply.files.writing import LOSSLESS, Form, container_of, copy_file, require_free, write_sound
from reencoder_eval.apply.make import Chain, make_latents, make_latents_of_sound, make_sound
from reencoder_eval.apply.segments import SEGMENT_SECONDS, Progress
from reencoder_pipeline.autoencoder import Autoencoder, load_own_autoencoder
from reencoder_pipeline.errors import AudioError, CheckpointError, ConfigError, ReencoderError
from reencoder_trainer.release.find_module import find_module
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

    What concerns all files is an error before the first: modules, the autoencoder, the reference, the folder `out`,
    and outputs that would meet. What concerns one file is its outcome. An input that needs no work is copied. Outputs
    that exist are left as they are, without a look at how they were made, unless `overwrite`: then those of this call
    are replaced, and nothing else in `out`.
    """
    form = form or Form()
    device = device_of(device)
    names = variant_names(seed=seed, variants=variants) if upmix_module is not None else [""]
    named = [Path(path) for path in (upsample_module, upmix_module, like) if path is not None]
    require_own_outputs(jobs, out, names=names, form=form, latents=latents, inputs=named)
    require_folder(out, dry_run=True)
    wishes = Wishes(upsample_module is not None, upmix_module is not None, band_hz, force)
    first, second = _load(upsample_module, "bwe", device), _load(upmix_module, "m2s", device)
    loaded = [(path, one) for path, one in ((upsample_module, first), (upmix_module, second)) if one is not None]
    if len(loaded) == 2:
        loaded[0][1].spec.require_same(loaded[1][1].spec, where=upmix_module, remedy="use modules of one autoencoder")
    require_folder(out, dry_run=dry_run)
    folder = Path(tempfile.gettempdir()) if dry_run else out
    needed = not dry_run and (like is not None or not all(is_latents(job.path) for job in jobs))
    coder = None
    if needed:
        path, trained = loaded[0]
        coder = load_own_autoencoder(trained.spec, named=autoencoder, where=path, device=device)
    oracle = None
    if like is not None and second is not None and coder is not None and second.encoder is not None:
        try:
            oracle = condition_like(like, second, coder, device=device, folder=folder)
        except OSError as error:
            remedy = "check the file, and whether there is room in --out"
            raise ConfigError("the reference cannot be read", where=like, value=error, remedy=remedy) from None
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
            existing = [] if overwrite else existing_outputs(job, out, names=names, form=form, latents=latents)
            if existing:
                outcome = Outcome(str(job.path), "skipped", existing, ["exists"])
            elif is_latents(job.path):
                outcome = _apply_to_latents(
                    job, chain, out=out, latents=latents, folder=folder, overwrite=overwrite, dry_run=dry_run
                )
            else:
                with opened(job.path, folder=folder) as sound:
                    outcome = _apply_to_sound(
                        job,
                        sound,
                        wishes,
                        chain,
                        coder,
                        out=out,
                        form=form,
                        latents=latents,
                        overwrite=overwrite,
                        progress=lambda share, job=job: progress(job, share),
                    )
            gone = [path for path in outcome.outputs if outcome.status != "planned" and not os.path.lexists(path)]
            if gone:
                raise AudioError("an output is gone again", where=gone[0], remedy="give the same command again")
        except (ReencoderError, OSError, MemoryError, SoundFileError, torch.OutOfMemoryError) as error:
            text = str(error) if isinstance(error, ReencoderError) else f"{job.path}: {type(error).__name__}: {error}"
            if isinstance(error, OSError) and error.strerror:
                where, remedy = error.filename or job.path, "check the permissions, and whether there is room"
                what = "a file cannot be read or written"
                text = str(AudioError(what, where=where, value=error.strerror, remedy=remedy))
            outcome = Outcome(str(job.path), "failed", error=text)
        yield outcome


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
    overwrite: bool,
    progress: Progress,
) -> Outcome:
    """Decide, make and write. Without an autoencoder, in a dry run, decide. Variants that exist are left as they are,
    unless `overwrite`."""
    decision = decide(sound.survey, wishes, low_rate=chain.low_rate)
    notices, container = list(decision.reasons), container_of(sound, form)
    if decision.upsample and chain.upsampler is not None and not chain.upsampler.low_band.known:
        notices.append(f"the module does not know how its inputs were made: taken as {chain.low_rate} Hz")
    copied = decision.copy and latents is None
    suffix = f".{latents}" if latents else container.suffix
    names = [variant.name for variant in chain.variants] if decision.upmix else [""]
    paths = {name: job.copy(out) if copied else job.output(out, variant=name, suffix=suffix) for name in names}
    if autoencoder is None:
        planned = "would be copied" if copied else "would be made"
        return Outcome(str(job.path), "planned", [str(path) for path in paths.values()], [planned, *notices])
    if copied:
        copy_file(job.path, paths[""], overwrite=overwrite)
        return Outcome(str(job.path), "copied", [str(paths[""])], notices)
    if not autoencoder.local and len(sound.audio) > SEGMENT_SECONDS * sound.rate:
        notices.append(
            f"the autoencoder looks at whole pieces: segments of {SEGMENT_SECONDS:g} s are close to them, not equal"
        )
    if not overwrite and decision.upmix:
        chain, said = _without_existing(chain, job, out, form=form, latents=latents)
        notices += said
    if sound.has_other_tags:
        notices.append("the tags in its ID3 chunk are not read, and not carried over")
    outputs = []
    if latents:
        for variant, made in make_latents_of_sound(sound, decision, chain, autoencoder, progress=progress):
            require_free(paths[variant.name], overwrite=overwrite)
            write_latents(made, paths[variant.name])
            outputs.append(str(paths[variant.name]))
        return Outcome(str(job.path), "done", outputs, notices)
    if sound.format not in LOSSLESS and form.format is None:
        notices.append("a lossy encoder would cut the band again: written as FLAC" if decision.upsample else "as FLAC")
    for variant, audio, rate in make_sound(sound, decision, chain, autoencoder, bits=container.bits, progress=progress):
        path = paths[variant.name]
        written, said = write_sound(
            audio, rate, path, container=container, peaks=form.peaks, overwrite=overwrite, tags=sound.tags
        )
        outputs.append(str(written))
        notices += [f"{variant.name.strip('_')}: {text}" if variant.name else text for text in said]
    return Outcome(str(job.path), "done", outputs, notices)


def _apply_to_latents(
    job: Job, chain: Chain, *, out: Path, latents: str | None, folder: Path, overwrite: bool, dry_run: bool
) -> Outcome:
    suffix = f".{latents}" if latents else job.path.suffix.lower()
    if chain.width != 1 or chain.mono_compatible:
        raise ConfigError(
            "latents are not decoded, and these work on sound", where=job.path, value="--width, --mono-compatible",
            remedy="leave them out",
        )  # fmt: skip
    given = read_latents(job.path)
    notices = [] if given.spec else ["it does not say whose latents it holds: taken as the module's"]
    if not overwrite and chain.upmixer is not None:
        chain, said = _without_existing(chain, job, out, form=Form(), latents=latents)
        notices += said
    names = [variant.name for variant in chain.variants] or [""]
    outputs = [str(job.output(out, variant=name, suffix=suffix)) for name in names]
    if dry_run:
        return Outcome(str(job.path), "planned", outputs, ["would be made", *notices])
    for variant, made in make_latents(given, chain, path=job.path, folder=folder):
        path = job.output(out, variant=variant.name, suffix=suffix)
        require_free(path, overwrite=overwrite)
        write_latents(made, path)
    return Outcome(str(job.path), "done", outputs, notices)


def _without_existing(chain: Chain, job: Job, out: Path, *, form: Form, latents: str | None) -> tuple[Chain, list[str]]:
    """The chain with the variants whose outputs are not there yet, and what to say of the others."""
    there = {
        variant.name: path
        for variant in chain.variants
        if (path := existing_output(job, out, variant=variant.name, form=form, latents=latents)) is not None
    }
    missing = tuple(variant for variant in chain.variants if variant.name not in there)
    return replace(chain, variants=missing), [f"{path.name} exists and is left as it is" for path in there.values()]


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
