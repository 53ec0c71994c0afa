"""The diagnostics in words: a line each with its value, what it is, and, for a model card, how to read that value.

They come from autoencoder.json alone; what is not there is "not measured", and nothing here is a number of its own but
the bounds between one reading and the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reencoder_eval.metrics.latent_statistics import UNUSED_SIGMA, channels_that_carry
from reencoder_pipeline.errors import EvaluationError

NOT_MEASURED = "not measured"
NOT_AVAILABLE = "not available"
LISTED = 8  # channels named of those that carry the high band
NEARLY_ALL = 0.99

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """`meaning` belongs to the measure, `reading` to the value; it is empty where the value speaks for itself."""

    name: str
    value: str
    meaning: str
    reading: str = ""


def findings(diagnostics: Values | None) -> list[Finding]:
    """Diagnostics as in autoencoder.json -> a line for each; none when there was no diagnosis."""
    if diagnostics is None:
        return []
    try:
        return [*_of_channels(diagnostics), *_of_work(diagnostics), *_of_proximity(diagnostics)]
    except (KeyError, TypeError) as error:
        raise EvaluationError(
            "holds no diagnostics of this version",
            where="autoencoder.json",
            value=repr(error),
            remedy="evaluate the autoencoder again",
        ) from None


def _of_channels(values: Values) -> Iterator[Finding]:
    channels, count = values["channels"], len(values["channels"]["mean"])
    yield Finding("Channel means", span(channels["mean"]), "offset of each channel; a training on latents removes it")
    yield Finding(
        "Channel std",
        span(channels["std"]),
        "spread of each channel; a training on latents divides by it",
    )
    yield Finding(
        "Excess kurtosis", span(channels["excess_kurtosis"]), "0: Gaussian; large: rare outliers rule an L2 loss"
    )
    rank = channels["effective_rank"]
    yield Finding(
        "Effective rank",
        f"{number(rank, 1)} of {count} ({number(channels['effective_rank_correlation'], 1)} with equal channel power)",
        "exp of the entropy of the covariance's eigenvalue shares",
    )
    directions = channels_that_carry(np.linalg.eigvalsh(np.array(channels["correlation"])).tolist(), share=NEARLY_ALL)
    yield Finding(
        "Directions in use",
        f"{directions} of {count}",
        f"that hold {100 * NEARLY_ALL:.0f} % of the variance, with equal channel power",
        _by(
            _ratio(directions, count),
            (0.4, "most channels repeat each other: the latent is smaller than it looks"),
            (0.8, "channels overlap in part"),
            (None, "nearly every channel says something of its own"),
        ),
    )
    lag1 = middle(channels["lag1"])
    yield Finding(
        "Autocorrelation at lag 1",
        span(channels["lag1"]),
        "how much a frame tells of the next; 0: nothing",
        _by(
            lag1,
            (0.2, "frames are nearly independent: a module learns from channels, hardly from neighbours in time"),
            (0.6, "neighbours in time help a module somewhat"),
            (None, "frames are smooth in time: a module gains from a wide kernel"),
        ),
    )
    yield Finding(
        "Energy in the upper half",
        span(channels["upper_half"]),
        "share above half the latent Nyquist; white noise has 0.50",
    )
    yield Finding(
        "L1 of channel means",
        number(channels["mean_predictor_l1"]),
        "what knowing nothing costs, in std: the scale of every L1 below (Gaussian: 0.80)",
    )
    posterior = values["posterior"]
    meaning = "width of the posterior; the decoder was trained to tolerate noise of this size"
    if posterior is None:
        yield Finding("Posterior sigma", NOT_AVAILABLE, meaning)
        return
    yield Finding("Posterior sigma", span(posterior["sigma"]), meaning)
    unused = posterior["unused"]
    # A training that has not yet pushed an empty channel to the prior leaves it a sigma far below 1, and a mean that
    # hardly moves: 27 of 64 channels of one such training, none of which the first count sees.
    buried = sum(std < sigma < UNUSED_SIGMA for std, sigma in zip(channels["std"], posterior["sigma"], strict=True))
    yield Finding(
        "Unused channels",
        f"{unused} of {count}, and {buried} with a std below sigma",
        "posterior as wide as the prior (sigma near 1), or wider than the mean's own spread: they say next to nothing",
        "every channel rises above its posterior"
        if unused + buried == 0
        else "normalising would blow these up: leave them out of a latent loss",
    )
    yield Finding(
        "Information",
        f"{number(posterior['nats_per_frame'], 0)} nats a frame",
        "KL divergence of posterior from prior, channel by channel: what they repeat counts again",
    )


def _of_work(values: Values) -> Iterator[Finding]:
    gain, mixing, high = values["gain"], values["mixing"], values["high_band"]
    error, affine = gain["error"], gain["affine_error"]
    fits = error is not None and affine is not None and error >= 0.1 and affine < error / 3
    yield Finding(
        f"Gain error, g = {gain['gain']:g}",
        f"{number(error)} ({number(affine)} after an affine fit)",
        "|E(g x) - g E(x)| / |E(g x)|; fit: one factor and offset a channel",
        _by(
            error,
            (0.1, "a gain in latents is a gain in sound"),
            (0.4, "a gain in latents is roughly a gain in sound"),
            (None, "a gain in latents is not a gain in sound"),
        )
        + ("; a factor and an offset for each channel come much nearer" if fits else ""),
    )
    meaning = "|(zL + zR) / 2 - z_mono| / |z_mono|, means removed"
    if mixing is None:
        yield Finding("Mixing error", f"{NOT_MEASURED} (no stereo clip)", meaning)
    else:
        yield Finding(
            "Mixing error",
            f"{number(mixing['error'])} ({number(mixing['one_side'])} for zL alone)",
            f"{meaning} ({mixing['clips']} stereo clips)",
            _by(
                _ratio(mixing["error"], mixing["one_side"]),
                (0.2, "averaging latents is mixing: an upmixer may predict a difference around the mono latent"),
                (0.7, "averaging latents is mixing only roughly"),
                (None, "averaging latents is not mixing: an upmixer has to predict both channels in full"),
            ),
        )
        yield Finding(
            "Mixing error, decoded",
            f"{number(mixing['stft_d_mixed'])} ({number(mixing['stft_d_mono'])} for z_mono)",
            "STFT-D of decode((zL + zR) / 2) to the mono mix",
        )
    count = len(high["l1"])
    yield Finding(
        "High band",
        f"{high['carrying']} of {count} channels carry 80 % (most: {', '.join(map(str, high['order'][:LISTED]))})",
        "per channel, L1 between E(x) and E(low band of x)",
        _by(
            _ratio(high["carrying"], count),
            (0.3, "the high band lives in few channels: bandwidth extension may concentrate on them"),
            (None, "the high band is spread over most channels: bandwidth extension has to move them all"),
        ),
    )
    yield Finding(
        "High band, mean L1",
        number(float(np.mean(high["l1"]))),
        "what bandwidth extension has to make up for in latents",
    )
    yield Finding(
        "Shift sensitivity",
        series(values["shift_l1"]),
        "latent L1 when the music starts so many samples later",
        _by(
            _ratio(max(l1 for _, l1 in values["shift_l1"]), values["channels"]["mean_predictor_l1"]),
            (0.3, "where a frame begins hardly matters"),
            (0.8, "latents depend on where a frame begins"),
            (None, "a shift within a frame moves latents about as far as knowing nothing: they hold where it begins"),
        ),
    )
    noise = values["noise_stft_d"]
    yield Finding(
        "Decoder noise",
        series(noise),
        "STFT-D of decode(z + e std noise) for each e",
        _tolerance(noise),
    )


def _of_proximity(values: Values) -> Iterator[Finding]:
    proximity = values["proximity"]
    spearman = proximity["spearman"]
    yield Finding(
        "Proximity",
        f"{number(spearman)} ({number(proximity['lowest'])} to {number(proximity['highest'])} by clip)",
        f"rank correlation of latent L1 and STFT-D over {proximity['perturbations']} perturbations of a clip",
        _by(
            spearman,
            (0.5, "near in latents does not mean near in sound: check what a latent loss rewards by ear"),
            (0.8, "near in latents mostly means near in sound"),
            (None, "near in latents means near in sound, which is what an L1 on latents relies on"),
        ),
    )
    for kind in proximity["kinds"]:
        yield Finding(
            f"  {kind['kind']}",
            f"latent L1 {number(kind['latent_l1'])}, STFT-D {number(kind['stft_d'])}",
            "mean of these perturbations: how far they move latents, and sound",
        )


def number(value: float | None, digits: int = 2) -> str:
    return NOT_MEASURED if value is None else f"{value:z.{digits}f}"


def span(values: Sequence[float | None]) -> str:
    """The median and the extremes of one value per channel."""
    known = [value for value in values if value is not None]
    if not known:
        return NOT_MEASURED
    return f"{np.median(known):z.2f} ({min(known):z.2f} to {max(known):z.2f})"


def series(pairs: Sequence[Sequence[float | None]]) -> str:
    return ", ".join(f"{size:g}: {number(value)}" for size, value in pairs)


def middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _by(value: float | None, *readings: tuple[float | None, str]) -> str:
    """The first reading whose bound the value is below; the last one has no bound."""
    if value is None:
        return ""
    return next(text for bound, text in readings if bound is None or value < bound)


def _tolerance(noise: Sequence[Sequence[float | None]]) -> str:
    """The largest noise that costs less than a tenth of STFT-D."""
    (_, clean), *rest = noise
    if clean is None:
        return ""
    harmless = [size for size, value in rest if size is not None and value is not None and value < 1.1 * clean]
    if not harmless:
        return "even the smallest noise costs more than a tenth of STFT-D: errors of a module will be heard"
    return f"white noise of up to {max(harmless):g} std costs less than a tenth of STFT-D"
