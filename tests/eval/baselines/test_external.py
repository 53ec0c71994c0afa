"""Programs as baselines: how they are run, what is kept, and what happens when they fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from reencoder_eval.baselines.external import ExternalProgram
from reencoder_pipeline.errors import ConfigError, EvaluationError
from reencoder_pipeline.tasks import get_task

RATE = 44_100
AUDIO = (0.1 * np.random.default_rng(0).standard_normal((1, RATE))).astype(np.float32)
START = (
    "import os, sys, soundfile; x, r = soundfile.read(sys.argv[1], dtype='float32', always_2d=True); out = sys.argv[2];"
)
COPY = f"{START} soundfile.write(out, x, r, subtype='FLOAT')"

Script = Callable[..., ExternalProgram]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """A program of one line of Python, given {input} and {output}."""

    def make(code: str, *, places: str = "{input} {output}", **settings) -> ExternalProgram:
        file = tmp_path / "program.py"
        file.write_text(code)
        return ExternalProgram("mine", f"{sys.executable} {file} {places}", **settings)

    return make


def outcome(program: ExternalProgram, folder: Path, *, task: str = "bwe", audio: np.ndarray = AUDIO) -> np.ndarray:
    run = program.as_baseline(get_task(task), kept=folder / "kept").run
    assert run is not None
    return run(audio, RATE)


def test_a_program_gets_the_audio_and_its_output_comes_back(script: Script, tmp_path: Path) -> None:
    assert np.array_equal(outcome(script(COPY), tmp_path), AUDIO)
    assert np.array_equal(outcome(script(COPY), tmp_path, task="m2s"), np.repeat(AUDIO, 2, axis=0))


def test_it_runs_once_for_the_same_audio_and_settings(script: Script, tmp_path: Path) -> None:
    counted = f"{COPY}; open({str(tmp_path / 'calls')!r}, 'a').write('x')"
    calls = tmp_path / "calls"
    for _ in range(2):
        outcome(script(counted), tmp_path)
    assert calls.read_text() == "x"
    outcome(script(counted), tmp_path, audio=-AUDIO)
    outcome(script(counted, delay=1), tmp_path)
    outcome(script(counted, environment={"A": "1"}), tmp_path)
    assert calls.read_text() == "xxxx"


def test_rate_environment_folder_and_pattern(script: Script, tmp_path: Path) -> None:
    code = (
        f"{START} assert r == 22050, r; assert os.environ['GAIN'] == '2';"
        "soundfile.write(os.path.join(out, 'a.flac'), x * 2, r); open(os.path.join(out, 'log.txt'), 'w')"
    )
    program = script(code, places="{input} {outdir}", output="*.flac", sample_rate=22_050, environment={"GAIN": "2"})
    slow = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[None].astype(np.float32) / 4
    np.testing.assert_allclose(
        outcome(program, tmp_path, audio=slow)[:, 1000:-1000], 2 * slow[:, 1000:-1000], atol=1e-3
    )


def test_a_late_output_is_brought_in_step(script: Script, tmp_path: Path) -> None:
    late = f"{START} import numpy; soundfile.write(out, numpy.pad(x, ((100, 0), (0, 0))), r, subtype='FLOAT')"
    assert np.array_equal(outcome(script(late, delay=100), tmp_path), AUDIO)
    short = f"{START} soundfile.write(out, x[:-50], r, subtype='FLOAT')"
    assert np.array_equal(outcome(script(short), tmp_path)[:, :-50], AUDIO[:, :-50])


@pytest.mark.parametrize(
    ("code", "settings", "message"),
    [
        ("import sys; sys.exit('no <model> found')", {}, "ended with code 1(?s:.*)no <model> found"),
        ("pass", {}, "wrote 0 files that match"),
        ("import time; time.sleep(60)", {"timeout": 0.5}, "took too long(?s:.*)0.5 s"),
        ("import sys; open(sys.argv[2], 'w').write('text')", {}, "no audio"),
        (f"{START} soundfile.write(out, x[:100], r)", {}, "too short(?s:.*)100 of 44100"),
        (f"{START} soundfile.write(out, x.repeat(3, axis=1), r)", {}, "wrong number of channels"),
        (f"{START} soundfile.write(out, x.repeat(100, axis=1), r)", {}, "too many channels"),
        (f"{START} x[-9] = float('nan'); soundfile.write(out, x, r, subtype='FLOAT')", {}, "not finite numbers"),
        ("import os, sys; os.mkfifo(sys.argv[2])", {}, "wrote 0 files"),
        ("import os, sys; os.symlink('/dev/zero', sys.argv[2])", {}, "wrote 0 files"),
        ("import os, shutil, sys; shutil.rmtree(os.path.dirname(sys.argv[2]))", {}, "wrote 0 files"),
        (
            "print('x' * 10**6, 'the last words'); raise SystemExit(9)",
            {},
            "the last words",
        ),
    ],
)
def test_a_failure_says_what_the_program_said(
    script: Script, tmp_path: Path, code: str, settings: dict, message: str
) -> None:
    for _ in range(2):  # and nothing of it is kept
        with pytest.raises(EvaluationError, match=message):
            outcome(script(code, **settings), tmp_path)


@pytest.mark.parametrize(
    ("cmd", "message"),
    [
        ("no-such-program-here {input} {output}", "program is not installed"),
        ("true {input}", r"lacks \{input\} or \{output\}"),
        ("true {input} {ouput}", "cannot be read"),
        ("true 'unclosed {input} {output}", "cannot be read"),
        ("", r"lacks \{input\} or \{output\}"),
    ],
)
def test_a_command_that_cannot_work_is_refused_at_once(cmd: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        ExternalProgram("mine", cmd).as_baseline(get_task("bwe"), kept=tmp_path)


@pytest.mark.parametrize("content", ["#!/no/such/interpreter\n", "no program"])
def test_a_program_that_cannot_be_started_is_a_failure(content: str, tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_text(content)
    file.chmod(0o755)
    with pytest.raises(EvaluationError, match="cannot be started"):
        outcome(ExternalProgram("mine", f"{file} {{input}} {{output}}"), tmp_path)


def test_of_a_result_that_is_far_too_long_the_beginning_counts(script: Script, tmp_path: Path) -> None:
    long = f"{START} import numpy; soundfile.write(out, numpy.pad(x, ((0, 60 * r), (0, 0))), r, subtype='FLOAT')"
    assert np.array_equal(outcome(script(long), tmp_path), AUDIO)


@pytest.mark.parametrize("damage", [b"", b"no audio", None])
def test_a_kept_result_that_is_damaged_is_made_again(damage: bytes | None, script: Script, tmp_path: Path) -> None:
    assert np.array_equal(outcome(script(COPY), tmp_path), AUDIO)
    [kept] = (tmp_path / "kept").iterdir()
    kept.write_bytes(kept.read_bytes()[:2000] if damage is None else damage)
    (tmp_path / "kept" / "notes.wav").write_bytes(b"theirs")
    assert np.array_equal(outcome(script(COPY), tmp_path), AUDIO)
    assert (tmp_path / "kept" / "notes.wav").read_bytes() == b"theirs"


def test_no_room_for_temporary_files_is_a_failure(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(EvaluationError, match="folder for temporary files"):
        outcome(script(COPY), tmp_path)


def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    program = ExternalProgram("mine", f"echo {{input}} {{output}} ; touch {tmp_path / 'hacked'}")
    with pytest.raises(EvaluationError, match="wrote 0 files"):
        outcome(program, tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_a_name_with_spaces_stays_one_argument(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "with a space").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "with a space"))
    assert np.array_equal(outcome(script(COPY), tmp_path), AUDIO)
    assert soundfile.info(str(next((tmp_path / "kept").iterdir()))).frames == RATE
