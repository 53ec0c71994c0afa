"""Runs a module trained with `response_frames` on latents that arrive a few frames at a time.

    python examples/streaming.py MODULE [--seconds 20] [--chunk 4]

Random latents stand in for transmitted ones, or for those of a generator that works from left to right.
"""

from __future__ import annotations

import argparse
import time

import torch

from reencoder_trainer.reencoder import ReEncoder


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--chunk", type=int, default=4, help="frames")
    parser.add_argument("--approximate", action="store_true", help="for a module without response_frames")
    options = parser.parse_args(arguments)

    reencoder = ReEncoder.load(options.module)
    frames = reencoder.spec.frames_in(options.seconds)
    piece = torch.randn(1, reencoder.trained.module.in_channels, frames, generator=torch.Generator().manual_seed(0))

    outputs, slowest = [], 0.0
    with reencoder.streaming(approximate=options.approximate) as stream:
        for chunk in piece.split(options.chunk, dim=-1):
            start = time.perf_counter()
            outputs.append(stream(chunk))  # the frames that are complete so far, none at first
            slowest = max(slowest, time.perf_counter() - start)
        outputs.append(stream.flush())  # the rest
    streamed = torch.cat(outputs, dim=-1)

    print(f"{frames} frames in chunks of {options.chunk}; the slowest took {1000 * slowest:.1f} ms")
    print(f"latency {stream.latency_frames} frames, {1000 * stream.latency_seconds:.0f} ms")
    print(f"largest difference from one call: {(streamed - reencoder(piece)).abs().max():.1e}")


if __name__ == "__main__":
    main()
