"""The one place that imports torchaudio, whose binary often does not fit the installed torch, and fails three ways."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from reencoder_pipeline.errors import ReencoderError


def import_torchaudio() -> ModuleType:
    """The torchaudio module with `functional` loaded; ReencoderError naming both versions when it cannot load.

    torchaudio declares no torch requirement, so installers pair any two releases. What happens at import depends on the
    pair: ImportError (absent), OSError (a CPU torch lacks libc10_cuda.so) or RuntimeError (CUDA versions differ).
    """
    try:
        import torchaudio
        import torchaudio.functional
    except (ImportError, OSError, RuntimeError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ReencoderError(
            f"torchaudio {_installed('torchaudio')} does not load beside torch {_installed('torch')}",
            value=first_line,
            remedy="install torch and torchaudio from one package index, both for CPU or both for the same CUDA",
        ) from error
    return torchaudio


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
