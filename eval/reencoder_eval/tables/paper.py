"""Tables 1 and 2 of the paper, for comparison; they were measured with its own autoencoder, music and modules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper: `values` by metric as in scores.jsonl, and GFLOPs per second of audio."""

    label: str
    gflops: float
    values: dict[str, float]


def _bwe(label: str, gflops: float, stft: tuple[float, ...], mel: tuple[float, ...]) -> PaperRow:
    bands = ("full", "low", "high")
    values = {f"stft_d_{band}": value for band, value in zip(bands, stft, strict=True)}
    return PaperRow(label, gflops, values | {f"mel_d_{band}": value for band, value in zip(bands, mel, strict=True)})


def _m2s(label: str, gflops: float, *pairs: tuple[float, float]) -> PaperRow:
    """Left and right STFT-D, left and right mel-D, mid and side STFT-D, mid and side mel-D."""
    names = [f"{metric}_{side}" for sides in (("left", "right"), ("mid", "side")) for metric in ("stft_d", "mel_d")
             for side in sides]  # fmt: skip
    return PaperRow(label, gflops, dict(zip(names, [value for pair in pairs for value in pair], strict=True)))


TABLE_1 = (
    _bwe("VAE rec.", 51, (1.13, 0.58, 1.38), (0.57, 0.46, 0.76)),
    _bwe("Aero", 85, (0.94, 0.07, 1.70), (0.24, 0.03, 0.76)),
    _bwe("MusicHiFi-BWE", 111, (0.99, 0.09, 1.74), (0.24, 0.02, 0.76)),
    _bwe("VAE + Aero", 85, (1.43, 0.58, 1.73), (0.67, 0.46, 0.94)),
    _bwe("VAE + MusicHiFi-BWE", 111, (1.47, 0.58, 1.78), (0.68, 0.46, 0.98)),
    _bwe("Ours (M) with L1", 1.6, (1.41, 0.58, 1.78), (0.69, 0.48, 1.03)),
    _bwe("Ours (M) with L1, mel", 1.6, (1.35, 0.55, 1.73), (0.60, 0.42, 0.92)),
    _bwe("Ours (M) with L1, Discr.", 1.6, (1.38, 0.58, 1.72), (0.67, 0.48, 0.98)),
    _bwe("Ours (S) with L1, Discr.", 0.4, (1.38, 0.58, 1.71), (0.67, 0.48, 0.97)),
)
TABLE_2 = (
    _m2s("VAE rec.", 51, (1.14, 1.14), (0.58, 0.58), (1.13, 1.48), (0.57, 0.85)),
    _m2s("MH-M2S", 222, (0.85, 0.85), (0.62, 0.62), (0.00, 2.18), (0.00, 1.89)),
    _m2s("VAE + MH-M2S", 222, (1.34, 1.34), (0.86, 0.86), (1.13, 2.36), (0.57, 1.92)),
    _m2s("Ours (M) + Rand c", 1.6, (1.31, 1.31), (0.83, 0.82), (1.17, 2.31), (0.62, 2.07)),
    _m2s("Ours (M) + Oracle c", 1.6, (1.22, 1.22), (0.71, 0.72), (1.13, 2.24), (0.58, 2.19)),
)
PAPER_TABLES = {"bwe": TABLE_1, "m2s": TABLE_2}
