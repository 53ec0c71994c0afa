"""Writes the model card and the config.json of a module from the module file alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reencoder_pipeline.autoencoder import SHIPPED
from reencoder_pipeline.plain_text import front_matter, markdown_text, rendered
from reencoder_trainer.release.streaming import latency_frames
from reencoder_trainer.trained_module import TrainedModule

UNNAMED = "FILE, FOLDER, HUB ID OR FUNCTION OF ITS AUTOENCODER"


def render_card(trained: TrainedModule, *, name: str | None, licence: str | None, results: str = "") -> str:
    """Markdown with front matter for the hub.

    `name` is the argument of `ReEncoder.load` in the card's example. A `licence` of None is written as "not stated".
    `results` is Markdown about measurements on audio.
    """
    module, spec = trained.module, trained.spec
    tags = ["audio", "music", "latent-representation", "reencoder", trained.task.name]
    values = {
        "front_matter": front_matter(licence, tags=tags),
        "name": name,
        "load": json.dumps(name or "PATH OR HUB ID"),
        "trained": trained,
        "module": module,
        "spec": spec,
        "task": trained.task,
        "channels": module.condition_channels,
        # Readers copy the card's code, so it loads only autoencoders that ship with us and no name from a file.
        "autoencoder": json.dumps(spec.autoencoder if spec.autoencoder in SHIPPED else UNNAMED),
        "made": _made(trained),
        "latency": latency_frames(module),
        "licence": licence,
        "results": results,
        "training": json.dumps(dict(trained.training), indent=2, sort_keys=True, default=str),
    }
    return rendered(Path(__file__).with_name("module_card.md.jinja"), values)


def module_config(trained: TrainedModule) -> dict[str, Any]:
    """The contents of config.json: what the module takes and gives, for programs that have not loaded it."""
    module = trained.module
    return {
        "library_name": "reencoder",
        "task": asdict(trained.task),
        "spec": trained.spec.to_dict(),
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "blocks": module.size.blocks,
        "width": module.size.width,
        "condition_channels": module.condition_channels,
        "response_frames": module.response_frames,
        "low_band": asdict(trained.low_band),
        "window_frames": trained.window,
        "parameters": trained.num_parameters,
        "normalisation": "inside: raw latents in, raw latents out",
    }


def _made(trained: TrainedModule) -> str:
    """Says how the audio of the input streams is made."""
    if "low_band" not in trained.task.inputs:
        return markdown_text(", ".join(trained.task.inputs)) + ": the recording at its full band"
    rate, resampler = trained.low_band.assumed()
    doubt = "" if trained.low_band.known else " (assumed: the imported latents do not record it)"
    return markdown_text(f"low_band: mono, reduced to {rate:,} Hz and back by {resampler}{doubt}")
