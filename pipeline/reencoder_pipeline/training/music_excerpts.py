"""The training music as memory-mapped 16-bit stereo: decoded once, one file a track, never in memory as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np

from reencoder_pipeline.audio.read import read_audio
from reencoder_pipeline.audio.resampling import low_band
from reencoder_pipeline.corpora.corpus import Track
from reencoder_pipeline.errors import AudioError, CorpusError
from reencoder_pipeline.process_pool import spawned_pool
from reencoder_pipeline.progress import Say
from reencoder_pipeline.stores.atomic import replacing
from reencoder_pipeline.stores.digests import file_digest

VIEWS = ("left", "right", "mono", "mono")


def decode_corpus(
    tracks: Sequence[Track], folder: Path, *, sample_rate: int, workers: int | None, say: Say
) -> list[Path]:
    """Decode every track to folder/<sha256>.<rate>.s16, (samples, 2); finished files are kept, bad tracks named."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    with spawned_pool(workers) as pool:
        futures = {pool.submit(_decode, track, folder, sample_rate): track for track in tracks}
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                files.append(future.result())
            except (AudioError, OSError) as error:
                say(f"left out: {error}")
            if done % 20 == 0 or done == len(futures):
                say(f"decoded {done} of {len(futures)} tracks")
    if not files:
        raise CorpusError(
            "none of the tracks could be decoded", where=folder, remedy="see the reasons above, and correct the files"
        )
    return sorted(files)


def _decode(track: Track, folder: Path, sample_rate: int) -> Path:
    target = folder / f"{file_digest(track.path)}.{sample_rate}.s16"
    if not target.exists():
        audio, _ = read_audio(track.path, sample_rate=sample_rate, num_samples=track.num_samples)
        stereo = np.repeat(audio, 2, axis=0) if len(audio) == 1 else audio
        with replacing(target) as scratch:
            (stereo.T * 32767.0).round().clip(-32768, 32767).astype("<i2").tofile(scratch)
    return target


class PcmExcerpts:
    """Random excerpts; batch k is a pure function of (seed, k)."""

    def __init__(
        self,
        files: Sequence[Path],
        *,
        num_samples: int,
        sample_rate: int,
        low_band_share: float = 0.0,
        stereo: bool = False,
        seed: int,
    ) -> None:
        maps = [np.memmap(file, dtype="<i2", mode="r").reshape(-1, 2) for file in files]
        self.maps = [track for track in maps if len(track) > num_samples]
        if not self.maps:
            raise CorpusError(
                "every track is shorter than an excerpt", where="excerpt_seconds",
                remedy="give a smaller excerpt_seconds, or longer music",
            )  # fmt: skip
        self.ends = np.cumsum([len(track) - num_samples for track in self.maps])
        self.num_samples, self.sample_rate, self.seed = num_samples, sample_rate, seed
        self.low_band_share, self.stereo = low_band_share, stereo
        self.hours = sum(len(track) for track in self.maps) / sample_rate / 3600

    def batch(self, step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """This rank's share of the global batch: (batch / world_size, 1, num_samples) float32; 2 channels if `stereo`.

        Both channels, or left, right or mono, of a random place, gain -12 to 0 dB, either polarity, a share with only
        the low band.
        """
        return np.stack([self._excerpt(step, index) for index in range(rank, batch_size, world_size)])

    def _excerpt(self, step: int, index: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, step, index))
        position = int(rng.integers(self.ends[-1]))
        track = int(np.searchsorted(self.ends, position, side="right"))
        start = position - (int(self.ends[track - 1]) if track else 0)
        stereo = self.maps[track][start : start + self.num_samples].astype(np.float32) / 32768.0
        if self.stereo:
            audio = np.ascontiguousarray(stereo.T)  # (n, 2) -> (2, n)
        else:
            view = VIEWS[rng.integers(len(VIEWS))]
            audio = {"left": stereo[:, 0], "right": stereo[:, 1], "mono": stereo.mean(axis=1)}[view][None]
        if rng.random() < self.low_band_share:
            audio = low_band(audio, sample_rate=self.sample_rate)
        polarity = 1.0 if rng.random() < 0.5 else -1.0
        return (audio * polarity * 10.0 ** (rng.uniform(-12.0, 0.0) / 20.0)).astype(np.float32)
