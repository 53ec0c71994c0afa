"""Which scores the tables of a task show, and under what names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """`metric` is shown with its interval and its median, those `beside` it as plain means in one cell."""

    title: str
    metric: str
    beside: tuple[str, ...] = ()
    beside_title: str = ""

    @property
    def detail(self) -> str | None:
        """The metric beside it that matters most: the high band, the other channel."""
        return self.beside[-1] if self.beside else None


@dataclass(frozen=True)
class Group:
    """The columns of one table; `compared` if there is a table of paired differences too."""

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
    "what listeners would say, guessed by models of hearing: 1 to 5, larger is better",
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
BALANCE = ("balance", "balance_reference")  # of figure 3: some rows have no other score


def task_of(metrics: Iterable[str]) -> str:
    """The task that rows with these metrics belong to."""
    return "m2s" if "stft_d_left" in set(metrics) else "bwe"
