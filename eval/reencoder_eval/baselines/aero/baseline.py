"""Aero as a baseline: it takes the low band at its own rate, in segments, and gives audio at the full rate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from reencoder_eval.baselines.aero.checkpoint import load_aero_weights
from reencoder_eval.baselines.aero.layers import STRIDE
from reencoder_eval.baselines.aero.model import Aero, AeroConfig
from reencoder_eval.baselines.baseline import Baseline, digest_of
from reencoder_eval.baselines.in_segments import run_in_segments
from reencoder_eval.metrics.flops import FlopCount, count_flops
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.stores.digests import file_digest

# Each piece of 3.2 s keeps 2 s, which costs 1.6 times the work of a single call. The network was trained on 2 s and may
# behave differently on longer pieces; its attention takes 0.15 GB per tensor for 3.2 s, growing with the square.
# Segments never equal a single call, because level and group norms are over all audio of a call. Measured with random
# weights and 8 channels: segments of 1.2 s differ from a call of 4 s by -17 dB without context, and by -28 to -31 dB
# with 0.25, 0.5 and 1 s of context. The context here is one window of the recurrent layers, 0.6 s.
SEGMENT_FRAMES = 700
CONTEXT_FRAMES = 200


def load_aero(*, weights: Path | None, device: str) -> Baseline:
    """`weights` is a file of ours or of the original program; without weights the baseline has costs and no scores."""
    model = load_aero_weights(weights) if weights else Aero(AeroConfig()).eval()
    parts = asdict(model.config), file_digest(weights) if weights else None, SEGMENT_FRAMES, CONTEXT_FRAMES
    config = model.config
    model.to(device)

    def run(audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """(1, samples) -> (1, samples) float32."""
        if sample_rate != config.high_rate:
            raise EvaluationError(
                "this Aero works at another sample rate",
                where=weights,
                value=f"{config.high_rate} Hz, while the clips have {sample_rate} Hz",
                remedy="use an autoencoder of its rate",
            )
        low = torch.from_numpy(resample(audio, sample_rate, config.low_rate))[None]
        estimate = run_in_segments(
            lambda piece: model(piece.to(device)),
            low,
            segment=SEGMENT_FRAMES * config.low_hop,
            context=CONTEXT_FRAMES * config.low_hop,
            factor=config.factor,
            multiple=STRIDE * config.low_hop,  # so that recurrent windows lie where they would in a single call
        )
        return estimate[0, :, : audio.shape[-1]].numpy()

    def count() -> FlopCount:
        """One second in one piece, as in the literature; segments take (segment + 2 context) / segment as much."""
        return count_flops(model, torch.zeros(1, 1, config.low_rate, device=device), modules=[model], seconds=1)

    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return Baseline(
        name="aero",
        label="Aero",
        about=f"predicts the whole complex spectrum at {config.high_rate / 1000:g} kHz from audio at "
        f"{config.low_rate / 1000:g} kHz, on waveforms: {millions:.1f} M parameters, our implementation",
        task="bwe",
        digest=digest_of(*parts),
        run=run if weights else None,
        count=count,
    )
