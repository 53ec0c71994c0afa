"""Any program as a baseline: a command that reads an audio file and writes one; its outputs are kept by content."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
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

TAIL = 600  # characters of a failing program's last words
SLACK_SECONDS = 0.1  # what an output may lack at its end; more means that it is another piece
MOST_CHANNELS = 64
LARGEST_KEPT = 2**28  # bytes of a result that is kept; what is longer than its input is cut off when it is read
PLACES = {"input", "output", "outdir"}


@dataclass(frozen=True)
class ExternalProgram:
    """A program, run without a shell.

    `cmd` is split like a command line; then {input} becomes a 32-bit float WAV file at `sample_rate` (None: the full
    rate), {outdir} an empty folder and {output} a WAV path in it. The one file there that matches the pattern `output`
    is the result, at any rate, with as many channels as the task has targets (or one, for all). It comes `delay`
    samples late, at the full rate. A program that fails, takes longer than `timeout` seconds, or writes nothing or
    what is no audio has failed on that clip, with the end of what it said. It is done when its own process ends; what
    else it has started is killed then, as at the limit of time.
    """

    label: str
    cmd: str
    output: str = "*.wav"
    sample_rate: int | None = None
    delay: int = 0
    timeout: float = 600.0
    environment: Mapping[str, str] = field(default_factory=dict)

    def as_baseline(self, task: Task, *, kept: Path) -> Baseline:
        """`kept` is a folder where results are found again by input and settings. ConfigError if it cannot be run."""
        words = _words(self.cmd)
        if shutil.which(words[0]) is None:
            raise ConfigError(
                "no such program",
                where="external",
                value=words[0],
                remedy="install it, correct cmd, or do without: --set external=[]",
            )
        digest = digest_of(self.cmd, self.output, self.sample_rate, self.delay, sorted(self.environment.items()))

        def run(audio: np.ndarray, rate: int) -> np.ndarray:
            file = kept / f"{hashlib.sha256(f'{digest}/{rate}/'.encode() + audio.tobytes()).hexdigest()}.wav"
            expected = {"targets": len(task.targets), "length": audio.shape[-1], "rate": rate}
            if (made := _kept(file, self, **expected)) is not None:
                return made
            try:
                with tempfile.TemporaryDirectory(prefix="reencoder-", ignore_cleanup_errors=True) as folder:
                    result = _run(self, words, audio, rate, folder=Path(folder))
                    made = _in_step(_read(result, self, length=audio.shape[-1], rate=rate), self, **expected)
                    content = result.read_bytes() if result.stat().st_size <= LARGEST_KEPT else None
            except OSError as error:
                raise EvaluationError(
                    "the folder for temporary files cannot be used", where=error.filename or tempfile.gettempdir(),
                    value=error.strerror, remedy="make room there, or set TMPDIR to another folder",
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
            remedy="use {input}, {output} and {outdir}; a brace of its own is written twice",
        ) from None
    if not any("{input}" in word for word in words) or not any("{out" in word for word in words):
        raise ConfigError("the command lacks its places", where="external", value=cmd, remedy="{input} and {output}")
    return words


def _run(program: ExternalProgram, words: list[str], audio: np.ndarray, rate: int, *, folder: Path) -> Path:
    """Run the program on `audio` (1, samples) and return the one file that it made."""
    at = program.sample_rate or rate
    source, made = folder / "input.wav", folder / "out"
    made.mkdir()
    given = audio if at == rate else resample(audio, rate, at, resampler="soxr_vhq")
    content = io.BytesIO()  # libsndfile does not say why a write failed
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
            f"the program made {len(files)} files that match {program.output}, not one",
            where=name,
            value=said,
            remedy="correct cmd, or the pattern `output`",
        )
    return files[0]


def _kept(file: Path, program: ExternalProgram, *, targets: int, length: int, rate: int) -> np.ndarray | None:
    """What the program made of the same before; None where that is not there, or is damaged."""
    if not file.is_file():
        return None
    try:
        return _in_step(
            _read(file, program, length=length, rate=rate), program, targets=targets, length=length, rate=rate
        )
    except EvaluationError:
        return None


def _read(file: Path, program: ExternalProgram, *, length: int, rate: int) -> np.ndarray:
    """(channels, samples) at `rate`; no more than is needed of a file that is much too long."""
    try:
        with soundfile.SoundFile(os.fsencode(file)) as sound:  # type: ignore[arg-type], bytes are read
            if sound.channels > MOST_CHANNELS:
                raise EvaluationError(
                    "wrong number of channels", where=program.label, value=sound.channels,
                    remedy="correct cmd, or the pattern `output`",
                )  # fmt: skip
            own_rate = sound.samplerate
            needed = (length + program.delay) * own_rate // rate + own_rate
            samples = sound.read(min(needed, sound.frames), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, MemoryError) as error:
        raise EvaluationError(
            "what the program wrote is no audio", where=program.label, value=f"{file.name}: {error}",
            remedy="correct cmd, or the pattern `output`",
        ) from None  # fmt: skip
    if not np.isfinite(samples).all():
        raise EvaluationError(
            "the program wrote values that are not finite numbers", where=program.label, value=file.name,
            remedy="correct the program or its settings",
        )  # fmt: skip
    audio = np.ascontiguousarray(samples.T, dtype=np.float32)  # (n, C) -> (C, n)
    return audio if own_rate == rate else resample(audio, own_rate, rate)


def _in_step(audio: np.ndarray, program: ExternalProgram, *, targets: int, length: int, rate: int) -> np.ndarray:
    """(targets, length): the delay taken off, what is missing at the very end filled with silence."""
    audio = audio[:, program.delay :]
    if len(audio) != targets:
        if len(audio) != 1:
            raise EvaluationError("wrong number of channels", where=program.label, value=f"{len(audio)}, not {targets}")
        audio = np.repeat(audio, targets, axis=0)
    missing = length - audio.shape[1]
    if missing > SLACK_SECONDS * rate:
        value = f"{audio.shape[1]} of {length} samples at {rate} Hz"
        raise EvaluationError("the program's output is too short", where=program.label, value=value)
    return np.pad(audio, ((0, 0), (0, max(missing, 0))))[:, :length]
