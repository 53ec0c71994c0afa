"""Loads Music2Latent (Sony CSL): mono, 64 channels, 10.8 frames a second; a consistency model that decodes from noise.

It is not local, because it normalises over the whole piece. The noise is drawn from a fixed seed, item by item, so that
a latent always decodes to the same sound; the decoder gives no gradients. The package itself would download weights on
every use and run their pickled code; here it only gets tensors from a file on disk.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from reencoder_pipeline.autoencoders.find_weights import Source
from reencoder_pipeline.autoencoders.frozen_autoencoder import FrozenAutoencoder, frozen
from reencoder_pipeline.autoencoders.known_files import NAMED_FILES
from reencoder_pipeline.autoencoders.pretrained import digest_of, library_class
from reencoder_pipeline.autoencoders.tensor_files import load_tensors, read_tensors

NOISE_SEED = 0
TENSORS = "gen_state_dict"


def load_music2latent(source: Source, *, form: str | None, device: str) -> FrozenAutoencoder:
    codec_class = library_class("music2latent.inference", "EncoderDecoder", since="0.1.8")
    library = importlib.import_module("music2latent.inference")
    file = named_file(source)
    codec = codec_class.__new__(codec_class)  # its __init__ downloads
    codec.device = torch.device(device)
    model = library.UNet()
    known = model.state_dict().keys()  # like the package, ignore tensors that the model does not have
    tensors = {name: value for name, value in read_tensors(file, inside=TENSORS).items() if name in known}
    codec.gen = load_tensors(model, tensors, file=file, device=device)
    hop = library.hop * 2 ** library.freq_downsample_list.count(0)
    edge = 3 * library.hop // 2  # samples by which its spectrogram exceeds its frames at each end

    def to_latents(audio: Tensor) -> Tensor:
        return codec.encode(F.pad(audio[:, 0], (edge, edge)))  # it calls the items of the batch channels

    def to_audio(latents: Tensor) -> Tensor:
        return torch.stack([seeded(codec.decode, item[None]) for item in latents])[..., edge:]

    return frozen(
        source,
        form,
        weights=digest_of([file]),
        sample_rate=library.sample_rate,
        hop=hop,
        channels=library.bottleneck_channels,
        model=codec.gen,
        to_latents=to_latents,
        to_audio=to_audio,
    )


def named_file(source: Source) -> Path:
    """The weights file of a family that is recognised by its file's name."""
    if source.path.is_file():
        return source.path
    return next(source.path / name for name in NAMED_FILES[source.family] if (source.path / name).is_file())


def seeded(decode: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """decode(latents) with the same noise each time; the caller's random state does not change."""
    with torch.random.fork_rng():
        torch.manual_seed(NOISE_SEED)
        return decode(latents)
