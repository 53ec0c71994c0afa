"""Compares the speed of a build with the bare encoder and with a loop over files, and measures its memory.

    python benchmarks/build.py SOURCE [--minutes 30] [--workers N] [--rounds 3] [--hours 3] [--autoencoder NAME]

SOURCE is a folder or manifest, of which the first stereo tracks are used, up to --minutes. Rows take turns:

    bare encoder      the same segments, already in memory; nothing but `encode`
    build             `reencoder-cache build`, from the command to the finished index
    files one by one  a whole file is read, made into streams, encoded at once and stored with np.save

All rows have the same number of processes, with one thread each. The time of bare encoder and loop starts when all
processes have loaded the autoencoder. A build's ratio is given with and without its planning and process starts.
Then follow the processor time outside the encoder, and the peak memory of encoding `--hours` of audio and three minutes
with a tiny autoencoder (0: neither).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rounds import Plan, Timing, interleaved, ratio

from reencoder_pipeline.audio.read import read_audio, read_blocks
from reencoder_pipeline.audio.resampling import Audio
from reencoder_pipeline.audio.survey import Surveyor
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.shape import VocosConfig
from reencoder_pipeline.autoencoders.vocos.weights import save_vocos
from reencoder_pipeline.build.build import build_cache
from reencoder_pipeline.config import CacheConfig
from reencoder_pipeline.corpora.corpus import Track, read_corpus
from reencoder_pipeline.encoding.encode import encode_batch
from reencoder_pipeline.encoding.encode_tracks import encode_tracks
from reencoder_pipeline.encoding.encoded_track import EncodedTrack
from reencoder_pipeline.encoding.segments import plan_segments
from reencoder_pipeline.encoding.settings import EncodeSettings
from reencoder_pipeline.encoding.stream_pieces import Piece, make_stream, read_pieces
from reencoder_pipeline.errors import AudioError
from reencoder_pipeline.stores.digests import file_digest

SHORT_MINUTES = 3.0  # of the track that the long one is compared with
IN_MEMORY = 48  # segments a process holds for the bare encoder; it goes through them again and again
Work = Callable[[Autoencoder], Callable[[], object]]
"""Prepares in a process of its own, and gives what is to be timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="minutes of encoding; each stream of a track counts"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long track; 0: skip memory")
    parser.add_argument("--autoencoder", default="house")
    parser.add_argument(
        "--shard-frames", type=int, default=8_192, help="small, so that a short corpus feeds all workers"
    )
    parser.add_argument("--batch-segments", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="folder for temporary files; default: the system's")
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("autoencoder", "shard_frames", "batch_segments")}
    config = CacheConfig.model_validate({**settings, "tasks": ["bwe", "m2s"]})
    tracks = chosen(read_corpus(arguments.source), minutes=arguments.minutes)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        compare(tracks, config, workers=arguments.workers, rounds=arguments.rounds, folder=Path(name))
        print_shares(tracks, config)
        if arguments.hours:
            print_memory(config, hours=arguments.hours, folder=Path(name))


def chosen(tracks: Sequence[Track], *, minutes: float) -> list[Track]:
    """The first stereo tracks of 20 s or more (a build encodes two streams of a mono file, the others four)."""
    found, seconds = [], 0.0
    for track in tracks:
        info = soundfile.info(track.path)
        if info.channels == 2 and info.duration >= 20 and seconds < 60 * minutes:
            found.append(track)
            seconds += info.duration
    if not found:
        raise AudioError(
            "the corpus has no stereo track of 20 s or more", value=f"{len(tracks)} tracks", remedy="give other music"
        )
    return found


# Throughput


def compare(tracks: Sequence[Track], config: CacheConfig, *, workers: int, rounds: int, folder: Path) -> None:
    autoencoder = load_autoencoder(config.autoencoder)
    spec = autoencoder.spec
    lengths = [soundfile.info(track.path).duration for track in tracks]
    seconds = len(config.streams) * sum(lengths)
    segment_frames = spec.frames_in(config.segment_seconds)
    segments = 0
    for length in lengths:
        frames = spec.num_frames(round(length * spec.sample_rate))
        plan = plan_segments(frames, segment_frames=segment_frames, context=autoencoder.context)
        segments += len(config.streams) * len(list(plan))
    starts, planning = list[float](), list[float]()
    shares = [tracks[number::workers] for number in range(min(workers, len(tracks)))]
    bare = [partial(bare_encoder, tracks[0], config, segments // workers) for _ in range(workers)]
    loop = [partial(files_one_by_one, share, config, folder) for share in shares]
    rows = {
        "bare encoder": lambda _: Timing(in_processes(bare, config, starts)),
        "build": lambda _: Timing(timed_build(tracks, config, workers=workers, folder=folder, planning=planning)),
        "files one by one": lambda _: Timing(in_processes(loop, config, [])),
    }
    timings = interleaved(rows, Plan(seconds=0.0, rounds=rounds, steps=1))
    print(f"{len(tracks)} tracks, {seconds / 60:.1f} stream minutes, {segments} segments, {workers} processes")
    print(f"{'':24} {'x real time':>12} {'of bare':>8}")
    overhead = float(np.median(starts)) + float(np.median(planning))
    timings["build, once it runs"] = [replace(one, step=one.step - overhead) for one in timings["build"]]
    for name, found in timings.items():
        speed = seconds / float(np.median([one.step for one in found]))
        print(f"{name:24} {speed:12.1f} {ratio(timings['bare encoder'], found):8.3f}")
    print(f"planning {np.median(planning):.1f} s, start of the processes {np.median(starts):.1f} s")
    print(f"build over files one by one: {ratio(timings['files one by one'], timings['build']):.2f} times as fast")


def in_processes(works: Sequence[Work], config: CacheConfig, starts: list[float]) -> float:
    """Seconds from when all processes are ready until the last is done; the seconds before are added to `starts`."""
    context = get_context("spawn")
    barrier = context.Barrier(len(works) + 1)
    processes = [context.Process(target=_process, args=(work, config.autoencoder, barrier)) for work in works]
    called = time.perf_counter()
    for process in processes:
        process.start()
    barrier.wait(timeout=600)
    began = time.perf_counter()
    for process in processes:
        process.join()
    assert not any(process.exitcode for process in processes)
    starts.append(began - called)
    return time.perf_counter() - began


def _process(work: Work, autoencoder: str, barrier: Any) -> None:
    torch.set_num_threads(1)
    run = work(load_autoencoder(autoencoder))
    barrier.wait()
    run()


def audio_pieces(track: Track, config: CacheConfig, autoencoder: Autoencoder) -> list[Audio]:
    """The segments of all streams, as a build gives them to the encoder."""
    items = read_pieces(track, autoencoder.spec, context=autoencoder.context, settings=EncodeSettings.of(config))
    return [item.audio for item in items if isinstance(item, Piece)]


def bare_encoder(track: Track, config: CacheConfig, count: int, autoencoder: Autoencoder) -> Callable[[], object]:
    pieces, size = audio_pieces(track, config, autoencoder)[:IN_MEMORY], config.batch_segments

    def run() -> None:
        for first in range(0, count, size):
            batch = [pieces[number % len(pieces)] for number in range(first, first + size)]
            encode_batch(autoencoder, batch, size=size)

    return run


def files_one_by_one(
    tracks: Sequence[Track], config: CacheConfig, folder: Path, autoencoder: Autoencoder
) -> Callable[[], object]:
    rate = autoencoder.spec.sample_rate

    def run() -> None:
        for number, track in enumerate(tracks):
            audio, _ = read_audio(track.path, sample_rate=rate)
            for name in config.streams:
                stream = make_stream(
                    name, audio, sample_rate=rate, low_band_rate=config.low_band_rate, resampler=config.resampler
                )
                latents = autoencoder.encode(torch.from_numpy(stream[None]))
                np.save(folder / f"{os.getpid()}.{number}.{name}.npy", latents[0].numpy().astype(config.precision))

    return run


def timed_build(
    tracks: Sequence[Track], config: CacheConfig, *, workers: int, folder: Path, planning: list[float]
) -> float:
    """Seconds of a whole build; the seconds of its planning are added to `starts`."""
    listing = folder / "tracks.txt"
    listing.write_text("".join(f"{track.path.resolve()}\n" for track in tracks))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        planned: list[float] = []
        began = time.perf_counter()
        build_cache(
            listing,
            Path(out) / "cache",
            config,
            progress=lambda done, total: planned.append(time.perf_counter() - began),
            workers=workers,
        )
        planning.append(planned[0])
        return time.perf_counter() - began


# Where the time goes


def print_shares(tracks: Sequence[Track], config: CacheConfig) -> None:
    """Processor time of one thread on the first track."""
    torch.set_num_threads(1)
    track, autoencoder = tracks[0], load_autoencoder(config.autoencoder)
    spec, context = autoencoder.spec, autoencoder.context
    blocks = list(read_blocks(track.path))
    settings = EncodeSettings.of(config)
    without = replace(settings, streams=tuple(name for name in config.streams if name != "low_band"))
    pieces = audio_pieces(track, config, autoencoder)
    surveyor = Surveyor(blocks[0][1], len(blocks[0][0]))
    reading = cost(lambda: list(read_blocks(track.path)))
    survey = cost(lambda: [surveyor.add(block) for block, _ in blocks])
    plain = cost(lambda: list(read_pieces(track, spec, context=context, settings=without)))
    every = cost(lambda: list(read_pieces(track, spec, context=context, settings=settings)))
    seconds = sum(block.shape[1] for block, _ in blocks) / blocks[0][1]
    few = pieces[: IN_MEMORY // 4]
    encoding = cost(lambda: [encode_batch(autoencoder, [piece], size=1) for piece in few])
    shares = {
        "encoder": encoding * len(pieces) / len(few),
        "digest": cost(lambda: file_digest(track.path)),
        "reading": reading,
        "survey": survey,
        "low band": max(0.0, every - plain),
        "resampling, cutting": max(0.0, plain - reading - survey),
    }
    print(f"\nprocessor's time on {track.path.name}, {seconds:.0f} s at {blocks[0][1]} Hz")
    for name, spent in shares.items():
        print(f"{name:24} {1e3 * spent / seconds:8.2f} ms a second {spent / sum(shares.values()):7.2%}")


def cost(call: Callable[[], object]) -> float:
    """The quicker of two runs."""
    found = [time.process_time()]
    for _ in range(2):
        call()
        found.append(time.process_time())
    return min(np.diff(found))


# Memory


@dataclass(frozen=True)
class Memory:
    """Memory of a process in MB: before encoding, at its peak, and the latents' share of the peak."""

    before: float
    peak: float
    latents: float


def print_memory(config: CacheConfig, *, hours: float, folder: Path) -> None:
    torch.manual_seed(0)
    weights = folder / "tiny.safetensors"
    save_vocos(Vocos(VocosConfig(fine=(16, 32, 1), coarse=(16, 32, 1))), weights, training={})
    config = config.model_copy(update={"autoencoder": str(weights)})
    print(f"\n{'track':>12} {'before, MB':>11} {'peak, MB':>9} {'latents, MB':>12} {'audio and the rest, MB':>23}")
    for minutes in (SHORT_MINUTES, 60 * hours):
        memory = in_a_process(write_track(folder / "track.wav", minutes=minutes), config)
        rest = memory.peak - memory.before - memory.latents
        print(f"{minutes:8.0f} min {memory.before:11.0f} {memory.peak:9.0f} {memory.latents:12.0f} {rest:23.0f}")


def write_track(path: Path, *, minutes: float) -> Path:
    noise = 0.1 * np.random.default_rng(0).standard_normal((44_100 * 10, 2)).astype(np.float32)
    with soundfile.SoundFile(path, "w", 44_100, 2, "PCM_16") as file:
        for _ in range(round(minutes * 6)):
            file.write(noise)
    return path


def in_a_process(path: Path, config: CacheConfig) -> Memory:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(encode_alone, (path, config))


def encode_alone(path: Path, config: CacheConfig) -> Memory:
    torch.set_num_threads(1)
    autoencoder = load_autoencoder(config.autoencoder)
    before = peak_mb()
    ((_, encoded),) = encode_tracks(
        autoencoder, [Track(id="track", path=path, split="train")], EncodeSettings.of(config)
    )
    assert isinstance(encoded, EncodedTrack), encoded
    return Memory(before, peak_mb(), sum(frames.nbytes for frames in encoded.streams.values()) / 1e6)


def peak_mb() -> float:
    """Linux only. Unlike getrusage's figure, this one does not include the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


if __name__ == "__main__":
    main()
