"""What `reencoder-apply export` does: the files of latents to compare on, and the exports beside the module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reencoder_eval.apply.files.latents_io import read_latents
from reencoder_eval.apply.files.outputs import require_folder
from reencoder_trainer.release.export import FORMATS, Exported, export_module
from reencoder_trainer.release.find_module import find_module
from reencoder_trainer.trained_module import load_module


def export_and_compare(
    module: str | Path,
    out: Path,
    *,
    formats: Sequence[str] | None,
    latents: Sequence[Path],
    overwrite: bool = False,
) -> tuple[Exported, ...]:
    """`latents` are files (C, T) of the module's autoencoder: CacheError where they say that they are of another."""
    path = find_module(module)
    require_folder(out, dry_run=False)
    spec = load_module(path).spec
    examples = []
    for file in latents:
        found = read_latents(file)
        if found.spec is not None:
            remedy = "give latents of the module's autoencoder"
            spec.require_same(found.spec, where=file, remedy=remedy)
        examples.append(torch.from_numpy(np.array(found.values, dtype=np.float32))[None])
    return export_module(path, out, formats=formats or FORMATS, latents=examples, overwrite=overwrite)
