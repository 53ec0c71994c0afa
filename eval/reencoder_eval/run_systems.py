"""Runs every system on every clip and scores the results, in this process and in others."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reencoder_eval.clips.choose import ClipChoice
from reencoder_eval.clips.read import Clip, ClipAudio, load_clip
from reencoder_eval.evaluation_folder import (
    AUDIO,
    FAILURES,
    JOURNAL,
    REFERENCE,
    SCORES,
    append_row,
    audio_path,
    remove_stale,
    write_audio,
)
from reencoder_eval.latent_scores import LatentRecord, add_latent_scores, record_path, write_latent_record
from reencoder_eval.metrics.latent import encode_clip
from reencoder_eval.metrics.score import SCORING_VERSION, Scores, Submit, scoring_processes
from reencoder_eval.request import EvaluationRequest
from reencoder_eval.run_contents import read_scores
from reencoder_eval.systems.costs import measure_costs
from reencoder_eval.systems.system import System, estimate_of
from reencoder_pipeline.errors import EvaluationError, ReencoderError
from reencoder_pipeline.progress import ProgressLine
from reencoder_pipeline.stores.jsonl import write_json_lines
from reencoder_pipeline.tasks import LOW_BAND_RATE, get_task

if TYPE_CHECKING:
    from reencoder_pipeline.autoencoder import Autoencoder


PendingRow = tuple[dict[str, Any], Future[Scores]]  # a row without its scores, and the scores


@dataclass(frozen=True)
class Setup:
    """The rows of a table, the autoencoder of all of them, and how the low band of the clips is made."""

    systems: Sequence[System]
    autoencoder: Autoencoder
    low_rate: int = LOW_BAND_RATE
    resampler: str = "soxr_vhq"


@dataclass(frozen=True)
class Evaluation:
    """`rows` are those of scores.jsonl; `failures` the clips and files that could not be used, as in failures.jsonl."""

    rows: tuple[dict[str, Any], ...]
    failures: tuple[dict[str, str], ...]


class Scoring:
    """Every system on every clip: writes costs.json, audio/, failures.jsonl and, when all is done, scores.jsonl.

    It reads task, metrics, device, processes and folder from `request`. A clip that cannot be read,
    or a system that fails on one clip, is a failure, and the others go on.
    """

    def __init__(self, request: EvaluationRequest, setup: Setup) -> None:
        self.request, self.setup, self.out, self.task = request, setup, request.out, get_task(request.task)
        self.runnable = [system for system in setup.systems if system.run is not None]
        self.measured = "/".join([str(SCORING_VERSION), *sorted(request.quality)])
        self.known: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []
        self.done = 0
        self.references: dict[str, str] = {}  # clip -> key of the record of its reference's latents

    def run(self, choice: ClipChoice) -> Evaluation:
        """EvaluationError when nothing at all could be scored."""
        (self.out / AUDIO).mkdir(parents=True, exist_ok=True)
        self.known = {row["key"]: row for name in (SCORES, JOURNAL) for row in read_scores(self.out / name)}
        write_json_lines(self.out / JOURNAL, self.known.values())
        self.failures = [clip_failure(error, where=error.where) for error in choice.failures]
        total = len(choice.clips) * len(self.runnable)
        with (
            scoring_processes(self.request.workers) as submit,
            ProgressLine("scoring", unit="scores") as progress,
        ):
            for row, scores in _ahead(self._started(choice.clips, submit, progress), 2 * self.request.workers):
                self.collect(row, scores)
                self.done += 1
                progress(self.done, total)
        return self._finished([clip.id for clip in choice.clips[: self.request.listening_clips]])

    def _started(self, clips: Sequence[Clip], submit: Submit, progress: ProgressLine) -> Iterator[PendingRow]:
        costed = False
        for number, clip in enumerate(clips):
            audio, listened = self.load(clip), number < self.request.listening_clips
            if audio is not None and not costed:
                measure_costs(
                    self.setup.systems,
                    audio,
                    autoencoder=self.setup.autoencoder,
                    device=self.request.device,
                    run=self.out,
                )
                progress.begin()  # the time left is that of the scores
                costed = True
            reference = None if audio is None else self._keep_reference(audio, listened=listened)
            if audio is None or reference is None:
                self.done += len(self.runnable)
                continue
            for system in self.runnable:
                yield self.run_one(system, audio, reference, submit, keep_audio=listened and system.scored == "all")

    def load(self, clip: Clip) -> ClipAudio | None:
        """The clip in every stream of the task; None, and a failure, where it cannot be read."""
        rate, low_rate = self.setup.autoencoder.spec.sample_rate, self.setup.low_rate
        try:
            return load_clip(clip, task=self.task, sample_rate=rate, low_rate=low_rate, resampler=self.setup.resampler)
        except ReencoderError as error:
            self.failures.append(clip_failure(error, where=clip.id))
            return None

    def run_one(
        self, system: System, audio: ClipAudio, reference: np.ndarray, submit: Submit, *, keep_audio: bool
    ) -> PendingRow:
        """Run one system on one clip and have the estimate scored, unless its scores are known.

        `reference` are the latents of the targets. `keep_audio` keeps the estimate for the listening page.
        """
        clip = audio.clip
        key = hashlib.sha256(f"{self.measured}/{system.name}/{system.digest}/{audio.digest}".encode()).hexdigest()
        row = {"clip": clip.id, "track": clip.track, "system": system.name, "label": system.label, "key": key}
        record = record_path(self.out, key) if system.scored == "all" else None
        sound = audio_path(self.out, clip.id, system.name, key=key) if keep_audio else None
        scores: Future[Scores] = Future()
        if key in self.known and all(file is None or file.is_file() for file in (record, sound)):
            scores.set_result(self.known[key]["scores"])
            return row, scores
        try:
            estimate = estimate_of(system, audio)
            if record is not None:
                latents = encode_clip(estimate, autoencoder=self.setup.autoencoder, device=self.request.device)
                write_latent_record(record, LatentRecord.of(latents, reference))
        except ReencoderError as error:
            scores.set_exception(error)
            return row, scores
        if sound is not None:
            write_audio(sound, estimate, audio.sample_rate)
        return row, submit(
            estimate,
            audio.stack(self.task.targets),
            audio.sample_rate,
            task=self.task.name,
            scored=system.scored,
            quality=tuple(self.request.quality),
            edge_hz=self.setup.low_rate / 2,
        )

    def collect(self, row: dict[str, Any], scores: Future[Scores]) -> None:
        """Wait for the scores of a row, and write them down."""
        place = f"{row['clip']}, {row['label']}"
        try:
            self.rows.append({**row, "scores": scores.result()})
        except ReencoderError as error:
            self.failures.append(clip_failure(error, where=place))
            return
        except BrokenProcessPool:
            raise EvaluationError(
                "a process that scores was ended", where=place,
                remedy="was there too little memory? Fewer workers need less; the same command goes on",
            ) from None  # fmt: skip
        if row["key"] not in self.known:
            append_row(self.out / JOURNAL, self.rows[-1])

    def _keep_reference(self, audio: ClipAudio, *, listened: bool) -> np.ndarray | None:
        """The latents of the targets, kept as a record; their sound too where it is listened to. None, and a failure,
        where the latents are not finite."""
        targets = audio.stack(self.task.targets)
        latents = encode_clip(targets, autoencoder=self.setup.autoencoder, device=self.request.device)
        try:
            write_latent_record(record_path(self.out, audio.digest), LatentRecord.of(latents, latents))
        except EvaluationError as error:
            self.failures.append(clip_failure(error, where=audio.clip.id))
            return None
        self.references[audio.clip.id] = audio.digest
        if listened:
            write_audio(audio_path(self.out, audio.clip.id, REFERENCE), targets, audio.sample_rate)
        return latents

    def _finished(self, listening: Sequence[str]) -> Evaluation:
        write_json_lines(self.out / FAILURES, self.failures)
        if not self.rows:
            raise EvaluationError(
                "no clip could be scored", where=self.out / FAILURES, value=f"{len(self.failures)} failures",
                remedy="read the file: it says of each clip why",
            )  # fmt: skip
        add_latent_scores(self.out, self.rows, self.references)
        write_json_lines(self.out / SCORES, self.rows)
        (self.out / JOURNAL).unlink()
        remove_stale(self.out, kept=self._files(listening))
        return Evaluation(tuple(self.rows), tuple(self.failures))

    def _files(self, listening: Sequence[str]) -> Iterator[Path]:
        """The audio of the clips that are listened to, and the latents of all."""
        yield from (audio_path(self.out, clip, REFERENCE) for clip in listening)
        yield from (record_path(self.out, key) for key in self.references.values())
        for row in self.rows:
            yield record_path(self.out, row["key"])
            if row["clip"] in listening:
                yield audio_path(self.out, row["clip"], row["system"], key=row["key"])


def _ahead(rows: Iterable[PendingRow], count: int) -> Iterator[PendingRow]:
    """The same rows in the same order, each handed on when `count` more have been started."""
    started: deque[PendingRow] = deque()
    for row in rows:
        started.append(row)
        if len(started) > count:
            yield started.popleft()
    yield from started


def describe_choice(choice: ClipChoice, *, listening_clips: int) -> dict[str, Any]:
    """Which excerpts were chosen, and which were passed over and why; files by name only, folders differ by machine."""

    def plain(clip: Clip) -> dict[str, Any]:
        return {"id": clip.id, **asdict(clip), "path": clip.path.name}

    return {
        "clips": [plain(clip) for clip in choice.clips],
        "listening": [clip.id for clip in choice.clips[:listening_clips]],
        "silent": [plain(clip) for clip in choice.silent],
        "near_mono": [plain(clip) for clip in choice.near_mono],
        "too_short": list(choice.too_short),
    }


def clip_failure(error: ReencoderError, *, where: object) -> dict[str, str]:
    return {"where": str(where), "what": error.what, "found": str(error.value)}
