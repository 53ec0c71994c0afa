"""`reencoder-apply upsample`, `upmix` and `export`: a trained module on audio files or on latents, or for others."""

from __future__ import annotations

import io
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reencoder_eval.apply.options import ApplyOptions
from reencoder_pipeline.errors import ConfigError
from reencoder_pipeline.exit_codes import SOME_FAILED
from reencoder_pipeline.exit_codes import run as run_app
from reencoder_pipeline.plain_text import printable
from reencoder_pipeline.progress import ProgressLine
from reencoder_pipeline.training.interruptions import interruptions

if TYPE_CHECKING:
    from reencoder_eval.apply.files.inputs import InputFile
    from reencoder_eval.apply.files.outputs import Outputs


app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True)

Inputs = Annotated[
    list[str], typer.Argument(metavar="IN...", help="files, folders, quoted patterns; - reads a list of paths")
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="folder of the outputs; the tree below a folder is kept")]
MODULE_HELP = "a released module by its name, module.safetensors, the folder of a run, or a hub id"
OVERWRITE_HELP = "replace outputs of this call that exist, no other file and no input; default: they are skipped"
NAME_HELP = (
    "house, a file or folder of weights, a hub id, or package.module:function, which is imported and called; default: "
    "the one that the module was trained on, if that is house"
)
UPSAMPLES, UPMIXES = "bwe_s", "m2s_s"  # released with the package
Module = Annotated[str, typer.Option(metavar="MODULE", help=MODULE_HELP)]
Name = Annotated[str | None, typer.Option(metavar="NAME", help=NAME_HELP)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Format = Annotated[str | None, typer.Option("--format", help="wav, flac, aiff, caf, w64, mp3, ogg; default: as it was")]
Depth = Annotated[str | None, typer.Option(help="16, 24 or float; default: as it was")]
Peaks = Annotated[str, typer.Option(help="above full scale: scale turns the file down, float writes a float WAV")]
LatentsOut = Annotated[
    str | None, typer.Option("--latents", help="npy or safetensors: write latents, decode nothing; also for audio")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=OVERWRITE_HELP)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done; nothing is written")]
Json = Annotated[bool, typer.Option("--json", help="a line of JSON for each file")]
Seed = Annotated[int | None, typer.Option(min=0, help="a random condition; default: the neutral one")]
Variants = Annotated[int, typer.Option(min=1, help="as many outputs, with the seeds from --seed on")]
Width = Annotated[float, typer.Option(min=0.0, help="factor of the side")]
Like = Annotated[Path | None, typer.Option(metavar="FILE", help="a stereo recording to take the condition from")]
Lambda = Annotated[float | None, typer.Option("--lambda", min=0.0, max=1.0, help="how far towards --like; default 1")]
Force = Annotated[bool, typer.Option("--force", help="true stereo: mix down first")]


@app.command()
def upsample(  # noqa: PLR0917, typer reads the signature
    inputs: Inputs,
    out: Out,
    module: Module = UPSAMPLES,
    then: Annotated[str | None, typer.Option(help="upmix: make the result stereo as well")] = None,
    upmix_module: Annotated[str | None, typer.Option(metavar="MODULE", help="of --then upmix; default: m2s_s")] = None,
    crossover: Annotated[bool, typer.Option(help="keep the original below the end of its band")] = True,
    band: Annotated[float | None, typer.Option(min=1000, help="Hz: where the input's band ends; else measured")] = None,
    autoencoder: Name = None,
    seed: Seed = None,
    variants: Variants = 1,
    width: Width = 1.0,
    like: Like = None,
    share: Lambda = None,
    latents: LatentsOut = None,
    format_: Format = None,
    depth: Depth = None,
    peaks: Peaks = "scale",
    device: Device = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Restore the band above the input's own. Full-band files are copied."""
    if then not in (None, "upmix"):
        raise ConfigError("unknown second step", where="--then", value=then, remedy="--then upmix")
    of_upmix = (upmix_module, seed, like, share) != (None,) * 4 or variants > 1 or width != 1
    if then is None and of_upmix:
        remedy = "add --then upmix, or leave out --upmix-module, --seed, --variants, --width, --like and --lambda"
        raise ConfigError("these options are of the upmix", remedy=remedy)
    options = ApplyOptions(
        upsample=module, upmix=(upmix_module or UPMIXES) if then else None, autoencoder=autoencoder, band_hz=band,
        crossover=crossover, width=width, seed=seed, variants=variants, like=like, share=share, device=device,
    )  # fmt: skip
    _apply(inputs, _outputs(out, format_, depth, peaks, latents, overwrite, dry_run), options, as_json=as_json)


@app.command()
def upmix(  # noqa: PLR0917, typer reads the signature
    inputs: Inputs,
    out: Out,
    module: Module = UPMIXES,
    seed: Seed = None,
    variants: Variants = 1,
    width: Width = 1.0,
    like: Like = None,
    share: Lambda = None,
    mono_compatible: Annotated[
        bool, typer.Option("--mono-compatible", help="the mid of the output is the input itself")
    ] = False,
    force: Force = False,
    autoencoder: Name = None,
    latents: LatentsOut = None,
    format_: Format = None,
    depth: Depth = None,
    peaks: Peaks = "scale",
    device: Device = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make mono stereo. Files that are stereo already are copied."""
    options = ApplyOptions(
        upmix=module, autoencoder=autoencoder, force=force, mono_compatible=mono_compatible, width=width, seed=seed,
        variants=variants, like=like, share=share, device=device,
    )  # fmt: skip
    _apply(inputs, _outputs(out, format_, depth, peaks, latents, overwrite, dry_run), options, as_json=as_json)


@app.command()
def export(  # noqa: PLR0917, typer reads the signature
    module: Annotated[str, typer.Argument(metavar="MODULE", help=MODULE_HELP)],
    out: Out,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="onnx or pt2; may be repeated; default: both")
    ] = None,
    latents: Annotated[
        list[Path] | None, typer.Option("--latents", metavar="FILE", help="latents to compare on, beside random ones")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace files of these names, also those of other programs")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a module as ONNX and as torch.export's .pt2, and compare what was written with the module."""
    import numpy as np
    import torch

    from reencoder_eval.apply.files.latents_io import read_latents
    from reencoder_eval.apply.files.outputs import require_folder
    from reencoder_trainer.release.export import FORMATS, export_module
    from reencoder_trainer.release.find_module import find_module
    from reencoder_trainer.trained_module import load_module

    path = find_module(module)
    require_folder(out, dry_run=False)
    examples = []
    for file in latents or []:
        found = read_latents(file)
        if found.spec is not None:
            remedy = "give latents of the module's autoencoder"
            load_module(path).spec.require_same(found.spec, where=file, remedy=remedy)
        examples.append(torch.from_numpy(np.array(found.values, dtype=np.float32))[None])
    exported = export_module(path, out, formats=formats or FORMATS, latents=examples, overwrite=overwrite)
    for one in exported:
        print(json.dumps(one.to_dict()) if as_json else one.text())
    if not all(one.agrees for one in exported):
        raise typer.Exit(SOME_FAILED)


def _outputs(  # noqa: PLR0917, as the commands have them
    out: Path,
    format_: str | None,
    depth: str | None,
    peaks: str,
    latents: str | None,
    overwrite: bool,
    dry_run: bool,
) -> Outputs:
    from reencoder_eval.apply.files.outputs import Outputs
    from reencoder_eval.apply.files.writing import Form

    form = Form(format=format_, depth=depth, peaks=peaks)
    return Outputs(out, form, latents=latents, overwrite=overwrite, dry_run=dry_run)


def _apply(inputs: list[str], outputs: Outputs, options: ApplyOptions, *, as_json: bool) -> None:
    """Apply the modules to what the inputs name, and print what came of each file."""
    from reencoder_eval.apply.files.inputs import find_inputs
    from reencoder_eval.apply.run import apply_to

    files = find_inputs(
        inputs, out=outputs.folder, stdin=sys.stdin.buffer, say=lambda line: print(printable(line), file=sys.stderr)
    )
    failed = done = 0
    try:
        # An interrupt that is raised anywhere can be lost in a destructor; between segments it cannot.
        with interruptions() as interrupted, ProgressLine("applying", unit="s of audio") as progress:
            advance = _advance(progress, files, interrupted)
            for outcome in apply_to(files, outputs, options, progress=advance):
                done += 1
                failed += outcome.status == "failed"
                if outcome.error:
                    progress.say(f"error: {outcome.error}")
                text = json.dumps(outcome.to_dict()) if as_json else printable(outcome.text())
                progress.say(text, file=sys.stdout)
                if interrupted():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        command = shlex.join(["reencoder-apply", *sys.argv[1:]])
        goes_on = "starts again (leave out --overwrite to go on)" if outputs.overwrite else "skips them and goes on"
        raise KeyboardInterrupt(
            f"interrupted; {done} of {len(files)} files are finished, the same command {goes_on}: {command}"
        ) from None
    if failed:
        print(f"{failed} of {len(files)} files failed", file=sys.stderr)
        raise typer.Exit(SOME_FAILED)


def _advance(
    progress: ProgressLine, files: Sequence[InputFile], interrupted: Callable[[], bool]
) -> Callable[[InputFile, float], None]:
    """Shows progress in seconds of audio, and raises the KeyboardInterrupt of an interruption."""
    from reencoder_eval.apply.files.reading import sound_seconds

    seconds, done = {file.path: sound_seconds(file.path) for file in files}, 0.0

    def advance(file: InputFile, share: float) -> None:
        nonlocal done
        if interrupted():
            raise KeyboardInterrupt
        done += share * seconds[file.path]
        progress.name(file.stem[-30:])
        progress(round(done), round(sum(seconds.values())))

    return advance


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text in any encoding
    run_app(app)


if __name__ == "__main__":
    main()
