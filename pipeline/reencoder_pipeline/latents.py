"""What a latent is: rate, hop and channels of the autoencoder it lives in, and exact samples <-> frames arithmetic."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, Literal

from reencoder_pipeline.errors import CacheError


@dataclass(frozen=True)
class LatentSpec:
    """Travels in every cache and checkpoint, so that latents of two autoencoders never meet.

    `weights` is the autoencoder's digest; `stereo` says whether channels are encoded one by one ("per_channel", latents
    (channels, frames) of one waveform) or together ("joint").
    """

    autoencoder: str
    weights: str
    sample_rate: int
    hop: int
    channels: int
    stereo: Literal["per_channel", "joint"] = "per_channel"

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second, exact: 44100/1024 is not 43."""
        return Fraction(self.sample_rate, self.hop)

    def num_frames(self, num_samples: int) -> int:
        """Frames that cover `num_samples`; the last one may be partly past the end."""
        return -(-num_samples // self.hop)

    def num_samples(self, num_frames: int) -> int:
        return num_frames * self.hop

    def frames_in(self, seconds: float) -> int:
        """The nearest whole number of frames to `seconds`, at least one."""
        return max(1, round(seconds * self.frame_rate))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, where: object = None) -> LatentSpec:
        names = {field.name for field in fields(cls)}
        if missing := names - set(values):
            raise CacheError("latent specification lacks fields", where=where, value=sorted(missing))
        return cls(**{name: values[name] for name in names})

    def require_same(self, other: LatentSpec, *, where: object, remedy: str) -> None:
        """CacheError that names every field in which `other` differs from this specification."""
        mine, theirs = self.to_dict(), other.to_dict()
        differing = {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}
        if differing:
            text = "; ".join(f"{name}: {a!r} here, {b!r} there" for name, (a, b) in differing.items())
            raise CacheError("latents of different autoencoders", where=where, value=text, remedy=remedy)
