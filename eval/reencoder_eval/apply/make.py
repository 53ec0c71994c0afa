"""Sends one sound or one file of latents through the modules: the work of `apply_to` on each of its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
from torch import Tensor

from reencoder_eval.apply.conditions import Variant
from reencoder_eval.apply.crossover import crossed
from reencoder_eval.apply.decision import Decision
from reencoder_eval.apply.files.latents_io import Latents
from reencoder_eval.apply.files.reading import Sound
from reencoder_eval.apply.files.scratch import Scratch, downmixed, excerpt, low_banded, resampled
from reencoder_eval.apply.options import ApplyOptions
from reencoder_eval.apply.segments import PassProgress, decoded, encoded, margin_frames, through_module
from reencoder_pipeline.autoencoder import Autoencoder
from reencoder_pipeline.errors import CacheError
from reencoder_trainer.trained_module import LowBand, TrainedModule


@dataclass(frozen=True)
class Chain:
    """Modules in their order and an autoencoder, on `device`. `autoencoder` is None in a dry run and where all inputs
    are latents. `variants` are the conditions of `upmixer`. `folder` is for what does not fit into memory."""

    options: ApplyOptions
    upsampler: TrainedModule | None
    upmixer: TrainedModule | None
    autoencoder: Autoencoder | None
    variants: Sequence[Variant]
    device: str
    folder: Path

    @property
    def low_rate(self) -> int:
        """Sample rate of the low band that `upsampler` was trained on."""
        return self._low_band.assumed()[0]

    @property
    def resampler(self) -> str:
        return self._low_band.assumed()[1]

    @property
    def _low_band(self) -> LowBand:
        return LowBand() if self.upsampler is None else self.upsampler.low_band

    @property
    def modules(self) -> tuple[TrainedModule, ...]:
        return tuple(module for module in (self.upsampler, self.upmixer) if module is not None)


def make_sound(
    sound: Sound,
    decision: Decision,
    chain: Chain,
    autoencoder: Autoencoder,
    *,
    bits: int | None,
    progress: PassProgress,
) -> Iterator[tuple[Variant, Scratch, int]]:
    """Every variant with its audio and rate. Encoded once; decoded once for each.

    The rate is the input's; an upsampled input below the autoencoder's rate gets that rate. `bits` is the depth of the
    file to be written: a side on its grid makes the mid of `mono_compatible` exact.
    """
    rate = autoencoder.spec.sample_rate
    out_rate = max(sound.rate, rate) if decision.upsample else sound.rate
    source = MirroredSound.of(sound, decision, autoencoder)
    passes = 1 + (len(chain.variants) if decision.upmix else 1)

    def report(share: float) -> None:
        progress(share / passes)

    latents = _input_latents(source, decision, chain, autoencoder, progress=report)
    original = source.audio if out_rate == source.rate else excerpt(source.wide, source.lead, source.num_samples)
    for variant, made in _variants(latents, decision, chain):
        estimate = decoded(
            autoencoder,
            made,
            margin=source.margin,
            num_samples=source.num_samples,
            device=chain.device,
            progress=report,
        )
        if out_rate != rate:
            estimate = resampled(estimate, rate, out_rate, length=len(original))
        with _put_together(original, estimate, out_rate, decision, chain, bits=bits) as output:
            yield variant, output, out_rate


def make_latents_of_sound(
    sound: Sound, decision: Decision, chain: Chain, autoencoder: Autoencoder, *, progress: PassProgress
) -> Iterator[tuple[Variant, Latents]]:
    """The same without decoding: float32 (k * C, T). A sound that needs no work is only encoded."""
    source = MirroredSound.of(sound, decision, autoencoder)
    latents = _input_latents(source, decision, chain, autoencoder, progress=progress)
    for variant, made in _variants(latents, decision, chain):
        values = made.read(source.margin, len(made) - source.margin)
        yield variant, Latents(values, autoencoder.spec, _streams(made, chain.modules[0]), {})


def make_latents(latents: Latents, chain: Chain, *, path: Path) -> Iterator[tuple[Variant, Latents]]:
    """Latents through the modules. CacheError when they are another autoencoder's, or not as many streams as needed."""
    first = chain.modules[0]
    if latents.spec is not None:
        first.spec.require_same(latents.spec, where=path, remedy="use a module that was trained on these latents")
    channels, most = first.spec.channels, 1 if chain.upmixer else 2
    if len(latents.values) not in [channels * k for k in range(1, most + 1)]:
        expected = f"{channels} channels" + (f", or {2 * channels} for left over right" if most == 2 else ", of mono")
        raise CacheError(
            "not the latents that this module takes", where=path, value=f"{latents.values.shape} (channels, frames)",
            remedy=f"give {expected}",
        )  # fmt: skip
    everything = Decision(chain.upsampler is not None, chain.upmixer is not None, None, ())
    kept = latents.values.dtype if latents.values.dtype == np.float16 else np.dtype(np.float32)
    scratch = latents.in_scratch(chain.folder)
    if chain.upsampler is not None:
        scratch = through_module(chain.upsampler, scratch, condition=None, device=chain.device)
    for variant, made in _variants(scratch, everything, chain):
        values = made.read(0, len(made)).astype(kept)
        yield variant, Latents(values, first.spec, _streams(made, first), latents.others)


@dataclass(frozen=True)
class MirroredSound:
    """A sound as `audio`, at the file's `rate`, and as `wide`, at the autoencoder's rate with its mirror image at
    either end. In `wide` its `num_samples` begin at `lead`; `margin` is the number of frames encoded before them."""

    audio: Scratch
    rate: int
    wide: Scratch
    lead: int
    num_samples: int
    margin: int

    @classmethod
    def of(cls, sound: Sound, decision: Decision, autoencoder: Autoencoder) -> MirroredSound:
        audio = downmixed(sound.audio, channel=decision.channel) if decision.upmix else sound.audio
        spec, margin = autoencoder.spec, margin_frames(autoencoder)
        # The image is a whole number of samples at both rates, and no less than the margin.
        unit = sound.rate // gcd(sound.rate, spec.sample_rate)
        image = -(-margin * spec.hop * sound.rate // (spec.sample_rate * unit)) * unit
        wide = excerpt(audio, -image, image + len(audio) + image)
        if sound.rate != spec.sample_rate:
            wide = resampled(wide, sound.rate, spec.sample_rate)
        num_samples = -(-len(audio) * spec.sample_rate // sound.rate)
        return cls(audio, sound.rate, wide, image * spec.sample_rate // sound.rate, num_samples, margin)


def _input_latents(
    source: MirroredSound, decision: Decision, chain: Chain, autoencoder: Autoencoder, *, progress: PassProgress
) -> Scratch:
    """The input's latents, upsampled if so decided: they are decoded or go on to the upmixer."""
    spec, audio = autoencoder.spec, source.wide
    if decision.upsample and source.rate > chain.low_rate:
        audio = low_banded(audio, spec.sample_rate, low_rate=chain.low_rate, resampler=chain.resampler)
    latents = encoded(
        autoencoder,
        audio,
        start=source.lead - source.margin * spec.hop,
        num_frames=spec.num_frames(source.num_samples) + 2 * source.margin,
        device=chain.device,
        progress=progress,
    )
    if not decision.upsample:
        return latents
    assert chain.upsampler is not None, "decided without a module"
    return through_module(chain.upsampler, latents, condition=None, device=chain.device)


def _variants(latents: Scratch, decision: Decision, chain: Chain) -> Iterator[tuple[Variant, Scratch]]:
    if not decision.upmix:
        yield Variant("", None), latents
        return
    assert chain.upmixer is not None, "decided without a module"
    for variant in chain.variants:
        condition: Tensor | None = None if variant.condition is None else variant.condition.to(chain.device)
        yield variant, through_module(chain.upmixer, latents, condition=condition, device=chain.device)


def _put_together(
    original: Scratch, estimate: Scratch, rate: int, decision: Decision, chain: Chain, *, bits: int | None
) -> Scratch:
    """The output: the estimate, or its mid, with the original's band below the crossover; and the side around it."""
    output = Scratch(estimate.width, folder=estimate.folder)
    middle = downmixed(estimate) if decision.upmix else estimate
    step = 2.0 ** (1 - (bits or 24))
    for start, stop in original.blocks():
        if decision.edge_hz is not None and chain.options.crossover:
            block = crossed(original, middle, start, stop, edge_hz=decision.edge_hz, sample_rate=rate)
        elif decision.upmix and chain.options.mono_compatible:
            block = original.read(start, stop)
        else:
            block = middle.read(start, stop)
        if decision.upmix:
            left, right = estimate.read(start, stop)
            side = chain.options.width * (left - right) / 2
            if chain.options.mono_compatible:
                side = np.rint(side / step) * step
            block = np.concatenate([block + side, block - side])
        output.append(block.astype(np.float32))
    return output


def _streams(latents: Scratch, trained: TrainedModule) -> tuple[str, ...]:
    return ("mono",) if latents.width == trained.spec.channels else ("left", "right")
