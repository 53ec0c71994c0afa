"""Runs a waveform model over audio of any length, in segments with context on both sides."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reencoder_pipeline.encoding.segments import plan_segments


@torch.inference_mode()
def run_in_segments(
    model: Callable[[Tensor], Tensor], audio: Tensor, *, segment: int, context: int, factor: int, multiple: int = 1
) -> Tensor:
    """(B, 1, n) -> (B, c, factor * n), on the device of `audio`; `model` maps (B, 1, m) to (B, c, factor * m).

    A piece is `segment` samples with `context` samples of real audio on both sides, whose output is dropped. (Blending
    overlapping pieces instead would mix in the errors at their edges.) The last piece is moved back to end with the
    audio, and audio that fits into one piece is not split. The result equals a single call if the model sees no farther
    than `context`; the memory is that of one piece.
    Pieces start at multiples of `multiple`, the model's frame, so that frames lie where they would in a single call.
    The last piece may be shorter by less than a frame.
    """
    assert segment > 0 <= context, "a segment must keep some samples"
    assert segment % multiple == context % multiple == 0, "segment and context must be whole multiples"
    num_samples = audio.shape[-1]
    plan = plan_segments(
        -(-num_samples // multiple), segment_frames=(segment + 2 * context) // multiple, context=context // multiple
    )
    output: Tensor | None = None
    for piece in plan:
        start, stop = piece.start * multiple, min(piece.stop * multiple, num_samples)
        keep_start, keep_stop = piece.keep_start * multiple, min(piece.keep_stop * multiple, num_samples)
        estimate = model(audio[..., start:stop])
        assert estimate.shape[-1] == factor * (stop - start), (estimate.shape, start, stop)
        if output is None:
            shape = (*estimate.shape[:2], factor * num_samples)
            output = torch.empty(shape, dtype=estimate.dtype, device=audio.device)
        output[..., factor * keep_start : factor * keep_stop] = estimate[
            ..., factor * (keep_start - start) : factor * (keep_stop - start)
        ]
    assert output is not None
    return output
