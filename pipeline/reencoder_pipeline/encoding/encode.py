"""A whole track into frames: equal segments with real context on both sides, so that no seam can be found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.audio.resampling import Audio
from reencoder_pipeline.encoding.segments import Segment, plan_segments
from reencoder_pipeline.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


NOT_NUMBERS = "the autoencoder produced values that are not numbers"


def encode_stream(autoencoder: Autoencoder, audio: Audio, *, segment_frames: int) -> NDArray[np.float32]:
    """(1, samples), or (2, samples) for a joint autoencoder, at its rate -> (frames, channels) float32 posterior means.

    Segments are encoded one by one, as a build does with `batch_segments` 1.
    """
    spec = autoencoder.spec
    frames = np.empty((spec.num_frames(audio.shape[-1]), spec.channels), dtype=np.float32)
    for segment in plan_segments(len(frames), segment_frames=segment_frames, context=autoencoder.context):
        (latents,) = encode_batch(autoencoder, [audio[:, segment.start * spec.hop : segment.stop * spec.hop]], size=1)
        frames[segment.keep_start : segment.keep_stop] = kept_frames(segment, latents)
    if not np.isfinite(frames).all():
        raise AudioError(NOT_NUMBERS)
    return frames


def kept_frames(segment: Segment, latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, C) of all of a segment -> without its context."""
    return latents[segment.keep_start - segment.start : segment.keep_stop - segment.start]


def encode_batch(autoencoder: Autoencoder, pieces: Sequence[Audio], *, size: int) -> NDArray[np.float32]:
    """At most `size` pieces (channels, samples), equally long -> (pieces, T, C).

    A matrix product rounds differently for another batch size (house, CPU: by 2e-7), and what a cache holds must not
    depend on how many segments happened to be there. So the batch always has `size` items; silence fills it up.
    """
    import torch

    batch = torch.zeros(size, *pieces[0].shape)
    for item, piece in zip(batch, pieces, strict=False):
        item.copy_(torch.from_numpy(piece))
    latents = autoencoder.encode(batch.to(_device(autoencoder)))[: len(pieces)]
    return latents.transpose(1, 2).float().cpu().numpy()  # (B, C, T) -> (B, T, C)


def _device(autoencoder: Autoencoder) -> Any:
    """Where its weights are; the CPU for one that holds no torch model by the name of `model`."""
    parameters = getattr(getattr(autoencoder, "model", None), "parameters", None)
    return next((parameter.device for parameter in parameters()), "cpu") if parameters else "cpu"


@lru_cache(maxsize=8)
def require_steady(autoencoder: Autoencoder, *, size: int, shape: tuple[int, int]) -> None:
    """ConfigError if what becomes of a piece (channels, samples) depends on its place in a batch of `size`.

    It does where the rows of a matrix product are not treated alike: of the house autoencoder on a CPU in batches of 2,
    not of 4 or 8. Tried out with noise, once a process; neighbours are tried on the way.
    """
    if size == 1:
        return
    noise = np.random.default_rng(0).standard_normal((size, *shape), dtype=np.float32)
    alike = encode_batch(autoencoder, [noise[0]] * size, size=size)
    mixed = encode_batch(autoencoder, [*noise], size=size)
    if not (alike == mixed[0]).all():
        raise ConfigError(
            f"{autoencoder.spec.autoencoder} rounds a segment's latents differently at another place in its batch",
            where="batch_segments",
            value=size,
            remedy="try another number; 1 always works",
        )
