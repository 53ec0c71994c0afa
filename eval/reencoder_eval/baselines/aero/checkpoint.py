"""Reads and writes Aero's weights: our safetensors file, or the checkpoint of the original program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from reencoder_eval.baselines.aero.model import Aero, AeroConfig
from reencoder_eval.baselines.weights import build_restored, read_baseline, save_baseline, sizes_of
from reencoder_pipeline.errors import CheckpointError, ReencoderError, in_one_line
from reencoder_pipeline.stores.foreign_tensors import Inert, read_pickled

KIND = "aero"
ORIGINAL = "give a checkpoint.th of the original program, or our .safetensors file"
# Settings of the original program that the tensors do not show; this implementation has only these values.
UNSEEN = {"freq_emb": 0.2, "emb_scale": 10, "norm_groups": 4, "spec_upsample": True}


def save_aero(path: Path, model: Aero, *, training: Mapping[str, Any]) -> None:
    """Write one safetensors file; `training` records the weights' origin. Equal models give equal bytes."""
    save_baseline(path, model.state_dict(), kind=KIND, sizes=asdict(model.config), training=training)


def load_aero_weights(path: Path) -> Aero:
    """Read either kind of file (ours ends in .safetensors): an Aero in evaluation mode on the CPU, frozen.

    CheckpointError if the file is missing, foreign or damaged, or holds an Aero with other settings.
    """
    if path.suffix == ".safetensors":
        state, sizes, _ = read_baseline(path, kind=KIND)
        config = sizes_of(AeroConfig, sizes, where=path)
    else:
        config, state = _read_original(path)
    model = build_restored(lambda: Aero(config), config, state, where=path)
    return model.eval().requires_grad_(False)


def _read_original(path: Path) -> tuple[AeroConfig, dict[str, Tensor]]:
    """Sizes and tensors from `package["models"]["generator"]`; the rest of the file is ignored."""
    package = read_pickled(path, error=CheckpointError, what="a checkpoint of Aero", stand_ins=True)
    try:
        generator = package["models"]["generator"]
        settings, state = dict(generator["kwargs"]), dict(generator["state"])
    except (KeyError, TypeError, ValueError, IndexError):
        raise CheckpointError("the file holds no generator of Aero", where=path, remedy=ORIGINAL) from None
    others = [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]
    if others:
        value = [in_one_line(name) for name in others[:5]]
        raise CheckpointError("the generator's state holds more than tensors", where=path, value=value, remedy=ORIGINAL)
    other_settings = {
        name: settings[name]
        for name, value in UNSEEN.items()
        if name in settings and not isinstance(settings[name], Inert) and settings[name] != value
    }
    if other_settings:
        value = in_one_line(other_settings)
        raise CheckpointError(
            "this Aero has settings that are not implemented", where=path, value=value, remedy=ORIGINAL
        )
    return _config(settings, state, path), state


def _config(settings: dict[str, Any], state: dict[str, Tensor], path: Path) -> AeroConfig:
    """Rates and hop from the settings, the other sizes from the tensors (lists among the settings may be inert)."""
    try:
        depth = sum(name.endswith("freq_attn_block.freq_fc.weight") for name in state)
        freqs = [state[f"encoder.{index}.freq_attn_block.freq_fc.weight"].shape[0] for index in range(depth)]
        freqs.append(state[f"encoder.{depth - 1}.dconv.layers.0.act.a"].shape[0])
        return AeroConfig(
            channels=state["encoder.0.pre_conv.weight"].shape[0],
            n_fft=2 * freqs[0],
            hop=int(settings["hop_length"]),
            strides=tuple(before // after for before, after in pairwise(freqs)),
            low_rate=int(settings["lr_sr"]),
            high_rate=int(settings["hr_sr"]),
        )
    except KeyError as error:
        raise CheckpointError(
            "the generator is not the Aero implemented here",
            where=path,
            value=f"no {in_one_line(error)}",
            remedy=ORIGINAL,
        ) from None
    except (ReencoderError, TypeError, ValueError, ZeroDivisionError, IndexError, OverflowError) as error:
        raise CheckpointError(
            "the generator's sizes cannot be read", where=path, value=in_one_line(error), remedy=ORIGINAL
        ) from None
