"""Systems x clips -> a run folder of scores, costs, audio, tables, listening page: the main path of this floor."""

from __future__ import annotations

from pathlib import Path

from reencoder_eval.baselines.baseline import load_baseline
from reencoder_eval.clips.choose import ClipChoice, choose_clips
from reencoder_eval.evaluation_folder import EXTERNAL, OWN, RUN, working_in, write_json
from reencoder_eval.low_band import low_band_of, title_of
from reencoder_eval.metrics.hearing_models import require_available
from reencoder_eval.report.listening_page import write_report
from reencoder_eval.request import EvaluationRequest
from reencoder_eval.run_systems import Evaluation, Scoring, Setup, describe_choice
from reencoder_eval.systems.rows import systems_of
from reencoder_eval.tables.score_tables import write_tables
from reencoder_eval.tables.summary import Summary
from reencoder_pipeline.autoencoder import load_autoencoder
from reencoder_pipeline.corpora.corpus import Track, read_corpus
from reencoder_pipeline.corpora.splits import assign_splits
from reencoder_pipeline.errors import EvaluationError
from reencoder_pipeline.stores.own_folder import require_own_folder
from reencoder_pipeline.tasks import get_task
from reencoder_pipeline.training.ranks import device_named
from reencoder_trainer.release.find_module import find_module
from reencoder_trainer.trained_module import load_module


def evaluate(request: EvaluationRequest) -> Evaluation:
    """Choose clips, run every system on each of them, score the estimates, and write tables and the listening page.

    Running it again resumes: a score is kept when it belongs to the same audio, the same system and the same metrics.

    Example::

        evaluation = evaluate(EvaluationRequest(source=Path("music"), out=Path("out/eval/bwe")))
        print(evaluation.rows[0]["scores"])
    """
    choice = choose(request)
    setup = load_setup(request)
    title = title_of(request.task, low_rate=setup.low_rate, sample_rate=setup.autoencoder.spec.sample_rate)
    with working_in(request.out):
        evaluation, _ = score_systems(request, choice, setup, title=title)
    return evaluation


def choose(request: EvaluationRequest) -> ClipChoice:
    """The clips; an error for a request that cannot be met comes before the work of choosing them."""
    require_available(request.quality)
    require_own_folder(request.out, marks=OWN)
    device_named(request.device)
    tracks = tracks_of_split(
        request.source, request.split, valid_share=request.valid_share, test_share=request.test_share
    )
    return choose_clips(
        tracks, task=request.task, num_clips=request.num_clips, clip_seconds=request.clip_seconds, seed=request.seed
    )


def tracks_of_split(source: Path, split: str | None, *, valid_share: float, test_share: float) -> list[Track]:
    """The tracks of one split (None: all); tracks without a split get one as they do when a cache is built."""
    tracks = assign_splits(read_corpus(source), valid_share=valid_share, test_share=test_share)
    chosen = [track for track in tracks if split is None or track.split == split]
    if not chosen:
        raise EvaluationError(
            "no track belongs to this split",
            where=source,
            value=f"{split}, of {len(tracks)} tracks",
            remedy="name another split, or null for every track",
        )
    return chosen


def load_setup(request: EvaluationRequest) -> Setup:
    """Load the autoencoder, the modules and the baselines, and make the rows of the table of them."""
    task, device = get_task(request.task), request.device
    coder = load_autoencoder(request.autoencoder, device=device)
    found = [(label, find_module(name)) for label, name in request.modules]
    baselines = [
        load_baseline(name, weights=weights, task=task.name, device=device, label=label)
        for name, weights, label in request.baselines
    ]
    baselines += [program.as_baseline(task, kept=request.out / EXTERNAL) for program in request.external]
    modules = [(label, path, load_module(path).to(device)) for label, path in found]
    low_rate, resampler = low_band_of(
        task, [(path, module) for _, path, module in modules], resampler=request.resampler, spec=coder.spec
    )
    systems = systems_of(
        task,
        coder,
        modules=modules,
        baselines=baselines,
        low_rate=low_rate,
        resampler=resampler,
        seed=request.seed,
        device=device,
    )
    return Setup(systems, coder, low_rate, resampler)


def score_systems(
    request: EvaluationRequest, choice: ClipChoice, setup: Setup, *, title: str
) -> tuple[Evaluation, Summary]:
    """Score every system on every clip, and write everything about it into the folder of the request."""
    write_run(request, choice, setup, title=title)
    evaluation = Scoring(request, setup).run(choice)
    summary = write_tables(request.out)
    write_report(request.out)
    return evaluation, summary


def write_run(request: EvaluationRequest, choice: ClipChoice, setup: Setup, *, title: str) -> None:
    """run.json: what was compared on what."""
    spec = setup.autoencoder.spec
    write_json(
        request.out / RUN,
        {
            "title": title,
            "task": request.task,
            "split": request.split,
            "seed": request.seed,
            "clip_seconds": request.clip_seconds,
            "sample_rate": spec.sample_rate,
            "autoencoder": spec.to_dict(),
            "low_rate": setup.low_rate,
            "resampler": setup.resampler,
            "systems": [
                {"name": system.name, "label": system.label, "about": system.about, "trained": system.run is not None}
                for system in setup.systems
                if system.scored == "all"
            ],
            **describe_choice(choice, listening_clips=request.listening_clips),
        },
    )
