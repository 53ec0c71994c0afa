"""Encode, run a module, decode: piece by piece, with context that is thrown away, in the memory of one piece.

What equals a single call over the whole track, to float rounding: encoding and decoding with an autoencoder that is
`local`, and a module with `response_frames`. An ordinary module normalises over all it is given (GRN), in training
windows of 1.4 or 4 s; here windows of `WINDOW_SECONDS`, which are cross-faded. It is then another estimate than that of
a single call, as good as that, and without a seam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reencoder_eval.apply.files.scratch import Samples, Scratch
from reencoder_eval.systems.system import decode, encode
from reencoder_pipeline.encoding.segments import plan_segments

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder
    from reencoder_trainer.trained_module import TrainedModule

PassProgress = Callable[[float], None]  # takes the share of a pass that has been done since the last call

SEGMENT_SECONDS = 20.0
# L1 of the validation tracks was the same for windows of 1.4, 4, 10 and 30 s and for whole tracks, to 0.02 %.
WINDOW_SECONDS = 10.0
FADE_SECONDS = 0.5
MARGIN_SECONDS = 1.0


def margin_frames(autoencoder: Autoencoder) -> int:
    """Frames before and after a track that are made of its mirror image, so that its ends are not cuts.

    A cut is a click, which fills the band that is to be estimated: 20 ms at either end that came 25 to 40 dB too loud.
    The image must be put on before anything is resampled; what a resampler leaves of an end is a cut too.
    """
    return min(autoencoder.context, autoencoder.spec.frames_in(MARGIN_SECONDS))


def encoded(
    autoencoder: Autoencoder,
    audio: Scratch,
    *,
    device: str,
    start: int = 0,
    num_frames: int | None = None,
    progress: PassProgress = lambda share: None,
) -> Scratch:
    """(k, samples) at the autoencoder's rate -> (k * C, num_frames): each channel on its own, from `start` on."""
    spec = autoencoder.spec
    num_frames = spec.num_frames(len(audio)) if num_frames is None else num_frames
    latents = Scratch(audio.width * spec.channels, folder=audio.folder)
    segment_frames = max(spec.frames_in(SEGMENT_SECONDS), 4 * autoencoder.context)
    for segment in plan_segments(num_frames, segment_frames=segment_frames, context=autoencoder.context):
        signals = audio.read_mirrored(start + segment.start * spec.hop, start + segment.stop * spec.hop)
        made = encode(autoencoder, list(signals), device=device)[0].float().cpu().numpy()
        latents.append(made[:, segment.keep_start - segment.start : segment.keep_stop - segment.start])
        progress((segment.keep_stop - segment.keep_start) / num_frames)
    return latents


def decoded(
    autoencoder: Autoencoder,
    latents: Scratch,
    *,
    margin: int,
    num_samples: int,
    device: str,
    progress: PassProgress = lambda share: None,
) -> Scratch:
    """(k * C, margin + frames + margin) -> (k, num_samples): each channel on its own."""
    spec = autoencoder.spec
    audio = Scratch(latents.width // spec.channels, folder=latents.folder)
    segment_frames = max(spec.frames_in(SEGMENT_SECONDS), 4 * autoencoder.context)
    for segment in plan_segments(len(latents), segment_frames=segment_frames, context=autoencoder.context):
        piece = torch.from_numpy(latents.read(segment.start, segment.stop).copy()).to(device)[None]
        made = decode(autoencoder, piece, length=spec.num_samples(segment.stop - segment.start))
        # The samples of this piece that are kept and lie between the margins.
        first = max(segment.keep_start, margin) * spec.hop
        last = min(segment.keep_stop * spec.hop, margin * spec.hop + num_samples)
        if last > first:
            audio.append(made[:, first - segment.start * spec.hop : last - segment.start * spec.hop])
        progress((segment.keep_stop - segment.keep_start) / len(latents))
    return audio


def module_context(trained: TrainedModule) -> int:
    """Half the receptive field of a module's convolutions (and of its GRN where that has a width), in frames."""
    module = trained.module
    return module.size.blocks * (3 + (module.response_frames or 1) // 2)


def through_module(
    trained: TrainedModule, latents: Scratch, *, condition: Tensor | None, device: str, window: int | None = None
) -> Scratch:
    """(k * C_in, T) -> (k * C_out, T), k items of a batch, in windows of `window` frames, or of WINDOW_SECONDS."""
    context, fade = module_context(trained), trained.spec.frames_in(FADE_SECONDS / 2)
    window = window or max(trained.spec.frames_in(WINDOW_SECONDS), 4 * (context + fade))
    channels_in, channels_out = trained.module.in_channels, trained.module.out_channels
    items = latents.width // channels_in
    output = Scratch(items * channels_out, folder=latents.folder)

    def run(piece: Samples) -> Samples:
        batch = torch.from_numpy(piece.copy()).to(device).reshape(items, channels_in, -1)
        return trained(batch, condition).reshape(items * channels_out, -1).cpu().numpy()

    for block in _over_windows(run, latents, window=window, context=context, fade=fade):
        output.append(block)
    assert len(output) == len(latents), (len(output), len(latents))
    return output


def _over_windows(
    run: Callable[[Samples], Samples], latents: Scratch, *, window: int, context: int, fade: int
) -> Iterator[Samples]:
    """The estimates of overlapping windows, one after the other, cross-faded over 2 * `fade` frames at every joint."""
    previous: Samples | None = None  # what the window before says about the frames around the joint
    for segment in plan_segments(len(latents), segment_frames=window, context=context + fade):
        estimate = run(latents.read(segment.start, segment.stop))

        def between(start: int, stop: int, estimate: Samples = estimate, offset: int = segment.start) -> Samples:
            return estimate[:, start - offset : stop - offset]

        start = segment.keep_start
        if previous is not None:
            joint = segment.keep_start - fade
            start = joint + previous.shape[1]
            rise = (np.arange(previous.shape[1], dtype=np.float32) + 0.5) / (2 * fade)
            yield (previous * (1 - rise) + between(joint, start) * rise).astype(np.float32)
        if segment.keep_stop == len(latents):
            yield between(start, segment.keep_stop)
            return
        yield between(start, segment.keep_stop - fade)
        previous = between(segment.keep_stop - fade, min(segment.keep_stop + fade, len(latents)))
