"""Loads a frozen autoencoder by its name, and defines what every autoencoder can do (`Autoencoder`)."""

from __future__ import annotations

import difflib
import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reencoder_pipeline.autoencoders.hub import Options, looks_like_hub_id
from reencoder_pipeline.errors import AutoencoderError, ReencoderError, in_one_line
from reencoder_pipeline.latents import LatentSpec
from reencoder_pipeline.named_function import call_named, reads_like_a_function

if TYPE_CHECKING:
    from torch import Tensor


class Autoencoder(Protocol):
    """A frozen autoencoder in evaluation mode (A_E and A_D of the paper, section 2.1).

    `spec.stereo` says how channels are encoded. "per_channel": one channel in and out; the channels of a stereo signal
    are items of the batch. "joint": both channels share one latent; `encode` also takes one channel, as dual mono
    (left = right), and `decode` returns two.
    """

    @property
    def spec(self) -> LatentSpec: ...

    @property
    def context(self) -> int:
        """How many frames at each edge of an encoded or decoded piece may differ from the same frames of the whole
        track. The pipeline encodes that much real context with each piece and discards it."""
        ...

    @property
    def local(self) -> bool:
        """False if a frame depends on the whole piece (attention, recurrence, windows). Then segments only resemble
        the whole track, however much context they have, and a build prints a warning."""
        ...

    @property
    def licence(self) -> str:
        """Licence terms of the weights, as text; shown by `reencoder-cache build` and `plan`."""
        ...

    def encode(self, audio: Tensor) -> Tensor:
        """(B, 1, L), or (B, 1 or 2, L) when joint, float32 -> posterior mean (B, C, ceil(L / hop)) float32.

        The end is padded with silence. Runs in inference mode: clone the result before you use it with autograd."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, T) float32 -> (B, 1, T * hop), or (B, 2, T * hop) when joint, float32.

        Gradients flow to the latents if the family allows it, never to the weights."""
        ...


HOUSE = "house"
_ROOM = "reencoder_pipeline.autoencoders"
# The class named in a model's configuration -> the function that loads it: (Source, *, form, device) -> Autoencoder.
FAMILIES = {
    "vocos": f"{_ROOM}.vocos.autoencoder:load_source",
    "AutoencoderOobleck": f"{_ROOM}.families.oobleck:load_oobleck",
    "stable_audio_tools": f"{_ROOM}.families.stable_audio_tools:load_stable_audio_tools",
    "AutoencoderSAME": f"{_ROOM}.families.same:load_same",
    "AutoencoderKLKVAEAudio": f"{_ROOM}.families.kl_audio:load_kl_audio",
    "AutoencoderKLMiniMaxH3Audio": f"{_ROOM}.families.kl_audio:load_kl_audio",
    "MMAudioVAE": f"{_ROOM}.families.mmaudio:load_mmaudio",
    "DacModel": f"{_ROOM}.families.dac:load_dac",
    "EncodecModel": f"{_ROOM}.families.encodec:load_encodec",
    "music2latent": f"{_ROOM}.families.music2latent:load_music2latent",
    "codicodec": f"{_ROOM}.families.codicodec:load_codicodec",
}


SHIPPED = (HOUSE,)  # the only names that a file may load


def shipped_name(name: str, *, where: object, option: str = "--autoencoder NAME") -> str:
    """Return `name`, found in a file (a module's header, a cache's index, ...), if it ships with this program.

    AutoencoderError for every other name: it may be a path, a function or a hub id, and the author of a file must not
    decide what is opened, called or downloaded. The user can give that name with `option`.
    """
    if name not in SHIPPED:
        raise AutoencoderError(
            "the file names an autoencoder that does not ship with this program, and such a name is never loaded",
            where=where,
            value=in_one_line(name),
            remedy=f"if you know where that autoencoder is, give its file, folder, hub id or function: {option}",
        )
    return name


def load_own_autoencoder(
    spec: LatentSpec, *, named: str | None, where: object, device: str = "cpu", option: str = "--autoencoder NAME"
) -> Autoencoder:
    """Load the autoencoder that made latents with this `spec` (read from a file).

    `named` is the user's choice; None: the spec's own name, which must ship with this program. CacheError if the loaded
    autoencoder differs from `spec` in any field, the digest of its weights included.
    """
    name = shipped_name(spec.autoencoder, where=where, option=option) if named is None else named
    loaded = load_autoencoder(name, device=device)
    spec.require_same(loaded.spec, where=where, remedy=f"give the autoencoder that made the latents: {option}")
    return loaded


def load_autoencoder(name: str, *, device: str = "cpu") -> Autoencoder:
    """Load a frozen autoencoder in evaluation mode.

    `name` is "house", a folder or file of weights, a hub id (owner/name), or "package.module:function", which is called
    with the device. `Options` may follow a "#". The name must come from the user, because it is opened, imported or
    downloaded; `load_own_autoencoder` is for names found in files. Only a hub id missing from the local hub cache is
    downloaded, and not with local_files_only=true or HF_HUB_OFFLINE=1. AutoencoderError if nothing can be loaded.

    Example::

        house = load_autoencoder("house")
        latents = house.encode(torch.zeros(1, 1, 44_100))  # (1, 64, 44): 64 channels, hop 1,024
        audio = house.decode(latents)  # (1, 1, 45_056)
    """
    plain, options = parse_name(name)
    if plain == HOUSE:
        from reencoder_pipeline.autoencoders.vocos.autoencoder import load_house

        _refuse(options, where=name, reason="the house autoencoder ships with the package and has one form")
        return load_house(device=device)
    if reads_like_a_function(plain) and not _exists(plain):
        _refuse(options, where=name, reason="a function of your own is called with the device alone")
        return _complete(call_named(plain, device, what="an autoencoder", error=AutoencoderError), where=name)

    from reencoder_pipeline.autoencoders.find_weights import find_source

    if not _exists(plain) and not looks_like_hub_id(plain):
        near = difflib.get_close_matches(plain, [HOUSE], n=1)
        known = f'"{HOUSE}"; a folder or file of weights; a hub id (owner/name); or package.module:function'
        remedy = f"did you mean {near[0]}?" if near else f"give {known}"
        what = "there is no such autoencoder on disk" if "/" in plain else "the autoencoder is unknown"
        raise AutoencoderError(what, value=f"'{in_one_line(plain)}'", remedy=remedy)
    source = find_source(plain, options, families=tuple(FAMILIES))
    module, _, function = FAMILIES[source.family].partition(":")
    try:
        loaded = getattr(importlib.import_module(module), function)(source, form=options.form, device=device)
    except ReencoderError:
        raise
    except Exception as error:  # a model's configuration can hold anything, and libraries raise any exception for it
        value = f"{type(error).__name__}: {in_one_line(error)}"
        remedy = "fetch the weights again; if they are as published, report which ones they are"
        what = "the weights and their configuration do not make an autoencoder"
        raise AutoencoderError(what, where=source.path, value=value, remedy=remedy) from error
    return _complete(loaded, where=str(source.path))


def parse_name(name: str) -> tuple[str, Options]:
    """Split NAME[#key=value,key=value] into NAME and its options. AutoencoderError lists every problem."""
    plain, separator, text = name.rpartition("#")
    if not separator or _exists(name):  # a folder's name may hold a "#"
        return name, Options()
    known = [field.name for field in fields(Options)]
    values, problems = {}, []
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            problems.append(f"{part.strip()!r} does not read key=value")
        elif key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            problems.append(f"unknown option {key!r}; {hint}")
        elif key == "local_files_only" and value not in ("true", "false"):
            problems.append(f"local_files_only is {value!r}; did you mean {'false' if value[0] in 'fF0n' else 'true'}?")
        else:
            values[key] = value == "true" if key == "local_files_only" else value
    if not plain:
        problems.append("there is no name before the '#'")
    if problems:
        remedy = f"write NAME#key=value,key=value with keys of: {', '.join(known)}"
        what = "the options behind the autoencoder's name are not valid"
        raise AutoencoderError(what, where=in_one_line(name), value="; ".join(problems), remedy=remedy)
    return plain, Options(**values)


def _refuse(options: Options, *, where: str, reason: str) -> None:
    if options != Options():
        what = f"this autoencoder takes no options: {reason}"
        raise AutoencoderError(what, where=where, remedy="leave out what follows the '#'")


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown ~user, a NUL byte, or no permission
        return False


def _complete(autoencoder: Any, *, where: str) -> Autoencoder:
    promised = [attribute for attribute in vars(Autoencoder) if re.match(r"[a-z]", attribute)]
    remedy = "see the Autoencoder protocol in reencoder_pipeline/autoencoder.py"
    if missing := [attribute for attribute in promised if not hasattr(autoencoder, attribute)]:
        what = "the loaded object is not an autoencoder: it lacks attributes"
        raise AutoencoderError(what, where=where, value=missing, remedy=remedy)
    if not isinstance(autoencoder.spec, LatentSpec):
        what, value = "the loaded object is not an autoencoder: its spec is no LatentSpec", type(autoencoder.spec)
        raise AutoencoderError(what, where=where, value=value.__name__, remedy=remedy)
    spec = autoencoder.spec
    sizes = {"sample_rate": spec.sample_rate, "hop": spec.hop, "channels": spec.channels}
    if wrong := {name: size for name, size in sizes.items() if type(size) is not int or not 1 <= size <= 10**6}:
        what = "the loaded object is not an autoencoder: sizes in its spec are not whole numbers from 1 to a million"
        raise AutoencoderError(what, where=where, value=in_one_line(wrong), remedy=remedy)
    return autoencoder
