"""Runs trained modules on many files: the main path of `reencoder-apply`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from soundfile import SoundFileError
from torch import Tensor

from reencoder_eval.apply.conditions import Variant, condition_like, variant_names, variants_of
from reencoder_eval.apply.decision import Decision, decide
from reencoder_eval.apply.files.inputs import InputFile
from reencoder_eval.apply.files.latents_io import is_latents, read_latents, write_latents
from reencoder_eval.apply.files.outputs import Outputs, require_folder, require_own_outputs
from reencoder_eval.apply.files.reading import Sound, opened
from reencoder_eval.apply.files.writing import LOSSLESS, container_of, copy_file, require_free, write_sound
from reencoder_eval.apply.make import Chain, make_latents, make_latents_of_sound, make_sound
from reencoder_eval.apply.options import ApplyOptions
from reencoder_eval.apply.segments import SEGMENT_SECONDS, PassProgress
from reencoder_pipeline.autoencoder import Autoencoder, load_own_autoencoder
from reencoder_pipeline.errors import AudioError, CheckpointError, ConfigError, ReencoderError
from reencoder_pipeline.training.ranks import device_named
from reencoder_trainer.release.find_module import find_module
from reencoder_trainer.trained_module import TrainedModule, load_module

FAILURES = (ReencoderError, OSError, MemoryError, SoundFileError, torch.OutOfMemoryError)  # of one file


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
    files: Sequence[InputFile],
    outputs: Outputs,
    options: ApplyOptions,
    *,
    progress: Callable[[InputFile, float], None] = lambda file, share: None,
) -> Iterator[Outcome]:
    """Every file in order, with the one or two modules; an outcome for each, as soon as it is there.

    What concerns all files is an error before the first, see `prepare`. What concerns one file is its outcome. An input
    that needs no work is copied. Outputs that exist are left as they are, however they were made, unless they are to be
    overwritten: then those of this call are replaced, and nothing else.

    Example::

        files = find_inputs(["music"], out=Path("out"), stdin=sys.stdin.buffer)
        for outcome in apply_to(files, Outputs(Path("out")), ApplyOptions(upsample="bwe_s")):
            print(outcome.text())
    """
    chain = prepare(files, outputs, options)
    for file in files:
        try:
            outcome = _outcome_of(file, outputs, chain, lambda share, file=file: progress(file, share))
            gone = [path for path in outcome.outputs if outcome.status != "planned" and not os.path.lexists(path)]
            if gone:
                raise AudioError("an output is gone again", where=gone[0], remedy="give the same command again")
        except FAILURES as error:
            outcome = Outcome(str(file.path), "failed", error=_text_of(error, file.path))
        yield outcome


def prepare(files: Sequence[InputFile], outputs: Outputs, options: ApplyOptions) -> Chain:
    """Load the modules and, where sound is to be made, the autoencoder; make the folder of the outputs.

    An error for modules or options that do not fit, a reference that cannot be read, a folder that cannot be written,
    and outputs that would meet.
    """
    device = device_named(options.device)
    names = [""] if options.upmix is None else variant_names(seed=options.seed, variants=options.variants)
    named = [Path(path) for path in (options.upsample, options.upmix, options.like) if path is not None]
    require_own_outputs(files, outputs, names=names, inputs=named)
    require_folder(outputs.folder, dry_run=True)
    upsampler, upmixer = _load(options.upsample, "bwe", device), _load(options.upmix, "m2s", device)
    if upsampler is not None and upmixer is not None:
        upsampler.spec.require_same(upmixer.spec, where=options.upmix, remedy="use modules of one autoencoder")
    require_folder(outputs.folder, dry_run=outputs.dry_run)
    trained, path = (upmixer, options.upmix) if upsampler is None else (upsampler, options.upsample)
    assert trained is not None, "a call has a module"
    coder = None
    if not outputs.dry_run and (options.like is not None or not all(is_latents(file.path) for file in files)):
        coder = load_own_autoencoder(trained.spec, named=options.autoencoder, where=path, device=device)
    folder = Path(tempfile.gettempdir()) if outputs.dry_run else outputs.folder
    variants: tuple[Variant, ...] = ()
    if upmixer is not None:
        oracle = None if options.like is None else _oracle(options.like, upmixer, coder, device=device, folder=folder)
        variants = variants_of(
            upmixer, seed=options.seed, variants=options.variants, oracle=oracle, share=options.share
        )
    return Chain(options, upsampler, upmixer, coder, variants, device, folder)


def _oracle(like: Path, upmixer: TrainedModule, coder: Autoencoder | None, *, device: str, folder: Path) -> Tensor:
    """(1, H): the condition of a reference; zeros in a dry run, and for a module that takes no condition."""
    if coder is None or upmixer.encoder is None:
        return torch.zeros(1, upmixer.module.condition_channels)
    try:
        return condition_like(like, upmixer, coder, device=device, folder=folder)
    except OSError as error:
        remedy = "check the file, and whether there is room in --out"
        raise ConfigError("the reference cannot be read", where=like, value=error, remedy=remedy) from None


def _outcome_of(file: InputFile, outputs: Outputs, chain: Chain, progress: PassProgress) -> Outcome:
    names = [variant.name for variant in chain.variants] or [""]
    if not outputs.overwrite and (existing := outputs.finished(file, names)):
        return Outcome(str(file.path), "skipped", existing, ["exists"])
    if is_latents(file.path):
        return _apply_to_latents(file, outputs, chain)
    with opened(file.path, folder=chain.folder) as sound:
        decision = decide(sound.survey, chain.options, low_rate=chain.low_rate)
        return _apply_to_sound(file, sound, decision, outputs, chain, progress=progress)


def _text_of(error: BaseException, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        where, remedy = error.filename or path, "check the permissions, and whether there is room"
        error = AudioError("a file cannot be read or written", where=where, value=error.strerror, remedy=remedy)
    return str(error) if isinstance(error, ReencoderError) else f"{path}: {type(error).__name__}: {error}"


def _apply_to_sound(
    file: InputFile, sound: Sound, decision: Decision, outputs: Outputs, chain: Chain, *, progress: PassProgress
) -> Outcome:
    """Make and write what is decided. Without an autoencoder, in a dry run, say it. Variants that exist are left as
    they are, unless they are to be overwritten."""
    latents, overwrite, coder = outputs.latents, outputs.overwrite, chain.autoencoder
    notices, container = list(decision.reasons), container_of(sound, outputs.form)
    if decision.upsample and chain.upsampler is not None and not chain.upsampler.low_band.known:
        notices.append(f"the module does not know how its inputs were made: taken as {chain.low_rate} Hz")
    copied = decision.copy and latents is None
    suffix = f".{latents}" if latents else container.suffix
    names = [variant.name for variant in chain.variants] if decision.upmix else [""]
    folder = outputs.folder
    paths = {name: file.copy(folder) if copied else file.output(folder, variant=name, suffix=suffix) for name in names}
    if coder is None:
        planned = "would be copied" if copied else "would be made"
        return Outcome(str(file.path), "planned", [str(path) for path in paths.values()], [planned, *notices])
    if copied:
        copy_file(file.path, paths[""], overwrite=overwrite)
        return Outcome(str(file.path), "copied", [str(paths[""])], notices)
    if not coder.local and len(sound.audio) > SEGMENT_SECONDS * sound.rate:
        notices.append(
            f"the autoencoder looks at whole pieces: segments of {SEGMENT_SECONDS:g} s are close to them, not equal"
        )
    if not overwrite and decision.upmix:
        chain, said = _without_existing(chain, file, outputs)
        notices += said
    if sound.has_other_tags:
        notices.append("the tags in its ID3 chunk are not read, and not carried over")
    written = []
    if latents:
        for variant, made in make_latents_of_sound(sound, decision, chain, coder, progress=progress):
            require_free(paths[variant.name], overwrite=overwrite)
            write_latents(made, paths[variant.name])
            written.append(str(paths[variant.name]))
        return Outcome(str(file.path), "done", written, notices)
    if sound.format not in LOSSLESS and outputs.form.format is None:
        notices.append("a lossy encoder would cut the band again: written as FLAC" if decision.upsample else "as FLAC")
    for variant, audio, rate in make_sound(sound, decision, chain, coder, bits=container.bits, progress=progress):
        path, said = write_sound(
            audio,
            rate,
            paths[variant.name],
            container=container,
            peaks=outputs.form.peaks,
            overwrite=overwrite,
            tags=sound.tags,
        )
        written.append(str(path))
        notices += [f"{variant.name.strip('_')}: {text}" if variant.name else text for text in said]
    return Outcome(str(file.path), "done", written, notices)


def _apply_to_latents(file: InputFile, outputs: Outputs, chain: Chain) -> Outcome:
    suffix = f".{outputs.latents}" if outputs.latents else file.path.suffix.lower()
    if chain.options.width != 1 or chain.options.mono_compatible:
        raise ConfigError(
            "--width and --mono-compatible change sound, and this input is a file of latents", where=file.path,
            remedy="leave them out",
        )  # fmt: skip
    given = read_latents(file.path)
    notices = [] if given.spec else ["it does not say whose latents it holds: taken as the module's"]
    if not outputs.overwrite and chain.upmixer is not None:
        chain, said = _without_existing(chain, file, outputs)
        notices += said
    names = [variant.name for variant in chain.variants] or [""]
    paths = {name: file.output(outputs.folder, variant=name, suffix=suffix) for name in names}
    written = [str(path) for path in paths.values()]
    if outputs.dry_run:
        return Outcome(str(file.path), "planned", written, ["would be made", *notices])
    for variant, made in make_latents(given, chain, path=file.path):
        require_free(paths[variant.name], overwrite=outputs.overwrite)
        write_latents(made, paths[variant.name])
    return Outcome(str(file.path), "done", written, notices)


def _without_existing(chain: Chain, file: InputFile, outputs: Outputs) -> tuple[Chain, list[str]]:
    """The chain with the variants whose outputs are not there yet, and what to say of the others."""
    there = {
        variant.name: path for variant in chain.variants if (path := outputs.existing(file, variant.name)) is not None
    }
    missing = tuple(variant for variant in chain.variants if variant.name not in there)
    return replace(chain, variants=missing), [f"{path.name} exists and is left as it is" for path in there.values()]


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
