"""Turns costs.json into a table: GFLOPs, parameters, speed and memory of each system and of the autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reencoder_eval.tables.text_table import NOTHING, TextTable, number

Costs = Mapping[str, Any]
STAGES = ("encode", "decode")


def module_gflops(system: str, costs: Costs | None) -> float | None:
    """GFLOPs per second of audio that the system adds to the autoencoder; None if unknown or nothing is added."""
    cost = _cost(system, costs)
    return (cost["module"] or {}).get("gflops") if cost else None


def passes_gflops(system: str, costs: Costs | None) -> float | None:
    """GFLOPs per second of audio of the autoencoder's passes before and after the system."""
    cost = _cost(system, costs)
    if costs is None or not cost:
        return None
    passes = [costs["autoencoder"][stage].get("gflops") for stage in cost["stages"]]
    return sum(passes) if passes and None not in passes else None


def times_real_time(system: str, costs: Costs | None) -> float | None:
    cost = _cost(system, costs)
    return cost["times_real_time"] if cost else None


def cost_table(costs: Costs) -> TextTable:
    """One row for each pass of the autoencoder and for each system that computes something, with or without weights."""
    columns = ("part", "parameters, M", "GFLOPs/s", "encode", "decode", "total", "x real time", "peak, MB")
    rows = [(f"Autoencoder, {stage}", *_count_texts(costs["autoencoder"][stage]), *[NOTHING] * 5) for stage in STAGES]
    for name, cost in costs["systems"].items():
        if not cost["stages"] and not cost["module"]:
            continue
        passes = [costs["autoencoder"][stage].get("gflops") if stage in cost["stages"] else None for stage in STAGES]
        known = [value for value in (module_gflops(name, costs), *passes) if value is not None]
        peak = cost.get("peak_bytes")
        rows.append(
            (
                cost["label"] + ("" if cost["trained"] else " (no weights: counted only)"),
                *_count_texts(cost["module"]),
                *(number(value) for value in passes),
                number(sum(known) if known else None),
                f"{cost['times_real_time']:.3g}" if cost["times_real_time"] else NOTHING,
                f"{peak / 1e6:.0f}" if peak else NOTHING,
            )
        )
    return TextTable(f"Costs per second of audio, measured on {costs['machine']}", columns, tuple(rows))


def count_notes(costs: Costs | None) -> list[str]:
    """The notes of the counts, each once."""
    if costs is None:
        return []
    counts = [*costs["autoencoder"].values(), *(cost["module"] for cost in costs["systems"].values())]
    return list(dict.fromkeys(count["note"] for count in counts if count and count.get("note")))


def _cost(system: str, costs: Costs | None) -> Mapping[str, Any] | None:
    return costs["systems"].get(system) if costs else None


def _count_texts(count: Mapping[str, Any] | None) -> tuple[str, str]:
    """Parameters in millions, and GFLOPs."""
    if not count or count["gflops"] is None:
        return NOTHING, NOTHING
    return number(count["parameters"] / 1e6), number(count["gflops"])
