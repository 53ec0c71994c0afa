"""Validates the moving average on unseen music: the metrics' own distances, pictures and sound."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.training.losses import reconstruction_losses, waveform_distance
from reencoder_pipeline.training.metrics_log import MetricsLog

STFT_D = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # (n_fft, hop, window) of STFT-D, section 4.1
MEL_D = ((1024, 256, 1024),)  # and of mel-D
SHOWN = 2  # excerpts that TensorBoard shows


@torch.inference_mode()
def validate(model: Vocos, audio: Tensor, *, filterbanks: dict[int, Tensor], log: MetricsLog, step: int) -> None:
    """Reconstruct (N, 1, L) from the posterior means; writes a row of distances, and pictures and sound of two."""
    from auraloss.time import SISDRLoss

    estimate = model.decoder(model.encoder(audio)[0])
    row = {}
    for name, term, resolutions in (("stft_d", "spectral", STFT_D), ("mel_d", "mel", MEL_D)):
        pairs = zip(estimate, audio, strict=True)
        losses = [reconstruction_losses(x, y, resolutions=resolutions, filterbanks=filterbanks) for x, y in pairs]
        row[name] = float(np.mean([loss[term].item() for loss in losses]))
    row |= {
        "waveform": waveform_distance(estimate, audio).item(),
        "si_sdr": -SISDRLoss(zero_mean=False)(estimate, audio).item(),
    }
    log.valid(step, row)
    for index in range(min(SHOWN, len(audio))):
        pair = torch.stack([audio[index, 0], estimate[index, 0]]).float().cpu()
        log.picture(step, f"reference above, estimate below/{index}", spectrogram_picture(pair))
        for name, sound in zip(("reference", "estimate"), pair, strict=True):
            log.sound(step, f"{name}/{index}", sound.numpy(), sample_rate=model.config.sample_rate)


def spectrogram_picture(audio: Tensor) -> np.ndarray:
    """(N, L) -> (height, width, 3): log-magnitude spectrograms one above the other, 100 dB from black to white."""
    from matplotlib import colormaps

    window = torch.hann_window(1024)
    power = torch.stft(audio, 1024, 256, window=window, return_complex=True).abs().square()
    decibels = 10 * power.clamp(min=1e-10).log10()
    scaled = ((decibels - decibels.max() + 100) / 100).clamp(0, 1).flip(1)  # low frequencies at the bottom
    return colormaps["magma"](torch.cat(list(scaled)).numpy())[..., :3]
