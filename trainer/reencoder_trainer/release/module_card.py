"""Writes the model card and the config.json of a module from the module file alone."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import yaml

from reencoder_pipeline.autoencoder import SHIPPED
from reencoder_pipeline.plain_text import markdown_text
from reencoder_trainer.release.streaming import latency_frames
from reencoder_trainer.trained_module import TrainedModule

UNNAMED = "FILE, FOLDER, HUB ID OR FUNCTION OF ITS AUTOENCODER"
TASK_NAMES = {"bwe": "bandwidth extension", "m2s": "mono to stereo"}
CARD = """---
{front_matter}---
# {name}

A light module for {task} in the latent space of a frozen autoencoder: raw latents of {inputs} in, raw latents of
{targets} out. It never sees audio; the autoencoder encodes before it and decodes after it.

| | |
|---|---|
| task | {task_code}: {inputs} -> {targets} |
| size | {blocks} ConvNeXt-V2 blocks of {width} channels, {parameters} parameters{condition} |
| latents in, out | (B, {channels_in}, T), (B, {channels_out}, T); streams are stacked along channels |
| autoencoder | {autoencoder}, weights {weights} |
| its latents | {channels} channels, {frame_rate:.2f} frames per second ({sample_rate} Hz, hop {hop}), {stereo} |
| its inputs | {made} |
| training windows | {window_frames} frames, {window_seconds:.2f} s |
| normalisation | inside: per channel, by statistics of the training latents |
| streaming | {streaming} |
| licence of the weights | {licence} |

The latents must come from this autoencoder: `check` compares every field above, including the weights. The
autoencoder has a licence of its own.

## Use

```python
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_trainer.reencoder import ReEncoder

reencoder = ReEncoder.load({load})
autoencoder = load_autoencoder({autoencoder_name})
reencoder.check(autoencoder)
latents = reencoder(autoencoder.encode(audio){seed})
{decode}
```

{results}## Training

```json
{training}
```

`valid` holds mean L1 distances on unseen tracks in normalised latents: of the module (`l1`), of its unchanged input
(`l1_no_module`) and of the channel means (`l1_channel_means`). `level` is the difference between levels in nepers; for
two targets it includes the level of their side and the balance between them.
If the module takes a condition, these values use the oracle's condition and those ending in `_random` a random one;
`kl` is the information in the condition, in nats.
`precision` is the number format of matrix products in training and in `valid`; early files lack it.
"""


def render_card(trained: TrainedModule, *, name: str | None, licence: str | None, results: str = "") -> str:
    """Markdown with front matter for the hub.

    `name` is the argument of `ReEncoder.load` in the card's example. A `licence` of None is written as "not stated".
    `results` is Markdown about measurements on audio.
    """
    module, spec, task = trained.module, trained.spec, trained.task
    channels = module.condition_channels
    exact = module.response_frames is not None
    latency = latency_frames(module)
    values = {
        "front_matter": _front_matter(trained, licence=licence),
        "name": markdown_text(name or f"Re-Encoder {task.name}"),
        "load": json.dumps(name or "PATH OR HUB ID"),
        "task": TASK_NAMES.get(task.name, markdown_text(task.name)),
        "task_code": markdown_text(task.name),
        "inputs": markdown_text(", ".join(task.inputs)),
        "targets": markdown_text(", ".join(task.targets)),
        "blocks": module.size.blocks,
        "width": module.size.width,
        "parameters": f"{trained.num_parameters:,}",
        "condition": f" with the encoder of its condition of {channels}" if channels else "",
        "channels_in": module.in_channels,
        "channels_out": module.out_channels,
        "autoencoder": markdown_text(spec.autoencoder),
        # Readers copy the card's code, so it loads only autoencoders that ship with us and no name from a file.
        "autoencoder_name": json.dumps(spec.autoencoder if spec.autoencoder in SHIPPED else UNNAMED),
        "weights": markdown_text(spec.weights),
        "channels": spec.channels,
        "frame_rate": float(spec.frame_rate),
        "sample_rate": spec.sample_rate,
        "hop": spec.hop,
        "made": _made(trained),
        "window_frames": trained.window,
        "window_seconds": float(trained.window / spec.frame_rate),
        "stereo": {"joint": "both channels in one", "per_channel": "each channel its own"}.get(spec.stereo, ""),
        "streaming": f"exact, {latency} frames ({1000 * float(latency / spec.frame_rate):.0f} ms) of latency"
        if exact
        else "approximate only: its GRN looks at the whole piece",
        "licence": markdown_text(licence or "not stated"),
        "seed": ", seed=0" if channels else "",
        "decode": "audio = autoencoder.decode(latents)"
        if len(task.targets) == 1
        else "audio = {name: autoencoder.decode(part) for name, part in reencoder.split(latents).items()}",
        "results": f"## Results\n\n{results.strip()}\n\n" if results else "",
        "training": json.dumps(dict(trained.training), indent=2, sort_keys=True, default=str),
    }
    return CARD.format(**values)


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


def _front_matter(trained: TrainedModule, *, licence: str | None) -> str:
    # The hub knows licences by short lower-case names; any other is "other" with a license_name.
    known = licence is not None and re.fullmatch(r"[A-Za-z0-9.-]+", licence) is not None
    values = {
        **({"license": licence.lower()} if licence is not None and known else {}),
        **({"license": "other", "license_name": licence} if licence is not None and not known else {}),
        "library_name": "reencoder",
        "pipeline_tag": "audio-to-audio",
        "tags": ["audio", "music", "latent-representation", "reencoder", trained.task.name],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
