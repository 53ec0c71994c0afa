"""Defines what verification reports (`Finding`): damage, warnings and measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["damage", "warning", "note"]
Check = Literal["files", "values", "statistics", "level", "splits", "autoencoder", "edges"]


@dataclass(frozen=True)
class Finding:
    """`damage`: the cache is not what its index promises; do not use it. `warning`: it is usable, but have a look.
    `note`: a measurement. `shard` is None if the finding concerns the whole cache; `file` is a path in the cache."""

    severity: Severity
    check: Check
    problem: str
    shard: str | None = None
    file: str = "index.json"
    measured: dict[str, float] | None = None
