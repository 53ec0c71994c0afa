"""Where weights come from: a folder, a file or a hub id becomes a folder on disk, a family, and a digest."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reencoder_pipeline import safe_text
from reencoder_pipeline.autoencoders.claimed_sizes import require_sizes_of_files
from reencoder_pipeline.autoencoders.licences import licence_of
from reencoder_pipeline.corpus import file_digest
from reencoder_pipeline.errors import AutoencoderError
from reencoder_pipeline.named_function import shown

VOCOS_FILE = "autoencoder.safetensors"
CONFIG, STABLE_AUDIO_CONFIG = "config.json", "model_config.json"
# Families whose weights are one file that is known by its name.
NAMED_FILES = {
    "music2latent": ("music2latent.pt", "music2latent.safetensors"),
    "codicodec": ("codicodec.pt", "codicodec.safetensors"),
}
TRANSFORMERS = {"dac": "DacModel", "encodec": "EncodecModel"}  # model_type -> class
JSON_BYTES = 2**24
# Keys of config.json by which transformers and diffusers import code, fetch it from the hub, or load another model.
BRINGS_CODE = {"auto_map", "custom_pipelines", "trust_remote_code", "quantization_config", "base_model_name_or_path"}
BRINGS_CODE |= {"attn_implementation", "_attn_implementation", "_attn_implementation_internal", "gguf_file"}
BRINGS_CODE |= {"experts_implementation", "_experts_implementation", "_experts_implementation_internal"}
BRINGS_CODE |= {"use_kernels", "kernel_config", "transformers_weights"}
HARMLESS: tuple[Any, ...] = (None, False, {}, [], "eager", "sdpa")
ADAPTERS = ("adapter_config.json",)
DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS = "diffusion_pytorch_model", "model"


@dataclass(frozen=True)
class Source:
    """An autoencoder found on disk: `path` is its folder (or its one file), `config` what its config file holds."""

    name: str
    path: Path
    family: str
    config: dict[str, Any]
    licence: str


def looks_like_hub_id(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def find_source(
    name: str, *, families: Sequence[str], revision: str | None, subfolder: str | None, local_files_only: bool
) -> Source:
    """A folder or file that exists wins over a hub id of the same name. AutoencoderError for anything else."""
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise AutoencoderError(
                "a revision is of a hub id, and this is on disk", where=path, value=revision, remedy="leave it out"
            )
        path = path / subfolder if subfolder else path
        if not path.exists():
            raise AutoencoderError("no such subfolder", where=path, remedy=_subfolders(path.parent, families))
    else:
        path = _from_hub(name, revision=revision, subfolder=subfolder, local_files_only=local_files_only, weights=())
        family, _ = _identify(path, families)
        weights = _weights_patterns(family, subfolder)
        path = _from_hub(
            name, revision=revision, subfolder=subfolder, local_files_only=local_files_only, weights=weights
        )
    try:
        family, config = _identify(path, families)
    except OSError as error:
        remedy = "give a file or folder that can be read"
        raise AutoencoderError("cannot be read", where=path, value=shown(error), remedy=remedy) from None
    return Source(name, path, family, config, licence_of(name, family))


def weights_digest(folder: Path, stem: str, *, config: str = CONFIG) -> str:
    """sha256 over the config and the weights that belong to it (`stem`.safetensors, or the pieces its index names):
    names sorted, contents by their sha256. The config counts, for it can hold statistics that latents are scaled by."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        names = {whole.name}
    elif index.is_file():
        names = _pieces(index)
    else:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        remedy = f"bring {whole.name} here; only safetensors are read, convert other formats with the library's tools"
        raise AutoencoderError(f"no weights named {whole.name}", where=folder, value=found, remedy=remedy)
    return digest_of([folder / name for name in (*names, config)])


def _pieces(index: Path) -> set[str]:
    """The files that an index of weights in pieces names: files beside it, whatever it says."""
    pieces = read_json(index).get("weight_map")
    pieces = set(map(str, pieces.values())) if isinstance(pieces, dict) else set()
    if wrong := sorted(name for name in pieces if not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", name)):
        raise AutoencoderError(
            "the index names files elsewhere than beside it, or of another kind",
            where=index,
            value=shown(wrong[0]),
            remedy="do not use these weights, and tell whoever gave them to you",
        )
    if not pieces:
        raise AutoencoderError("the index names no files", where=index, remedy="fetch the weights again")
    return pieces


def refuse_what_brings_code(folder: Path) -> None:
    """AutoencoderError where config.json, or a file beside it, would have a library import, run or fetch something."""
    if odd := [path for path in sorted(folder.iterdir()) if path.exists() and not path.is_file() and not path.is_dir()]:
        raise AutoencoderError(
            "a pipe or device lies among the weights, and reading it may never end", where=odd[0], remedy="remove it"
        )
    waiting: list[Any] = [read_json(folder / CONFIG)]
    found = [name for name in ADAPTERS if (folder / name).exists()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found += [key for key in value if key in BRINGS_CODE and value[key] not in HARMLESS]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    for stem in (DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS):
        if (index := folder / f"{stem}.safetensors.index.json").is_file():
            _pieces(index)
    if found:
        raise AutoencoderError(
            "the model's folder names code or another model to be loaded, and nothing here is loaded on a file's word",
            where=folder,
            value=", ".join(sorted(set(found))),
            remedy="remove these from a copy of the folder if you know what they do, or write a function of your own "
            "(package.module:function)",
        )


def digest_of(files: Sequence[Path]) -> str:
    """sha256 over names (sorted) and contents. AutoencoderError when one is missing."""
    if missing := [path for path in files if not path.is_file()]:
        raise AutoencoderError("a file of the weights is missing", where=missing[0], remedy="fetch the weights again")
    lines = sorted(f"{path.name} {file_digest(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def library_class(library: str, name: str, *, since: str) -> Any:
    """A class of an optional library. AutoencoderError: not installed, or older than `since`."""
    try:
        module = importlib.import_module(library)
        found = getattr(module, name, None)
    except (ImportError, RuntimeError) as error:  # diffusers turns an import that fails inside it into RuntimeError
        package = library.partition(".")[0]
        remedy = f"pip install 'reencoder[{package}]', or pip install {package}"
        raise AutoencoderError(f"{name} needs {library}", value=str(error)[:300], remedy=remedy) from None
    if found is None:
        version = getattr(module, "__version__", "unknown")
        remedy = f"pip install --upgrade '{library}>={since}'"
        raise AutoencoderError(f"this {library} is too old for {name}", value=f"version {version}", remedy=remedy)
    return found


def from_pretrained(kind: Any, folder: Path, *, device: str) -> Any:
    """A library's model in float32, evaluation mode, frozen. A weight that the files lack is an error here: the
    libraries would leave it random and only warn."""
    refuse_what_brings_code(folder)
    if files := sorted(folder.glob("*.safetensors")):
        require_sizes_of_files(kind, read_json(folder / CONFIG), files, where=folder)
    try:
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # a damaged file or a config of another version raises whatever it happens to hit
        remedy = "fetch the weights again, and upgrade the library if the model is newer than it"
        value = f"{type(error).__name__}: {str(error)[:300]}"
        raise AutoencoderError("the weights cannot be loaded", where=folder, value=value, remedy=remedy) from error
    if missing := sorted(info["missing_keys"]):
        value = f"{len(missing)} tensors, the first: {missing[0]}"
        raise AutoencoderError("weights are missing", where=folder, value=value, remedy="fetch the weights again")
    return model.float().eval().requires_grad_(False).to(device)


def choose_form(form: str | None, offered: Sequence[str], *, where: object) -> str | None:
    """The form asked for, or the first one offered; None where there is only one. AutoencoderError if not offered."""
    if form is None:
        return offered[0] if offered else None
    if form not in offered:
        near = difflib.get_close_matches(form, offered, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        remedy = f"{hint}Offered: {', '.join(offered)}" if offered else "leave out `form`: there is only one"
        raise AutoencoderError("this autoencoder has no such form", where=where, value=form, remedy=remedy)
    return form


def read_json(file: Path) -> dict[str, Any]:
    values = safe_text.read_json(file, kind=AutoencoderError, what="model's configuration", limit=JSON_BYTES)
    if not isinstance(values, dict):
        remedy = "fetch it again"
        raise AutoencoderError("is not a model's configuration", where=file, value=type(values).__name__, remedy=remedy)
    return values


def _identify(path: Path, families: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(family, config), by the config beside the weights or, where there is none, by the name of the weights file."""
    if not path.is_file() and not path.is_dir():
        remedy = "give a file or folder of weights"
        raise AutoencoderError("neither a file nor a folder", where=path, remedy=remedy)
    if path.is_file():
        for family, names in NAMED_FILES.items():
            if path.name in names:
                return family, {}
        if path.suffix == ".safetensors":
            return "vocos", {}
        remedy = "give the folder that holds a model's config and weights, or a file of `reencoder-autoencoder train`"
        raise AutoencoderError("this file alone does not say what it is", where=path, remedy=remedy)
    if (path / VOCOS_FILE).is_file():
        return "vocos", {}
    for family, names in NAMED_FILES.items():
        if any((path / name).is_file() for name in names):
            return family, {}
    if (path / STABLE_AUDIO_CONFIG).is_file():
        return "stable_audio_tools", read_json(path / STABLE_AUDIO_CONFIG)
    if not (path / CONFIG).is_file():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:12]) or "an empty folder"
        raise AutoencoderError(f"no {CONFIG} here", where=path, value=found, remedy=_subfolders(path, families))
    config = read_json(path / CONFIG)
    listed, kind = config.get("architectures"), str(config.get("model_type", ""))
    named = [config.get("_class_name"), *(listed if isinstance(listed, list) else ()), TRANSFORMERS.get(kind)]
    known = next((name for name in named if isinstance(name, str) and name in families), None)
    if known is None:
        found = shown(", ".join(str(name) for name in (*named, kind) if name) or "no class name")
        remedy = f"known: {', '.join(families)}; for others write a function and name it package.module:function"
        raise AutoencoderError("not an autoencoder that is known here", where=path / CONFIG, value=found, remedy=remedy)
    return known, config


def _subfolders(path: Path, families: Sequence[str]) -> str:
    """What to do in a folder without a config: name the subfolders that hold an autoencoder."""
    holding = []
    for config in sorted(path.glob(f"*/{CONFIG}")) if path.is_dir() else ():
        values = read_json(config)
        if values.get("_class_name") in families or TRANSFORMERS.get(str(values.get("model_type", ""))) in families:
            holding.append(config.parent.name)
    if holding:
        return f"did you mean #subfolder={' or #subfolder='.join(holding)}?"
    return f"give the folder of the autoencoder itself: {CONFIG} (or {STABLE_AUDIO_CONFIG}) beside its weights"


def _weights_patterns(family: str, subfolder: str | None) -> list[str]:
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    if family == "vocos" or family in NAMED_FILES:
        return []  # they came with the configs
    if family == "stable_audio_tools":
        return [f"{prefix}model.safetensors"]
    stem = TRANSFORMERS_WEIGHTS if family in TRANSFORMERS.values() else DIFFUSERS_WEIGHTS
    patterns = [f"{prefix}{stem}.safetensors", f"{prefix}{stem}-*.safetensors"]
    if family == "MMAudioVAE":  # decodes to mel spectrograms; the vocoder lies beside it
        patterns += [f"vocoder/{CONFIG}", f"vocoder/{stem}.safetensors", f"vocoder/{stem}-*.safetensors"]
    return patterns


def _from_hub(
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
