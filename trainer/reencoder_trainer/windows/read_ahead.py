"""Reads the next batches in a thread while the device computes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from reencoder_pipeline.training.ranks import Ranks
from reencoder_trainer.windows.pooled_windows import Windows


class ReadAhead:
    """This rank's batches of `loader`, read by a thread up to `depth` steps ahead.

    For a CUDA device they lie in page-locked memory, from which copies are asynchronous. `depth` 0 starts no thread and
    reads each batch on request: on the CPU a thread has no idle time to use.
    """

    def __init__(self, loader: Windows, batch_size: int, *, ranks: Ranks, steps: int, depth: int) -> None:
        self._loader, self._batch_size, self._rank, self._world_size = loader, batch_size, ranks.rank, ranks.world_size
        self._depth, self._steps, self._pin = depth, steps, ranks.device.type == "cuda"
        self._pending: dict[int, Future[dict[str, Tensor]]] = {}
        self._reader = ThreadPoolExecutor(1) if depth else None

    def batch(self, step: int) -> dict[str, Tensor]:
        """This rank's slice of global batch `step`; errors of the reading thread are raised here."""
        if self._reader is None:
            return self._read(step)
        for ahead in range(step, min(self._steps, step + self._depth + 1)):
            if ahead not in self._pending:
                self._pending[ahead] = self._reader.submit(self._read, ahead)
        return self._pending.pop(step).result()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)

    def _read(self, step: int) -> dict[str, Tensor]:
        batch = self._loader.batch(step, batch_size=self._batch_size, rank=self._rank, world_size=self._world_size)
        return {name: windows.pin_memory() for name, windows in batch.items()} if self._pin else batch
