"""Runs an iterator in a thread, at most `depth` items ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], *, depth: int) -> Generator[T, None, None]:
    """Yield the same items in the same order; an error is raised in place of its item. Closing it ends the thread."""
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        made = deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := made.popleft().result()) is not end:
                made.append(pool.submit(next, items, end))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
