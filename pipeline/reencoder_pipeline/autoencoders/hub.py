"""Downloads autoencoders from the Hugging Face hub: only the files that are needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reencoder_pipeline.autoencoders.known_files import CONFIG, NAMED_FILES, STABLE_AUDIO_CONFIG, VOCOS_FILE
from reencoder_pipeline.errors import AutoencoderError


@dataclass(frozen=True)
class Options:
    """Options that may follow a name: NAME#revision=main,subfolder=vae,local_files_only=true,form=dual_mono."""

    revision: str | None = None
    subfolder: str | None = None
    local_files_only: bool = False
    form: str | None = None


def looks_like_hub_id(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def download_from_hub(name: str, options: Options, *, weights: Sequence[str] = ()) -> Path:
    """Download the configs and the files matching `weights`; return the snapshot's folder.

    AutoencoderError if the repository or its subfolder does not exist, is gated, or cannot be reached."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    subfolder = options.subfolder
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    configs = [prefix + pattern for pattern in (CONFIG, STABLE_AUDIO_CONFIG, "*.index.json")]
    # Weights that are known by their file name have no config, so download them at once.
    known = [prefix + file for file in (VOCOS_FILE, *(name for names in NAMED_FILES.values() for name in names))]
    try:
        snapshot = huggingface_hub.snapshot_download(
            name,
            revision=options.revision,
            allow_patterns=[*configs, *known, *weights],
            local_files_only=options.local_files_only,
        )
    except GatedRepoError:
        remedy = f"accept its terms at https://huggingface.co/{name}, then `hf auth login`; or give a local folder"
        raise AutoencoderError("these weights are gated", where=name, remedy=remedy) from None
    except (RepositoryNotFoundError, HFValidationError):
        remedy = "correct the path or the id; a private repository needs `hf auth login`"
        what = "the name is neither a folder on disk nor a repository on the hub"
        raise AutoencoderError(what, value=name, remedy=remedy) from None
    except (OSError, ValueError) as error:
        what = "there is no such folder, and the hub id is neither in the local cache nor can it be downloaded"
        remedy = "download it once with a network (`hf download`), without local_files_only and HF_HUB_OFFLINE; "
        remedy += "or give a local folder"
        value = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise AutoencoderError(what, where=name, value=value, remedy=remedy) from None
    folder = Path(snapshot) / subfolder if subfolder else Path(snapshot)
    if not folder.is_dir():
        what, remedy = "the repository has no such subfolder", "correct `subfolder`"
        raise AutoencoderError(what, where=name, value=subfolder, remedy=remedy)
    return folder
