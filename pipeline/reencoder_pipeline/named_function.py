"""Functions that a person names as package.module:function, on a command line or in a configuration: found and called.

Such a name is the person's to run. It never comes from a file that is read (`shipped_name` of autoencoder.py).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reencoder_pipeline.errors import ReencoderError

ANNOUNCED: set[str] = set()  # names that this process has said on stderr


def reads_like_a_function(name: str) -> bool:
    """Whether `name` has the form package.module:function; nothing is imported."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))


def call_named(
    name: str, *arguments: Any, keywords: Mapping[str, Any] | None = None, what: str, error: type[ReencoderError]
) -> Any:
    """What the function of this name gives for these arguments; the import is said on stderr once a command.

    An `error` that names the function for everything that goes wrong, also inside it: then with the exception's type,
    text and line, and the exception as its cause. `what` is what the function makes, for people.
    """
    keywords = keywords or {}
    function = _imported(name, what=what, error=error)
    example = ", ".join([*map(repr, arguments), *(f"{key}={value!r}" for key, value in keywords.items())])
    remedy = f"it is called as function({example}) and gives {what}"
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as mismatch:
        raise error("the function does not take what it is given", where=name, value=mismatch, remedy=remedy) from None
    except ValueError:  # a function in C may not say what it takes
        pass
    try:
        return function(*arguments, **keywords)
    except ReencoderError:
        raise
    except (Exception, SystemExit) as failure:
        raise error(
            "the function raised an exception", where=name, value=_described(failure), remedy="correct the function"
        ) from failure


def shown(name: object) -> str:
    """A name that somebody gave, in one line of bounded length."""
    text = str(name)
    start = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:200])
    return start if len(text) <= 200 else f"{start}... ({len(text):,} characters)"


def _imported(name: str, *, what: str, error: type[ReencoderError]) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    if not reads_like_a_function(name):
        remedy = "write package.module:function"
        raise error("not the name of a function", where=f"'{shown(name)}'", remedy=remedy)
    _announce(name, what)
    try:
        module = importlib.import_module(module_name)
    except ImportError as failure:
        remedy = "correct the name, install the package, or put its folder into PYTHONPATH"
        raise error("cannot be imported", where=name, value=shown(failure), remedy=remedy) from failure
    except (Exception, SystemExit) as failure:  # it is the person's own code, and can raise anything
        remedy = f"correct {module_name}"
        raise error(
            "the module raised an exception while it was imported",
            where=name,
            value=_described(failure),
            remedy=remedy,
        ) from failure
    found = getattr(module, function_name, None)
    if found is None:
        near = difflib.get_close_matches(function_name, dir(module), n=1)
        remedy = f"did you mean {module_name}:{near[0]}?" if near else f"name a function of {module_name}"
        raise error("cannot be imported: the module has no such function", where=name, remedy=remedy)
    if not callable(found):
        remedy = f"name a function that gives {what}"
        raise error("is not a function", where=name, value=type(found).__name__, remedy=remedy)
    return found


def _announce(name: str, what: str) -> None:
    """Once a command: not in its worker processes, and of several ranks in the first alone."""
    worker = multiprocessing.parent_process() is not None or os.environ.get("RANK", "0") != "0"
    if name not in ANNOUNCED and not worker:
        print(f"imports {name}, which was named as {what}", file=sys.stderr, flush=True)
    ANNOUNCED.add(name)


def _described(failure: BaseException) -> str:
    """The exception's type and text, and the line that raised it."""
    frames = traceback.extract_tb(failure.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(failure).__name__}: {str(failure)[:500]}{place}"
