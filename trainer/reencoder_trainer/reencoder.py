"""ReEncoder: a trained module for use in other programs; latents in, latents out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from torch import Tensor

from reencoder_pipeline.errors import CheckpointError
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.training.autocast import Autocast, autocast
from reencoder_trainer.release.find_module import HUB_NAME, find_module, module_file
from reencoder_trainer.release.module_card import module_config, render_card
from reencoder_trainer.release.streaming import ModuleStream, latency_frames
from reencoder_trainer.trained_module import TrainedModule, load_module, save_module


class HasSpec(Protocol):
    """Anything that describes its latents, such as an autoencoder of load_autoencoder or a cache."""

    @property
    def spec(self) -> LatentSpec: ...


class ReEncoder(ModelHubMixin):
    """Raw latents (..., C_in, T) of the task's inputs -> raw latents (..., C_out, T) of its targets, stacked along C.

    The output has the type and the device of the input; the weights move to the input's device. Matrix products run in
    `precision`, everything else in float32, whatever the type of the input. `save_pretrained`, `from_pretrained` and
    `push_to_hub` are the hub's; the weights file is that of save_module.

    Example::

        reencoder = ReEncoder.load("bwe_s")
        latents = torch.randn(64, 43)  # one second of raw latents of low_band, from the house autoencoder
        estimate = reencoder(latents)  # (64, 43), raw latents of mono
    """

    _hub_mixin_config: Any = ()  # for None, the mixin would copy all arguments with their weights into config.json

    def __init__(self, trained: TrainedModule, *, precision: Autocast = "float32") -> None:
        self.trained = trained
        self.precision: Autocast = precision
        self._hub_mixin_config = module_config(trained)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        precision: Autocast = "float32",
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
    ) -> ReEncoder:
        """Load a module file, a run folder, a folder of save_pretrained, a released module by name, or a hub id.

        CheckpointError if `name` is none of these, or if the file is damaged.
        """
        path = find_module(name, revision=revision, local_files_only=local_files_only, cache_dir=cache_dir)
        return cls(load_module(path), precision=precision)

    @property
    def spec(self) -> LatentSpec:
        return self.trained.spec

    def check(self, other: LatentSpec | HasSpec) -> None:
        """Raise CacheError if these latents differ from the module's, naming every field that differs."""
        spec = other if isinstance(other, LatentSpec) else getattr(other, "spec", None)
        if not isinstance(spec, LatentSpec):
            remedy = "load it with reencoder_pipeline.autoencoder.load_autoencoder, or give a LatentSpec"
            raise CheckpointError("the object has no LatentSpec", value=type(other).__name__, remedy=remedy)
        remedy = "use the autoencoder that the module was trained with, or train one for this autoencoder"
        self.spec.require_same(spec, where="the module", remedy=remedy)

    def __call__(self, latents: Tensor, *, condition: Tensor | None = None, seed: int | None = None) -> Tensor:
        """`condition` (H,), (1, H) or (B, H), or a `seed` that draws one for each item, is for modules that take one.

        The default condition is zero, the prior's mean. CheckpointError if the shapes do not fit the module.
        """
        batch = self.batched(latents)
        if batch.numel() == 0:
            remedy = "give at least one frame and one item"
            raise CheckpointError("the latents are empty", value=tuple(latents.shape), remedy=remedy)
        self._follow(batch)
        with autocast(batch.device, self.precision):
            output = self.trained(batch, self._condition(batch, condition=condition, seed=seed))
        return output.to(latents.dtype).reshape(*latents.shape[:-2], *output.shape[1:])

    def split(self, latents: Tensor) -> dict[str, Tensor]:
        """Split an output by target stream: {"left": (..., C, T), "right": (..., C, T)}. Decode each separately."""
        targets = self.trained.task.targets
        if latents.dim() < 2 or latents.shape[-2] != self.trained.module.out_channels:
            expected = f"(..., {self.trained.module.out_channels}, frames)"
            value, remedy = tuple(latents.shape), "give what a call of this module returned"
            raise CheckpointError(f"an output of this module is {expected}", value=value, remedy=remedy)
        return dict(zip(targets, latents.chunk(len(targets), dim=-2), strict=True))

    def posterior(self, targets: Tensor) -> Tensor:
        """Raw target latents (..., C_out, T) -> the condition (B, H) that describes them, the posterior's mean."""
        self._follow(targets)
        return self.trained.posterior(targets.reshape(-1, *targets.shape[-2:])).mean.clone()

    def streaming(
        self, *, condition: Tensor | None = None, seed: int | None = None, approximate: bool = False
    ) -> LatentStream:
        """Process a piece chunk by chunk; the outputs together equal those of a call on the whole piece.

        This needs a module trained with `response_frames`. An ordinary GRN takes its norm over the whole piece;
        CheckpointError for such a module unless `approximate`, which takes the norm over all frames so far.

        Example::

            stream = reencoder.streaming(approximate=True)
            pieces = [stream(chunk) for chunk in latents.split(8, dim=-1)]
            estimate = torch.cat([*pieces, stream.flush()], dim=-1)
        """
        if self.trained.module.response_frames is None and not approximate:
            raise CheckpointError(
                "this module looks at the whole piece (GRN), so streaming would not equal a call",
                value="response_frames: null",
                remedy="train with `response_frames: 1` (or 3, 5, ...), or use streaming(approximate=True)",
            )

        def start(first: Tensor) -> ModuleStream:
            self._follow(first)
            return ModuleStream(self.trained, self._condition(first, condition=condition, seed=seed))

        return LatentStream(self, start)

    def to(self, device: torch.device | str) -> ReEncoder:
        self.trained = self.trained.to(device)
        return self

    def generate_model_card(self, *, name: str | None = None, licence: str | None = None) -> ModelCard:
        """The README.md of save_pretrained and push_to_hub, whose `model_card_kwargs` are these arguments."""
        return ModelCard(render_card(self.trained, name=name, licence=licence))

    def _save_pretrained(self, save_directory: Path) -> None:
        save_module(self.trained, save_directory / HUB_NAME)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        precision: Autocast = "float32",
    ) -> ReEncoder:
        """Like ModelHubMixin.from_pretrained, but without arguments from config.json, which is only for readers."""
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            return cls(load_module(module_file(folder)), precision=precision)
        path = hf_hub_download(
            str(pretrained_model_name_or_path),
            HUB_NAME,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls(load_module(Path(path)), precision=precision)

    def batched(self, latents: Tensor) -> Tensor:
        """(..., C_in, T) -> (B, C_in, T); CheckpointError for other channels, and for what are no floats."""
        spec, streams = self.spec, self.trained.task.inputs
        if latents.dim() < 2 or latents.shape[-2] != self.trained.module.in_channels:
            expected = f"LatentSpec.channels {spec.channels}, of {spec.autoencoder}, for each of {', '.join(streams)}"
            channels = self.trained.module.in_channels
            turned = latents.dim() >= 2 and latents.shape[-1] == channels
            remedy = "transpose them: (B, T, C) -> (B, C, T)" if turned else "give latents of that autoencoder"
            raise CheckpointError(
                f"takes latents (..., {channels}, frames): {expected}", value=tuple(latents.shape), remedy=remedy
            )
        if not latents.is_floating_point():
            raise CheckpointError("latents are floats, not codes", value=latents.dtype, remedy="take them unquantised")
        return latents[None] if latents.dim() == 2 else latents.flatten(0, -3)

    def _condition(self, batch: Tensor, *, condition: Tensor | None, seed: int | None) -> Tensor | None:
        """(B, H), or None for a module without."""
        if condition is not None and seed is not None:
            raise CheckpointError("a condition and a seed exclude each other", remedy="give only one of them")
        channels = self.trained.module.condition_channels
        if seed is not None:
            condition = self.trained.prior(len(batch), seed=seed)
        if not channels:
            if condition is not None:
                value, remedy = f"a condition {tuple(condition.shape)}", "leave the condition and the seed out"
                raise CheckpointError("this module takes no condition", value=value, remedy=remedy)
            return None
        if condition is None:
            condition = batch.new_zeros(1, channels)
        condition = condition.to(batch.device, torch.float32)
        condition = condition[None] if condition.dim() == 1 else condition
        if condition.dim() != 2 or condition.shape[1] != channels or len(condition) not in (1, len(batch)):
            remedy = f"give ({channels},), (1, {channels}) or ({len(batch)}, {channels}), or a seed"
            raise CheckpointError("the condition has the wrong shape", value=tuple(condition.shape), remedy=remedy)
        return condition.expand(len(batch), -1)

    def _follow(self, latents: Tensor) -> None:
        if self.trained.normalisation.inputs.mean.device != latents.device:
            self.to(latents.device)


class LatentStream:
    """Made by ReEncoder.streaming: call it with each chunk, then `flush()` at the end of the piece.

    Chunks are (..., C_in, t) with any t and the same leading shape. Frame n comes out after frame n + latency_frames
    has gone in. After `flush()` the next piece may begin. Leaving the `with` block drops frames that were not flushed.
    """

    def __init__(self, reencoder: ReEncoder, start: Callable[[Tensor], ModuleStream]) -> None:
        self._reencoder, self._start = reencoder, start
        self._stream: ModuleStream | None = None
        self._like: Tensor | None = None  # (..., C_in, 0), of the type and on the device of the piece
        self.latency_frames = latency_frames(reencoder.trained.module)

    @property
    def latency_seconds(self) -> float:
        return float(self.latency_frames / self._reencoder.spec.frame_rate)

    def __enter__(self) -> LatentStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream = self._like = None

    def __call__(self, chunk: Tensor) -> Tensor:
        """(..., C_in, t) -> (..., C_out, t') of the frames that are complete so far; t' may be 0."""
        batch = self._reencoder.batched(chunk)
        if self._stream is None or self._like is None:
            self._stream, self._like = self._start(batch), chunk[..., :0]
        same = (chunk.shape[:-1], chunk.dtype, chunk.device) == (
            self._like.shape[:-1],
            self._like.dtype,
            self._like.device,
        )
        if not same:
            value = f"{tuple(chunk.shape)} {chunk.dtype} {chunk.device} after {tuple(self._like.shape)}"
            raise CheckpointError(
                "chunks of a piece may differ only in length", value=value, remedy="call flush() before another piece"
            )
        return self._run(batch, last=False)

    def flush(self) -> Tensor:
        """(..., C_out, t'): the frames that were held back, at most latency_frames."""
        if self._like is None or self._stream is None:
            raise CheckpointError("there is nothing to flush", remedy="give the stream a chunk first")
        output = self._run(self._reencoder.batched(self._like), last=True)
        self._stream = self._like = None
        return output

    def _run(self, batch: Tensor, *, last: bool) -> Tensor:
        assert self._stream is not None
        assert self._like is not None
        with autocast(batch.device, self._reencoder.precision):
            output = self._stream(batch, last=last)
        return output.to(self._like.dtype).reshape(*self._like.shape[:-2], *output.shape[1:])
