"""Describes the latents of one autoencoder (`LatentSpec`) and converts between samples, frames and seconds exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, Literal

from reencoder_pipeline.errors import CacheError


@dataclass(frozen=True)
class LatentSpec:
    """Identifies an autoencoder and the shape of its latents, (channels, frames).

    Every cache and checkpoint stores it, so that latents of different autoencoders are never mixed. `weights` is the
    digest of the weights. `stereo`: "per_channel" encodes each waveform alone, "joint" both channels together.

    Example::

        spec = LatentSpec("house", weights="9f3c", sample_rate=44_100, hop=1024, channels=64)
        spec.num_frames(44_100)  # 44
        spec.frame_rate  # Fraction(11025, 256), frames per second
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
        """Frames that cover `num_samples`; the last one may reach past the end."""
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
            what, remedy = "the description of the latents lacks fields", "restore the file, or make it again"
            raise CacheError(what, where=where, value=sorted(missing), remedy=remedy)
        return cls(**{name: values[name] for name in names})

    def differences(self, other: LatentSpec) -> dict[str, tuple[Any, Any]]:
        """Field -> its two values, where they differ."""
        theirs = other.to_dict()
        return {name: (mine, theirs[name]) for name, mine in self.to_dict().items() if mine != theirs[name]}

    def require_same(self, other: LatentSpec, *, where: object, remedy: str) -> None:
        """Raise a CacheError that names every field in which `other` differs, if any does."""
        if differing := self.differences(other):
            text = "; ".join(f"{name}: {a!r} here, {b!r} there" for name, (a, b) in differing.items())
            raise CacheError("the latents belong to different autoencoders", where=where, value=text, remedy=remedy)
