"""Decides by the survey of a file what to do: restore its upper band, make it stereo, both, or leave it alone."""

from __future__ import annotations

from dataclasses import dataclass

from reencoder_eval.apply.crossover import TRANSITION_HZ
from reencoder_eval.apply.options import ApplyOptions
from reencoder_pipeline.audio.survey import BWE_LOWEST_BANDWIDTH, M2S_SIDE_MID_DB, Survey

USABLE = 0.9  # of a rate's Nyquist frequency: above it resamplers take away
MONO_DB = M2S_SIDE_MID_DB[0]  # what training takes as no stereo
OPPOSED_DB = M2S_SIDE_MID_DB[1]
SILENT_DB = -90.0


@dataclass(frozen=True)
class Decision:
    """`band_hz` is where the input's own band ends, None where that was not asked. `channel`: of two that hold one
    signal, the one to take, because their mean would weaken or cancel it; None: the mean. `reasons` are for people."""

    upsample: bool
    upmix: bool
    band_hz: float | None
    reasons: tuple[str, ...]
    channel: int | None = None

    @property
    def copy(self) -> bool:
        return not (self.upsample or self.upmix)

    @property
    def edge_hz(self) -> float | None:
        """The middle of the crossover, which ends where the band of the original ends. None without a crossover."""
        return None if self.band_hz is None else max(TRANSITION_HZ / 2, self.band_hz - TRANSITION_HZ / 2)


def decide(survey: Survey, options: ApplyOptions, *, low_rate: int) -> Decision:
    """A full band is what training takes as one: 15.5 kHz or more. Near-mono is what training takes as no stereo.

    `low_rate` is that of the low band which the module was trained on.
    """
    if survey.level_db < SILENT_DB:
        return Decision(False, False, None, ("silent",))
    upsample, upmix = options.upsample is not None, options.upmix is not None
    reasons: list[str] = []
    channel = None
    band = options.band_hz or min(survey.bandwidth_hz, USABLE * survey.sample_rate / 2)
    if upsample and options.band_hz is None and band >= BWE_LOWEST_BANDWIDTH:
        upsample = False
        reasons.append(f"full band already ({survey.bandwidth_hz / 1000:.1f} kHz)")
    elif upsample:
        reasons.append(f"own band ends at {band / 1000:.1f} kHz")
        if band < USABLE * low_rate / 2 - 1000:
            start = low_rate / 2000
            reasons.append(f"between there and {start:.0f} kHz, where the module starts, little is restored")
    if upmix and survey.num_channels == 2:
        side = f"side {survey.side_mid_db:+.0f} dB against mid"
        if survey.side_mid_db <= MONO_DB:
            reasons.append("two channels that are one")
        elif survey.is_one_signal:
            channel = survey.louder
            what = f"besides one signal, the channels hold {survey.width_db:+.0f} dB"
            reasons.append(f"two channels that are one ({what}): the {('left', 'right')[channel]} one is taken")
        elif not options.force:
            upmix = False
            reasons.append(f"stereo already ({side})")
        else:
            lost = ": mixing it down loses much of it" if survey.side_mid_db > OPPOSED_DB else ""
            reasons.append(f"mixed down first ({side}){lost}")
    return Decision(upsample, upmix, band if upsample else None, tuple(reasons), channel)
