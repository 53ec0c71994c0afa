"""Configurations: every problem at once, each with its remedy, whether it comes from a file or from `--set`."""

from __future__ import annotations

from pathlib import Path

import pytest

from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.config import CacheConfig, Config, load_config
from reencoder_pipeline.errors import ConfigError

REQUIRED = "source: music\npcm: pcm\nout: run\nsteps: 5\n"


def problem(path: Path | None, kind: type[Config] = CacheConfig, *, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, kind, overrides or [])
    return str(caught.value)


def written(folder: Path, text: str, *, name: str = "cache.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_there_are_the_defaults() -> None:
    config = load_config(None, CacheConfig)
    assert config.streams == ["mono", "low_band", "left", "right"]
    assert config.precision == "float16"


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "# nothing\n"), CacheConfig) == load_config(None, CacheConfig)


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "strems: [mono]\nprecision: float8\nshard_frames: 5\nworkers: none\nworld: 1\n")
    text = problem(path, overrides=["valid_share=2"])
    assert str(path) in text
    assert "6 problem(s)" in text
    for name in ("strems", "precision", "shard_frames", "workers", "valid_share", "world"):
        assert f"  - {name}: " in text
    assert "did you mean streams?" in text
    assert "'float8'" in text


def test_a_name_that_resembles_nothing_gets_all_that_are_known(tmp_path: Path) -> None:
    text = problem(written(tmp_path, "zzz: 1\n"))
    assert all(name in text for name in CacheConfig.model_fields)


def test_nested_names_are_suggested_from_their_own_group(tmp_path: Path) -> None:
    path = written(tmp_path, REQUIRED + "model: {latent_chanels: 8, lr: 1}\nlosses:\n  k: 1\n")
    text = problem(path, AutoencoderTrainConfig)
    assert "model.latent_chanels: unknown setting; did you mean latent_channels?" in text
    assert "losses.k: unknown setting; did you mean kl?" in text
    assert "model.lr: unknown setting; known here: " in text  # lr is a setting, but not of the model


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tstreams: x", "streams: 2020-13-45", "{"])
def test_bad_yaml_names_the_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    assert f"{path}: the configuration file is not valid YAML" in problem(path)


def test_a_file_that_is_not_text_is_bad_yaml(tmp_path: Path) -> None:
    path = tmp_path / "cache.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert f"{path}: the configuration file is not UTF-8 text" in problem(path)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "5"])
def test_a_configuration_is_a_mapping(tmp_path: Path, text: str) -> None:
    assert "a mapping of keys to values" in problem(written(tmp_path, text))


def test_a_key_that_is_no_text_is_a_problem_like_others(tmp_path: Path) -> None:
    assert "  - 1: " in problem(written(tmp_path, "1: 2\n"))


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    written(tmp_path, "", name="music.yaml")
    text = problem(tmp_path / "musik.yaml")
    assert "no such configuration file" in text
    assert f"did you mean {tmp_path / 'music.yaml'}?" in text


@pytest.mark.parametrize("name", ["nothing/alike.yaml", "."])
def test_a_missing_file_without_neighbours(tmp_path: Path, name: str) -> None:
    text = problem(tmp_path / name)
    assert "no such configuration file" in text
    assert "did you mean" not in text


def test_overrides_win_and_reach_into_groups(tmp_path: Path) -> None:
    path = written(tmp_path, REQUIRED + "model: {stride: 2}\nlr: 5e-4\n")
    overrides = ["model.latent_channels=8", "losses.kl=1e-5", "steps=7", "model.fine=[8, 16, 1]", "source=a=b"]
    config = load_config(path, AutoencoderTrainConfig, overrides)
    assert config.model.stride == 2
    assert config.model.latent_channels == 8
    assert config.model.fine == (8, 16, 1)
    assert config.losses.kl == 1e-5  # YAML 1.1 reads 1e-5 as text
    assert config.lr == 5e-4
    assert config.steps == 7
    assert config.source == "a=b"


@pytest.mark.parametrize("override", ["streams", "=1", ""])
def test_an_override_is_a_key_and_a_value(override: str) -> None:
    assert "an override reads key=value" in problem(None, overrides=[override])


def test_an_override_with_bad_yaml_is_shown() -> None:
    assert "--set tasks=[bwe: " in problem(None, overrides=["tasks=[bwe"])
    assert "--set workers=2020-13-45: " in problem(None, overrides=["workers=2020-13-45"])


def test_an_override_cannot_reach_into_a_value(tmp_path: Path) -> None:
    path = written(tmp_path, "precision: float32\n")
    assert "precision is not a group of settings" in problem(path, overrides=["precision.bits=16"])


def test_a_misspelt_override_is_a_problem_like_others() -> None:
    assert "shard_frame: unknown setting; did you mean shard_frames?" in problem(None, overrides=["shard_frame=9000"])


def test_a_stream_is_named_once() -> None:
    """Zarr would refuse the second, in a worker, in the middle of a build."""
    assert "a stream is named twice" in problem(None, overrides=["streams=[mono, mono]"])
    assert "streams" in problem(None, overrides=["streams=[]"])


@pytest.mark.parametrize("seconds", ["0", "-1", ".inf", ".nan"])
def test_a_segment_has_a_length(seconds: str) -> None:
    assert "segment_seconds" in problem(None, overrides=[f"segment_seconds={seconds}"])


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(None, CacheConfig).workers = 3  # type: ignore[misc]
