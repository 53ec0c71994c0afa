"""The scripts of examples/, run as they stand on tiny models; and what they say about pipelines, checked."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.errors import CacheError
from reencoder_trainer.reencoder import ReEncoder
from reencoder_trainer.trained_module import TrainedModule, save_module
from trained_modules import make_trained

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 0.15


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_says_first_what_it_is_for_and_is_run_here() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"diffusers_pipeline", "streaming", "run_onnx"}
    for name in names:
        assert (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").startswith('"""'), name


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    from tiny_pipeline import save_tiny_pipeline

    folder = tmp_path_factory.mktemp("pipeline")
    save_tiny_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def trained(pipeline: Path) -> TrainedModule:
    """For the joint latents of the pipeline's autoencoder; it changes what it is given."""
    return replace(make_trained(task="bwe"), spec=load_autoencoder(f"{pipeline}#subfolder=vae,form=joint").spec)


def test_a_diffusers_pipeline_through_the_module(pipeline: Path, trained: TrainedModule, tmp_path: Path) -> None:
    from diffusers import StableAudioPipeline

    save_module(trained, tmp_path / "module.safetensors")
    out = tmp_path / "out.wav"
    options = ["--prompt", "a slow piano", "--seconds", str(SECONDS), "--steps", "2", "--seed", "3"]
    example("diffusers_pipeline").main([str(pipeline), str(tmp_path / "module.safetensors"), str(out), *options])
    audio, rate = soundfile.read(out)
    assert (rate, audio.shape) == (8_000, (int(SECONDS * 8_000), 2))

    pipe: Any = StableAudioPipeline.from_pretrained(pipeline)

    def generated(output_type: str) -> torch.Tensor:
        return pipe(
            "a slow piano", audio_end_in_s=SECONDS, num_inference_steps=2,
            generator=torch.Generator().manual_seed(3), output_type=output_type,
        ).audios  # fmt: skip

    latents = generated("latent")
    assert latents.shape == (1, 4, 24)
    decoded = pipe.vae.decode(latents).sample[..., : audio.shape[0]]
    torch.testing.assert_close(decoded, generated("pt"), msg="the pipeline hands out what the decoder takes")
    expected = pipe.vae.decode(trained(latents)).sample[0, :, : audio.shape[0]].detach().T.numpy()
    np.testing.assert_allclose(audio, expected.clip(-1, 1), atol=1e-4)  # 16 bit
    assert np.abs(expected - decoded[0].detach().T.numpy()).max() > 1e-2, "the module changed it"


def test_a_pipeline_in_half_precision_gets_half_precision_back(pipeline: Path, trained: TrainedModule) -> None:
    from diffusers import AutoencoderOobleck

    vae: Any = AutoencoderOobleck.from_pretrained(pipeline, subfolder="vae", torch_dtype=torch.bfloat16)
    latents = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert vae.decode(ReEncoder(trained)(latents)).sample.dtype == torch.bfloat16


def test_the_dual_mono_form_is_another_latent_space(pipeline: Path, trained: TrainedModule) -> None:
    reencoder = ReEncoder(trained)
    reencoder.check(load_autoencoder(f"{pipeline}#subfolder=vae"))
    with pytest.raises(CacheError, match=r"stereo: 'joint' here, 'per_channel' there"):
        reencoder.check(load_autoencoder(f"{pipeline}#subfolder=vae,form=dual_mono"))


def test_streaming_says_its_latency_and_that_nothing_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_module(make_trained(task="bwe", response_frames=3), tmp_path / "module.safetensors")
    example("streaming").main([str(tmp_path), "--seconds", "2", "--chunk", "5"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("86 frames in chunks of 5")
    assert said[1] == "latency 4 frames, 93 ms"
    assert float(said[2].rpartition(" ")[2]) < 1e-5


def test_an_onnx_file_runs_on_numpy_and_onnxruntime_alone(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from reencoder_trainer.release.export import export_module

    trained = make_trained(3)
    save_module(trained, tmp_path / "module.safetensors")
    export_module(tmp_path / "module.safetensors", tmp_path, formats=["onnx"])
    latents = torch.randn(4, 13, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "in.npy", latents.numpy())
    noise = np.random.default_rng(5).standard_normal((1, 3), dtype=np.float32)
    blocked = "import sys; sys.modules['torch'] = sys.modules['reencoder_trainer'] = None; import runpy; "
    run = f"sys.argv = sys.argv[1:]; runpy.run_path({str(EXAMPLES / 'run_onnx.py')!r}, run_name='__main__')"
    files = [str(tmp_path / name) for name in ("module.onnx", "in.npy", "out.npy")]
    for options, condition in ([], None), (["--seed", "5"], torch.from_numpy(noise)):
        command = [sys.executable, "-c", blocked + run, "run_onnx.py", *files, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("m2s {'autoencoder': 'tiny'")
        expected = trained(latents[None], condition)[0]
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected.numpy(), atol=1e-4)
