"""What verification finds: damage, which makes a cache unfit for use, warnings, and measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["damage", "warning", "note"]
Check = Literal["files", "values", "statistics", "level", "splits", "autoencoder", "edges"]


@dataclass(frozen=True)
class Finding:
    """`damage`: the cache is not what was promised, and is not to be used. `warning`: it is, but somebody should look.
    `note`: a measurement. `shard` is None for what concerns the whole cache; `file` lies below the cache."""

    severity: Severity
    check: Check
    problem: str
    shard: str | None = None
    file: str = "index.json"
    measured: dict[str, float] | None = None
