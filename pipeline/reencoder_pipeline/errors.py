"""Errors a user can act on: what happened, where, the offending value, and the remedy."""

from __future__ import annotations


class ReencoderError(Exception):
    """Base of every expected error: the command line prints it and exits 2; anything else is a bug.

    `what` says what is wrong; `where` names a file, key or track; `value` is what was found; `remedy` says what to do.
    """

    def __init__(self, what: str, *, where: object = None, value: object = None, remedy: str | None = None) -> None:
        self.what, self.where, self.value, self.remedy = what, where, value, remedy
        lines = [what if where is None else f"{where}: {what}"]
        if value is not None:
            lines.append(f"  found: {value}")
        if remedy is not None:
            lines.append(f"  remedy: {remedy}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and build workers send errors between processes.
        return (_rebuild, (type(self), self.what, self.where, self.value, self.remedy))


def _rebuild(kind: type[ReencoderError], what: str, where: object, value: object, remedy: str | None) -> ReencoderError:
    return kind(what, where=where, value=value, remedy=remedy)


class ConfigError(ReencoderError):
    """A configuration file or a `--set` does not say something valid."""


class CorpusError(ReencoderError):
    """A folder, list or manifest cannot be read as a corpus of tracks."""


class AudioError(ReencoderError):
    """One audio file cannot be used; a build quarantines it and goes on."""


class AutoencoderError(ReencoderError):
    """An autoencoder cannot be loaded or does not fit the audio or latents given to it."""


class CacheError(ReencoderError):
    """A latent cache is missing, incomplete, damaged or of another kind than asked for."""


class FetchError(ReencoderError):
    """Music could not be fetched or is not what its manifest promises."""


class CheckpointError(ReencoderError):
    """A module or training state cannot be loaded, or does not belong to this run."""


class TrainingError(ReencoderError):
    """Training cannot go on, for example because a loss is not finite."""


class EvaluationError(ReencoderError):
    """An evaluation has nothing to compare, or a system cannot be run on the clips."""
