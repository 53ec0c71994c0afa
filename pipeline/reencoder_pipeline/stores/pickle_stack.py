"""Counts the values that a pickle stands for, without loading it.

A pickle refers to what it has made before by a number. A tuple that holds the one before it twice, sixty times over,
takes 300 bytes, and to hash it as the key of a mapping takes 2**60 steps: loading such a file never ends.
"""

from __future__ import annotations

import pickletools
from typing import Any

GET = {"GET", "BINGET", "LONG_BINGET"}
PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
MARK = 0


class PickleStack:
    """The stack of a pickle's machine; of each object the number of values in it, as far as it was there when it was
    referred to. That is all of it for a tuple; a list can grow later, but is not hashed."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._stack: list[int] = []
        self._memo: dict[int, int] = {}

    def follow(self, code: pickletools.OpcodeInfo, argument: Any) -> None:
        """One operation. ValueError when an object stands for more than `most` values; IndexError or KeyError where
        there is nothing to take."""
        if code.name in GET:
            self._stack.append(self._memo[int(argument)])
        elif code.name in PUT:
            self._memo[int(argument)] = self._stack[-1]
        elif code.name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif code.name == "DUP":
            self._stack.append(self._stack[-1])
        else:
            values = 1 + self._taken(code.stack_before)
            if values > self._most:
                raise ValueError(f"a pickle that stands for more than {self._most:,} values")
            self._stack += [MARK if kind is pickletools.markobject else values for kind in code.stack_after]

    def _taken(self, kinds: list[pickletools.StackObject]) -> int:
        taken, count = 0, len(kinds)
        if pickletools.markobject in kinds:
            count = kinds.index(pickletools.markobject)
            while (values := self._stack.pop()) != MARK:
                taken += values
        return taken + sum(self._stack.pop() for _ in range(count))
