"""The benchmark of a build, in this process and on seconds of music: that its rows run and add up, never how fast."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import soundfile

from reencoder_pipeline.autoencoder import load_autoencoder
from tiny_build import music

pytestmark = pytest.mark.slow


def test_every_row_runs_and_shares_add_up(
    tmp_path: Path, tiny_autoencoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "music").mkdir()
    for name, channels, seconds in (("a", 2, 21.0), ("b", 1, 21.0), ("c", 2, 5.0)):
        soundfile.write(tmp_path / "music" / f"{name}.wav", music(seconds=seconds, channels=channels).T, 44_100)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    benchmark: Any = importlib.import_module("build")

    def in_this_process(works: Any, config: Any, starts: list[float]) -> float:
        starts.append(0.0)
        for work in works:
            work(load_autoencoder(config.autoencoder))()
        return 1.0

    monkeypatch.setattr(benchmark, "in_processes", in_this_process)
    monkeypatch.setattr(benchmark, "in_a_process", benchmark.encode_alone)
    monkeypatch.setattr(benchmark, "SHORT_MINUTES", 0.2)
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    arguments = ["--workers", "2", "--rounds", "1", "--hours", "0.005", "--autoencoder", str(tiny_autoencoder)]
    monkeypatch.setattr("sys.argv", ["build.py", str(tmp_path / "music"), *arguments])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 tracks, 1.4 stream minutes, 8 segments, 2 processes"  # the stereo one of 20 s or more
    assert lines[2].split() == ["bare", "encoder", "84.0", "1.000"]
    shares = [float(line.split()[-1].rstrip("%")) for line in lines if line.endswith("%")]
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert [line.split()[:2] for line in lines[-2:]] == [["0", "min"], ["0", "min"]]
