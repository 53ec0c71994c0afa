"""Reads and writes a trained MusicHiFi as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from reencoder_eval.baselines.musichifi.generator import Generator, GeneratorSizes
from reencoder_eval.baselines.musichifi.model import HOP, MusicHiFi, MusicHiFiTask
from reencoder_eval.baselines.weights import WRITTEN, build_restored, read_baseline, save_baseline, sizes_of
from reencoder_pipeline.errors import CheckpointError, in_one_line


def save_musichifi(path: Path, model: MusicHiFi, *, training: Mapping[str, Any]) -> None:
    """Write the generator without its weight norm (multiplied out); `training` records the weights' origin."""
    sizes = asdict(model.generator.sizes)
    save_baseline(path, plain_state(model.generator), kind=f"musichifi_{model.task}", sizes=sizes, training=training)


def load_musichifi(path: Path, *, task: MusicHiFiTask) -> MusicHiFi:
    """Read a file of save_musichifi, in eval mode on the CPU. CheckpointError for other files or another task."""
    state, sizes, _ = read_baseline(path, kind=f"musichifi_{task}")
    known = sizes_of(GeneratorSizes, sizes, where=path)
    if known.hop != HOP:
        value = f"rates {in_one_line(known.rates)}, whose product is not {HOP}"
        raise CheckpointError("the sizes are not those of MusicHiFi", where=path, value=value, remedy=WRITTEN)
    generator = build_restored(lambda: Generator(known), known, state, where=path)
    model = MusicHiFi(task, known)
    model.generator = generator
    return model.eval()


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module as if it had no weight norm; the module keeps it.

    (Removing the parametrisation from a copy would not do: torch removes it from a class that the original shares.)
    """
    state = {name: tensor for name, tensor in module.state_dict().items() if "parametrizations." not in name}
    for name, part in module.named_modules():
        if parametrize.is_parametrized(part, "weight"):
            state[f"{name}.weight"] = cast(Tensor, part.weight)
    return state
