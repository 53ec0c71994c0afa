"""The commands of the house, run in this process as their programs run them, or as real programs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def run_here(program: str, *arguments: object, folder: Path = ROOT, **environment: str) -> CompletedProcess[str]:
    """What `program ARGUMENTS` prints and its exit code, without the seconds that a new process takes.

    An exception that leaves the program is printed to stderr and makes exit code 1, as Python does it.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [program, *map(str, arguments)])
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        code = _exit_code(entry_point(program).main)
    texts = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]  # type: ignore[attr-defined]
    return CompletedProcess([program, *map(str, arguments)], code, *texts)


reencoder_cache = partial(run_here, "reencoder-cache")
reencoder_train = partial(run_here, "reencoder-train")
reencoder_eval = partial(run_here, "reencoder-eval")
reencoder_apply = partial(run_here, "reencoder-apply")
reencoder_autoencoder = partial(run_here, "reencoder-autoencoder")


def run_apart(program: str, *arguments: object, folder: Path = ROOT, **environment: str) -> CompletedProcess[str]:
    """The same in a process of its own, through the entry point that pip installs."""
    line = program_line(program, *arguments)
    variables = {**os.environ, "PYTHONPATH": search_path(), **environment}
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=folder, env=variables)


def program_line(program: str, *arguments: object) -> list[str]:
    """The command line of a real process."""
    return [str(Path(sys.executable).with_name(program)), *map(str, arguments)]


def entry_point(program: str) -> Any:
    """The module of a program: its `main` runs, its `app` parses."""
    module, _, function = PROGRAMS[program].partition(":")
    assert function == "main"
    return import_module(module)


def search_path() -> str:
    """PYTHONPATH with which another process finds the helpers of the tests."""
    return os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def _exit_code(main: Callable[[], object]) -> int:
    try:
        main()
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
            return 1
        return leaving.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
