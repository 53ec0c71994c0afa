"""Every command of every README: the quick start as it stands, others on stand-ins, the rest by their own parser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import PROGRAMS, ROOT, run_here
from example_run import write_run
from readme_commands import READMES, commands_of, parsed, variants
from reencoder_pipeline.corpora.synthetic import render_clips
from tiny_build import tiny_config

COMMANDS = [(readme, line) for readme in READMES for line in commands_of(readme)]
NUMBERS = {"N": "2", "H": "10"}  # stand for numbers; other words in capitals stand for names and places


def test_the_readmes_show_the_commands() -> None:
    assert {line.split()[0] for _, line in COMMANDS} >= {*PROGRAMS, "make", "torchrun"}
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(("readme", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_every_command_is_understood(readme: str, line: str) -> None:
    """Programs, options, the types of their values, and the files of this repository that are named."""
    for words in variants(line):
        words = [NUMBERS.get(word, word) for word in words]
        for word in words:
            if word.startswith(("configs/", "data_manifests/", "benchmarks/", "tests/", "results/")):
                assert (ROOT / word).exists(), f"{word} is missing"
        if words[0] == "torchrun":
            words = words[words.index("--no-python") + 1 :]
        if words[0] in PROGRAMS:
            parsed(words[0], words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
        elif words[0] == "python":
            program = (ROOT / words[1]).read_text()
            assert all(f'"{word}"' in program for word in words[2:] if word.startswith("--"))


CONFIGURED = r"reencoder-(train|eval) (configs/(train|demo|eval)/|CONFIG)"


@pytest.mark.parametrize("line", [line for _, line in COMMANDS if re.match(CONFIGURED, line)])
def test_configurations_of_the_readmes_are_read(line: str) -> None:
    for words in variants(line):
        program, *arguments = (word.replace("key=value", "seed=1") for word in words)
        config = {"reencoder-train": "configs/train/bwe_s.yaml", "reencoder-eval": "configs/eval/bwe.yaml"}[program]
        arguments = [word.replace("CONFIG", config) for word in arguments if word != "--print-config"]
        done = run_here(program, *arguments, "--print-config")
        assert done.returncode == 0, done.stderr
        assert "seed:" in done.stdout


def runs_here(words: list[str]) -> bool:
    """Without a network, a cluster, a job array or another autoencoder."""
    away = {"fetch", "s3://bucket/cache", "--part", "--ray"}
    return words[0] == "reencoder-cache" and away.isdisjoint(words) and not words[-1].startswith(("/", "owner/"))


def test_the_commands_of_the_ground_floor_run(music: Path, tiny_autoencoder: Path, tmp_path: Path) -> None:
    """In the order of its README, from a folder of music to latents that come back from another program's layout."""
    (tmp_path / "cache.yaml").write_text(json.dumps(tiny_config(tiny_autoencoder).model_dump()))  # JSON is YAML
    ran: set[str] = set()
    for words in (words for line in commands_of("pipeline/README.md") for words in variants(line) if runs_here(words)):
        program, command, *arguments = words
        stand_ins = {"SOURCE": music, "NAME": tiny_autoencoder, "YAML": "cache.yaml", "key=value": "workers=1"}
        stand_ins |= {"DIR": "cache", "FOLDER": "plots", "1024": 256, "30": 1, **NUMBERS}
        if command in ("build", "plan") and "--config" not in words:
            arguments += ["--autoencoder", "NAME", "--config", "YAML"]
        if command == "build":
            stand_ins["DIR"] = "tar" if "webdataset" in words else "cache"
        elif command == "convert":
            stand_ins["DIR2"] = f"converted to {words[-1]}"
        elif command == "export":
            stand_ins["FOLDER"] = "latents" if "--stream" in words else "all latents"
        elif command == "import":
            stand_ins |= {"DIR": "imported", "FOLDER": "latents/mono"}
        done = run_here(program, command, *(stand_ins.get(word, word) for word in arguments), folder=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
        ran.add(command)
    assert ran >= {"plan", "build", "inspect", "verify", "convert", "export", "import"}


def test_tables_and_pages_are_made_again(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    lines = [line for line in commands_of("eval/README.md") if re.match("reencoder-eval (tables|report) RUN", line)]
    assert len(lines) == 2
    for line in [*lines, "reencoder-eval tables results/bwe"]:
        for program, *arguments in variants(line):
            words = [{"RUN": tmp_path / "run", "ROW": "Input (sinc)"}.get(word, word) for word in arguments]
            done = run_here(program, *words)
            assert done.returncode == 0, done.stderr
            assert done.stdout


@pytest.mark.slow
def test_quick_start_runs_as_it_stands(tmp_path: Path) -> None:
    render_clips(tmp_path / "Music", count=14, seconds=12.0, seed=3)
    block = re.search(
        r"<!-- tests/house/test_readme.py .*?-->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert block, "the README has lost its quick start"
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "set -euo pipefail\n" + block.group(1)
    run: Any = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    out = tmp_path / "out" / "demo"
    assert (out / "run" / "module.safetensors").is_file()
    page = (out / "eval" / "report.html").read_text(encoding="utf-8")
    assert "S, L1, short run" in page
    rows = [json.loads(line) for line in (out / "eval" / "scores.jsonl").read_text().splitlines()]
    assert {row["system"] for row in rows} >= {"autoencoder", "sinc", "autoencoder_low_band"}


def test_messages_that_the_readme_explains_are_those_of_the_code() -> None:
    table = (ROOT / "README.md").read_text().partition("| message | what to do |")[2].partition("\n\n")[0]
    messages = re.findall(r"^\| `([^`]*)`", table, re.MULTILINE)
    assert len(messages) >= 7
    source = "".join(path.read_text() for folder in ("pipeline", "trainer") for path in (ROOT / folder).rglob("*.py"))
    for message in messages:
        fixed = re.split(r" … | \(\.\.\., 64, frames", message)[0]
        assert fixed in source, message
