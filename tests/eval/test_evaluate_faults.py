"""Evaluations that go wrong: failing systems, full disks, damaged files, folders of others, two at once."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from example_run import write_run
from reencoder_eval import run_systems
from reencoder_eval.cli.evaluate import app
from reencoder_eval.evaluation_folder import (
    AUDIO,
    COSTS,
    FAILURES,
    LATENT_SCORES,
    LATENTS,
    REPORT,
    RUN,
    SCORES,
    read_rows,
)
from reencoder_eval.latent_scores import read_latent_record
from reencoder_eval.report.module_card import results_of
from reencoder_eval.systems import module_rows, rows
from reencoder_eval.systems.system import System
from reencoder_pipeline.errors import ConfigError, EvaluationError, ReencoderError
from reencoder_pipeline.stores import atomic as durable
from reencoder_pipeline.stores.own_folder import folder_lock
from tiny_evaluation import Evaluate

SMALL = {"num_clips": 1, "listening_clips": 1}
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def program(folder: Path, label: str, code: str, **more: Any) -> dict[str, Any]:
    file = folder / f"{label.replace(chr(32), chr(45))}.py"
    file.write_text(code)
    return {"label": label, "cmd": f"{sys.executable} {file} {{input}} {{output}}", **more}


FAILING = {
    "at once": "import sys; sys.exit('no licence')",
    "slow": "import time; time.sleep(60)",
    "no audio": "import sys; open(sys.argv[2], 'w').write('text')",
    "nan": (
        "import sys, soundfile; x, r = soundfile.read(sys.argv[1], dtype='float32'); x[-5] = float('nan');"
        "soundfile.write(sys.argv[2], x, r, subtype='FLOAT')"
    ),
}


@pytest.mark.usefixtures("no_page")
def test_programs_that_fail_are_failures_of_their_rows(evaluate: Evaluate, tmp_path: Path) -> None:
    limits = {"slow": {"timeout": 0.5}}
    external = [program(tmp_path, label, code, **limits.get(label, {})) for label, code in FAILING.items()]
    external.append(program(tmp_path, "good", COPY))
    result = evaluate(tmp_path / "run", **SMALL, external=external)
    assert {row["label"] for row in result.rows} >= {"good", "Autoencoder + good", "Autoencoder, full band"}
    failed = {row["where"].partition(", ")[2] for row in read_rows(tmp_path / "run" / FAILURES)}
    assert failed == {f"{before}{label}" for label in FAILING for before in ("", "Autoencoder + ")}
    costs = json.loads((tmp_path / "run" / COSTS).read_text())
    assert costs["systems"]["autoencoder+external:good"]["times_real_time"] > 0
    assert costs["systems"]["autoencoder+external:slow"]["times_real_time"] is None
    # A program that was mended is run, and what it costs is measured.
    mended = [program(tmp_path, label, COPY) for label in [*FAILING, "good"]]
    assert not evaluate(tmp_path / "run", **SMALL, external=mended).failures
    costs = json.loads((tmp_path / "run" / COSTS).read_text())
    assert costs["systems"]["autoencoder+external:slow"]["times_real_time"] > 0


ODD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raises": lambda estimate: 1 // 0 * estimate,  # type: ignore[operator]
    "nan at the end": lambda estimate: np.where(np.arange(estimate.shape[1]) < 40_000, estimate, np.nan),
    "inf": lambda estimate: estimate * np.float32(np.inf),
}


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("kind", ODD)
def test_a_module_that_fails_on_one_clip_alone(
    kind: str,
    evaluate: Evaluate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, places = module_rows.module_systems, []

    def sometimes(*arguments: Any, **settings: Any) -> tuple[System, ...]:
        [system] = whole(*arguments, **settings)

        def run(audio: Any) -> np.ndarray:
            places.append(audio.clip.id)
            assert system.run is not None
            return ODD[kind](system.run(audio)) if audio.clip.id == places[0] else system.run(audio)

        return (replace(system, run=run),)

    monkeypatch.setattr(rows, "module_systems", sometimes)
    result = evaluate(tmp_path / "run", num_clips=2, listening_clips=1)
    assert [failure["where"] for failure in result.failures] == [f"{places[0]}, Ours (S <1>)"]
    assert sum(row["system"] == "ours:S <1>" for row in result.rows) == 1
    kept = [path.name for path in (tmp_path / "run" / AUDIO).iterdir()]
    assert len(kept) == 4, "nothing of the failed one is there to be listened to"


@pytest.mark.usefixtures("no_page")
def test_latents_that_are_no_numbers_are_a_failure(
    evaluate: Evaluate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a reference: its clip is left out. Of an estimate: its row is."""
    whole, calls = run_systems.encode_clip, []

    def encode(audio: np.ndarray, **more: Any) -> np.ndarray:
        calls.append(1)
        bad = len(calls) in (1, 4)  # the first clip's reference; one of the second clip's estimates
        return whole(audio, **more) * (np.float32(np.nan) if bad else 1)

    monkeypatch.setattr(run_systems, "encode_clip", encode)
    result = evaluate(tmp_path / "run", num_clips=3)
    assert len(result.failures) == 2
    assert len(result.rows) == 2 * 4 - 1


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("number", [1, 2, 4, 7, 9])
def test_a_full_disk_is_a_message_and_the_same_command_goes_on(
    number: int,
    evaluate: Evaluate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    external, calls = [program(tmp_path, "copy", COPY)], iter(range(1000))

    def full(path: Path) -> None:
        if next(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync", full)
        with pytest.raises(EvaluationError, match="No space left") as caught:
            evaluate(tmp_path / "run", **SMALL, external=external)
    assert str(caught.value.where).startswith(str(tmp_path / "run"))
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert not evaluate(tmp_path / "run", **SMALL, external=external).failures


def test_a_full_disk_while_tables_and_pages_are_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = write_run(tmp_path / "run"), None
    before = contents(run)

    def full(path: Path) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(durable, "sync", full)
    found = CliRunner().invoke(app, ["report", str(run)])
    assert isinstance(found.exception, EvaluationError)
    assert str(run) in str(found.exception)
    assert {name: value for name, value in contents(run).items() if name != ".lock"} == before


BAD = {
    "a list": b"[1]\n",
    "another object": b'{"a": 1}\n',
    "no text": b"\xff\xfe\n",
    "nested": b"[" * 200_000 + b"\n",
    "numbers": b'{"key": 5, "scores": {"a": "b"}, "machine": 1, "frechet": [], "title": 0}\n',
}


@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize("name", [SCORES, COSTS, RUN, FAILURES, LATENT_SCORES])
def test_a_damaged_or_foreign_file_is_named(name: str, content: str, tmp_path: Path) -> None:
    """By every command that reads it."""
    run = write_run(tmp_path / "run")
    (run / name).write_bytes(BAD[content])
    found = [CliRunner().invoke(app, ["tables", str(run)]), CliRunner().invoke(app, ["report", str(run)])]
    errors = [one.exception for one in found]
    if name in (RUN, FAILURES):
        assert errors[0] is None, "tables do not need it"
        errors = errors[1:]
    if name in (SCORES, COSTS, RUN):
        with pytest.raises(ReencoderError) as caught:
            results_of(run, row="x")
        errors.append(caught.value)
    for error in errors:
        assert isinstance(error, ReencoderError), error
        assert str(run / name) in str(error)
        assert error.remedy


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("name", [SCORES, COSTS])
def test_an_evaluation_does_not_go_on_from_a_damaged_file(
    name: str,
    finished: Path,
    evaluate: Evaluate,
    tmp_path: Path,
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for content in BAD.values():
        (run / name).write_bytes(content)
        with pytest.raises(EvaluationError, match=name):
            evaluate(run)


def test_damaged_statistics_and_audio_are_named(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    record = next((run / LATENTS).iterdir())
    whole = record.read_bytes()
    np.savez_compressed(record, count=1, mean=np.zeros(8), scatter=np.zeros((8, 8)), distance=np.zeros(8))
    packed = record.read_bytes()
    for content in (b"", whole[: len(whole) // 2], packed, b"PK\x03\x04" + b"x" * 100):
        record.write_bytes(content)
        with pytest.raises(EvaluationError, match=record.name):
            read_latent_record(record)
    sound = next((run / AUDIO).iterdir())
    sound.write_bytes(b"no sound")
    found = CliRunner().invoke(app, ["report", str(run)])
    assert isinstance(found.exception, EvaluationError)
    assert sound.name in str(found.exception)


@pytest.mark.parametrize("theirs", [{"audio/a.flac": b"1", "latents/b.npz": b"2"}, {"run.json": b"{}", "x.txt": b"3"}])
def test_a_folder_of_somebody_else_is_refused_untouched(
    theirs: dict[str, bytes],
    evaluate: Evaluate,
    tmp_path: Path,
) -> None:
    for name, content in theirs.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    before = contents(tmp_path / "data")
    with pytest.raises(ConfigError, match="neither empty nor"):
        evaluate(tmp_path / "data", **SMALL)
    found = CliRunner().invoke(app, ["report", str(tmp_path / "data")])
    assert isinstance(found.exception, ReencoderError)
    assert contents(tmp_path / "data") == before


@pytest.mark.usefixtures("no_page")
def test_files_of_others_in_a_folder_of_ours_stay(finished: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    own = {path.name for folder in (AUDIO, LATENTS) for path in (run / folder).iterdir()}
    theirs = {"audio/mine.flac", "audio/a.b.c.flac", "latents/notes.npz", "audio/x.partial", "latents/sub/y.npz"}
    for name in theirs:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(b"theirs")
    scratch = durable.beside(run / AUDIO / "a.flac")
    scratch.write_bytes(b"of an evaluation that was killed")
    evaluate(run, num_clips=1)
    assert all((run / name).read_bytes() == b"theirs" for name in theirs)
    assert not scratch.exists()
    left = {path.name for folder in (AUDIO, LATENTS) for path in (run / folder).iterdir()}
    assert len(left & own) == 5 + 5 < len(own), "the files of one clip: what others made is removed"


def test_two_evaluations_in_one_folder_are_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run", what="an evaluation"), pytest.raises(ConfigError, match="is running"):
        evaluate(tmp_path / "run", **SMALL)
    run = write_run(tmp_path / "other")
    with folder_lock(run, what="an evaluation"):
        found = CliRunner().invoke(app, ["report", str(run)])
    assert isinstance(found.exception, ConfigError)
    assert not (run / REPORT).exists()
