"""Runs every system on every clip and scores the results, in this process and in others."""

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
from tqdm import tqdm

from reencoder_eval.clips.choose import ClipChoice
from reencoder_eval.clips.read import Clip, ClipAudio, load_clip
from reencoder_eval.evaluation_folder import (
    AUDIO,
    COSTS,
    FAILURES,
    JOURNAL,
    REFERENCE,
    SCORES,
    append_row,
    audio_path,
    remove_stale,
    write_audio,
    write_rows,
)
from reencoder_eval.latent_scores import LatentRecord, add_latent_scores, record_path, write_record
from reencoder_eval.metrics.latent import encode_clip
from reencoder_eval.metrics.score import SCORING_VERSION, Quality, Scores, scoring_processes
from reencoder_eval.run_contents import read_scores
from reencoder_eval.systems.costs import measure_costs
from reencoder_eval.systems.system import System, estimate_of
from reencoder_pipeline.errors import EvaluationError, ReencoderError
from reencoder_pipeline.tasks import Task

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


Job = tuple[dict[str, Any], Future[Scores]]  # a row without its scores, and the scores


@dataclass(frozen=True)
class Evaluation:
    """`rows` are those of scores.jsonl; `failures` the clips and files that could not be used, as in failures.jsonl."""

    rows: tuple[dict[str, Any], ...]
    failures: tuple[dict[str, str], ...]


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
                failed.append(failure_of(error, where=clip.id))
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
                failed.append(failure_of(error, where=clip.id))
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
                failed.append(failure_of(error, where=f"{row['clip']}, {row['label']}"))
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


def failure_of(error: ReencoderError, *, where: object) -> dict[str, str]:
    return {"where": str(where), "what": error.what, "found": str(error.value)}


def _files_of(
    out: Path, rows: Sequence[Mapping[str, Any]], *, listening: Sequence[str], references: Mapping[str, str]
) -> set[Path]:
    """The audio of the clips that are listened to, and the latents of all."""
    files = {audio_path(out, clip, REFERENCE) for clip in listening}
    files |= {audio_path(out, row["clip"], row["system"], key=row["key"]) for row in rows if row["clip"] in listening}
    return files | {record_path(out, key) for key in (*references.values(), *(row["key"] for row in rows))}
