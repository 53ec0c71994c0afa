"""Fixtures of the ground floor: a tiny autoencoder, a little music, and caches that were built once from both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tiny_build import Built

settings.register_profile("house", deadline=None)  # a busy machine is not a failure
settings.load_profile("house")

pytest_plugins = ["s3_server"]


@pytest.fixture(scope="session")
def tiny_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny random Vocos, for `autoencoder=` of a configuration."""
    from tiny_build import save_tiny_autoencoder

    return save_tiny_autoencoder(tmp_path_factory.mktemp("autoencoder") / "tiny.safetensors")


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic recordings of different lengths, rates and formats. Not to be changed: copy it."""
    from tiny_build import write_music

    return write_music(tmp_path_factory.mktemp("music"))


@pytest.fixture(scope="session")
def built(music: Path, tiny_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """built("zarr") or built("webdataset"): the finished cache of `music`. Not to be changed: copy it."""
    from tiny_build import build

    caches: dict[str, Path] = {}

    def cache_in(storage: str) -> Path:
        if storage not in caches:
            out = tmp_path_factory.mktemp(storage) / "cache"
            build(music, out, tiny_autoencoder, format=storage)
            caches[storage] = out
        return caches[storage]

    return cache_in
