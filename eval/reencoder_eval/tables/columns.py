"""Lists the scores that the tables of each task show, with their titles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """`metric` is shown with its interval and median; the metrics in `beside` share one cell as plain means."""

    title: str
    metric: str
    beside: tuple[str, ...] = ()
    beside_title: str = ""

    @property
    def detail(self) -> str | None:
        """The last metric in `beside`, which matters most: the high band, or the other channel."""
        return self.beside[-1] if self.beside else None


@dataclass(frozen=True)
class Group:
    """The columns of one table; `compared` adds a table of paired differences."""

    title: str
    columns: tuple[Column, ...]
    compared: bool = True


def _bands(title: str, metric: str) -> Column:
    return Column(title, f"{metric}_full", (f"{metric}_low", f"{metric}_high"), "low / high")


LATENT = Group(
    "L1 of latents in the autoencoder's own space, in standard deviations of each channel; smaller is better",
    (Column("latent L1", "latent_l1"),),
)
QUALITY = Group(
    "listeners' ratings as predicted by models of hearing: 1 to 5, larger is better",
    (Column("Zimtohrli", "zimtohrli"), Column("ViSQOL", "visqol")),
    compared=False,
)
GROUPS = {
    "bwe": (
        Group("distances, smaller is better", (_bands("STFT-D", "stft_d"), _bands("mel-D", "mel_d"))),
        Group(
            "further measures: log-spectral distance, smaller is better; SI-SDR in dB, larger is better",
            (_bands("LSD", "lsd"), Column("SI-SDR", "si_sdr")),
            compared=False,
        ),
        LATENT,
        QUALITY,
    ),
    "m2s": (
        Group(
            "distances, smaller is better",
            (
                Column("STFT-D left", "stft_d_left", ("stft_d_right",), "right"),
                Column("mel-D left", "mel_d_left", ("mel_d_right",), "right"),
                Column("STFT-D side", "stft_d_side", ("stft_d_mid",), "mid"),
                Column("mel-D side", "mel_d_side", ("mel_d_mid",), "mid"),
            ),
        ),
        Group(
            "stereo cues, nearer to 0 is better: coherence of left and right; level of the side against the mid, "
            "absolute and signed, and level difference of left and right by band, in dB",
            (
                Column("coherence error", "coherence_error"),
                Column("side level error", "side_level_abs", ("side_level_error",), "signed"),
                Column("level difference error", "level_difference_error"),
            ),
        ),
        LATENT,
        QUALITY,
    ),
}
BALANCE = ("balance", "balance_reference")  # for figure 3; some rows have no other scores


def task_of(metrics: Iterable[str]) -> str:
    """The task that rows with these metrics belong to."""
    return "m2s" if "stft_d_left" in set(metrics) else "bwe"
