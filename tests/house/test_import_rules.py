"""Imports go down the list of rooms only, rooms stay small, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
FLOORS = ["reencoder_pipeline", "reencoder_trainer", "reencoder_eval"]  # ground floor first
ROOMS = {
    "reencoder_pipeline": """
        errors plain_text progress process_pool programs named_function safe_text latents tasks config
        stores exit_codes audio corpora training
        autoencoders autoencoders.families autoencoders.vocos autoencoders.vocos.training autoencoder
        cache.formats cache encoding shards build inspection exchange cli""",
    "reencoder_trainer": """
        config module module_header windows trained_module release training reencoder run_list cli""",
    "reencoder_eval": """
        config evaluation_folder run_contents low_band metrics clips
        baselines baselines.aero baselines.musichifi train_baseline
        latent_scores request systems tables run_systems report evaluate autoencoder_report
        apply.files apply demo cli""",
}
ORDER = [f"{floor}.{room}" for floor, rooms in ROOMS.items() for room in rooms.split()]
MOST_FILES = 12
SOURCES = [path for name in FLOORS for path in sorted(HOUSE.glob(f"*/{name}/**/*.py"))]
HEAVY = {"torch", "torchaudio", "scipy", "matplotlib", "zarr", "transformers", "tensorboard", "soundfile", "soxr"}
LATE = {"scipy.signal", "scipy.stats", "scipy.fft", "matplotlib", "transformers", "huggingface_hub", "tensorboard"}
MAIN_PATHS = {  # each may load torch, and what takes as long as torch only where it is used
    "reencoder_pipeline.build.build", "reencoder_pipeline.autoencoders.vocos.training.train",
    "reencoder_trainer.training.train", "reencoder_eval.evaluate", "reencoder_eval.train_baseline",
    "reencoder_eval.autoencoder_report.evaluate_autoencoder", "reencoder_eval.apply.run",
}  # fmt: skip
FRONT_DOORS = [path for path in SOURCES if path.stem in ("config", "errors", "cli") or path.parent.name == "cli"]


def module_name(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imports(path: Path) -> Iterator[str]:
    """Modules that a file names in its import statements, also in those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            for alias in node.names:
                yield f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module


def place(module: str) -> int | None:
    """Position of a module's room in ORDER; None for the package itself."""
    rooms = [room for room in ORDER if module == room or module.startswith(f"{room}.")]
    return ORDER.index(max(rooms, key=len)) if rooms else None


def test_there_is_something_to_check() -> None:
    assert {path.parts[len(HOUSE.parts) + 1] for path in SOURCES} == set(FLOORS)
    assert {path.parent.name for path in FRONT_DOORS if path.stem == "cli"} >= {"reencoder_trainer"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_down_the_list_of_rooms(path: Path) -> None:
    module = module_name(path)
    own = place(module)
    for name in imports(path):
        assert name.split(".")[0] not in ("pipeline", "trainer", "eval"), f"{module} imports {name}: say reencoder_..."
        if name.split(".")[0] in FLOORS and name not in FLOORS:
            there = place(name)
            assert own is not None, f"{module} stands in no room of ORDER"
            assert there is not None, f"{name} stands in no room of ORDER"
            assert there <= own, f"{module} imports {name}, whose room comes later"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: {name for name in imports(path) if name in MODULES} - {module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_rooms_are_small_and_say_what_they_are_for() -> None:
    for folder in {path.parent for path in SOURCES}:
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert 3 <= len(files) <= MOST_FILES, f"{folder}: {len(files)} files"
        purpose = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert purpose, f"{folder} does not say what it is for"
        assert len(purpose.splitlines()) <= 3


def test_commands_and_configurations_answer_without_heavy_imports() -> None:
    assert_not_loaded(HEAVY, sorted(module_name(path) for path in FRONT_DOORS))


def test_main_paths_load_slow_libraries_only_where_they_use_them() -> None:
    assert_not_loaded(LATE, sorted(MAIN_PATHS))


def assert_not_loaded(libraries: set[str], names: list[str]) -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = {libraries!r} & set(sys.modules)\n"
        "    assert not loaded, f'{name} imports {sorted(loaded)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
