"""Changes a clip a little or a lot, to compare how far latents and sound move."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Apply = Callable[[np.ndarray], np.ndarray]
Change = Callable[[np.ndarray, float, int, np.random.Generator], np.ndarray]  # audio, strength, sample rate, random

STRENGTHS = 3  # of each kind and clip, one in each third of its range
LATENT_NOISE = "latent noise"  # the one that is added to latents: strengths in units of a channel's std
LATENT_NOISE_RANGE = (0.03, 0.5)
WET = 0.3  # of the smear, in relation to the dry signal's level


def equalise(audio: np.ndarray, decibels: float, rate: int, random: np.random.Generator) -> np.ndarray:
    """A bell of 1.4 octaves, up or down, anywhere from 100 Hz to 0.45 of the rate; no phase shift."""
    centre = 100 * (0.45 * rate / 100) ** random.uniform()
    frequencies = np.fft.rfftfreq(len(audio), 1 / rate)
    octaves = np.log2(np.maximum(frequencies, 1.0) / centre)
    gain = 10 ** (random.choice([-1, 1]) * decibels / 20 * np.exp(-0.5 * (octaves / 0.7) ** 2))
    return np.fft.irfft(np.fft.rfft(audio) * gain, len(audio))


def add_noise(audio: np.ndarray, level: float, rate: int, random: np.random.Generator) -> np.ndarray:
    """White noise at `level` times the clip's own level."""
    return audio + level * audio.std() * random.standard_normal(len(audio))


def amplify(audio: np.ndarray, decibels: float, rate: int, random: np.random.Generator) -> np.ndarray:
    return audio * 10 ** (random.choice([-1, 1]) * decibels / 20)


def delay(audio: np.ndarray, samples: float, rate: int, random: np.random.Generator) -> np.ndarray:
    count = round(samples)
    return np.concatenate([np.zeros(count), audio[: len(audio) - count]])


def cut_highs(audio: np.ndarray, edge: float, rate: int, random: np.random.Generator) -> np.ndarray:
    """Everything above `edge` (1: Nyquist) fades out within a sixth of an octave; no phase shift."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(audio), 0.5), 1e-6) / edge)
    return np.fft.irfft(np.fft.rfft(audio) * np.clip(1 - 6 * octaves, 0, 1), len(audio))


def smear(audio: np.ndarray, seconds: float, rate: int, random: np.random.Generator) -> np.ndarray:
    """Dry signal and a tail of noise that decays by 60 dB within `seconds`: a small room."""
    from scipy.signal import fftconvolve

    times = np.arange(max(2, round(seconds * rate)))
    tail = random.standard_normal(len(times)) * 10 ** (-3 * times / len(times))
    return audio + WET * fftconvolve(audio, tail / np.linalg.norm(tail))[: len(audio)]


# From hardly audible to plain.
KINDS: dict[str, tuple[Change, float, float]] = {
    "equaliser": (equalise, 1.0, 12.0),  # dB
    "noise": (add_noise, 0.003, 0.1),
    "gain": (amplify, 0.5, 6.0),  # dB
    "shift": (delay, 1.0, 64.0),  # samples
    "low-pass": (cut_highs, 0.8, 0.15),
    "smear": (smear, 0.01, 0.3),  # seconds
}


def perturbations(sample_rate: int, random: np.random.Generator) -> Iterator[tuple[str, Apply]]:
    """Every kind of KINDS at STRENGTHS random strengths: its name, and what it makes of a clip, (samples,) each."""
    for kind, (change, weakest, strongest) in KINDS.items():
        for strength in strengths(weakest, strongest, random):
            seed = int(random.integers(2**32))

            def apply(audio: np.ndarray, change=change, strength=strength, seed=seed) -> np.ndarray:
                changed = change(audio.astype(np.float64), strength, sample_rate, np.random.default_rng(seed))
                return changed.astype(np.float32)

            yield kind, apply


def strengths(weakest: float, strongest: float, random: np.random.Generator) -> list[float]:
    """STRENGTHS values, one in each equal part of the range on a logarithmic scale."""
    places = (np.arange(STRENGTHS) + random.uniform(size=STRENGTHS)) / STRENGTHS
    return (weakest * (strongest / weakest) ** places).tolist()
