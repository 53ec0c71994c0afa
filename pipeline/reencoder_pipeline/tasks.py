"""Defines the tasks: which streams of a track go into the module and which come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reencoder_pipeline.errors import ConfigError

LOW_BAND_RATE = 22_050  # samples a second, to which the stream low_band is reduced unless a config says otherwise


@dataclass(frozen=True)
class Task:
    """`inputs` and `targets` are stream names; latents of several streams are stacked along channels."""

    name: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def streams(self) -> tuple[str, ...]:
        return self.inputs + self.targets


TASKS = {
    "bwe": Task("bwe", inputs=("low_band",), targets=("mono",)),
    "m2s": Task("m2s", inputs=("mono",), targets=("left", "right")),
}


def get_task(name: str) -> Task:
    """The task of this name. ConfigError if there is none.

    Example::

        get_task("m2s").targets  # ("left", "right")
    """
    if name not in TASKS:
        raise ConfigError("the task is unknown", where="task", value=name, remedy=f"choose one of: {', '.join(TASKS)}")
    return TASKS[name]


StreamName = Literal["mono", "low_band", "left", "right", "stereo"]
TaskName = Literal["bwe", "m2s"]
