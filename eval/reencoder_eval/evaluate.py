"""Systems x clips -> a run folder of scores, costs, audio, tables, listening page: the main path of this floor."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from reencoder_eval.baselines.baseline import load_baseline
from reencoder_eval.baselines.external import ExternalProgram
from reencoder_eval.clips import Clip, ClipAudio, ClipChoice, choose_clips, load_clip
from reencoder_eval.costs import measure_costs
from reencoder_eval.latent_distance import encode_clip
from reencoder_eval.latent_scores import LatentRecord, add_latent_scores, record_path, write_record
from reencoder_eval.listening_page import write_report
from reencoder_eval.listening_quality import require_available
from reencoder_eval.low_band import low_band_of, title_of
from reencoder_eval.run_contents import read_scores
from reencoder_eval.run_folder import (
    AUDIO,
    COSTS,
    EXTERNAL,
    FAILURES,
    JOURNAL,
    OWN,
    REFERENCE,
    RUN,
    SCORES,
    append_row,
    audio_path,
    remove_stale,
    working_in,
    write_audio,
    write_json,
    write_rows,
)
from reencoder_eval.scoring import SCORING_VERSION, Quality, Scores, scoring_processes
from reencoder_eval.systems import System, estimate_of, systems_of
from reencoder_eval.tables import write_tables
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.corpus import Track, assign_splits, read_corpus
from reencoder_pipeline.errors import EvaluationError, ReencoderError
from reencoder_pipeline.own_folder import require_own_folder
from reencoder_pipeline.tasks import Task, get_task
from reencoder_trainer.module_source import find_module
from reencoder_trainer.trained_module import load_module

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder

Job = tuple[dict[str, Any], Future[Scores]]  # a row without its scores, and the scores


@dataclass(frozen=True)
class Evaluation:
    """`rows` are those of scores.jsonl; `failures` the clips and files that could not be used, as in failures.jsonl."""

    rows: tuple[dict[str, Any], ...]
    failures: tuple[dict[str, str], ...]


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
            failures=[_failure(error, where=error.where) for error in choice.failures],
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


def run_systems(
    systems: Sequence[System],
    clips: Sequence[Clip],
    *,
    autoencoder: Autoencoder,
    task: Task,
    resampler: str,
    listening_clips: int,
    device: str,
    workers: int,
    out: Path,
    quality: Sequence[Quality] = (),
    failures: Sequence[dict[str, str]] = (),
    low_rate: int = 22_050,
) -> Evaluation:
    """Every system on every clip: writes costs.json, audio/, failures.jsonl and, when all is done, scores.jsonl.

    A clip that cannot be read, or a system that fails on one clip, is a failure and not the end. `failures` are those
    that came before. EvaluationError when nothing at all could be scored.
    """
    (out / AUDIO).mkdir(parents=True, exist_ok=True)
    known = {row["key"]: row for name in (SCORES, JOURNAL) for row in read_scores(out / name)}
    write_rows(out / JOURNAL, known.values())
    rows, failed = [], list(failures)
    references: dict[str, str] = {}  # clip -> key of the record of its reference's latents
    runnable = [system for system in systems if system.run is not None]

    def job(system: System, audio: ClipAudio, reference: np.ndarray, *, keep_audio: bool) -> Job:
        """Run one system on one clip and have the estimate scored, unless that is known.

        `reference` are the latents of the targets. The estimate's audio is kept where people listen to it.
        """
        measured = "/".join([str(SCORING_VERSION), *sorted(quality)])
        key = hashlib.sha256(f"{measured}/{system.name}/{system.digest}/{audio.digest}".encode()).hexdigest()
        clip, whole = audio.clip, system.scored == "all"
        row = {"clip": clip.id, "track": clip.track, "system": system.name, "label": system.label, "key": key}
        files = [record_path(out, key)] if whole else []
        if whole and keep_audio:
            files.append(audio_path(out, clip.id, system.name, key=key))
        scores: Future[Scores] = Future()
        if key in known and all(file.is_file() for file in files):
            scores.set_result(known[key]["scores"])
            return row, scores
        assert system.run is not None
        try:
            estimate = estimate_of(system, audio)
            if whole:
                latents = encode_clip(estimate, autoencoder=autoencoder, device=device)
                write_record(record_path(out, key), LatentRecord.of(latents, reference))
        except ReencoderError as error:
            scores.set_exception(error)
            return row, scores
        if whole and keep_audio:
            write_audio(files[-1], estimate, audio.sample_rate)
        settings = {"task": task.name, "scored": system.scored, "quality": tuple(quality), "edge_hz": low_rate / 2}
        return row, submit(estimate, audio.stack(task.targets), audio.sample_rate, **settings)

    def jobs() -> Iterator[Job]:
        costed = False
        for number, clip in enumerate(clips):
            try:
                audio = load_clip(
                    clip, task=task, sample_rate=autoencoder.spec.sample_rate, low_rate=low_rate, resampler=resampler
                )
            except ReencoderError as error:
                failed.append(_failure(error, where=clip.id))
                progress.update(len(runnable))
                continue
            if not costed:
                measure_costs(systems, audio, autoencoder=autoencoder, device=device, path=out / COSTS)
                progress.unpause()  # the time left is that of the scores
                costed = True
            latents = encode_clip(audio.stack(task.targets), autoencoder=autoencoder, device=device)
            try:
                write_record(record_path(out, audio.digest), LatentRecord.of(latents, latents))
            except EvaluationError as error:
                failed.append(_failure(error, where=clip.id))
                progress.update(len(runnable))
                continue
            references[clip.id] = audio.digest
            listened = number < listening_clips
            if listened:
                write_audio(audio_path(out, clip.id, REFERENCE), audio.stack(task.targets), audio.sample_rate)
            for system in runnable:
                yield job(system, audio, latents, keep_audio=listened)

    interval = 0.1 if sys.stderr.isatty() else 30.0
    with (
        scoring_processes(workers) as submit,
        tqdm(total=len(clips) * len(runnable), unit="score", file=sys.stderr, mininterval=interval) as progress,
    ):
        for row, scores in _ahead(jobs(), 2 * workers):
            try:
                rows.append({**row, "scores": scores.result()})
            except ReencoderError as error:
                failed.append(_failure(error, where=f"{row['clip']}, {row['label']}"))
            except BrokenProcessPool:
                raise EvaluationError(
                    "a process that scores was ended", where=f"{row['clip']}, {row['label']}",
                    remedy="was there too little memory? Fewer workers need less; the same command goes on",
                ) from None  # fmt: skip
            else:
                if row["key"] not in known:
                    append_row(out / JOURNAL, rows[-1])
            progress.update()
    write_rows(out / FAILURES, failed)
    if not rows:
        raise EvaluationError("no clip could be scored", where=out / FAILURES, value=f"{len(failed)} failures")
    add_latent_scores(out, rows, references)
    write_rows(out / SCORES, rows)
    (out / JOURNAL).unlink()
    listening = [clip.id for clip in clips[:listening_clips]]
    remove_stale(out, kept=_files_of(out, rows, listening=listening, references=references))
    return Evaluation(tuple(rows), tuple(failed))


def _ahead(jobs: Iterable[Job], count: int) -> Iterator[Job]:
    """The same jobs in the same order, each handed on when `count` more have been started."""
    started: deque[Job] = deque()
    for job in jobs:
        started.append(job)
        if len(started) > count:
            yield started.popleft()
    yield from started


def describe(choice: ClipChoice, *, listening_clips: int) -> dict[str, Any]:
    """Which excerpts were chosen, which were passed over and why; files by name only, folders differ by machine."""

    def plain(clip: Clip) -> dict[str, Any]:
        return {"id": clip.id, **asdict(clip), "path": clip.path.name}

    return {
        "clips": [plain(clip) for clip in choice.clips],
        "listening": [clip.id for clip in choice.clips[:listening_clips]],
        "silent": [plain(clip) for clip in choice.silent],
        "near_mono": [plain(clip) for clip in choice.near_mono],
        "too_short": list(choice.too_short),
    }


def _failure(error: ReencoderError, *, where: object) -> dict[str, str]:
    return {"where": str(where), "what": error.what, "found": str(error.value)}


def _files_of(
    out: Path, rows: Sequence[Mapping[str, Any]], *, listening: Sequence[str], references: Mapping[str, str]
) -> set[Path]:
    """The audio of the clips that are listened to, and the latents of all."""
    files = {audio_path(out, clip, REFERENCE) for clip in listening}
    files |= {audio_path(out, row["clip"], row["system"], key=row["key"]) for row in rows if row["clip"] in listening}
    return files | {record_path(out, key) for key in (*references.values(), *(row["key"] for row in rows))}
