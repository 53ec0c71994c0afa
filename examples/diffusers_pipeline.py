"""Puts a module between the generator and the decoder of a diffusers pipeline.

    python examples/diffusers_pipeline.py PIPELINE MODULE OUT.wav --prompt "a slow piano" --seconds 10

PIPELINE is a folder or hub id of a StableAudioPipeline. The module must be trained on latents of that pipeline's
autoencoder (bwe, in the form "joint": one latent for both channels). This pipeline returns latents as the decoder takes
them, (B, C, T) and unscaled. Others differ: transpose those of ACE-Step and LongCat, which are (B, T, C), and divide
those of AudioLDM 2 by vae.config.scaling_factor before the module.
"""

from __future__ import annotations

import argparse
from typing import Any

import soundfile
import torch
from diffusers import StableAudioPipeline

from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_trainer.reencoder import ReEncoder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("module")
    parser.add_argument("out")
    parser.add_argument("--prompt", default="a slow piano")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    pipe: Any = StableAudioPipeline.from_pretrained(options.pipeline)
    reencoder = ReEncoder.load(options.module)
    reencoder.check(load_autoencoder(f"{options.pipeline}#subfolder=vae,form=joint"))  # compares the weights too

    latents = pipe(
        options.prompt,
        audio_end_in_s=options.seconds,
        num_inference_steps=options.steps,
        generator=torch.Generator(pipe.device).manual_seed(options.seed),
        output_type="latent",
    ).audios
    latents = reencoder(latents)
    with torch.no_grad():
        audio = pipe.vae.decode(latents).sample
    # Latents are always as long as the transformer's sample_size, so the audio is cut here.
    audio = audio[0, :, : int(options.seconds * pipe.vae.config.sampling_rate)]
    soundfile.write(options.out, audio.T.float().cpu().numpy(), pipe.vae.config.sampling_rate)


if __name__ == "__main__":
    main()
