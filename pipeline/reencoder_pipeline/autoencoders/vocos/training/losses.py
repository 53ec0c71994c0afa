"""Losses of the house autoencoder: spectral distances close to the metric's, one that depends on phase, and KL."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reencoder_pipeline.audio.mel import LOG_FLOOR, spectral_distance


def reconstruction_losses(
    estimate: Tensor, reference: Tensor, *, resolutions: Sequence[tuple[int, int, int]], filterbanks: dict[int, Tensor]
) -> dict[str, Tensor]:
    """Both (B, L) float32 -> {"spectral", "mel", "complex"}: scalars, averaged over the given resolutions.

    spectral and mel: spectral convergence per item + L1 of log magnitudes, as STFT-D and mel-D are made.
    complex: L1 of spectra whose magnitude is compressed to |S|^0.3; the only term here that knows of phase.
    """
    sums: dict[str, list[Tensor]] = {"spectral": [], "mel": [], "complex": []}
    for n_fft, hop, window_length in resolutions:
        window = torch.hann_window(window_length, device=estimate.device)
        (magnitude, compressed), (true_magnitude, true_compressed) = (
            _spectrum(audio, n_fft, hop, window) for audio in (estimate, reference)
        )
        bank = filterbanks[n_fft]
        sums["spectral"].append(spectral_distance(magnitude, true_magnitude))
        sums["mel"].append(spectral_distance(bank @ magnitude, bank @ true_magnitude))
        sums["complex"].append((compressed - true_compressed).abs().mean())
    return {name: torch.stack(values).mean() for name, values in sums.items()}


def mel_loss(estimate: Tensor, reference: Tensor, *, filterbanks: dict[int, Tensor]) -> Tensor:
    """Both (B, L) float32 -> the mel term alone, a scalar: the mean over FFTs of 512, 1024 and 2048, hop a quarter.

    For whatever is trained through a frozen decoder.
    """
    distances = []
    for n_fft, bank in filterbanks.items():
        window = torch.hann_window(n_fft, device=estimate.device)
        magnitude, true_magnitude = (_spectrum(audio, n_fft, n_fft // 4, window)[0] for audio in (estimate, reference))
        distances.append(spectral_distance(bank @ magnitude, bank @ true_magnitude))
    return torch.stack(distances).mean()


def _spectrum(audio: Tensor, n_fft: int, hop: int, window: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) -> magnitude (B, F, T) and the compressed spectrum as (B, F, T, 2)."""
    spectrum = torch.stft(audio, n_fft, hop, len(window), window=window, return_complex=True)
    magnitude = (spectrum.real.square() + spectrum.imag.square()).clamp(min=LOG_FLOOR**2).sqrt()
    return magnitude, torch.view_as_real(spectrum * magnitude.pow(-0.7))


def waveform_distance(estimate: Tensor, reference: Tensor) -> Tensor:
    """(B, 1, L) both -> L1 of the waveforms over the L1 of the reference, per item, averaged.

    Relative, and so of order one whatever the level; plain L1 is about 0.07 for music and hardly weighs beside the
    other terms. 1e-3 keeps silence from weighing more than music.
    """
    distance = (estimate - reference).abs().mean(dim=(1, 2))
    return (distance / reference.abs().mean(dim=(1, 2)).clamp(min=1e-3)).mean()


def kl_divergence(mean: Tensor, log_variance: Tensor, *, free_nats: float) -> Tensor:
    """KL to the standard normal, (B, C, T) each: nats summed over channels, averaged over batch and time.

    Every value has `free_nats` for nothing ("free bits", Kingma et al. 2016): without them the penalty closes a channel
    before the network has learnt what to put there; of 32 not lapped, 27 stayed empty at a weight of 1e-3.
    """
    nats = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
    return nats.clamp(min=free_nats).sum(dim=1).mean()
