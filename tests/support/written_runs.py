"""Run folders as a training leaves them, written without one."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from reencoder_trainer.config import TrainConfig


def write_run(folder: Path, rows: list[dict], *, tail: str = "", **settings: object) -> None:
    folder.mkdir(parents=True)
    config = TrainConfig.model_validate({"cache": "c", "out": str(folder), "steps": 20, **settings})
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
