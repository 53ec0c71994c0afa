"""Encodes tracks: a thread reads and measures ahead, and segments of several tracks share batches."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reencoder_pipeline.audio.survey import suited_tasks
from reencoder_pipeline.cache.formats import int8 as int8_frames
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.encoding.encode import CHECK_WEIGHTS, NOT_NUMBERS, encode_batch, kept_frames, require_steady
from reencoder_pipeline.encoding.encoded_track import EncodedTrack, Frames
from reencoder_pipeline.encoding.read_ahead import read_ahead
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.encoding.stream_pieces import Measured, Piece, read_pieces
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.stores.digests import file_digest

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


GROWTH_FRAMES = 8_192
BATCHES_AHEAD = 2  # batches that are read, resampled and cut while one is encoded


def encode_track(autoencoder: Autoencoder, track: Track, settings: EncodeSettings) -> EncodedTrack:
    """Read, measure and encode one track. AudioError if its file or its latents cannot be used.

    Example::

        encode_track(autoencoder, track, settings).streams["mono"].shape  # (frames, channels)
    """
    ((_, outcome),) = encode_tracks(autoencoder, [track], settings)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def encode_tracks(
    autoencoder: Autoencoder, tracks: Sequence[Track], settings: EncodeSettings
) -> Iterator[tuple[Track, EncodedTrack | Exception]]:
    """Yield every track in order, encoded or with its error: AudioError for a bad file; OSError and MemoryError, which
    may be temporary.

    Memory holds the latents of tracks that were not yielded yet, and a few segments of audio, however long a track is.
    A track's result depends only on its file, the weights and the settings, not on the other tracks.
    """
    spec = autoencoder.spec
    segment_samples = spec.num_samples(spec.frames_in(settings.segment_seconds))
    unfinished = deque(_Unfinished(track) for track in tracks)
    batches: dict[tuple[int, ...], list[tuple[_Unfinished, Piece]]] = defaultdict(list)  # by the shape of their audio
    read = _read(list(unfinished), spec, context=autoencoder.context, settings=settings)
    with closing(read_ahead(read, depth=BATCHES_AHEAD * max(settings.batch_segments, len(settings.streams)))) as items:
        for owner, item in items:
            if not isinstance(item, Piece):
                owner.end(item)
            elif owner.error is None:
                owner.waiting += 1
                batch = batches[item.audio.shape]
                batch.append((owner, item))
                # A track shorter than a segment is encoded alone.
                size = settings.batch_segments if item.audio.shape[1] == segment_samples else 1
                if len(batch) == size:
                    _encode(autoencoder, batch, size=size, precision=settings.precision)
                    batch.clear()
            while unfinished and unfinished[0].is_done:
                yield unfinished.popleft().outcome(spec, settings)
    for batch in batches.values():
        if batch:
            _encode(autoencoder, batch, size=settings.batch_segments, precision=settings.precision)
    for owner in unfinished:
        yield owner.outcome(spec, settings)


def _read(
    owners: Sequence[_Unfinished], spec: LatentSpec, *, context: int, settings: EncodeSettings
) -> Iterator[tuple[_Unfinished, Piece | Measured | Exception]]:
    """For each track in turn: its pieces, then its measurements or the error."""
    for owner in owners:
        try:
            _require_unchanged(owner.track)
            for item in read_pieces(owner.track, spec, context=context, settings=settings):
                yield owner, item
        except (AudioError, OSError, MemoryError) as error:
            yield owner, error


def _require_unchanged(track: Track) -> None:
    """Raise an OSError if the file has changed since its shard was named after its content."""
    if track.sha256 is not None and file_digest(track.path) != track.sha256:
        raise OSError(f"{track.path}: the file changed while the build was running; run the same command again")


def _encode(autoencoder: Autoencoder, batch: Sequence[tuple[_Unfinished, Piece]], *, size: int, precision: str) -> None:
    require_steady(autoencoder, size=size, shape=batch[0][1].audio.shape)
    try:
        latents = encode_batch(autoencoder, [piece.audio for _, piece in batch], size=size)
    except (OSError, MemoryError) as error:
        for owner, _ in batch:
            owner.waiting -= 1
            owner.error = owner.error or error
        return
    for (owner, piece), frames in zip(batch, latents, strict=True):
        owner.waiting -= 1
        owner.keep(piece, frames, precision=precision)


@dataclass(eq=False)
class _Unfinished:
    """A track in progress: `frames` of each stream so far, and the number of pieces `waiting` in a batch."""

    track: Track
    frames: dict[str, _Growing] = field(default_factory=dict)
    waiting: int = 0
    measured: Measured | None = None
    error: Exception | None = None
    is_read: bool = False

    @property
    def is_done(self) -> bool:
        return self.is_read and (self.error is not None or self.waiting == 0)

    def keep(self, piece: Piece, latents: NDArray[np.float32], *, precision: str) -> None:
        """Keep a segment's latents (T, C) without their context; remember an error if they cannot be stored."""
        kept = kept_frames(piece.segment, latents)
        with np.errstate(over="ignore"):
            stored = kept.astype(int8_frames.working_precision(precision))
        self.frames.setdefault(piece.stream, _Growing(stored.shape[1], stored.dtype)).append(stored)
        if self.error is None and not np.isfinite(stored).all():
            numbers, where, largest = np.isfinite(kept).all(), self.track.path, float(np.abs(kept).max())
            what, remedy = f"the latents do not fit {precision}", "build with --set precision=float32"
            unfit = AudioError(what, where=where, value=largest, remedy=remedy)
            self.error = unfit if numbers else AudioError(NOT_NUMBERS, where=where, remedy=CHECK_WEIGHTS)

    def end(self, result: Measured | Exception) -> None:
        """Record the end of the file. Its error replaces one of its latents: which appears first depends on batches."""
        self.is_read = True
        if isinstance(result, Exception):
            self.error = result
        else:
            self.measured = result

    def outcome(self, spec: LatentSpec, settings: EncodeSettings) -> tuple[Track, EncodedTrack | Exception]:
        if self.error is not None:
            return self.track, self.error
        assert self.measured is not None, "the file was read to its end"
        survey, tasks = self.measured.survey, self.track.tasks
        measured = suited_tasks(survey) if tasks is None else tasks
        encoded = {name: frames.whole() for name, frames in self.frames.items()}
        return self.track, EncodedTrack(
            track=self.track,
            num_samples=self.measured.num_samples,
            num_frames=spec.num_frames(self.measured.num_samples),
            tasks=measured if settings.tasks is None else settings.tasks,
            bandwidth_hz=round(survey.bandwidth_hz),
            side_mid_db=round(survey.side_mid_db, 1),
            level_db=round(survey.level_db, 1),
            peak_db=None if survey.peak_db is None else round(survey.peak_db, 1),
            streams=int8_frames.stored(
                {name: encoded[source] for name, source in self.measured.encoded_as.items()},
                settings.precision,
                keep_bits=settings.keep_bits,
            ),
        )


class _Growing:
    """Collects the frames of a stream, (frames, channels) in C order. It grows in place, which the kernel does without
    copying; joining pieces at the end would need twice the memory."""

    def __init__(self, channels: int, dtype: np.dtype[Any]) -> None:
        self._frames: Frames = np.empty((0, channels), dtype)
        self._length = 0

    def append(self, frames: Frames) -> None:
        first, self._length = self._length, self._length + len(frames)
        if self._length > len(self._frames):
            self._resize(self._length + GROWTH_FRAMES)
        self._frames[first : self._length] = frames

    def whole(self) -> Frames:
        """All frames; nothing may be appended afterwards."""
        self._resize(self._length)
        return self._frames

    def _resize(self, length: int) -> None:
        self._frames.resize((length, self._frames.shape[1]), refcheck=False)  # no other reference exists
