"""The README's quick start, run as it stands on a folder of music that is rendered for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reencoder_pipeline.corpora.synthetic import render_clips

ROOT = Path(__file__).parents[2]


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
    run = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    out = tmp_path / "out" / "demo"
    assert (out / "run" / "module.safetensors").is_file()
    page = (out / "eval" / "report.html").read_text(encoding="utf-8")
    assert "S, L1, short run" in page
    rows = [json.loads(line) for line in (out / "eval" / "scores.jsonl").read_text().splitlines()]
    assert {row["system"] for row in rows} >= {"autoencoder", "sinc", "autoencoder_low_band"}
