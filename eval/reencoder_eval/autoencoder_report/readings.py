"""Puts the diagnostics into words: a line for each with its value, what it is, and how to read that value.

The values come from autoencoder.json alone. A value that is not there is "not measured". The only numbers here are the
bounds between one reading and the next.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from reencoder_eval.metrics.latent_statistics import UNUSED_SIGMA, channels_that_carry
from reencoder_pipeline.errors import EvaluationError

NOT_MEASURED = "not measured"
NOT_AVAILABLE = "not available"
LISTED = 8  # channels named of those that carry the high band
NEARLY_ALL = 0.99

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """`meaning` belongs to the measure, `reading` to the value; it is empty where the value speaks for itself."""

    name: str
    value: str
    meaning: str
    reading: str = ""


class Measure(NamedTuple):
    """How to make a line: three format strings, the value that decides, and texts with the bounds that it is below."""

    name: str
    value: str
    meaning: str
    decides: str = ""
    texts: tuple[tuple[float | None, str], ...] = ()


MIXING = "|(zL + zR) / 2 - z_mono| / |z_mono|, means removed"
ABSENT = {  # a part that may be missing -> the one line that is then left of it
    "posterior": ("Posterior sigma", NOT_AVAILABLE),
    "mixing": ("Mixing error", f"{NOT_MEASURED} (no stereo clip)"),
}
MEASURES = (
    Measure("Channel means", "{channels[mean]:span}", "offset of each channel; a training on latents removes it"),
    Measure("Channel std", "{channels[std]:span}", "spread of each channel; a training on latents divides by it"),
    Measure("Excess kurtosis", "{channels[excess_kurtosis]:span}", "0: Gaussian; large: rare outliers rule an L2 loss"),
    Measure("Effective rank", "{channels[effective_rank]:1} of {count} ({channels[effective_rank_correlation]:1} with "
            "equal channel power)", "exp of the entropy of the covariance's eigenvalue shares"),
    Measure("Directions in use", "{directions} of {count}",
            f"that hold {100 * NEARLY_ALL:.0f} % of the variance, with equal channel power", "directions_share", (
                (0.4, "most channels repeat each other: the latent is smaller than it looks"),
                (0.8, "channels overlap in part"),
                (None, "nearly every channel says something of its own"))),
    Measure("Autocorrelation at lag 1", "{channels[lag1]:span}", "how much a frame tells of the next; 0: nothing",
            "middle_lag1", (
                (0.2, "frames are nearly independent: a module learns from channels, hardly from neighbours in time"),
                (0.6, "neighbours in time help a module somewhat"),
                (None, "frames are smooth in time: a module gains from a wide kernel"))),
    Measure("Energy in the upper half", "{channels[upper_half]:span}",
            "share above half the latent Nyquist; white noise has 0.50"),
    Measure("L1 of channel means", "{channels[mean_predictor_l1]:2}",
            "what knowing nothing costs, in std: the scale of every L1 below (Gaussian: 0.80)"),
    Measure("Posterior sigma", "{posterior[sigma]:span}",
            "width of the posterior; the decoder was trained to tolerate noise of this size"),
    Measure("Unused channels", "{posterior[unused]} of {count}, and {buried} with a std below sigma", "posterior as "
            "wide as the prior (sigma near 1), or wider than the mean's own spread: they say next to nothing",
            "empty", (
                (1, "every channel rises above its posterior"),
                (None, "normalising would blow these up: leave them out of a latent loss"))),
    Measure("Information", "{posterior[nats_per_frame]:0} nats a frame",
            "KL divergence of posterior from prior, channel by channel: what they repeat counts again"),
    Measure("Gain error, g = {gain[gain]:g}", "{gain[error]:2} ({gain[affine_error]:2} after an affine fit)",
            "|E(g x) - g E(x)| / |E(g x)|; fit: one factor and offset a channel", "gain_error", (
                (0.1, "a gain in latents is a gain in sound"),
                (0.4, "a gain in latents is roughly a gain in sound{fit}"),
                (None, "a gain in latents is not a gain in sound{fit}"))),
    Measure("Mixing error", "{mixing[error]:2} ({mixing[one_side]:2} for zL alone)",
            MIXING + " ({mixing[clips]} stereo clips)", "mixing_ratio", (
                (0.2, "averaging latents is mixing: an upmixer may predict a difference around the mono latent"),
                (0.7, "averaging latents is mixing only roughly"),
                (None, "averaging latents is not mixing: an upmixer has to predict both channels in full"))),
    Measure("Mixing error, decoded", "{mixing[stft_d_mixed]:2} ({mixing[stft_d_mono]:2} for z_mono)",
            "STFT-D of decode((zL + zR) / 2) to the mono mix"),
    Measure("High band", "{high_band[carrying]} of {count} channels carry 80 % (most: {high_band[order]:listed})",
            "per channel, L1 between E(x) and E(low band of x)", "carrying_share", (
                (0.3, "the high band lives in few channels: bandwidth extension may concentrate on them"),
                (None, "the high band is spread over most channels: bandwidth extension has to move them all"))),
    Measure("High band, mean L1", "{high_l1:2}", "what bandwidth extension has to make up for in latents"),
    Measure("Shift sensitivity", "{shift_l1:series}", "latent L1 when the music starts so many samples later",
            "shift_ratio", (
                (0.3, "where a frame begins hardly matters"),
                (0.8, "latents depend on where a frame begins"),
                (None, "a shift within a frame moves latents about as far as knowing nothing: they hold where it "
                       "begins"))),
    Measure("Decoder noise", "{noise_stft_d:series}", "STFT-D of decode(z + e std noise) for each e", "harmless", (
                (1e-9, "even the smallest noise costs more than a tenth of STFT-D: errors of a module will be heard"),
                (None, "white noise of up to {harmless:g} std costs less than a tenth of STFT-D"))),
    Measure("Proximity", "{proximity[spearman]:2} ({proximity[lowest]:2} to {proximity[highest]:2} by clip)",
            "rank correlation of latent L1 and STFT-D over {proximity[perturbations]} perturbations of a clip",
            "spearman", (
                (0.5, "near in latents does not mean near in sound: check what a latent loss rewards by ear"),
                (0.8, "near in latents mostly means near in sound"),
                (None, "near in latents means near in sound, which is what an L1 on latents relies on"))),
)  # fmt: skip


def readings(diagnostics: Values | None) -> list[Reading]:
    """Diagnostics as in autoencoder.json -> a line for each; none when there was no diagnosis."""
    if diagnostics is None:
        return []
    lines, text_of = [], _Text().format
    try:
        facts = {**diagnostics, **_derived(diagnostics)}
        for one in MEASURES:
            absent = next((part for part in ABSENT if diagnostics[part] is None and f"{{{part}[" in one.value), None)
            if absent is None:
                text = _below(facts.get(one.decides), one.texts)
                lines.append(Reading(*(text_of(part, **facts) for part in (one.name, one.value, one.meaning, text))))
            elif one.name == ABSENT[absent][0]:
                lines.append(Reading(*ABSENT[absent], one.meaning.partition(" ({")[0]))
        for kind in diagnostics["proximity"]["kinds"]:
            value = f"latent L1 {measured(kind['latent_l1'])}, STFT-D {measured(kind['stft_d'])}"
            meaning = "mean of these perturbations: how far they move latents, and sound"
            lines.append(Reading(f"  {kind['kind']}", value, meaning))
    except (KeyError, TypeError) as error:
        raise EvaluationError(
            "the file holds no diagnostics of this version",
            where="autoencoder.json",
            value=repr(error),
            remedy="evaluate the autoencoder again",
        ) from None
    return lines


def _below(value: float | None, texts: Sequence[tuple[float | None, str]]) -> str:
    """The first text whose bound the value is below; the last one has no bound."""
    return "" if value is None else next((text for bound, text in texts if bound is None or value < bound), "")


def _derived(values: Values) -> dict[str, Any]:
    """The values that decide between readings, and those that are shown and not stored."""
    channels, posterior, gain, mixing = (values[key] for key in ("channels", "posterior", "gain", "mixing"))
    high, count = values["high_band"], len(channels["mean"])
    directions = channels_that_carry(np.linalg.eigvalsh(np.array(channels["correlation"])).tolist(), share=NEARLY_ALL)
    # A training that has not yet pushed an empty channel to the prior leaves it a sigma far below 1, and a mean that
    # hardly moves: 27 of 64 channels of one such training, none of which `unused` counts.
    pairs = zip(channels["std"], posterior["sigma"], strict=True) if posterior else ()
    buried = sum(std < sigma < UNUSED_SIGMA for std, sigma in pairs)
    lags = [value for value in channels["lag1"] if value is not None]
    error, affine = gain["error"], gain["affine_error"]
    (_, clean), *noisy = values["noise_stft_d"]
    return {
        "count": count,
        "directions": directions,
        "directions_share": _ratio(directions, count),
        "buried": buried,
        "empty": posterior["unused"] + buried if posterior else None,
        "middle_lag1": float(np.median(lags)) if lags else None,
        "gain_error": error,
        "fit": "; a factor and an offset for each channel come much nearer"
        if error is not None and affine is not None and affine < error / 3
        else "",
        "mixing_ratio": _ratio(mixing["error"], mixing["one_side"]) if mixing else None,
        "carrying_share": _ratio(high["carrying"], len(high["l1"])),
        "high_l1": float(np.mean(high["l1"])),
        "shift_ratio": _ratio(max(l1 for _, l1 in values["shift_l1"]), channels["mean_predictor_l1"]),
        # The largest noise that costs less than a tenth of STFT-D.
        "harmless": None
        if clean is None
        else max((size for size, value in noisy if value is not None and value < 1.1 * clean), default=0.0),
        "spearman": values["proximity"]["spearman"],
    }


def measured(value: float | None, digits: int = 2) -> str:
    return NOT_MEASURED if value is None else f"{value:z.{digits}f}"


def span(values: Sequence[float | None]) -> str:
    """The median and the extremes of one value per channel."""
    known = [value for value in values if value is not None]
    return f"{np.median(known):z.2f} ({min(known):z.2f} to {max(known):z.2f})" if known else NOT_MEASURED


FORMATS = {
    "0": partial(measured, digits=0),
    "1": partial(measured, digits=1),
    "2": measured,
    "span": span,
    "series": lambda pairs: ", ".join(f"{size:g}: {measured(value)}" for size, value in pairs),
    "listed": lambda order: ", ".join(map(str, order[:LISTED])),
}


class _Text(string.Formatter):
    """Format strings that know FORMATS besides Python's own."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return FORMATS[format_spec](value) if format_spec in FORMATS else super().format_field(value, format_spec)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
