"""A waveform model over audio of any length: pieces with real audio on both sides, which is thrown away afterwards."""

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

    Every piece is `segment` samples with `context` on both sides; the last one is moved back to end with the audio, and
    what fits into one piece goes in one. For a model that sees no farther than `context` the result is that of a single
    call; memory is that of one piece. Pieces start at multiples of `multiple`, the model's frame, so that its frames
    lie where they would in a single call; the last piece may be shorter by less than that. Blending overlapping pieces
    instead would mix in what is wrong at their edges.
    """
    assert segment > 0 <= context, "a piece has something to keep"
    assert segment % multiple == context % multiple == 0, "segment and context are whole multiples"
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
