"""What a system costs: GFLOPs of what it adds, GFLOPs of the autoencoder's passes around it, and its speed."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from reencoder_eval.clips import ClipAudio
from reencoder_eval.flops import FlopCount
from reencoder_eval.run_folder import read_json, write_json
from reencoder_eval.systems import System, count_pass
from reencoder_pipeline.errors import EvaluationError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder

TIMED_RUNS = 3


def measure_costs(
    systems: Sequence[System], audio: ClipAudio, *, autoencoder: Autoencoder, device: str, path: Path
) -> None:
    """GFLOPs and speed of every system on one clip, with nothing else running; kept when `path` has them already."""
    digests = {system.name: system.digest for system in systems}
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    machine = torch.cuda.get_device_name() if device == "cuda" else cpu
    known = read_json(path)
    if known and known["digests"] == digests and known["machine"] == machine:
        return
    values = {
        "digests": digests,
        "machine": machine,
        "clip": audio.clip.id,
        "autoencoder": {stage: _counted(partial(count_pass, autoencoder, stage)) for stage in ("encode", "decode")},
        "systems": {
            system.name: {
                "stages": system.stages,
                "module": _counted(system.count) if system.count else None,
                "times_real_time": times_real_time(system, audio) if system.stages or system.count else None,
            }
            for system in systems
        },
    }
    write_json(path, values)


def _counted(count: Callable[[], FlopCount]) -> dict[str, Any]:
    """A model that the counters do not understand costs an unknown amount, and is evaluated all the same."""
    try:
        return asdict(count())
    except EvaluationError as error:
        return {"gflops": None, "note": f"{error.what} ({error.value})"}


def times_real_time(system: System, audio: ClipAudio) -> float:
    """Seconds of audio per second of work, autoencoder included: the median of a few runs after a first one."""
    system.run(audio)
    seconds = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        estimate = system.run(audio)
        seconds.append(time.perf_counter() - start)
    return estimate.shape[-1] / audio.sample_rate / median(seconds)
