"""An autoencoder's measurements, start to end: scores beside sinc, sizes, latent diagnostics -> one folder."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from reencoder_eval.autoencoder_report.diagnostics import DIAGNOSTICS_VERSION, diagnose
from reencoder_eval.autoencoder_report.latent_figure import latent_figure
from reencoder_eval.autoencoder_report.weights_record import weights_record
from reencoder_eval.clips.excerpts import Excerpt, load_excerpts
from reencoder_eval.config import ClipsConfig
from reencoder_eval.evaluate import choose, load_setup, score_systems
from reencoder_eval.evaluation_folder import AUTOENCODER, LATENTS_FIGURE, plain, read_json, working_in, write_json
from reencoder_eval.request import EvaluationRequest
from reencoder_eval.run_contents import costs_of
from reencoder_eval.run_systems import Evaluation
from reencoder_eval.tables.paper import TABLE_1
from reencoder_eval.tables.summary import Summary
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.progress import ProgressLine
from reencoder_pipeline.stores.atomic import write_whole

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


FORMAT = "reencoder-autoencoder-1"
ROWS = ("autoencoder", "sinc")
LIBRARIES = ("reencoder", "torch", "numpy", "scipy", "auraloss", "soxr")


def default_folder(name: str, split: str | None) -> Path:
    """out/eval/autoencoder/NAME/SPLIT: another autoencoder or split is another folder."""
    return Path("out/eval/autoencoder") / (plain(name.removesuffix(".safetensors")) or "_") / (split or "all")


def evaluate_autoencoder(
    request: EvaluationRequest, *, diagnostic_clips: int = 16, diagnostic_seconds: float = 5.0
) -> tuple[dict[str, Any], Evaluation]:
    """Score the reconstruction of the clips, diagnose the latents of the first of them, and write everything to the
    folder of the request, whose `autoencoder` is measured as in bwe, without modules and baselines.

    autoencoder.json is written last and holds every number. Running it again resumes: scores and diagnostics of the
    same weights, audio and measures are kept.

    Example::

        request = EvaluationRequest(source=Path("music"), out=Path("out/eval/house"), autoencoder="house")
        report, evaluation = evaluate_autoencoder(request)
    """
    if not request.source.exists():
        remedy = "give your own with --set source=/my/music, or: reencoder-cache fetch debian-music --out out/music"
        raise EvaluationError("there is no music to measure on", where=request.source, remedy=remedy)
    name, out = request.autoencoder, request.out
    choice = choose(request)
    setup = load_setup(request)
    setup = replace(setup, systems=[system for system in setup.systems if system.name in ROWS])
    coder = setup.autoencoder
    weights = weights_record(name, digest=coder.spec.weights)
    with working_in(out):
        evaluation, summary = score_systems(request, choice, setup, title=f"Autoencoder {name}: reconstruction")
        excerpts: Sequence[Excerpt] = []
        if diagnostic_clips:
            first = choice.clips[:diagnostic_clips]
            excerpts = load_excerpts(first, seconds=diagnostic_seconds, spec=coder.spec, resampler=setup.resampler)
        known = read_json(out / AUTOENCODER)
        settings = {key: getattr(request, key) for key in (*ClipsConfig.model_fields, "out")}
        settings |= {"diagnostic_clips": diagnostic_clips, "diagnostic_seconds": diagnostic_seconds}
        report = finite(
            {
                "format": FORMAT,
                "name": name,
                "autoencoder": described(coder),
                "weights": weights,
                "size": sizes(coder, costs_of(out)),
                "settings": {
                    "name": name,
                    **{key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
                },
                "clips": {
                    "count": summary.clips,
                    "tracks": summary.tracks,
                    "silent": summary.silent,
                    "failures": len(evaluation.failures),
                    "ids": [clip.id for clip in choice.clips],
                },
                "scores": scores(summary),
                "paper": {"label": TABLE_1[0].label, "gflops": TABLE_1[0].gflops, **TABLE_1[0].values},
                "diagnostics": diagnosed(coder, excerpts, seed=request.seed, device=request.device, known=known),
                "versions": versions(),
            }
        )
        if report["diagnostics"] is not None:
            write_whole(out / LATENTS_FIGURE, latent_figure(report["diagnostics"], title=figure_title(report)))
        write_json(out / AUTOENCODER, report)
    return report, evaluation


def described(coder: Autoencoder) -> dict[str, Any]:
    return {
        **coder.spec.to_dict(),
        "frame_rate": float(coder.spec.frame_rate),
        "context": coder.context,
        "local": coder.local,
        "licence": coder.licence,
    }


def diagnosed(
    coder: Autoencoder,
    excerpts: Sequence[Excerpt],
    *,
    seed: int,
    device: str,
    known: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """The diagnostics with the key that they belong to; those of `known` if it is the same. None without excerpts."""
    if not excerpts:
        return None
    made_of = [DIAGNOSTICS_VERSION, seed, coder.spec.to_dict(), hasattr(coder, "posterior")]
    key = hashlib.sha256(json.dumps([*made_of, *(one.digest for one in excerpts)]).encode()).hexdigest()
    before = (known or {}).get("diagnostics")
    if isinstance(before, dict) and before.get("key") == key:
        return before
    with ProgressLine("latents", unit="excerpts") as progress:
        return {"key": key, **diagnose(coder, excerpts, seed=seed, device=device, progress=progress)}


def sizes(coder: Autoencoder, costs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Parameters and GFLOPs per second of audio, for encoding and decoding; None where they cannot be counted."""
    parts = [coder] if isinstance(coder, nn.Module) else vars(coder).values()
    modules = [part for part in parts if isinstance(part, nn.Module)]
    halves = {
        side: [half for module in modules if isinstance(half := getattr(module, side, None), nn.Module)]
        for side in ("encoder", "decoder")
    }
    counted = (costs or {}).get("autoencoder", {})
    return {
        "parameters": parameters(modules),
        "encoder_parameters": parameters(halves["encoder"]),
        "decoder_parameters": parameters(halves["decoder"]),
        "encode_gflops": counted.get("encode", {}).get("gflops"),
        "decode_gflops": counted.get("decode", {}).get("gflops"),
        "times_real_time": (costs or {}).get("systems", {}).get("autoencoder", {}).get("times_real_time"),
        "machine": (costs or {}).get("machine"),
    }


def parameters(modules: Sequence[nn.Module]) -> int | None:
    return sum(value.numel() for module in modules for value in module.parameters()) or None


def scores(summary: Summary) -> dict[str, dict[str, Any]]:
    """system -> metric -> mean, its 95 % interval, median, and on how many clips."""
    return {
        system: {
            metric: {**asdict(cell.mean), "median": cell.median.value, "clips": cell.clips, "tracks": cell.tracks}
            for metric, cell in cells.items()
        }
        for system, cells in summary.cells.items()
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue  # a checkout on the path, not installed
    return found


def finite(value: Any) -> Any:
    """The same with None for every number that is not one: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def figure_title(report: Mapping[str, Any]) -> str:
    diagnostics, spec = report["diagnostics"], report["autoencoder"]
    seconds = diagnostics["samples"] / spec["sample_rate"]
    return (
        f"{report['name']}: latents of {len(diagnostics['clips'])} excerpts of {seconds:.1f} s, "
        f"{spec['channels']} channels at {spec['frame_rate']:.1f} Hz"
    )
