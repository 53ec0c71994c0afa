"""The commands as real programs: they start, tell output from messages, and end with the promised exit codes."""

from __future__ import annotations

import pytest

from command_line import PROGRAMS, run_apart

MISTAKES = {
    "reencoder-cache": ("inspect", "no such folder"),
    "reencoder-train": ("no.yaml",),
    "reencoder-eval": ("no.yaml",),
    "reencoder-apply": ("upsample", "x.wav", "--out", "out", "--module", "none.safetensors"),
    "reencoder-autoencoder": ("evaluate", "house", "--set", "source=none"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_mistake_is_one_message_and_exit_2(program: str) -> None:
    done = run_apart(program, *MISTAKES[program])
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert MISTAKES[program][-1].removeprefix("source=") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_output(program: str) -> None:
    done = run_apart(program, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert program in done.stdout
