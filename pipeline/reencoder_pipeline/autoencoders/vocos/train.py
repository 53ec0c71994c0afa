"""Train the house autoencoder on waveforms: the only training in the project that touches audio."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reencoder_pipeline.autoencoders.vocos.losses import (
    RESOLUTIONS,
    LossWeights,
    kl_divergence,
    mel_filterbanks,
    reconstruction_losses,
    waveform_distance,
)
from reencoder_pipeline.autoencoders.vocos.model import Vocos, VocosConfig
from reencoder_pipeline.autoencoders.vocos.pcm import PcmExcerpts, decode_corpus
from reencoder_pipeline.autoencoders.vocos.weights import load_vocos, save_vocos
from reencoder_pipeline.config import AutoencoderTrainConfig
from reencoder_pipeline.corpus import assign_splits, read_corpus
from reencoder_pipeline.errors import CheckpointError, ConfigError, TrainingError


def train_autoencoder(config: AutoencoderTrainConfig, *, resume: bool, progress: Callable[[str], None]) -> Path:
    """Run (or continue) a training; returns the released weights: a moving average, in one safetensors file.

    A run is a folder: config.json, metrics.jsonl, state.pt (for resume), autoencoder.safetensors. Batch k is a pure
    function of (seed, k), so resuming is counting on. `steps` may grow or shrink between resumes: the learning rate is
    constant until `decay_steps` before the end.
    """
    run = Path(config.out)
    state_path = run / "state.pt"
    _claim(run, config, resume=resume)
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads or torch.get_num_threads())

    tracks = assign_splits(read_corpus(Path(config.source)), valid_share=0.05, test_share=0.1)
    chosen = [track for track in tracks if track.split == "train"]
    progress(f"{len(chosen)} of {len(tracks)} tracks are for training")
    shape = VocosConfig(**config.model.model_dump())
    workers = config.threads or os.cpu_count() or 1
    files = decode_corpus(chosen, Path(config.pcm), sample_rate=shape.sample_rate, workers=workers, progress=progress)
    num_samples = round(config.excerpt_seconds * shape.sample_rate / shape.hop) * shape.hop
    excerpts = PcmExcerpts(files, num_samples=num_samples, sample_rate=shape.sample_rate, seed=config.seed)

    trainer = Trainer(shape, config)
    step = trainer.load(state_path) if resume and state_path.exists() else 0
    if config.init and not step:
        trainer.start_from(Path(config.init))
    stop = _StopSignal()
    started, first, saved = time.monotonic(), step, time.monotonic()
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as journal:
        while step < config.steps and not stop.asked:
            metrics = trainer.update(torch.from_numpy(excerpts.batch(step, config.batch_size)), step)
            step += 1
            if step % config.log_every == 0:
                rate = (step - first) / (time.monotonic() - started)
                journal.write(json.dumps({"step": step, **metrics, "steps_per_second": round(rate, 3)}) + "\n")
                journal.flush()
                left = (config.steps - step) / rate / 60
                progress(f"step {step}/{config.steps}  {_format(metrics)}  {rate:.2f} steps/s  {left:.0f} min left")
            if time.monotonic() - saved > 60 * config.checkpoint_minutes:
                trainer.save(state_path, run / "autoencoder.safetensors", step)
                saved = time.monotonic()
    trainer.save(state_path, run / "autoencoder.safetensors", step)
    if stop.asked:
        raise KeyboardInterrupt(f"stopped after step {step}; the same command with --resume goes on from there")
    return run / "autoencoder.safetensors"


class Trainer:
    """Model, moving average and optimiser; one `update` a step."""

    def __init__(self, shape: VocosConfig, config: AutoencoderTrainConfig) -> None:
        self.config = config
        self.weights = LossWeights(**config.losses.model_dump())
        self.model = Vocos(shape)
        self.average = Vocos(shape)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, betas=(0.8, 0.99), weight_decay=1e-3, fused=True
        )
        self.filterbanks = mel_filterbanks(shape.sample_rate)
        if config.compile:
            # Stages only: the spectral front and back end hold complex numbers, which do not compile.
            for stage in (
                self.model.encoder.fine,
                self.model.encoder.coarse,
                self.model.decoder.fine,
                self.model.decoder.coarse,
            ):
                stage.compile()

    def update(self, audio: Tensor, step: int) -> dict[str, float]:
        """audio (B, 1, L) -> the loss terms of this step. TrainingError before the update if a loss is not finite."""
        rng = np.random.default_rng((self.config.seed, 1, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = [RESOLUTIONS[i] for i in rng.choice(len(RESOLUTIONS), self.config.resolutions_per_step, replace=False)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bfloat16):
            estimate, mean, log_variance = self.model(audio, generator=generator)
        losses = reconstruction_losses(estimate[:, 0], audio[:, 0], resolutions=chosen, filterbanks=self.filterbanks)
        losses["waveform"] = waveform_distance(estimate, audio)
        losses["kl"] = kl_divergence(mean, log_variance)
        total = torch.stack([getattr(self.weights, name) * value for name, value in losses.items()]).sum()
        if not torch.isfinite(total):
            values = {name: float(value) for name, value in losses.items()}
            raise TrainingError("the loss is not finite; nothing was updated", where=f"step {step}", value=values)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config)
        self.optimizer.step()
        decay = min(self.config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1.0 - decay)
        terms = {name: value.item() for name, value in losses.items()}
        return {"loss": total.item(), **terms, "grad_norm": norm.item()}

    def save(self, state_path: Path, weights_path: Path, step: int) -> None:
        """The state first (all that resume needs), then the released file made from it; both beside and renamed."""
        state = {
            "step": step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(state_path)
        save_vocos(self.average, weights_path, training={"steps": step, "seed": self.config.seed})

    def start_from(self, path: Path) -> None:
        """Take the weights of another training of the same shape; optimiser and steps begin anew."""
        weights = load_vocos(path)
        if weights.config != self.model.config:
            raise ConfigError("weights of another shape", where="init", value=weights.config)
        for model in (self.model, self.average):
            model.load_state_dict(weights.state_dict())

    def load(self, path: Path) -> int:
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:
            raise CheckpointError("cannot be resumed from", where=path, value=str(error)[:300]) from error
        return int(state["step"])


def learning_rate(step: int, config: AutoencoderTrainConfig) -> float:
    """Linear warm-up, constant, linear decay to a fiftieth over the last `decay_steps`."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = min(1.0, (config.steps - step) / max(1, config.decay_steps))
    return config.lr * warm * max(0.02, left)


class _StopSignal:
    """SIGINT and SIGTERM end the loop after the current step, so that the checkpoint is whole."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def _claim(run: Path, config: AutoencoderTrainConfig, *, resume: bool) -> None:
    written = run / "config.json"
    if written.exists():
        if not resume:
            raise ConfigError(
                "a training is there already", where=run, remedy="add --resume to continue it, or set another `out`"
            )
        before = json.loads(written.read_text(encoding="utf-8"))
        now = json.loads(config.model_dump_json())
        free = {"steps", "decay_steps", "threads", "log_every", "checkpoint_minutes", "compile", "source", "pcm", "out"}
        changed = [name for name in now if name not in free and before.get(name) != now[name]]
        if changed:
            raise ConfigError("this run was started with other settings", where=run, value=", ".join(changed))
    run.mkdir(parents=True, exist_ok=True)
    written.write_text(config.model_dump_json(indent=1), encoding="utf-8")


def _format(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
