"""Files of tensors from anywhere, safetensors or torch.save: nothing in them is run, and no size in them is believed.

Reading one takes at most its own size for tensors, and a hundred times the bytes of its pickle for everything else.
"""

from __future__ import annotations

import pickletools
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reencoder_pipeline.errors import ReencoderError, in_one_line
from reencoder_pipeline.safe_text import require_regular

if TYPE_CHECKING:
    from torch import Tensor


HEADER_BYTES = 2**20  # of a safetensors file; ours are below 20 kB, those of large models below 200
FLOATS = ("F16", "BF16", "F32")
MAX_NAMES = 1_000
MOST_VALUES = 100  # for each byte of a pickle, what it refers to several times counted each time
SAVED = "give a file that torch.save (1.6 or later) wrote"

# What a pickle of tensors and plain values needs. torch allows more than this, and some of that takes any amount of
# memory for a few bytes, such as torch.Tensor(10**12) or bytearray(10**12).
PLAIN = {"collections.OrderedDict", "collections.Counter", "torch._utils._rebuild_tensor_v2", "torch.Size"}
PLAIN |= {"torch._utils._rebuild_parameter", "torch.device", "_codecs.encode", "builtins.set", "builtins.complex"}
# What training programs leave of the standard library in their files. Whatever else of it a file names (os, eval,
# subprocess) belongs to an attack: a stand-in would be as inert as the others, but it is worth an error.
HARMLESS = {"collections", "typing", "pathlib", "enum", "copyreg", "datetime"}
HARMLESS_NAMES = {"object", "bool", "int", "float", "complex", "str", "bytes", "list", "tuple", "dict", "frozenset"}
HARMLESS_NAMES = {f"builtins.{name}" for name in (*HARMLESS_NAMES, "slice", "range")}
HARMLESS_NAMES |= {
    f"numpy.{part}.multiarray.{name}" for part in ("core", "_core") for name in ("scalar", "_reconstruct")
}
HARMLESS_NAMES |= {"numpy.dtype", "numpy.ndarray"}


class Inert:
    """Stands for every class and function that a file names: takes anything, does nothing."""

    def __new__(cls, *arguments: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def plain_dict(*arguments: object) -> dict[Any, Any]:
    """Stands for collections.defaultdict."""
    return {}


def read_safetensors(
    path: Path, *, error: type[ReencoderError], what: str, remedy: str, types: Sequence[str] = FLOATS
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors on the CPU. An `error` where `path` is no such file; `what` it should be, for people.

    `types` are the kinds of numbers (in the format's own names) that may be in there; empty: all.
    """
    import safetensors

    damaged = error(
        "cannot be read: not a safetensors file, or a damaged one", where=path, value=f"not {what}", remedy=remedy
    )
    require_regular(path, kind=error, what=f"file with {what}")
    try:
        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > HEADER_BYTES:
                raise damaged
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for name in names if types else ():
                if (kind := file.get_slice(name).get_dtype()) not in types:
                    value = f"{in_one_line(name)} is {kind}, not {' or '.join(types)}"
                    raise error("a tensor holds another kind of numbers", where=path, value=value, remedy=remedy)
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, OverflowError) as failure:
        raise damaged from failure


def read_pickled(path: Path, *, error: type[ReencoderError], what: str, stand_ins: bool = False) -> Any:
    """Read the tensors and plain values of a file by torch.save, on the CPU.

    `stand_ins`: the file may name classes of the program that wrote it; each becomes Inert, nothing is imported.
    """
    import torch

    require_regular(path, kind=error, what=f"file with {what}")
    names = _names_in(path, error=error)
    try:
        foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as failure:  # a damaged pickle can raise anything
        raise _unreadable(path, failure, error) from None
    for name in sorted(names | foreign):
        allowed = name in PLAIN or (name.startswith("torch.") and name not in foreign and _is_a_type(name))
        if not allowed and not (stand_ins and _is_harmless(name)):
            what, remedy = "holds more than tensors", "save its tensors alone, as safetensors"
            if stand_ins:
                what, remedy = "names code that no checkpoint needs", "do not use this file, and warn its author"
            raise error(f"{what}; nothing of it was run", where=path, value=in_one_line(name), remedy=remedy)
    inert: list[Any] = [(plain_dict if name == "collections.defaultdict" else Inert, name) for name in sorted(foreign)]
    try:
        with torch.serialization.safe_globals(inert):
            # Mapped, so that no size that the file claims is allocated; and copied once the claims are known to hold.
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as failure:
        raise _unreadable(path, failure, error) from None
    _copy_honest_tensors(values, path, error=error)
    return values


def misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]]) -> list[str]:
    """Reasons why these tensors do not fit a model with these shapes; [] if they fit."""
    found = [f"{name}: missing" for name in expected if name not in tensors]
    found += [f"{in_one_line(name)}: unknown" for name in tensors if name not in expected]
    return found + [
        f"{name}: {tuple(tensors[name].shape)}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]


def first_of(problems: Sequence[str], *, count: int = 4) -> str:
    """Some of them in a line of bounded length, and how many more there are."""
    return ("; ".join(problems[:count]) + (f"; and {len(problems) - count} more" if len(problems) > count else ""))[
        :1000
    ]


def _names_in(path: Path, *, error: type[ReencoderError]) -> set[str]:
    """The classes and functions that the pickle of a checkpoint names, in Python's own reading of the file.

    Records must be stored as they are: torch maps them, and compressed ones could be of any size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            roots = {member.filename.partition("/")[0] for member in members}
            unique = len({member.filename.casefold() for member in members}) == len(members)
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not unique or not stored or len(roots) != 1:
                raise zipfile.BadZipFile("records are compressed, repeated, or of several checkpoints")
            pickled = archive.read(f"{roots.pop()}/data.pkl")
        named, stack = set[str](), _PickleStack(most=MOST_VALUES * len(pickled))
        for code, argument, _ in pickletools.genops(pickled):
            stack.follow(code, argument)
            if code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                raise ValueError(f"{code.name} in a pickle")
            if code.name == "GLOBAL":
                named.add(_modern(str(argument)))
            if len(named) > MAX_NAMES:
                raise ValueError(f"a pickle that names more than {MAX_NAMES} classes and functions")
    except Exception as failure:  # a damaged zip file or pickle can raise anything
        raise _unreadable(path, failure, error) from None
    return named


def _modern(argument: str) -> str:
    """ "module name" of a pickle, as Python 3 calls it."""
    module, _, name = argument.partition(" ")
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    return f"{module}.{name}"


def _is_a_type(name: str) -> bool:
    """Whether a name of torch is that of a storage or of a type of numbers, which take no memory."""
    import torch

    part = name.removeprefix("torch.")
    return part.endswith("Storage") or isinstance(getattr(torch, part, None), torch.dtype)


def _is_harmless(name: str) -> bool:
    root = name.partition(".")[0]
    foreign = root not in sys.stdlib_module_names and root not in ("torch", "numpy")
    return foreign or root in HARMLESS or name in HARMLESS_NAMES


def _copy_honest_tensors(values: Any, path: Path, *, error: type[ReencoderError]) -> None:
    """Put copies into the tensors, in place: a mapped file that is changed or cut later would change or end them.

    An `error` unless all tensors together are within the file: a stride of 0 makes any number of elements of one.
    """
    import torch

    found: dict[tuple[Any, ...], list[Tensor]] = {}
    for tensor in _tensors(values):
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            value = f"{tensor.layout}, {tensor.dtype}, {tensor.device}"
            raise error("holds a tensor of a kind that is not read", where=path, value=value, remedy=SAVED)
        storage, size = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
        last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
        end = (tensor.storage_offset() + last + 1) * tensor.element_size() if size else 0
        if size > storage or end > storage:
            value = f"shape {tuple(tensor.shape)} with strides {tensor.stride()} in {storage:,} bytes"
            raise error("a tensor claims more than the file holds for it", where=path, value=value, remedy=SAVED)
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        found.setdefault(place, []).append(tensor)
    size = sum(same[0].numel() * same[0].element_size() for same in found.values())
    if size > path.stat().st_size:
        value = f"{size:,} bytes in tensors, {path.stat().st_size:,} in the file"
        raise error("the tensors claim more than the file holds", where=path, value=value, remedy=SAVED)
    for same in found.values():
        copy = same[0].detach().clone()
        for tensor in same:
            tensor.data = copy


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested mappings and sequences. Each container is visited once: a pickle can hold one in itself."""
    import torch

    waiting, known = [values], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in known:
            known.add(id(value))
            waiting.extend([*value.keys(), *value.values()] if isinstance(value, Mapping) else value)


def _unreadable(path: Path, failure: BaseException, error: type[ReencoderError]) -> ReencoderError:
    value = f"{type(failure).__name__}: {in_one_line(failure)}"
    return error("cannot be read as a checkpoint", where=path, value=value, remedy=SAVED)


GET = {"GET", "BINGET", "LONG_BINGET"}
PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
MARK = 0


class _PickleStack:
    """The stack of a pickle's machine, with the number of values that each object stands for. Nothing is loaded.

    A pickle refers to what it has made before by a number. A tuple that holds the one before it twice, sixty times
    over, takes 300 bytes, and to hash it as the key of a mapping takes 2**60 steps: loading such a file never ends.
    Values are counted as far as they are there when an object is referred to: all of a tuple; a list can grow later,
    but is not hashed.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._stack: list[int] = []
        self._memo: dict[int, int] = {}

    def follow(self, code: pickletools.OpcodeInfo, argument: Any) -> None:
        """Follow one operation. ValueError if an object expands to over `most` values; IndexError or KeyError if the
        stack or memo is empty."""
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
