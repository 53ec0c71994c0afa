"""Who may look where: imports go downstairs only, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
FLOORS = ["reencoder_pipeline", "reencoder_trainer", "reencoder_eval"]  # ground floor first
SOURCES = [path for name in FLOORS for path in sorted(HOUSE.glob(f"*/{name}/**/*.py"))]
HEAVY = {"torch", "torchaudio", "scipy", "matplotlib", "zarr", "transformers", "tensorboard", "soundfile", "soxr"}
FRONT_DOORS = [path for path in SOURCES if path.stem in ("config", "errors") or path.stem.endswith("cli")]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def module_name(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts[1:]
    return ".".join(parts)


def test_there_is_something_to_check() -> None:
    assert {path.parts[len(HOUSE.parts) + 1] for path in SOURCES} == set(FLOORS)
    assert {path.parent.name for path in FRONT_DOORS if path.stem == "cli"} >= {"reencoder_trainer"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_downstairs_only(path: Path) -> None:
    own = FLOORS.index(path.relative_to(HOUSE).parts[1])
    for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        room = name.split(".")[0]
        if room in FLOORS:
            assert FLOORS.index(room) <= own, f"{module_name(path)} imports {name}, which is upstairs"
        assert room not in ("pipeline", "trainer", "eval"), f"{module_name(path)} imports {name}: say reencoder_{room}"


def test_commands_and_configurations_answer_without_heavy_imports() -> None:
    names = [module_name(path) for path in FRONT_DOORS]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = {HEAVY!r} & set(sys.modules)\n"
        "    assert not loaded, f'{name} imports {sorted(loaded)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
