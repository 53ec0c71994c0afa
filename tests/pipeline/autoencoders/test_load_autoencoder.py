"""How a name becomes an autoencoder, and what is said when it cannot: one message with the remedy in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reencoder_pipeline.autoencoder import Options, load_autoencoder, parse_name
from reencoder_pipeline.autoencoders.known_files import UNVERIFIED, licence_of
from reencoder_pipeline.errors import AutoencoderError
from tiny_families import instance


def refused(name: str) -> str:
    with pytest.raises(AutoencoderError) as raised:
        load_autoencoder(name)
    return str(raised.value)


# Names


@pytest.mark.parametrize(
    ("name", "plain", "options"),
    [
        ("house", "house", Options()),
        ("a/b#revision=v1.0,subfolder=vae", "a/b", Options(revision="v1.0", subfolder="vae")),
        ("a/b#form=joint, local_files_only=true", "a/b", Options(form="joint", local_files_only=True)),
        ("a/b#revision=refs/pr/3", "a/b", Options(revision="refs/pr/3")),
        ("/x#y/z#form=dual_mono", "/x#y/z", Options(form="dual_mono")),
    ],
)
def test_names_and_options(name: str, plain: str, options: Options) -> None:
    assert parse_name(name) == (plain, options)


def test_a_folder_may_have_a_hash_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "mix #form=joint"
    folder.mkdir()
    assert parse_name(str(folder)) == (str(folder), Options())


def test_all_problems_of_a_name_are_in_one_message() -> None:
    message = refused("a/b#fomr=joint,revision,local_files_only=yes,device=cuda")
    assert "did you mean form?" in message
    assert "'revision' does not read key=value" in message
    assert "did you mean true?" in message
    assert "unknown option 'device'" in message


def test_names_that_are_nothing(tmp_path: Path) -> None:
    assert "did you mean house?" in refused("hause")
    assert "no such autoencoder on disk" in refused(str(tmp_path / "missing"))
    assert "takes no options" in refused("house#form=joint")
    assert "cannot be imported" in refused("no_such_module:function")


class _Half:
    spec, context = None, 0


def load_half(device: str) -> _Half:
    return _Half()


def test_ones_own_function_must_give_all_of_an_autoencoder() -> None:
    message = refused(f"{__name__}:load_half")
    assert "['local', 'licence', 'encode', 'decode']" in message
    assert "takes no options" in refused(f"{__name__}:load_half#form=joint")


# Forms


@pytest.mark.parametrize(
    ("family", "form", "expected"),
    [
        ("oobleck_joint", "dualmono", r"did you mean dual_mono\? choose one of: joint, dual_mono"),
        ("dac_latent", "joint", "choose one of: latent, projected"),
        ("oobleck_mono", "joint", "leave out `form`"),
        ("vocos", "joint", "leave out `form`"),
    ],
)
def test_a_form_that_is_not_offered(family: str, form: str, expected: str) -> None:
    with pytest.raises(AutoencoderError, match=rf"(?s)no such form.*{expected}"):
        load_autoencoder(f"{instance(family)}#form={form}")


# Digests


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    source = Path(instance("oobleck_joint"))
    moved = tmp_path / "another name"
    shutil.copytree(source, moved)
    (moved / "README.md").write_text("not weights")
    before = load_autoencoder(str(source)).spec
    assert load_autoencoder(str(moved)).spec == before
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "sampling_rate": 16_000}))
    assert load_autoencoder(str(moved)).spec.weights != before.weights


def test_weights_in_pieces(tmp_path: Path) -> None:
    from diffusers import AutoencoderOobleck

    model = AutoencoderOobleck.from_pretrained(instance("oobleck_joint"))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    pieces = list(tmp_path.glob("*.safetensors"))
    assert len(pieces) > 1
    audio = torch.randn(1, 2, 200, generator=torch.Generator().manual_seed(0))
    whole, pieced = load_autoencoder(instance("oobleck_joint")), load_autoencoder(str(tmp_path))
    assert torch.equal(whole.encode(audio), pieced.encode(audio))
    pieces[0].unlink()
    assert "cannot be loaded" in refused(str(tmp_path))


# Weights that are not there, or not whole


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "there is no config.json in the folder" in refused(str(tmp_path))
    shutil.copytree(instance("oobleck_joint"), tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    assert "did you mean #subfolder=vae?" in refused(str(tmp_path))
    assert "no such subfolder" in refused(f"{tmp_path}#subfolder=vea")
    assert isinstance(load_autoencoder(f"{tmp_path}#subfolder=vae").context, int)
    assert "only hub ids have revisions" in refused(f"{tmp_path}#subfolder=vae,revision=main")


def test_a_config_that_names_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    message = refused(str(tmp_path))
    assert "AutoencoderKL" in message
    assert "AutoencoderOobleck" in message
    (tmp_path / "config.json").write_text("{")
    assert "is not valid JSON" in refused(str(tmp_path))


@pytest.mark.parametrize("family", ["oobleck_joint", "dac_latent"])
def test_damaged_and_missing_weights(tmp_path: Path, family: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(instance(family), folder)
    (file,) = folder.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    message = refused(str(folder))
    assert "cannot be loaded" in message
    assert "fetch the weights again" in message
    file.unlink()
    assert "cannot be loaded" in refused(str(folder))
    save_file({"unrelated": torch.zeros(1)}, file, metadata={"format": "pt"})
    message = refused(str(folder))  # the libraries only warn of it
    assert "weights are missing" in message or "cannot be loaded" in message


def test_a_damaged_vocos_file(tmp_path: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    file.write_bytes(Path(instance("vocos")).read_bytes()[:1000])
    assert "cannot be read" in refused(str(file))


def test_mmaudio_without_its_vocoder(tmp_path: Path) -> None:
    folder = instance("mmaudio").partition("#")[0]
    shutil.copytree(Path(folder) / "audio_vae", tmp_path / "audio_vae")
    assert "MMAudio's vocoder is missing" in refused(str(tmp_path / "audio_vae"))


# Libraries


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = instance("oobleck_joint")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "pip install 'reencoder[diffusers]'" in refused(folder)


def test_a_library_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = instance("kvae_audio")

    class Old:
        __version__ = "0.30.0"

    monkeypatch.setitem(sys.modules, "diffusers", Old)  # type: ignore[arg-type]
    message = refused(folder)
    assert "version 0.30.0" in message
    assert "pip install --upgrade 'diffusers>=0.42.1'" in message


# The hub, without it


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Exception | Path], list[dict[str, object]]]:
    """hub(error or snapshot folder): what huggingface_hub does from now on, and what it was asked for."""
    import huggingface_hub

    def answer(with_: Exception | Path) -> list[dict[str, object]]:
        asked: list[dict[str, object]] = []

        def snapshot_download(name: str, **arguments: object) -> str:
            asked.append({"name": name, **arguments})
            if isinstance(with_, Exception):
                raise with_
            return str(with_)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return answer


def test_a_hub_id_while_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the library itself says then, with an empty cache; no connection is tried."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("nobody/nothing", "nobody/nothing#local_files_only=true"):
        message = refused(name)
        assert "there is no such folder, and the hub id" in message
        assert "give a local folder" in message


def test_a_gated_and_an_unknown_repository(hub: Callable[[Exception | Path], object]) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    response: Any = SimpleNamespace(headers={}, request=None)
    hub(GatedRepoError("gated", response=response))
    message = refused("stabilityai/stable-audio-open-1.0#subfolder=vae")
    assert "https://huggingface.co/stabilityai/stable-audio-open-1.0" in message
    assert "hf auth login" in message
    hub(RepositoryNotFoundError("not found", response=response))
    assert "neither a folder on disk nor a repository on the hub" in refused("nobody/nothing")


def test_only_what_is_needed_is_fetched(hub: Callable[[Path], list[dict[str, object]]], tmp_path: Path) -> None:
    shutil.copytree(instance("oobleck_joint"), tmp_path / "vae")
    asked = hub(tmp_path)
    autoencoder = load_autoencoder("someone/music#subfolder=vae,revision=v2,local_files_only=true")
    assert autoencoder.spec == load_autoencoder(instance("oobleck_joint")).spec
    assert {(str(a["name"]), a["revision"], a["local_files_only"]) for a in asked} == {("someone/music", "v2", True)}
    patterns = asked[-1]["allow_patterns"]
    assert isinstance(patterns, list)
    assert "vae/diffusion_pytorch_model.safetensors" in patterns
    assert all(pattern.startswith("vae/") for pattern in patterns)
    assert not any("model" in pattern and pattern.endswith("safetensors") for pattern in asked[0]["allow_patterns"])  # type: ignore[attr-defined]


# Licences


def test_licences_are_told_as_far_as_they_are_known() -> None:
    assert licence_of("ACE-Step/Ace-Step1.5", "AutoencoderOobleck") == "MIT"
    assert "Stability AI" in licence_of("stabilityai/stable-audio-open-1.0", "AutoencoderOobleck")
    assert "not for commercial use" in licence_of("/some/folder", "music2latent")
    assert licence_of("/some/folder", "AutoencoderKLKVAEAudio") == UNVERIFIED
    assert load_autoencoder("house").licence == "MIT"


def test_nothing_is_imported_before_it_is_needed() -> None:
    """A name that is wrong is refused without waiting for torch, and nothing asks the network at import."""
    program = """
import sys
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.errors import AutoencoderError
try:
    load_autoencoder("hause")
except AutoencoderError:
    print(sorted({"torch", "diffusers", "transformers", "huggingface_hub"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
