"""Encodes audio into frames: equal segments with real context on both sides, so that no seams appear."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.audio.resampling import Audio
from reencoder_pipeline.encoding.segments import Cutter, Segment
from reencoder_pipeline.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


NOT_NUMBERS = "the autoencoder produced values that are not numbers"
CHECK_WEIGHTS = "check the autoencoder's weights, or leave this file out"


def encode_stream(autoencoder: Autoencoder, audio: Audio, *, segment_frames: int) -> NDArray[np.float32]:
    """(1, samples), or (2, samples) for a joint autoencoder, at its rate -> (frames, channels) float32 posterior means.

    Segments are encoded one by one, as a build does with `batch_segments` 1. AudioError for values that are not finite.

    Example::

        frames = encode_stream(load_autoencoder("house"), audio, segment_frames=430)  # segments of 10 s
    """
    spec = autoencoder.spec
    frames = np.empty((spec.num_frames(audio.shape[-1]), spec.channels), dtype=np.float32)
    cutter = Cutter(hop=spec.hop, segment_frames=segment_frames, context=autoencoder.context)
    for segment, piece in chain(cutter.add(audio), cutter.finish()):
        (latents,) = encode_batch(autoencoder, [piece], size=1)
        frames[segment.keep_start : segment.keep_stop] = kept_frames(segment, latents)
    if not np.isfinite(frames).all():
        raise AudioError(NOT_NUMBERS, remedy=CHECK_WEIGHTS)
    return frames


def kept_frames(segment: Segment, latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, C) of a whole segment -> the frames without its context."""
    return latents[segment.keep_start - segment.start : segment.keep_stop - segment.start]


def encode_batch(autoencoder: Autoencoder, pieces: Sequence[Audio], *, size: int) -> NDArray[np.float32]:
    """Encode at most `size` pieces (channels, samples) of equal length -> (pieces, T, C).

    A matrix product rounds differently for another batch size (house, CPU: by 2e-7), and a cache must not depend on how
    many segments were ready. So the batch always has `size` items, filled up with silence.
    """
    import torch

    batch = torch.zeros(size, *pieces[0].shape)
    for item, piece in zip(batch, pieces, strict=False):
        item.copy_(torch.from_numpy(piece))
    latents = autoencoder.encode(batch.to(_device(autoencoder)))[: len(pieces)]
    return latents.transpose(1, 2).float().cpu().numpy()  # (B, C, T) -> (B, T, C)


def _device(autoencoder: Autoencoder) -> Any:
    """The device of its weights; the CPU if its attribute `model` is no torch module."""
    parameters = getattr(getattr(autoencoder, "model", None), "parameters", None)
    return next((parameter.device for parameter in parameters()), "cpu") if parameters else "cpu"


@lru_cache(maxsize=8)
def require_steady(autoencoder: Autoencoder, *, size: int, shape: tuple[int, int]) -> None:
    """Raise a ConfigError if the latents of a piece (channels, samples) depend on its position in a batch of `size`.

    They do if a matrix product treats its rows differently: for the house autoencoder on a CPU in batches of 2, but not
    of 4 or 8. Tested with noise, once a process, together with the influence of other pieces in the batch.
    """
    if size == 1:
        return
    noise = np.random.default_rng(0).standard_normal((size, *shape), dtype=np.float32)
    alike = encode_batch(autoencoder, [noise[0]] * size, size=size)
    mixed = encode_batch(autoencoder, [*noise], size=size)
    if not (alike == mixed[0]).all():
        raise ConfigError(
            f"the latents of {autoencoder.spec.autoencoder} depend on a segment's position in the batch (rounding), so "
            "a cache built with this batch size would not be reproducible",
            where="batch_segments",
            value=size,
            remedy="try another number; 1 always works",
        )
