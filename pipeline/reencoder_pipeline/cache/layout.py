"""Names of the files of a cache."""

from __future__ import annotations

from pathlib import Path

SHARDS = "shards"


def record_name(key: str) -> str:
    return f"{SHARDS}/{key}.json"


def claim_name(key: str) -> str:
    return f"{SHARDS}/{key}.claim"


def record_file(out: Path, key: str) -> Path:
    return out / record_name(key)
