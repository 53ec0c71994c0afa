"""Systems x clips -> a run folder of scores, costs, audio, tables, listening page: the main path of this floor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reencoder_eval.baselines.baseline import load_baseline
from reencoder_eval.baselines.external import ExternalProgram
from reencoder_eval.clips.choose import ClipChoice, choose_clips
from reencoder_eval.evaluation_folder import (
    EXTERNAL,
    OWN,
    RUN,
    working_in,
    write_json,
)
from reencoder_eval.low_band import low_band_of, title_of
from reencoder_eval.metrics.hearing_models import require_available
from reencoder_eval.metrics.score import Quality
from reencoder_eval.report.listening_page import write_report
from reencoder_eval.run_systems import Evaluation, describe, failure_of, run_systems
from reencoder_eval.systems.rows import systems_of
from reencoder_eval.systems.system import System
from reencoder_eval.tables.score_tables import write_tables
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.corpora.corpus import Track, read_corpus
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.stores.own_folder import require_own_folder
from reencoder_pipeline.tasks import get_task
from reencoder_trainer.release.find_module import find_module
from reencoder_trainer.trained_module import load_module

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


def evaluate(
    *,
    source: Path,
    split: str | None,
    valid_share: float,
    test_share: float,
    autoencoder: str,
    modules: Sequence[tuple[str, Path]],
    baselines: Sequence[tuple[str, Path | None, str | None]],
    external: Sequence[ExternalProgram],
    task: str,
    resampler: str | None,
    num_clips: int,
    clip_seconds: float,
    seed: int,
    listening_clips: int,
    device: str,
    workers: int,
    out: Path,
    quality: Sequence[Quality] = (),
) -> Evaluation:
    """Choose clips, run every system on each of them, score the estimates, and write tables and the listening page.

    `modules` are pairs of a label and what `find_module` finds, `baselines` of a name, a weights file (None: it has
    none, or it is only counted) and a label (None: its own). The low band is made as for the training of the modules,
    with another `resampler` only if one is given. Running it again resumes: a score is kept when it belongs
    to the same audio, the same system and the same metrics.
    """
    require_available(quality)
    require_own_folder(out, marks=OWN)  # before the work of choosing clips and loading models
    if device == "cuda" and not torch.cuda.is_available():
        raise EvaluationError("no CUDA device is available", where="device", value=device, remedy="use device: cpu")
    tracks = tracks_of_split(source, split, valid_share=valid_share, test_share=test_share)
    choice = choose_clips(tracks, task=task, num_clips=num_clips, clip_seconds=clip_seconds, seed=seed)
    coder = load_autoencoder(autoencoder, device=device)
    found = [(label, find_module(name)) for label, name in modules]
    raw_audio = [
        load_baseline(name, weights=weights, task=task, device=device, label=label)
        for name, weights, label in baselines
    ]
    raw_audio += [program.as_baseline(get_task(task), kept=out / EXTERNAL) for program in external]
    trained = [(label, path, load_module(path).to(device)) for label, path in found]
    low_rate, resampler = low_band_of(
        get_task(task), [(path, module) for _, path, module in trained], resampler=resampler, spec=coder.spec
    )
    systems = systems_of(
        get_task(task),
        coder,
        modules=trained,
        baselines=raw_audio,
        low_rate=low_rate,
        resampler=resampler,
        seed=seed,
        device=device,
    )
    with working_in(out):
        write_run(
            out,
            choice,
            systems,
            title=title_of(task, low_rate=low_rate, sample_rate=coder.spec.sample_rate),
            task=task,
            split=split,
            seed=seed,
            clip_seconds=clip_seconds,
            autoencoder=coder,
            low_rate=low_rate,
            resampler=resampler,
            listening_clips=listening_clips,
        )
        evaluation = run_systems(
            systems,
            choice.clips,
            autoencoder=coder,
            task=get_task(task),
            low_rate=low_rate,
            resampler=resampler,
            listening_clips=listening_clips,
            device=device,
            workers=workers,
            out=out,
            quality=quality,
            failures=[failure_of(error, where=error.where) for error in choice.failures],
        )
        write_tables(out)
        write_report(out)
    return evaluation


def tracks_of_split(source: Path, split: str | None, *, valid_share: float, test_share: float) -> list[Track]:
    """The tracks of one split (None: all); tracks without a split get one as they do when a cache is built."""
    tracks = assign_splits(read_corpus(source), valid_share=valid_share, test_share=test_share)
    chosen = [track for track in tracks if split is None or track.split == split]
    if not chosen:
        raise EvaluationError(
            "no track belongs to this split",
            where=source,
            value=f"{split}, of {len(tracks)} tracks",
            remedy="name another split, or null for every track",
        )
    return chosen


def write_run(
    out: Path,
    choice: ClipChoice,
    systems: Sequence[System],
    *,
    title: str,
    task: str,
    split: str | None,
    seed: int,
    clip_seconds: float,
    autoencoder: Autoencoder,
    resampler: str,
    listening_clips: int,
    low_rate: int = 22_050,
) -> None:
    """run.json: what was compared on what."""
    write_json(
        out / RUN,
        {
            "title": title,
            "task": task,
            "split": split,
            "seed": seed,
            "clip_seconds": clip_seconds,
            "sample_rate": autoencoder.spec.sample_rate,
            "autoencoder": autoencoder.spec.to_dict(),
            "low_rate": low_rate,
            "resampler": resampler,
            "systems": [
                {"name": system.name, "label": system.label, "about": system.about, "trained": system.run is not None}
                for system in systems
                if system.scored == "all"
            ],
            **describe(choice, listening_clips=listening_clips),
        },
    )
