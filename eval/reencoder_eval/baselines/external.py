"""Runs any program that reads and writes an audio file as a baseline, and keeps its outputs for the next evaluation."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from reencoder_eval.baselines.baseline import Baseline, digest_of
from reencoder_pipeline.audio.resampling import resample
from reencoder_pipeline.errors import ConfigError, EvaluationError
from reencoder_pipeline.programs import run_program
from reencoder_pipeline.stores.atomic import write_whole
from reencoder_pipeline.tasks import Task

TAIL = 600  # characters of a failing program's output that an error shows
SLACK_SECONDS = 0.1  # the most that an output may be shorter than its input
MOST_CHANNELS = 64
LARGEST_KEPT = 2**28  # bytes of the largest result that is kept
PLACES = {"input", "output", "outdir"}


@dataclass(frozen=True)
class ExternalProgram:
    """A program, run without a shell.

    `cmd` is split like a command line. {input} becomes a 32-bit float WAV file at `sample_rate` (None: the full rate),
    {outdir} an empty folder, and {output} a WAV path in it. The result is the one file there that matches the pattern
    `output`, at any rate, with one channel per target of the task (or one for all). `delay` is its delay in samples at
    the full rate, which is removed.

    A clip fails, and its error shows the end of the program's output, if the program fails, takes longer than `timeout`
    seconds, or writes no audio. When its process ends or the time is over, all processes it started are killed.

    Example::

        program = ExternalProgram("Copy", "cp {input} {output}")
        baseline = program.as_baseline(TASKS["bwe"], kept=Path("out/eval/bwe/external"))
    """

    label: str
    cmd: str
    output: str = "*.wav"
    sample_rate: int | None = None
    delay: int = 0
    timeout: float = 600.0
    environment: Mapping[str, str] = field(default_factory=dict)

    def as_baseline(self, task: Task, *, kept: Path) -> Baseline:
        """The program as a baseline. Results are kept in the folder `kept`, by input and settings.

        ConfigError if the command is malformed or the program is not installed.
        """
        words = _words(self.cmd)
        if shutil.which(words[0]) is None:
            raise ConfigError(
                "the program is not installed",
                where="external",
                value=words[0],
                remedy="install it, correct cmd, or leave it out with --set external=[]",
            )
        digest = digest_of(self.cmd, self.output, self.sample_rate, self.delay, sorted(self.environment.items()))

        def run(audio: np.ndarray, rate: int) -> np.ndarray:
            file = kept / f"{hashlib.sha256(f'{digest}/{rate}/'.encode() + audio.tobytes()).hexdigest()}.wav"
            expected = {"targets": len(task.targets), "length": audio.shape[-1], "rate": rate}
            if file.is_file():
                with suppress(EvaluationError):  # a damaged result is made again
                    return _read(file, self, **expected)
            try:
                with tempfile.TemporaryDirectory(prefix="reencoder-", ignore_cleanup_errors=True) as folder:
                    result = _run(self, words, audio, rate, folder=Path(folder))
                    made = _read(result, self, **expected)
                    content = result.read_bytes() if result.stat().st_size <= LARGEST_KEPT else None
            except OSError as error:
                raise EvaluationError(
                    "the folder for temporary files cannot be used", where=error.filename or tempfile.gettempdir(),
                    value=error.strerror, remedy="free space there, or set TMPDIR to another folder",
                ) from None  # fmt: skip
            if content is not None:
                kept.mkdir(parents=True, exist_ok=True)
                write_whole(file, content)
            return made

        return Baseline(f"external:{self.label}", self.label, f"the program `{self.cmd}`", task.name, digest, run)


def _words(cmd: str) -> list[str]:
    try:
        words = shlex.split(cmd)
        for word in words:
            word.format(**dict.fromkeys(PLACES, ""))
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            "the command cannot be read",
            where="external",
            value=f"{cmd}: {type(error).__name__} {error}",
            remedy="use {input}, {output} and {outdir}; write any other brace twice",
        ) from None
    if not any("{input}" in word for word in words) or not any("{out" in word for word in words):
        remedy = "write {input} and {output} (or {outdir}) where the program expects its files"
        raise ConfigError("the command lacks {input} or {output}", where="external", value=cmd, remedy=remedy)
    return words


def _run(program: ExternalProgram, words: list[str], audio: np.ndarray, rate: int, *, folder: Path) -> Path:
    """Run the program on `audio` (1, samples) and return the one file that it wrote."""
    at = program.sample_rate or rate
    source, made = folder / "input.wav", folder / "out"
    made.mkdir()
    given = audio if at == rate else resample(audio, rate, at, resampler="soxr_vhq")
    content = io.BytesIO()  # written by Python, because libsndfile does not report why a write failed
    soundfile.write(content, given.T, at, format="WAV", subtype="FLOAT")  # (1, n) -> (n, 1)
    source.write_bytes(content.getbuffer())
    places = {"input": str(source), "output": str(made / "output.wav"), "outdir": str(made)}
    command = [word.format(**places) for word in words]
    name = f"{program.label} ({words[0]})"
    try:
        ended = run_program(
            command, timeout=program.timeout, cwd=folder, environment={**os.environ, **program.environment}
        )
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the command or the environment
        raise EvaluationError(
            "the program cannot be started", where=name, value=error, remedy="correct cmd, or leave the program out"
        ) from None
    said = ended.said[-TAIL:]
    if ended.code is None:
        value = f"more than {program.timeout:g} s; {said}"
        raise EvaluationError("the program took too long", where=name, value=value, remedy="raise its timeout")
    if ended.code != 0:
        remedy = "try the command by hand"
        raise EvaluationError(f"the program ended with code {ended.code}", where=name, value=said, remedy=remedy)
    files = [file for file in sorted(made.rglob(program.output)) if file.is_file()]
    if len(files) != 1:
        raise EvaluationError(
            f"the program wrote {len(files)} files that match {program.output}, not one",
            where=name,
            value=said,
            remedy="correct cmd, or the pattern `output`",
        )
    return files[0]


def _read(file: Path, program: ExternalProgram, *, targets: int, length: int, rate: int) -> np.ndarray:
    """(targets, length) at `rate`, without the delay. At most a second is read beyond the needed length."""
    try:
        with soundfile.SoundFile(os.fsencode(file)) as sound:  # type: ignore[arg-type], bytes are read
            if sound.channels > MOST_CHANNELS:
                raise EvaluationError(
                    "the program's output has too many channels", where=program.label, value=sound.channels,
                    remedy="correct cmd, or the pattern `output`",
                )  # fmt: skip
            own_rate = sound.samplerate
            needed = (length + program.delay) * own_rate // rate + own_rate
            samples = sound.read(min(needed, sound.frames), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, MemoryError) as error:
        raise EvaluationError(
            "the program's output is no audio", where=program.label, value=f"{file.name}: {error}",
            remedy="correct cmd, or the pattern `output`",
        ) from None  # fmt: skip
    if not np.isfinite(samples).all():
        raise EvaluationError(
            "the program wrote values that are not finite numbers", where=program.label, value=file.name,
            remedy="correct the program or its settings",
        )  # fmt: skip
    audio = np.ascontiguousarray(samples.T, dtype=np.float32)  # (n, C) -> (C, n)
    audio = audio if own_rate == rate else resample(audio, own_rate, rate)
    return _in_step(audio, program, targets=targets, length=length, rate=rate)


def _in_step(audio: np.ndarray, program: ExternalProgram, *, targets: int, length: int, rate: int) -> np.ndarray:
    """(targets, length) without the delay; up to SLACK_SECONDS of missing audio at the end become silence."""
    audio = audio[:, program.delay :]
    if len(audio) not in (1, targets):
        value, remedy = f"{len(audio)}, not {targets}", "correct cmd: the task needs one channel per target"
        raise EvaluationError(
            "the program's output has the wrong number of channels", where=program.label, value=value, remedy=remedy
        )
    audio = np.broadcast_to(audio, (targets, audio.shape[1]))
    missing = length - audio.shape[1]
    if missing > SLACK_SECONDS * rate:
        value, remedy = f"{audio.shape[1]} of {length} samples at {rate} Hz", "correct cmd, or lower `delay`"
        raise EvaluationError("the program's output is too short", where=program.label, value=value, remedy=remedy)
    return np.pad(audio, ((0, 0), (0, max(missing, 0))))[:, :length]
