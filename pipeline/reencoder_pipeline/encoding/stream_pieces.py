"""Reads a track's file block by block, makes its streams at the autoencoder's rate, cuts and measures them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reencoder_pipeline.audio.block_resampling import BlockLowBand, BlockResampler
from reencoder_pipeline.audio.read import read_middle
from reencoder_pipeline.audio.resampling import Audio, downmix, low_band
from reencoder_pipeline.audio.survey import PEAK_LIMIT_DB, Survey, Surveyor
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.segments import Cutter, Segment
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.latents import LatentSpec


@dataclass(frozen=True)
class Piece:
    """A segment of a stream and its audio, (channels, samples)."""

    stream: str
    segment: Segment
    audio: Audio


@dataclass(frozen=True)
class Measured:
    """Measurements of the encoded part of a track, available once its file was read to the end without an error.

    `num_samples` is at the autoencoder's rate. `encoded_as`: stream -> the stream whose pieces it shares."""

    num_samples: int
    survey: Survey
    encoded_as: dict[str, str]


def read_pieces(
    track: Track, spec: LatentSpec, *, context: int, settings: EncodeSettings
) -> Iterator[Piece | Measured]:
    """Yield the pieces of every stream in order, and last the measurements. AudioError if the track cannot be used.

    Memory holds a block, and for every stream less than two segments and a block.
    """
    streams, surveyor = None, None
    for block, rate in read_middle(track.path, seconds=settings.track_seconds, num_samples=track.num_samples):
        if streams is None or surveyor is None:
            surveyor = Surveyor(rate, len(block))
            streams = _Streams(rate, len(block), spec, context=context, settings=settings)
        surveyor.add(block)
        yield from streams.add(block)
    assert streams is not None, "read_middle yields a block or raises an AudioError"
    assert surveyor is not None
    for piece in streams.finish():
        if streams.num_samples < spec.hop:
            what, value = "the track is shorter than one latent frame", f"{streams.num_samples} samples"
            raise AudioError(what, where=track.path, value=value, remedy="leave it out")
        yield piece
    found = surveyor.result()
    if found.peak_db is not None and found.peak_db > PEAK_LIMIT_DB:
        remedy = "scale it; for example, divide 16-bit integers that were written as floats by 32,768"
        value = f"its largest sample is at {found.peak_db:+.1f} dBFS"
        raise AudioError("the audio lies far above full scale", where=track.path, value=value, remedy=remedy)
    yield Measured(streams.num_samples, found, streams.encoded_as)


class _Streams:
    """Makes the streams of `make_stream` block by block, cut into segments."""

    def __init__(self, rate: int, channels: int, spec: LatentSpec, *, context: int, settings: EncodeSettings) -> None:
        self.num_samples = 0
        self.encoded_as = encoded_as(settings.streams, channels)
        same_rate = rate == spec.sample_rate
        self._to_rate = None if same_rate else BlockResampler(rate, spec.sample_rate, channels=channels)
        self._low_band = BlockLowBand(
            channels=1, sample_rate=spec.sample_rate, low_rate=settings.low_band_rate, resampler=settings.resampler
        )
        segment_frames = spec.frames_in(settings.segment_seconds)
        self._cutters = {
            name: Cutter(hop=spec.hop, segment_frames=segment_frames, context=context)
            for name in dict.fromkeys(self.encoded_as.values())
        }

    def add(self, audio: Audio) -> Iterator[Piece]:
        """(channels, samples) at the file's rate."""
        yield from self._add(audio if self._to_rate is None else self._to_rate.add(audio))

    def finish(self) -> Iterator[Piece]:
        if self._to_rate is not None:
            yield from self._add(self._to_rate.finish())
        for name, cutter in self._cutters.items():
            if name == "low_band":
                yield from (Piece(name, *cut) for cut in cutter.add(self._low_band.finish()))
            yield from (Piece(name, *cut) for cut in cutter.finish())

    def _add(self, audio: Audio) -> Iterator[Piece]:
        self.num_samples += audio.shape[1]
        for name, cutter in self._cutters.items():
            is_low_band = name == "low_band"
            stream = self._low_band.add(downmix(audio)) if is_low_band else plain_stream(name, audio)
            yield from (Piece(name, *cut) for cut in cutter.add(stream))


def encoded_as(names: Sequence[str], channels: int) -> dict[str, str]:
    """Stream -> the stream encoded for it: mono, left and right of a mono file are the same audio."""
    alike = [name for name in names if channels == 1 and name in ("mono", "left", "right")]
    return {name: alike[0] if name in alike else name for name in names}


def make_stream(name: str, audio: Audio, *, sample_rate: int, low_band_rate: int, resampler: str) -> Audio:
    """One view of a track: (1 or 2, samples) -> (1, samples), or (2, samples) for `stereo`. A mono file's channel is
    both left and right."""
    if name == "low_band":
        return low_band(downmix(audio), sample_rate=sample_rate, low_rate=low_band_rate, resampler=resampler)
    return plain_stream(name, audio)


def plain_stream(name: str, audio: Audio) -> Audio:
    """Make any stream except the low band. It works sample by sample, so also on blocks."""
    if name == "mono":
        return downmix(audio)
    if name == "stereo":
        return audio if len(audio) == 2 else audio.repeat(2, axis=0)
    return audio[:1] if name == "left" else audio[-1:]
