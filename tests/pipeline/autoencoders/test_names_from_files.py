"""Names of autoencoders that files bring along: nothing is imported, opened or fetched on a file's word."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from changed_module import changed_module
from reencoder_eval.apply.files.inputs import find_inputs
from reencoder_eval.apply.files.outputs import Outputs
from reencoder_eval.apply.options import ApplyOptions
from reencoder_eval.apply.run import apply_to
from reencoder_pipeline.autoencoder import load_autoencoder, load_own_autoencoder, shipped_name
from reencoder_pipeline.autoencoders.find_weights import refuse_what_brings_code
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.cli import app as cache_app
from reencoder_pipeline.errors import AutoencoderError, CacheError, CheckpointError, ReencoderError
from reencoder_trainer.reencoder import ReEncoder
from reencoder_trainer.release.find_module import RELEASED, find_module
from reencoder_trainer.trained_module import save_module
from tiny_build import music
from tiny_cache import write_cache
from tiny_families import instance
from trained_modules import SPEC, latents, make_trained

TRAP = "trap_of_names_from_files"


@pytest.fixture
def sprung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """sprung(): whether the trap was imported, or a download was tried."""
    import huggingface_hub

    trace = tmp_path / "sprung"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / f"{TRAP}.py").write_text(
        f"from pathlib import Path\nPath({str(trace)!r}).touch()\ndef load(device): raise SystemExit(0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "path"))

    def download(*arguments: object, **settings: object) -> str:
        trace.touch()
        raise OSError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return lambda: trace.exists() or TRAP in sys.modules


NAMES = [
    f"{TRAP}:load", "os:mkdir", "runpy:run_path", "this:s", "someone/weights", "/dev/zero", "..", "", "House", "house ",
    "house#form=joint", "x" * 900, "../../weights.safetensors", "AutoencoderOobleck#form=joint",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_file_is_not_loaded(name: str, sprung: Callable[[], bool]) -> None:
    with pytest.raises(AutoencoderError, match="--autoencoder") as caught:
        load_own_autoencoder(replace(SPEC, autoencoder=name), named=None, where="a file")
    assert name[:100] in str(caught.value)
    assert not sprung()


def test_a_weights_file_in_reach_is_not_loaded_either(tiny_autoencoder: Path) -> None:
    spec = load_autoencoder(str(tiny_autoencoder)).spec
    with pytest.raises(AutoencoderError, match="does not ship"):
        load_own_autoencoder(replace(spec, autoencoder=str(tiny_autoencoder)), named=None, where="a file")
    assert load_own_autoencoder(spec, named=str(tiny_autoencoder), where="a file").spec == spec


def test_what_ships_is_loaded_and_compared() -> None:
    spec = load_autoencoder("house").spec
    assert shipped_name("house", where="a file") == "house"
    assert load_own_autoencoder(spec, named=None, where="a file").spec == spec
    for other in (replace(spec, weights="0" * 64), replace(spec, hop=512)):
        with pytest.raises(CacheError, match="different autoencoders"):
            load_own_autoencoder(other, named=None, where="a file")


@pytest.mark.parametrize("name", [f"{TRAP}:load", "someone/weights"])
def test_apply_takes_no_name_from_a_module(name: str, tmp_path: Path, sprung: Callable[[], bool]) -> None:
    source = tmp_path / "a.wav"
    soundfile.write(source, music(seconds=1.0, channels=1).T, 44_100)
    path = tmp_path / "foreign.safetensors"
    changed_module(RELEASED / "bwe_s.safetensors", path, lambda header, _: header["spec"].update(autoencoder=name))
    files = find_inputs([str(source)], out=tmp_path / "out", stdin=sys.stdin.buffer)

    def apply(named: str | None) -> None:
        list(apply_to(files, Outputs(tmp_path / "out"), ApplyOptions(upsample=path, autoencoder=named)))

    with pytest.raises(AutoencoderError, match=name):
        apply(None)
    with pytest.raises(CacheError, match=name):  # the person's own, whose name differs
        apply("house")
    assert not sprung()
    assert not (tmp_path / "cpu").exists()


@pytest.mark.parametrize("name", [f"{TRAP}:load", "someone/weights"])
def test_no_name_is_taken_from_a_cache(name: str, tmp_path: Path, sprung: Callable[[], bool]) -> None:
    cache = write_cache(
        tmp_path / "cache", spec=replace(open_cache(write_cache(tmp_path / "x")).spec, autoencoder=name)
    )
    done = CliRunner().invoke(cache_app, ["verify", str(cache), "--source", str(tmp_path)])
    assert isinstance(done.exception, AutoencoderError), done.output
    assert name in str(done.exception)
    assert not sprung()


def test_a_card_calls_no_name_that_the_module_gives() -> None:
    for name, called in (("os:system", False), ("house", True)):
        trained = replace(make_trained(), spec=replace(SPEC, autoencoder=name))
        code = str(ReEncoder(trained).generate_model_card()).partition("```python")[2].partition("```")[0]
        compile(code, "card", "exec")
        assert (name in code) == called


# The hub's config.json


@pytest.mark.parametrize(
    "text", ['{"precision": "bfloat16"}', '{"trained": {}}', '{"config": 1, "self": 2}', "[" * 200_000, "["]
)
def test_a_module_s_config_is_for_other_programs(text: str, tmp_path: Path) -> None:
    save_module(make_trained(3), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    loaded = ReEncoder.from_pretrained(tmp_path)
    assert loaded.precision == "float32"
    assert torch.equal(loaded(latents()), make_trained(3)(latents()))


@pytest.mark.parametrize("name", ["", "\0", "x" * 5_000, "~nobody-of-this-name/x", ":", "a/b\0"])
def test_modules_by_nonsense_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no such module"):
        find_module(name)


BRINGING = {
    "auto_map": {"auto_map": {"AutoModel": "code.Model"}},
    "a kernel": {"attn_implementation": "someone/kernel"},
    "a kernel, nested": {"audio": {"parts": [{"_attn_implementation": "someone/kernel:f"}]}},
    "a quantiser": {"quantization_config": {"quant_method": "gptq"}},
    "other weights": {"transformers_weights": "../../x.safetensors"},
    "experts": {"experts_implementation": "someone/kernel"},
}


@pytest.mark.parametrize("family", ["oobleck_joint", "dac_latent"])
@pytest.mark.parametrize("change", BRINGING.values(), ids=BRINGING)
def test_a_config_that_brings_code_is_refused(change: dict[str, Any], family: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(instance(family).partition("#")[0], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(AutoencoderError, match="names code or another model"):
        load_autoencoder(str(folder))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("dac_latent", {"hidden_size": 10**6}),
        ("dac_latent", {"n_codebooks": 10**9}),
        ("dac_latent", {"hidden_size": "8"}),
        ("encodec_24khz", {"num_residual_layers": 10**9}),
        ("oobleck_joint", {"encoder_hidden_size": 10**5}),
        ("oobleck_joint", {"decoder_channels": 10**12}),
        ("oobleck_joint", {"channel_multiples": [1, 2, -2]}),
        ("same_joint", {"encoder_transformer_depths": [10**9, 1]}),
    ],
)
def test_sizes_in_a_config_are_compared_before_they_are_believed(
    family: str, change: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(instance(family).partition("#")[0], tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(
        AutoencoderError, match=r"the configuration asks for more|no model can be built from the configuration"
    ):
        load_autoencoder(str(tmp_path / "model"))


def test_harmless_settings_of_the_same_names_are_taken(tmp_path: Path) -> None:
    for change in ({"attn_implementation": "eager"}, {"quantization_config": None}, {"auto_map": {}}):
        (tmp_path / "config.json").write_text(json.dumps(change))
        refuse_what_brings_code(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(AutoencoderError, match="adapter_config"):
        refuse_what_brings_code(tmp_path)


@pytest.mark.parametrize(
    "piece", ["../../outside.safetensors", "{outside}", "..", "a/../b.safetensors", "x.bin", 3, None]
)
def test_an_index_names_files_beside_it(piece: object, tmp_path: Path) -> None:
    folder, outside = tmp_path / "a" / "model", tmp_path / "outside.safetensors"
    shutil.copytree(instance("oobleck_joint"), folder)
    (whole,) = folder.glob("*.safetensors")
    shutil.move(whole, outside)
    name = piece.format(outside=outside) if isinstance(piece, str) else piece
    index = {"weight_map": dict.fromkeys(load_file(outside), name), "metadata": {}}
    (folder / f"{whole.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(AutoencoderError, match="do not lie beside it"):
        load_autoencoder(str(folder))


def test_a_pipe_among_the_pieces_is_not_opened(tmp_path: Path) -> None:
    shutil.copytree(instance("oobleck_joint"), tmp_path / "model")
    (whole,) = (tmp_path / "model").glob("*.safetensors")
    names = list(load_file(whole))
    whole.unlink()
    os.mkfifo(tmp_path / "model" / "pipe.safetensors")
    index = {"weight_map": dict.fromkeys(names, "pipe.safetensors"), "metadata": {}}
    (tmp_path / "model" / f"{whole.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(AutoencoderError, match=r"pipe\.safetensors"):
        load_autoencoder(str(tmp_path / "model"))


CONFIGS = [
    "[" * 200_000,
    '{"a":' * 200_000,
    "[]",
    "3",
    '{"_class_name": ["AutoencoderOobleck"]}',
    '{"architectures": 7}',
]
CONFIGS += [
    '{"model_type": ["dac"]}',
    '{"architectures": [["DacModel"], {}]}',
    "",
    '{"_class_name": "AutoencoderOobleck"}',
]


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_of_models_that_are_nonsense(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(AutoencoderError, match=str(tmp_path)):
        load_autoencoder(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model_config.json"])
def test_a_config_of_a_terabyte_is_not_read(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(AutoencoderError, match="bytes"):
        load_autoencoder(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"model": []},
        {"model": {"encoder": 3}},
        {"sample_rate": "fast"},
        {"model": {"pretransform": {"config": {"encoder": 1}}}},
    ],
)
def test_sidecars_of_stable_audio_tools_that_are_nonsense(change: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(instance("stable_audio_tools"), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "model_config.json").read_text())
    (tmp_path / "model" / "model_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ReencoderError, match="model"):
        load_autoencoder(str(tmp_path / "model"))


@pytest.mark.parametrize("channels", [10**6, 10**12, -4, 0, 2.5])
def test_sizes_in_a_sidecar_are_compared_before_they_are_believed(channels: float, tmp_path: Path) -> None:
    shutil.copytree(instance("stable_audio_tools"), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "model_config.json").read_text())
    for half in ("encoder", "decoder"):
        config["model"]["pretransform"]["config"][half]["config"]["channels"] = channels
    (tmp_path / "model" / "model_config.json").write_text(json.dumps(config))
    with pytest.raises(AutoencoderError):
        load_autoencoder(str(tmp_path / "model"))


# Weights of our own family


def set_config(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["config"].update(values)


VOCOS = {
    "a billion blocks": set_config(fine=[16, 32, 10**9]),
    "wide": set_config(coarse=[10**7, 10**7, 1]),
    "an FFT of 2**40": set_config(n_fft=2**40),
    "latents": set_config(latent_channels=10**9),
    "stride": set_config(stride=10**6),
    "a lapped transform of everything": set_config(lapped=10**6),
    "negative": set_config(envelope=-1),
    "words": set_config(n_fft="1024"),
    "true": set_config(stride=True),
    "an unknown key": set_config(surprise=1),
    "two numbers": set_config(fine=[16, 32]),
    "null": lambda header: header.update(config=None),
    "a list": lambda header: header.update(config=[1]),
    "another format": lambda header: header.update(format={"a": 1}),
}


@pytest.mark.parametrize("change", VOCOS.values(), ids=VOCOS)
def test_headers_of_autoencoders_that_are_nonsense(
    change: Callable[[dict[str, Any]], None], tiny_autoencoder: Path, tmp_path: Path
) -> None:
    import safetensors

    with safetensors.safe_open(tiny_autoencoder, "pt") as file:
        header = json.loads(file.metadata()["reencoder"])
    change(header)
    path = tmp_path / "odd.safetensors"
    save_file(load_file(tiny_autoencoder), path, metadata={"reencoder": json.dumps(header)})
    with pytest.raises(AutoencoderError, match=str(path)):
        load_autoencoder(str(path))


@pytest.mark.parametrize("text", ["null", "[]", "[" * 200_000, "{", '"text"'])
def test_an_autoencoder_s_header_that_is_no_mapping(text: str, tiny_autoencoder: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file(load_file(tiny_autoencoder), path, metadata={"reencoder": text})
    with pytest.raises(AutoencoderError, match=str(path)):
        load_autoencoder(str(path))
