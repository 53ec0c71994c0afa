"""Any program as a baseline: a command that reads an audio file and writes one; its outputs are kept by content."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from reencoder_eval.baselines.baseline import Baseline, digest_of
from reencoder_pipeline.audio import resample
from reencoder_pipeline.errors import ConfigError, EvaluationError
from reencoder_pipeline.tasks import Task

TAIL = 600  # characters of a failing program's last words
SLACK_SECONDS = 0.1  # what an output may lack at its end; more means that it is another piece
PLACES = {"input", "output", "outdir"}


@dataclass(frozen=True)
class ExternalProgram:
    """A program, run without a shell.

    `cmd` is split like a command line; then {input} becomes a 32-bit float WAV file at `sample_rate` (None: the full
    rate), {outdir} an empty folder and {output} a WAV path in it. The one file there that matches the pattern `output`
    is the result, at any rate, with as many channels as the task has targets (or one, for all). It comes `delay`
    samples late, at the full rate. A program that fails, takes longer than `timeout` seconds or writes nothing has
    failed on that clip, with the end of what it said.
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
            if not file.is_file():
                with tempfile.TemporaryDirectory(prefix="reencoder-") as folder:
                    made = _run(self, words, audio, rate, folder=Path(folder))
                    kept.mkdir(parents=True, exist_ok=True)
                    beside = file.with_suffix(f".{os.getpid()}.tmp")
                    shutil.copyfile(made, beside)
                    beside.replace(file)
            return _in_step(_read(file, rate), self, targets=len(task.targets), length=audio.shape[-1], rate=rate)

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
    soundfile.write(str(source), given.T, at, subtype="FLOAT")  # (1, n) -> (n, 1)
    places = {"input": str(source), "output": str(made / "output.wav"), "outdir": str(made)}
    command = [word.format(**places) for word in words]
    name = words[0]
    try:
        result = subprocess.run(
            command,
            check=False,
            capture_output=True,
            timeout=program.timeout,
            cwd=folder,
            env={**os.environ, **program.environment},
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        value = f"more than {program.timeout:g} s"
        raise EvaluationError("the program took too long", where=name, value=value) from None
    except OSError as error:
        raise EvaluationError("the program cannot be started", where=name, value=str(error)) from None
    said = (result.stderr + result.stdout).decode(errors="replace").strip()[-TAIL:]
    if result.returncode != 0:
        raise EvaluationError(f"the program ended with code {result.returncode}", where=name, value=said)
    files = [file for file in sorted(made.rglob(program.output)) if file.is_file()]
    if len(files) != 1:
        raise EvaluationError(
            f"the program made {len(files)} files that match {program.output}, not one",
            where=name,
            value=said,
            remedy="correct cmd, or the pattern `output`",
        )
    return files[0]


def _read(file: Path, rate: int) -> np.ndarray:
    """(channels, samples) at `rate`."""
    try:
        samples, own_rate = soundfile.read(str(file), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        file.unlink(missing_ok=True)  # or it would be found again
        raise EvaluationError("what the program wrote is no audio", where=file, value=str(error)) from None
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
