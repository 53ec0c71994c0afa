"""Numbers that no command can work with: each setting of every configuration refuses them, by its name and at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

import reencoder_eval.config as of_evaluation  # noqa: F401 - its configurations become known
from reencoder_eval.config import AutoencoderEvalConfig, BaselineTrainConfig, EvalConfig
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.config import CacheConfig, Config, load_config
from reencoder_pipeline.errors import ConfigError
from reencoder_trainer.config import TrainConfig

NONSENSE = (10**30, -(10**30), 1e30, math.inf, -math.inf, math.nan, "1e30", "inf", "nan")


def configurations(kind: type[Config] = Config) -> Iterator[type[Config]]:
    for one in kind.__subclasses__():
        yield one
        yield from configurations(one)


def numeric_settings() -> Iterator[tuple[type[Config], str]]:
    """Every setting that is or holds a number, of every configuration there is."""
    for kind in sorted(set(configurations()), key=lambda kind: kind.__qualname__):
        for name, field in kind.model_fields.items():
            if set(parts(field.annotation)) & {int, float}:
                yield kind, name


def parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


def refused(kind: type[BaseModel], name: str, value: object) -> bool:
    """Whatever else is missing."""
    try:
        kind.model_validate({name: value})
    except ValidationError as error:
        return any(problem["loc"][0] == name for problem in error.errors())
    return False


SETTINGS = list(numeric_settings())


@pytest.mark.parametrize(("kind", "name"), SETTINGS, ids=[f"{kind.__name__}.{name}" for kind, name in SETTINGS])
def test_every_number_has_bounds(kind: type[Config], name: str) -> None:
    default = kind.model_fields[name].default
    places = range(len(default) or 1) if isinstance(default, tuple) else [None]
    for place in places:
        for value in NONSENSE:
            whole = value
            if place is not None:
                whole = [value if at == place else one for at, one in enumerate(default or (1,))]
            assert refused(kind, name, whole), f"{name}: {whole}"


def test_all_configurations_are_looked_at() -> None:
    kinds = {kind for kind, _ in SETTINGS}
    assert {CacheConfig, TrainConfig, AutoencoderTrainConfig, BaselineTrainConfig, EvalConfig} < kinds
    assert len(SETTINGS) > 100


def test_an_unbounded_number_would_be_noticed() -> None:
    class Careless(Config):
        size: int = 1
        share: float | None = None

    assert not refused(Careless, "size", 10**30)
    assert refused(Careless, "share", math.inf), "this much the base of all configurations sees to"
    assert not refused(Careless, "share", 1e30)


REQUIRED = {
    TrainConfig: "cache: c\nout: o\n",
    AutoencoderTrainConfig: "source: s\npcm: p\nout: o\nsteps: 5\n",
    BaselineTrainConfig: "baseline: aero\nsource: s\npcm: p\nout: o\nsteps: 5\n",
    EvalConfig: "source: s\nout: o\n",
    AutoencoderEvalConfig: "",
}


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        (TrainConfig, "blocks", "1000000000"),
        (TrainConfig, "width", "1.0e+9"),
        (TrainConfig, "valid_windows", "1.0e+15"),
        (TrainConfig, "threads", "1000000000"),
        (TrainConfig, "window_seconds", ".inf"),
        (TrainConfig, "lr", ".nan"),
        (TrainConfig, "condition.blocks", "1000000000"),
        (TrainConfig, "discriminator.channels", "1000000000"),
        (TrainConfig, "losses.mel", ".inf"),
        (TrainConfig, "seed", "9223372036854775808"),
        (AutoencoderTrainConfig, "batch_size", "1000000000"),
        (AutoencoderTrainConfig, "excerpt_seconds", ".inf"),
        (AutoencoderTrainConfig, "seed", "1000000000000000000000"),
        (AutoencoderTrainConfig, "model.fine", "[1000000, 1, 1]"),
        (AutoencoderTrainConfig, "adversary.fft_sizes", "[1000000000000]"),
        (BaselineTrainConfig, "channels", "1000000000"),
        (BaselineTrainConfig, "valid_excerpts", "1000000000000"),
        (EvalConfig, "num_clips", "1000000000000"),
        (EvalConfig, "clip_seconds", ".inf"),
        (EvalConfig, "workers", "1000000000"),
        (EvalConfig, "external", "[{label: a, cmd: b, timeout: .inf}]"),
        (AutoencoderEvalConfig, "diagnostic_seconds", "1.0e+12"),
    ],
)
def test_the_message_names_the_setting(kind: type[Config], setting: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(REQUIRED[kind])
    load_config(tmp_path / "config.yaml", kind)
    with pytest.raises(ConfigError, match=rf"1 problem\(s\) in the configuration\n  - {setting}"):
        load_config(tmp_path / "config.yaml", kind, [f"{setting}={value}"])


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        (TrainConfig, ["blocks=1000", "width=60000"], "width"),
        (TrainConfig, ["batch_size=1000000", "window_seconds=3600"], "window_seconds"),
        (AutoencoderTrainConfig, ["model.coarse=[60000, 60000, 1000]"], "model.coarse"),
        (AutoencoderTrainConfig, ["batch_size=60000", "excerpt_seconds=600"], "excerpt_seconds"),
        (BaselineTrainConfig, ["excerpt_seconds=600", "valid_excerpts=100000"], "valid_excerpts"),
    ],
)
def test_what_is_too_much_together_is_refused_too(
    kind: type[Config], changes: list[str], named: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(REQUIRED[kind])
    with pytest.raises(ConfigError, match=rf"1 problem\(s\) in the configuration\n  - {named}: "):
        load_config(tmp_path / "config.yaml", kind, changes)
