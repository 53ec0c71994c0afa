"""Surveys audio in memory."""

from __future__ import annotations

import numpy as np

from reencoder_pipeline.audio.survey import Survey, Surveyor


def survey_audio(audio: np.ndarray, *, sample_rate: int) -> Survey:
    """(channels, samples)."""
    surveyor = Surveyor(sample_rate, len(audio))
    for block in np.array_split(audio, max(1, audio.shape[1] // 2**18), axis=1):
        surveyor.add(block)
    return surveyor.result()
