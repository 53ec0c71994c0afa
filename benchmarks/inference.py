"""Measures the cost of using a module: alone, in batches, streaming, between encoder and decoder, and of baselines.

    python benchmarks/inference.py [--size S M M2S] [--length SECONDS] [--threads N] [--quick] [--no-compile]

Only cost is measured, at full size, so all weights except the house autoencoder's are random. The rows of each table
take turns. The last table splits the time of the first size by operator.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import Plan, Timing, clocked, interleaved, middle, ratio
from torch import nn

from reencoder_eval.baselines.aero.model import Aero, AeroConfig
from reencoder_eval.baselines.musichifi.model import MusicHiFi
from reencoder_eval.metrics.flops import count_flops
from reencoder_eval.systems.costs import speed_and_memory
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.module.condition import ConditionEncoder
from reencoder_trainer.module.latent_module import SIZES, LatentModule
from reencoder_trainer.module.normalisation import Normalisation, Scaling
from reencoder_trainer.reencoder import ReEncoder
from reencoder_trainer.release.export import export_module
from reencoder_trainer.trained_module import TrainedModule, save_module

Call = Callable[[], object]
SIZE_NAMES = ("S", "M", "M2S")
CHUNKS = (1, 4, 16, 43)  # frames
BATCH, BATCH_SECONDS = 16, 10
GOAL = 100  # times faster than each baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZE_NAMES, default=list(SIZE_NAMES))
    parser.add_argument("--length", type=float, default=1.0, help="seconds of audio in a call")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of a block, at least two calls")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--quick", action="store_true", help="skip baselines, compiler and profile")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, autoencoder = torch.device(options.device), load_autoencoder("house", device=options.device)
    plan = Plan(options.seconds, options.rounds, None)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, float32, {options.length:g} s of audio in a call, random weights")
    modules = {size: random_module(size, autoencoder.spec).to(device) for size in options.size}
    with torch.no_grad():
        print_alone(modules, options, plan, device=device)
        print_batch(modules, options, plan, device=device)
        print_streams(options.size[0], autoencoder.spec, plan, device=device)
        print_path(modules, autoencoder, options, plan, device=device)
        if not options.quick:
            print_profile(modules[options.size[0]], autoencoder.spec.frames_in(options.length), device=device)


# --- what is measured -------------------------------------------------------------------------------------------------


def random_module(size: str, spec: LatentSpec, *, response_frames: int | None = None) -> ReEncoder:
    """S and M for bwe; M2S is M with a condition and two targets."""
    torch.manual_seed(0)
    upmix = size == "M2S"
    task, shape = get_task("m2s" if upmix else "bwe"), SIZES["M" if upmix else size]
    out_channels, condition = spec.channels * len(task.targets), 64 if upmix else 0
    module = LatentModule(
        spec.channels, out_channels, **shape._asdict(), condition_channels=condition, response_frames=response_frames
    )
    for parameter in module.parameters():
        if not parameter.any():  # what starts at zero does no harm, but is no module
            nn.init.normal_(parameter, std=0.02)
    encoder = ConditionEncoder(out_channels, condition, blocks=2, width=shape.width).eval() if upmix else None
    scalings = (Scaling(torch.zeros(count, 1), torch.ones(count, 1)) for count in (spec.channels, out_channels))
    return ReEncoder(TrainedModule(module.eval(), task, spec, Normalisation(*scalings), {"steps": 0}, encoder))


def module_calls(
    modules: Mapping[str, ReEncoder], frames: int, *, compiled: bool, device: torch.device
) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for size, reencoder in modules.items():
        latents = torch.randn(1, reencoder.spec.channels, frames, device=device)
        calls[size] = lambda reencoder=reencoder, latents=latents: reencoder(latents)
        if device.type == "cpu":
            calls |= onnx_call(size, reencoder, latents.numpy())
        if compiled and size == next(iter(modules)):  # it takes a minute
            calls |= compiled_call(size, reencoder, latents)
    return calls


def onnx_call(size: str, reencoder: ReEncoder, latents: np.ndarray) -> dict[str, Call]:
    try:
        import onnxruntime
    except ImportError:
        print("onnxruntime is not installed: no such rows")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        save_module(reencoder.trained, Path(folder) / "module.safetensors")
        (found,) = export_module(Path(folder) / "module.safetensors", Path(folder), formats=["onnx"])
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(found.path), settings, providers=["CPUExecutionProvider"])
    inputs = {"latents": latents}
    if channels := reencoder.trained.module.condition_channels:
        inputs["condition"] = np.zeros((1, channels), dtype=np.float32)
    return {f"{size}, onnxruntime": lambda: session.run(None, inputs)}


def compiled_call(size: str, reencoder: ReEncoder, latents: torch.Tensor) -> dict[str, Call]:
    trained = reencoder.trained
    channels = trained.module.condition_channels
    condition = torch.zeros(1, channels, device=latents.device) if channels else None
    quick = torch.compile(trained.module)
    try:
        quick(latents, condition)
    except Exception as error:  # no C++ compiler, no Triton: whatever is missing raises its own
        print(f"torch.compile does not work here: {str(error).strip().splitlines()[0][:150]}")
        return {}
    return {f"{size}, compiled": lambda: quick(latents, condition)}


def baseline_calls(
    length: float, *, device: torch.device, batch: int = 1
) -> dict[str, tuple[Call, nn.Module, torch.Tensor]]:
    """The baselines at full size, on as much audio as a call of the modules."""
    torch.manual_seed(0)
    aero = Aero(AeroConfig()).eval().to(device)
    found: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "Aero": (aero, torch.randn(batch, 1, int(length * aero.config.low_rate), device=device))
    }
    for name in ("bwe", "m2s"):
        model = MusicHiFi(name).eval().to(device)
        frames = -(-int(length * 44_100) // 256)
        found[f"MusicHiFi-{name.upper()}"] = (model, torch.randn(batch, 1, 256 * frames, device=device))
    return {name: (lambda m=model, x=audio: m(x), model, audio) for name, (model, audio) in found.items()}


# --- tables -----------------------------------------------------------------------------------------------------------


def print_alone(
    modules: Mapping[str, ReEncoder], options: argparse.Namespace, plan: Plan, *, device: torch.device
) -> None:
    spec, length = next(iter(modules.values())).spec, options.length
    compiled = not (options.no_compile or options.quick)
    calls = module_calls(modules, spec.frames_in(length), compiled=compiled, device=device)
    gflops = {size: module_gflops(reencoder) for size, reencoder in modules.items()}
    baselines = {} if options.quick else baseline_calls(length, device=device)
    calls |= {name: call for name, (call, _, _) in baselines.items()}
    for name, (_, model, audio) in baselines.items():
        gflops[name] = count_flops(model, audio, modules=[model], seconds=length).gflops
    timings = interleaved({name: clocked(call, device=device) for name, call in calls.items()}, plan)
    _, peaks = speed_and_memory(calls, device=device.type)
    faster = "".join(f"{f'vs {name}':>19}" for name in baselines)
    print(f"\n{'alone':<18}{'ms':>10}{'x real time':>13}{'GFLOPs/s':>10}{'GFLOP/s done':>14}{'peak MB':>9}{faster}")
    for name, found in timings.items():
        step = middle(found).step
        count = gflops.get(name.partition(",")[0], 0.0)
        peak = "-" if (bytes_ := peaks[name]) is None else f"{bytes_ / 1e6:.0f}"
        ratios = "".join(f"{ratio(timings[other], found):>18.0f}x" for other in baselines)
        print(
            f"{name:<18}{1000 * step:>10.2f}{length / step:>13.1f}{count:>10.2f}"
            f"{count * length / step:>14.1f}{peak:>9}{ratios}"
        )
    print_goals(modules, baselines, timings)


def print_batch(
    modules: Mapping[str, ReEncoder], options: argparse.Namespace, plan: Plan, *, device: torch.device
) -> None:
    """Calls in batches; on CUDA also baselines, which on the CPU would take minutes a call."""
    calls: dict[str, Call] = {}
    for size, reencoder in modules.items():
        latents = torch.randn(BATCH, reencoder.spec.channels, reencoder.spec.frames_in(BATCH_SECONDS), device=device)
        calls[size] = lambda reencoder=reencoder, latents=latents: reencoder(latents)
    with_baselines = device.type == "cuda" and not options.quick
    baselines = baseline_calls(BATCH_SECONDS, device=device, batch=BATCH) if with_baselines else {}
    calls |= {name: call for name, (call, _, _) in baselines.items()}
    timings = interleaved({name: clocked(call, device=device) for name, call in calls.items()}, plan)
    print(f"\nin a batch of {BATCH} x {BATCH_SECONDS} s")
    for name, found in timings.items():
        ratios = "".join(f"{ratio(timings[other], found):>8.0f}x of {other}" for other in baselines)
        print(f"{name:<18}{BATCH * BATCH_SECONDS / middle(found).step:>10.0f} seconds of audio per second{ratios}")
    print_goals(modules, baselines, timings)


def print_goals(sizes: Iterable[str], baselines: Iterable[str], timings: Mapping[str, Sequence[Timing]]) -> None:
    for size in sizes:
        if ratios := [ratio(timings[other], timings[size]) for other in baselines]:
            least = min(ratios)
            print(f"{size}: at least {least:.0f} times faster; goal {GOAL}: {'met' if least >= GOAL else 'NOT met'}")


def module_gflops(reencoder: ReEncoder) -> float:
    """FLOPs per second of audio, without the condition encoder."""
    module, frames = reencoder.trained.module, reencoder.spec.frames_in(1)
    latents = torch.zeros(1, module.in_channels, frames, device=reencoder.trained.normalisation.inputs.mean.device)
    channels = module.condition_channels
    function = partial(module, condition=latents.new_zeros(1, channels)) if channels else module
    return count_flops(function, latents, modules=[module], seconds=frames / reencoder.spec.frame_rate).gflops


def print_streams(size: str, spec: LatentSpec, plan: Plan, *, device: torch.device) -> None:
    """A block continues one long piece, as a player would."""
    reencoder = random_module(size, spec, response_frames=1).to(device)
    stream = reencoder.streaming()
    milliseconds = 1000 * stream.latency_seconds
    print(f"\n{size} as a stream (response_frames: 1): latency {stream.latency_frames} frames, {milliseconds:.0f} ms")
    rows = {}
    for frames in CHUNKS:
        chunk, own = torch.randn(1, spec.channels, frames, device=device), reencoder.streaming()
        own(torch.randn(1, spec.channels, stream.latency_frames, device=device))  # from here on every frame gives one
        rows[frames] = clocked(lambda own=own, chunk=chunk: own(chunk), device=device)
    for frames, found in interleaved({str(frames): row for frames, row in rows.items()}, plan).items():
        step = middle(found).step
        seconds = int(frames) / float(spec.frame_rate)
        print(f"chunks of {frames:>3} frames{1000 * step:>10.2f} ms{seconds / step:>10.0f} x real time")


def print_path(
    modules: Mapping[str, ReEncoder],
    autoencoder: Autoencoder,
    options: argparse.Namespace,
    plan: Plan,
    *,
    device: torch.device,
) -> None:
    spec = autoencoder.spec
    audio = torch.randn(1, 1, spec.num_samples(spec.frames_in(options.length)), device=device)
    latents = autoencoder.encode(audio).clone()
    calls: dict[str, Call] = {
        "encode": lambda: autoencoder.encode(audio),
        "decode": lambda: autoencoder.decode(latents),
    }
    for size, reencoder in modules.items():

        def path(reencoder: ReEncoder = reencoder) -> list[Any]:
            parts = reencoder.split(reencoder(autoencoder.encode(audio)))
            return [autoencoder.decode(part) for part in parts.values()]

        calls[f"encode, {size}, decode"] = path
    print("\nwith the house autoencoder")
    timings = interleaved({name: clocked(call, device=device) for name, call in calls.items()}, plan)
    for name, found in timings.items():
        step = middle(found).step
        print(f"{name:<22}{1000 * step:>10.2f} ms{options.length / step:>10.0f} x real time")


def print_profile(reencoder: ReEncoder, frames: int, *, device: torch.device) -> None:
    latents = torch.randn(1, reencoder.spec.channels, frames, device=device)
    reencoder(latents)
    on_cuda = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_cuda else [])]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(20):
            reencoder(latents)
    rows = [
        (event.key, event.self_device_time_total if on_cuda else event.self_cpu_time_total, event.count)
        for event in profile.key_averages()
    ]
    total = sum(time for _, time, _ in rows)
    operators = sum(count for _, _, count in rows) // 20
    print(f"\nwhere the time of the first size goes: {total / 20_000:.2f} ms in {operators} operators")
    for key, time, count in sorted(rows, key=lambda row: -row[1])[:12]:
        print(f"{key:<40}{100 * time / total:>6.1f} %{count // 20:>6} calls")


if __name__ == "__main__":
    main()
