"""Downloads autoencoders from the Hugging Face hub, only what is needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reencoder_pipeline.autoencoders.known_files import CONFIG, NAMED_FILES, STABLE_AUDIO_CONFIG, VOCOS_FILE
from reencoder_pipeline.errors import AutoencoderError


def looks_like_hub_id(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def download_from_hub(
    name: str, *, revision: str | None, subfolder: str | None, local_files_only: bool, weights: Sequence[str]
) -> Path:
    """The snapshot's folder, with the configs and those files of `weights` that exist."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    configs = [prefix + pattern for pattern in (CONFIG, STABLE_AUDIO_CONFIG, "*.index.json")]
    # Files known by their name have no config beside them: their presence has to be seen.
    known = [prefix + file for file in (VOCOS_FILE, *(name for names in NAMED_FILES.values() for name in names))]
    try:
        snapshot = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*configs, *known, *weights],
            local_files_only=local_files_only,
        )
    except GatedRepoError:
        remedy = f"accept its terms at https://huggingface.co/{name}, then `hf auth login`; or give a local folder"
        raise AutoencoderError("these weights are gated", where=name, remedy=remedy) from None
    except (RepositoryNotFoundError, HFValidationError):
        remedy = "correct the path or the id; a private repository needs `hf auth login`"
        raise AutoencoderError(
            "neither a folder on disk nor a repository on the hub", value=name, remedy=remedy
        ) from None
    except (OSError, ValueError) as error:
        remedy = (
            "download it once where there is a network (`hf download`), without local_files_only and HF_HUB_OFFLINE; "
            "or give a local folder"
        )
        value = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise AutoencoderError(
            "no such folder, and as a hub id it can be had neither from the local cache nor from the hub",
            where=name,
            value=value,
            remedy=remedy,
        ) from None
    folder = Path(snapshot) / subfolder if subfolder else Path(snapshot)
    if not folder.is_dir():
        raise AutoencoderError(
            "the repository has no such subfolder", where=name, value=subfolder, remedy="correct `subfolder`"
        )
    return folder
