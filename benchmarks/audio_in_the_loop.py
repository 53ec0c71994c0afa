"""Measures what the cache saves: an L1 training step from shards against the same step with audio in it.

    python benchmarks/audio_in_the_loop.py CACHE [--music FOLDER_OR_MANIFEST] [--size S] [--autoencoder-preset paper_b]

Encode in the loop: random windows of music in memory and their low band, made as in a build, are encoded before the
update. Decode in the loop: the update from shards, with a multi-resolution STFT distance between the decoded estimate
and music as its loss, so gradients pass the decoder. Both are slightly cheaper here than in practice: windows have no
context and the loss is not checked for NaN. The content of the music does not matter, so without --music it is noise,
and windows of music are not those of the latents. A preset has random weights. Rows take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch
from rounds import Plan, Timing, clocked, interleaved, middle, ratio
from torch import Tensor
from training import add_options, base_config, changed, place

from reencoder_pipeline.audio.read import read_audio
from reencoder_pipeline.audio.resampling import Audio, downmix, low_band
from reencoder_pipeline.autoencoder import Autoencoder, load_autoencoder
from reencoder_pipeline.autoencoders.vocos.autoencoder import VocosAutoencoder
from reencoder_pipeline.autoencoders.vocos.model import Vocos
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.cache.latent_cache import LatentCache
from reencoder_pipeline.cache.open_cache import open_cache
from reencoder_pipeline.config import load_config
from reencoder_pipeline.corpora.corpus import read_corpus
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.tasks import get_task
from reencoder_pipeline.training.autocast import autocast
from reencoder_pipeline.training.ranks import Ranks
from reencoder_trainer.config import TrainConfig
from reencoder_trainer.module.latent_module import SIZES
from reencoder_trainer.training.learner import Learner
from reencoder_trainer.training.make_learner import make_learner
from reencoder_trainer.training.stopwatch import Stopwatch
from reencoder_trainer.windows.mapped_windows import WindowLoader

PRESETS = Path(__file__).parents[1] / "configs" / "autoencoder"
NOISE_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--music", type=Path, help="folder or manifest of music; default: noise")
    parser.add_argument("--tracks", type=int, default=3, help="number of tracks to use, from the first")
    parser.add_argument("--size", choices=list(SIZES), default="S")
    parser.add_argument("--autoencoder-preset", help="a file of configs/autoencoder, such as paper_b")
    parser.add_argument("--audio-batch", type=int, help="windows with audio; default: the batch, 4 with a preset")
    add_options(parser)
    arguments = parser.parse_args()
    config, cache = changed(base_config(arguments), size=arguments.size), open_cache(arguments.cache)
    preset = arguments.autoencoder_preset
    autoencoder = (
        load_preset(preset, device=config.device)
        if preset
        else load_autoencoder(config.autoencoder, device=config.device)
    )
    if autoencoder.spec.channels != cache.spec.channels or autoencoder.spec.hop != cache.spec.hop:
        parser.error(f"the cache holds other latents than {autoencoder.spec.autoencoder} makes: {cache.spec}")
    music = read_music(arguments.music, arguments.tracks, sample_rate=cache.spec.sample_rate)
    audio_batch = arguments.audio_batch or (min(4, config.batch_size) if preset else config.batch_size)
    timings = interleaved(
        loop_rows(config, cache, autoencoder, music, audio_batch=audio_batch),
        Plan(arguments.seconds, arguments.rounds, arguments.steps),
    )
    print(f"{cache.path.name}, {place(config)}, size {config.size}, autoencoder {autoencoder.spec.autoencoder}")
    print_loop(timings, batch_size=config.batch_size, audio_batch=audio_batch)


def load_preset(name: str, *, device: str) -> VocosAutoencoder:
    """The autoencoder of configs/autoencoder/NAME.yaml with random weights, frozen."""
    config = load_config(PRESETS / f"{name}.yaml", AutoencoderTrainConfig).model
    torch.manual_seed(0)
    model = Vocos(config).to(device).eval().requires_grad_(False)
    spec = LatentSpec(f"{name}, random", "0" * 64, config.sample_rate, config.hop, config.latent_channels)
    return VocosAutoencoder(model, spec)


def read_music(source: Path | None, num_tracks: int, *, sample_rate: int) -> list[Audio]:
    """Mono tracks, (samples,) each."""
    if source is None:
        noise = np.random.default_rng(0).standard_normal(NOISE_SECONDS * sample_rate, dtype=np.float32)
        return [0.1 * noise]
    paths = [track.path for track in read_corpus(source)[:num_tracks]]
    return [downmix(read_audio(path, sample_rate=sample_rate)[0])[0] for path in paths]


def draw_audio(music: Sequence[Audio], *, num: int, num_samples: int, seed: int) -> Audio:
    """(num, num_samples): windows of tracks that are long enough, a pure function of the seed."""
    generator = np.random.default_rng(seed)
    usable = [track for track in music if len(track) >= num_samples]
    chosen = [usable[index] for index in generator.integers(len(usable), size=num)]
    starts = [int(generator.integers(len(track) - num_samples + 1)) for track in chosen]
    return np.stack([track[start : start + num_samples] for track, start in zip(chosen, starts, strict=True)])


# --- steps ------------------------------------------------------------------------------------------------------------


def loop_rows(
    config: TrainConfig, cache: LatentCache, autoencoder: Autoencoder, music: Sequence[Audio], *, audio_batch: int
) -> dict[str, Callable[[int], Timing]]:
    """Blocks of the four kinds of steps, with `audio_batch` windows if they take audio, else the config's batch."""
    device = torch.device(config.device)
    num_samples = cache.spec.num_samples(cache.spec.frames_in(config.window_seconds))
    draws = (draw_audio(music, num=audio_batch, num_samples=num_samples, seed=seed) for seed in count())
    with_audio = changed(config, batch_size=audio_batch)
    steps = {
        "from shards": from_shards(config, cache),
        "low band alone": lambda: make_low_band(next(draws), cache),
        "encode in the loop": encode_in_the_loop(with_audio, cache, autoencoder, lambda: next(draws)),
        "decode in the loop": decode_in_the_loop(with_audio, cache, autoencoder, lambda: next(draws)),
    }
    if audio_batch != config.batch_size:
        steps["from shards, audio's batch"] = from_shards(with_audio, cache)
    return {name: clocked(step, device=device) for name, step in steps.items()}


def from_shards(config: TrainConfig, cache: LatentCache) -> Callable[[], object]:
    learner, loader, numbers = new_learner(config, cache), new_loader(config, cache), count()

    def step() -> None:
        number = next(numbers)
        learner.update(loader.batch(number, batch_size=config.batch_size), number, where="from shards")

    return step


def encode_in_the_loop(
    config: TrainConfig, cache: LatentCache, autoencoder: Autoencoder, draw: Callable[[], Audio]
) -> Callable[[], object]:
    learner, numbers, device = new_learner(config, cache), count(), torch.device(config.device)

    def encoded(audio: Audio) -> Tensor:
        with autocast(device, config.precision):
            latents = autoencoder.encode(torch.from_numpy(audio)[:, None].to(device))
        return latents.transpose(1, 2)  # (B, C, T) -> (B, T, C)

    def step() -> None:
        audio = draw()
        batch = {"mono": encoded(audio), "low_band": encoded(make_low_band(audio, cache))}
        learner.update(batch, next(numbers), where="encode in the loop")

    return step


def decode_in_the_loop(
    config: TrainConfig, cache: LatentCache, autoencoder: Autoencoder, draw: Callable[[], Audio]
) -> Callable[[], object]:
    from auraloss.freq import MultiResolutionSTFTLoss

    learner, loader, numbers = new_learner(config, cache), new_loader(config, cache), count()
    device = torch.device(config.device)
    distance = MultiResolutionSTFTLoss().to(device)

    def step() -> None:
        inputs, _ = learner.windows(loader.batch(next(numbers), batch_size=config.batch_size))
        with autocast(device, config.precision):
            estimate = learner.estimator.module(inputs)
            audio = autoencoder.decode(learner.normalisation.targets.undo(estimate))
        reference = torch.from_numpy(draw())[:, None].to(device)
        loss = distance(audio.float(), reference)
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        learner.optimizer.step()

    return step


def new_learner(config: TrainConfig, cache: LatentCache) -> Learner:
    ranks, frames = Ranks(0, 1, torch.device(config.device)), cache.spec.frames_in(config.window_seconds)
    return make_learner(config, cache, get_task("bwe"), num_frames=frames, ranks=ranks, stopwatch=Stopwatch())


def new_loader(config: TrainConfig, cache: LatentCache) -> WindowLoader:
    frames = cache.spec.frames_in(config.window_seconds)
    return WindowLoader(cache, get_task("bwe"), split="train", num_frames=frames, seed=config.seed)


def make_low_band(audio: Audio, cache: LatentCache) -> Audio:
    """(B, samples) -> their low band, one window after the other, as a build makes it."""
    rate, settings = cache.spec.sample_rate, cache.low_band
    windows = [
        low_band(window[None], sample_rate=rate, low_rate=settings["rate"], resampler=settings["resampler"])[0]
        for window in audio
    ]
    return np.stack(windows)


# --- the table --------------------------------------------------------------------------------------------------------


def per_window(
    timings: Mapping[str, Sequence[Timing]], *, batch_size: int, audio_batch: int
) -> dict[str, list[Timing]]:
    """Seconds of one window instead of one step."""
    sizes = dict.fromkeys(timings, audio_batch) | {"from shards": batch_size}
    return {name: [Timing(one.step / sizes[name]) for one in values] for name, values in timings.items()}


def print_loop(timings: Mapping[str, Sequence[Timing]], *, batch_size: int, audio_batch: int) -> None:
    windows = per_window(timings, batch_size=batch_size, audio_batch=audio_batch)
    print(f"\nbatch {batch_size}; rows with audio: batch {audio_batch}", end="")
    print("" if audio_batch == batch_size else f", compared by the window, and written here for {batch_size}")
    print(f"{'':28}{'ms/step':>10}{'windows/s':>11}{'of shards':>11}")
    for name, values in windows.items():
        window = middle(values).step
        times = ratio(values, windows["from shards"])
        print(f"{name:28}{1e3 * window * batch_size:10.1f}{1 / window:11,.1f}{times:11.2f}")


if __name__ == "__main__":
    main()
