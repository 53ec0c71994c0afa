"""Times the parts of an evaluation (reading, systems, latents, metrics) and the gain from scoring processes.

    python benchmarks/evaluation.py SOURCE [--task bwe|m2s] [--clips N] [--seconds S] [--baselines NAME ...]

The parts are timed one after the other on the same clips. Then whole evaluations with 0, 1 and 2 scoring processes take
turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

import torch

from reencoder_eval.baselines.baseline import load_baseline
from reencoder_eval.clips.choose import choose_clips
from reencoder_eval.clips.read import load_clip
from reencoder_eval.evaluate import tracks_of_split
from reencoder_eval.metrics.latent import encode_clip
from reencoder_eval.metrics.score import score_clip
from reencoder_eval.request import EvaluationRequest
from reencoder_eval.run_systems import Scoring, Setup
from reencoder_eval.systems.rows import systems_of
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.tasks import get_task

RESAMPLER = "soxr_vhq"
ROUNDS, WORKERS = 2, (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--task", choices=["bwe", "m2s"], default="bwe")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--baselines", nargs="*", default=[], help="baselines without weights: folding, decorrelation")
    arguments = parser.parse_args()
    task, coder = get_task(arguments.task), load_autoencoder("house")
    baselines = [load_baseline(name, task=task.name) for name in arguments.baselines]
    systems = systems_of(task, coder, baselines=baselines, resampler=RESAMPLER)
    tracks = tracks_of_split(arguments.source, None, valid_share=0.05, test_share=0.1)
    choice = choose_clips(tracks, task=task.name, num_clips=arguments.clips, clip_seconds=arguments.seconds, seed=0)
    threads = torch.get_num_threads()
    print(f"{len(choice.clips)} clips of {arguments.seconds:g} s, {len(systems)} systems, {threads} threads")

    seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def clocked(part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[part] += time.perf_counter() - start

    for clip in choice.clips:
        with clocked("reading clips"):
            audio = load_clip(clip, task=task, sample_rate=coder.spec.sample_rate, resampler=RESAMPLER)
        for system in systems:
            if system.run is None:
                continue
            with clocked("systems"):
                estimate = system.run(audio)
            with clocked("latents of estimates"):
                encode_clip(estimate, autoencoder=coder)
            with clocked("metrics"):
                score_clip(estimate, audio.stack(task.targets), audio.sample_rate, task=task.name, scored=system.scored)
    total = sum(seconds.values())
    for part, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{part:22s} {spent:7.2f} s  {spent / total:5.1%}")

    walls: dict[int, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for workers in WORKERS:
            with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
                start = time.perf_counter()
                request = EvaluationRequest(
                    source=arguments.source, out=Path(folder), task=task.name, listening_clips=0, workers=workers
                )
                Scoring(request, Setup(systems, coder, resampler=RESAMPLER)).run(choice)
                walls[workers].append(time.perf_counter() - start)
    alone = min(walls[0])
    for workers, values in walls.items():
        print(f"{workers} scoring processes: {min(values):.1f} s, {alone / min(values):.2f} times as fast as none")


if __name__ == "__main__":
    main()
