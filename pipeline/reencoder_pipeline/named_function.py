"""Imports and calls functions that a user names as package.module:function, on a command line or in a configuration.

A name found in any other file is never run (`shipped_name` of autoencoder.py).
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

from reencoder_pipeline.errors import ReencoderError, in_one_line

ANNOUNCED: set[str] = set()  # names that this process has printed on stderr


def reads_like_a_function(name: str) -> bool:
    """Whether `name` has the form package.module:function; nothing is imported."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))


def call_named(
    name: str, *arguments: Any, keywords: Mapping[str, Any] | None = None, what: str, error: type[ReencoderError]
) -> Any:
    """Import the function, call it with these arguments and return its result.

    The first import of a name is announced on stderr. Anything that goes wrong, also inside the function, becomes an
    `error` that names the function, with the exception's type, text and line. `what` describes the result in messages.

    Example::

        call_named("math:sqrt", 2.0, what="a number", error=ConfigError)  # 1.4142135623730951
    """
    keywords = keywords or {}
    function = _imported(name, what=what, error=error)
    example = ", ".join([*map(repr, arguments), *(f"{key}={value!r}" for key, value in keywords.items())])
    remedy = f"write it so that function({example}) returns {what}"
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as mismatch:
        raise error("the function does not take its arguments", where=name, value=mismatch, remedy=remedy) from None
    except ValueError:  # a function in C may have no signature
        pass
    try:
        return function(*arguments, **keywords)
    except ReencoderError:
        raise
    except (Exception, SystemExit) as failure:
        raise error(
            "the function raised an exception", where=name, value=_described(failure), remedy="correct the function"
        ) from failure


def _imported(name: str, *, what: str, error: type[ReencoderError]) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    if not reads_like_a_function(name):
        remedy = "write package.module:function"
        raise error("this is not the name of a function", where=f"'{in_one_line(name)}'", remedy=remedy)
    _announce(name, what)
    try:
        module = importlib.import_module(module_name)
    except ImportError as failure:
        remedy = "correct the name, install the package, or put its folder into PYTHONPATH"
        raise error("the module cannot be imported", where=name, value=in_one_line(failure), remedy=remedy) from failure
    except (Exception, SystemExit) as failure:  # the user's own code can raise anything
        said, remedy = "the module raised an exception while it was imported", f"correct {module_name}"
        raise error(said, where=name, value=_described(failure), remedy=remedy) from failure
    found = getattr(module, function_name, None)
    if found is None:
        near = difflib.get_close_matches(function_name, dir(module), n=1)
        remedy = f"did you mean {module_name}:{near[0]}?" if near else f"name a function of {module_name}"
        raise error("the module has no such function", where=name, remedy=remedy)
    if not callable(found):
        remedy = f"name a function that returns {what}"
        raise error("the named object is not a function", where=name, value=type(found).__name__, remedy=remedy)
    return found


def _announce(name: str, what: str) -> None:
    """Print it once a command: not in worker processes, and only in the first of several ranks."""
    worker = multiprocessing.parent_process() is not None or os.environ.get("RANK", "0") != "0"
    if name not in ANNOUNCED and not worker:
        print(f"imports {name}, which was named as {what}", file=sys.stderr, flush=True)
    ANNOUNCED.add(name)


def _described(failure: BaseException) -> str:
    """The exception's type and text, and the line that raised it."""
    frames = traceback.extract_tb(failure.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(failure).__name__}: {str(failure)[:500]}{place}"
