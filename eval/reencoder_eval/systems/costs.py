"""Measures what a system costs: GFLOPs of what it adds and of the autoencoder's passes around it, speed, memory."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from reencoder_eval.clips.read import ClipAudio
from reencoder_eval.evaluation_folder import COSTS, write_json
from reencoder_eval.metrics.flops import FlopCount
from reencoder_eval.run_contents import costs_of
from reencoder_eval.systems.system import System, count_pass, estimate_of
from reencoder_pipeline.errors import EvaluationError, ReencoderError

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


ROUNDS = 3
PROCESS = Path("/proc/self")  # where Linux reports the memory of a process


def measure_costs(
    systems: Sequence[System], audio: ClipAudio, *, autoencoder: Autoencoder, device: str, run: Path
) -> None:
    """GFLOPs, speed and memory of every system on one clip, with nothing else running; kept when `run` has them."""
    digests = {system.name: system.digest for system in systems}
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    machine = torch.cuda.get_device_name() if device == "cuda" else cpu
    known = costs_of(run)
    if known and known["digests"] == digests and known["machine"] == machine and "failed" not in known:
        return
    calls = {
        system.name: partial(estimate_of, system, audio)
        for system in systems
        if system.run is not None and system.scored == "all" and (system.stages or system.count)
    }
    speeds, peaks = speed_and_memory(calls, device=device)
    failed = [name for name in calls if name not in speeds]
    seconds = (audio.length - 2 * audio.margin) / audio.sample_rate
    values = {
        "digests": digests,
        "machine": machine,
        "clip": audio.clip.id,
        "autoencoder": {stage: _counted(partial(count_pass, autoencoder, stage)) for stage in ("encode", "decode")},
        "systems": {
            system.name: {
                "label": system.label,
                "trained": system.run is not None,
                "stages": system.stages,
                "module": _counted(system.count) if system.count else None,
                "times_real_time": seconds / speeds[system.name] if system.name in speeds else None,
                "peak_bytes": peaks.get(system.name),
            }
            for system in systems
            if system.scored == "all"
        },
        **({"failed": failed} if failed else {}),  # they are measured again
    }
    write_json(run / COSTS, values)


def _counted(count: Callable[[], FlopCount]) -> dict[str, Any]:
    """A model that cannot be counted has an unknown cost; it is evaluated all the same."""
    try:
        return asdict(count())
    except EvaluationError as error:
        return {"gflops": None, "note": f"{error.what} ({error.value})"}


def speed_and_memory(
    calls: Mapping[str, Callable[[], object]], *, device: str
) -> tuple[dict[str, float], dict[str, int | None]]:
    """Median seconds of a call, and the bytes it needs at its peak beyond what is there before it.

    All are called once to warm up, which is when memory is measured, and then in turns: a busy neighbour meets all of
    them. Memory is that of the process or, on CUDA, of torch on the device; None where the system does not tell. A call
    that fails is left out: as a row it is a failure, and what it costs is not known.
    """
    peaks: dict[str, int | None] = {}
    seconds: dict[str, list[float]] = {}
    for name, call in calls.items():
        with suppress(ReencoderError):
            peaks[name], seconds[name] = _peak_bytes(call, device=device), []
    for _ in range(ROUNDS):
        for name in list(seconds):
            start = time.perf_counter()
            try:
                calls[name]()
            except ReencoderError:
                del seconds[name], peaks[name]
            else:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}, peaks


def _peak_bytes(call: Callable[[], object], *, device: str) -> int | None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    try:
        _give_back_free_memory()
        (PROCESS / "clear_refs").write_text("5")  # sets the peak back to what is used now
        before = _resident_bytes("VmRSS")
    except OSError:
        call()
        return None
    call()
    return max(_resident_bytes("VmHWM") - before, 0)


def _give_back_free_memory() -> None:
    """What an earlier call has freed lies in the C library's heap, and would hide what the next one needs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _resident_bytes(name: str) -> int:
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))  # in kB
