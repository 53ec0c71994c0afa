"""ReEncoder: where it loads from, shapes, types and conditions, whose latents it takes, and its folder for the hub."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from torch import nn

from reencoder_pipeline.errors import CacheError, CheckpointError
from reencoder_trainer.reencoder import ReEncoder
from reencoder_trainer.release import find_module as module_source
from reencoder_trainer.trained_module import save_module
from trained_modules import SPEC, latents, make_trained


@pytest.fixture
def reencoder() -> ReEncoder:
    return ReEncoder(make_trained(3))


def test_it_is_the_trained_module(reencoder: ReEncoder) -> None:
    assert torch.equal(reencoder(latents()), make_trained(3)(latents()))


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (2, 1, 2)])
def test_any_leading_shape(lead: tuple[int, ...], reencoder: ReEncoder) -> None:
    x = torch.randn(*lead, 4, 11, generator=torch.Generator().manual_seed(0))
    output = reencoder(x)
    assert output.shape == (*lead, 8, 11)
    torch.testing.assert_close(output.reshape(-1, 8, 11), reencoder(x.reshape(-1, 4, 11)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_is_the_input_s_and_the_work_is_in_float32(dtype: torch.dtype, reencoder: ReEncoder) -> None:
    x = latents().to(dtype)
    output = reencoder(x)
    assert output.dtype == dtype
    assert torch.equal(output, reencoder(x.float()).to(dtype)), "rounded once, at the end"


def test_a_released_module_goes_by_its_name(
    reencoder: ReEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_source, "RELEASED", tmp_path / "released")
    (tmp_path / "released").mkdir()
    save_module(reencoder.trained, tmp_path / "released" / "bwe_s.safetensors")
    assert torch.equal(ReEncoder.load("bwe_s")(latents()), reencoder(latents()))
    with pytest.raises(CheckpointError, match=r"no such module[\s\S]*did you mean bwe_s\?"):
        ReEncoder.load("bwe-s")
    save_module(make_trained(4), tmp_path / "bwe_s")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(ReEncoder.load("bwe_s")(latents()), make_trained(4)(latents())), "what is on disk comes first"


def test_bfloat16_products_when_told(reencoder: ReEncoder) -> None:
    quick = ReEncoder(reencoder.trained, precision="bfloat16")
    exact, rounded = reencoder(latents()), quick(latents())
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.1)


def test_the_weights_follow_the_input(reencoder: ReEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reencoder_trainer.reencoder.autocast", lambda *_: nullcontext())  # the meta device has none
    assert reencoder(latents().to("meta")).device.type == "meta"
    assert {parameter.device.type for parameter in reencoder.trained.module.parameters()} == {"meta"}


def test_what_comes_out_is_for_decoders_that_keep_gradients(reencoder: ReEncoder) -> None:
    decoder = nn.Conv1d(8, 1, 1)
    with torch.inference_mode():
        encoded = latents() + 0  # as autoencoders of load_autoencoder encode
    decoder(reencoder(encoded)).sum().backward()
    assert decoder.weight.grad is not None


def test_conditions_and_seeds(reencoder: ReEncoder) -> None:
    x, prior = latents(), reencoder.trained.prior(2, seed=7)
    assert torch.equal(reencoder(x, seed=7), reencoder(x, condition=prior))
    assert not torch.allclose(prior[0], prior[1]), "an item has its own"
    assert not torch.allclose(reencoder(x, seed=7), reencoder(x, seed=8))
    assert torch.equal(reencoder(x), reencoder(x, condition=torch.zeros(3)))
    alike = reencoder.posterior(latents(8))
    assert alike.shape == (2, 3)
    torch.testing.assert_close(reencoder(x, condition=alike), reencoder.trained(x, alike))
    with pytest.raises(CheckpointError, match="exclude each other"):
        reencoder(x, seed=7, condition=prior)
    with pytest.raises(
        CheckpointError, match=r"wrong shape\n  found: \(3, 3\)\n  try: give \(3,\), \(1, 3\) or \(2, 3\)"
    ):
        reencoder(x, condition=torch.zeros(3, 3))
    plain = ReEncoder(make_trained(0))
    with pytest.raises(CheckpointError, match="takes no condition"):
        plain(x, condition=prior)
    with pytest.raises(CheckpointError, match="takes no condition"):
        plain(x, seed=7)


def test_latents_that_do_not_fit_are_refused_by_name(reencoder: ReEncoder) -> None:
    with pytest.raises(
        CheckpointError, match=r"\(\.\.\., 4, frames\): LatentSpec.channels 4, of tiny[\s\S]*\(2, 5, 9\)"
    ):
        reencoder(torch.zeros(2, 5, 9))
    with pytest.raises(CheckpointError, match=r"try: transpose them: \(B, T, C\) -> \(B, C, T\)"):
        reencoder(torch.zeros(2, 9, 4))
    with pytest.raises(CheckpointError, match="floats, not codes"):
        reencoder(torch.zeros(2, 4, 9, dtype=torch.long))
    with pytest.raises(CheckpointError, match="the latents are empty"):
        reencoder(torch.zeros(2, 4, 0))


def test_an_autoencoder_is_checked_field_by_field(reencoder: ReEncoder) -> None:
    reencoder.check(SPEC)
    reencoder.check(reencoder)  # anything that has a spec
    other = replace(SPEC, hop=2048, weights="def")
    with pytest.raises(CacheError, match=r"weights: 'abc' here, 'def' there; hop: 1024 here, 2048 there"):
        reencoder.check(other)
    with pytest.raises(CheckpointError, match=r"has no LatentSpec\n  found: Conv1d"):
        reencoder.check(nn.Conv1d(1, 1, 1))  # type: ignore[arg-type]


def test_targets_are_told_apart(reencoder: ReEncoder) -> None:
    output = reencoder(latents())
    parts = reencoder.split(output)
    assert list(parts) == ["left", "right"]
    assert torch.equal(torch.cat(list(parts.values()), dim=1), output)
    with pytest.raises(CheckpointError, match="an output of this module is"):
        reencoder.split(latents())


def test_it_loads_from_files_and_folders(tmp_path: Path) -> None:
    expected = make_trained()(latents())
    save_module(make_trained(), tmp_path / "module.safetensors")
    for name in (tmp_path, tmp_path / "module.safetensors", str(tmp_path)):
        assert torch.equal(ReEncoder.load(name)(latents()), expected)
    with pytest.raises(CheckpointError, match="a file on disk has no revisions"):
        ReEncoder.load(tmp_path, revision="main")
    (tmp_path / "module.safetensors").rename(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"the folder holds no module.safetensors[\s\S]*found: other"):
        ReEncoder.load(tmp_path)
    for absent in ("no/such/module", "/nowhere", "typing mistake"):
        with pytest.raises(CheckpointError, match="no such module"):
            ReEncoder.load(absent)


def test_a_folder_for_the_hub_is_all_that_is_needed(reencoder: ReEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    reencoder.save_pretrained(folder, model_card_kwargs={"name": "me/upmix", "licence": "CC-BY-4.0"})
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    save_module(make_trained(3), tmp_path / "ours")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "ours").read_bytes(), "our one file, as ever"
    for again in (ReEncoder.from_pretrained(folder), ReEncoder.load(folder)):
        assert torch.equal(again(latents(), seed=1), reencoder(latents(), seed=1))
    assert ReEncoder.from_pretrained(folder, precision="bfloat16").precision == "bfloat16"
    config = json.loads((folder / "config.json").read_text())
    assert (config["task"]["name"], config["spec"]["hop"], config["condition_channels"]) == ("m2s", 1024, 3)
    card = (folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"]) == ("cc-by-4.0", "reencoder")
    for part in ("# me/upmix", "mono to stereo", f"{reencoder.trained.num_parameters:,} parameters", '"steps": 7',
                 "tiny, weights abc", "43.07 frames per second", "approximate only", "seed=0"):  # fmt: skip
        assert part in card


def test_the_card_s_code_is_code_and_nothing_is_made_up() -> None:
    card = str(ReEncoder(make_trained(task="bwe", response_frames=1)).generate_model_card())
    code = card.partition("```python")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert "reencoder.check(autoencoder)" in code
    assert "not stated" in card
    assert "license" not in card
    assert "exact, 3 frames (70 ms)" in card


def test_it_is_pushed_as_it_is_saved(reencoder: ReEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, list[str]] = {}

    def create_repo(self: HfApi, repo_id: str, **_: object) -> object:
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, **_: object) -> str:
        sent[repo_id] = sorted(path.name for path in folder_path.iterdir())
        return "url"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert reencoder.push_to_hub("me/upmix") == "url"
    assert sent == {"me/upmix": ["README.md", "config.json", "model.safetensors"]}


def test_a_hub_id_loads_from_the_local_cache_without_a_network(reencoder: ReEncoder, tmp_path: Path) -> None:
    repository = tmp_path / "models--me--upmix"
    reencoder.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    loaded = ReEncoder.load("me/upmix", local_files_only=True, cache_dir=tmp_path)
    assert torch.equal(loaded(latents()), reencoder(latents()))
    loaded = ReEncoder.from_pretrained("me/upmix", local_files_only=True, cache_dir=tmp_path)
    assert torch.equal(loaded(latents()), reencoder(latents()))
    with pytest.raises(CheckpointError, match=r"the download from the hub failed[\s\S]*LocalEntryNotFound"):
        ReEncoder.load("me/absent", local_files_only=True, cache_dir=tmp_path)
