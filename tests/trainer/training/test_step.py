"""One update, term by term: who learns first, from what, and which of D's layers equation 3 compares."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reencoder_eval.baselines.adversarial import AdversarialTraining
from reencoder_eval.train_baseline import Learner as BaselineLearner
from reencoder_pipeline.autoencoders.vocos.training.adversary import discriminator_loss as of_adversary
from reencoder_pipeline.autoencoders.vocos.training.adversary import generator_losses
from reencoder_pipeline.autoencoders.vocos.training.config import AutoencoderTrainConfig
from reencoder_pipeline.autoencoders.vocos.training.learner import Trainer
from reencoder_pipeline.training.ranks import Ranks
from reencoder_trainer.module.condition import Posterior
from reencoder_trainer.module.latent_module import LatentModule
from reencoder_trainer.training.learner import Learner
from reencoder_trainer.training.losses import adversarial_loss, discriminator_loss, feature_matching_loss
from tiny_cache import write_cache
from training_run import RECIPES, at_step, caught_learners, rows, run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("step") / "cache")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_discriminator_learns_first_and_the_module_sees_the_one_that_has_learnt(
    precision: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D's loss is that of D as it was; the module's two terms are those of D after its update, which is a large one.
    Equation 3 leaves out the last layer: its maps are the scores, of which equation 2 is made."""
    learners = caught_learners(monkeypatch)
    seen: list[tuple[Learner, dict[str, Tensor]]] = []

    def remember(batch: dict[str, Tensor]) -> None:
        before = copy.copy(learners[0])
        assert before.discriminator is not None
        before.estimator = copy.deepcopy(before.estimator)
        before.discriminator = copy.deepcopy(before.discriminator)
        seen.append((before, {name: windows.clone() for name, windows in batch.items()}))

    at_step(monkeypatch, 1, remember)
    recipe: dict[str, Any] = {**RECIPES["adversarial"], "discriminator": {"channels": 4, "lr": 0.05, "warmup_steps": 0}}
    run(cache, tmp_path, **recipe, steps=1, log_every=1, valid_every=0, precision=precision, output="residual")
    ((before, batch),), (row,) = seen, rows(tmp_path, "train")
    after = learners[0].discriminator
    assert before.discriminator is not None
    assert after is not None
    inputs, targets = before.windows(batch)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        estimate, _ = before.estimator(inputs, targets, None)
        terms = {}
        for name, judge in (("before", before.discriminator), ("after", after)):
            fake, real = judge(estimate.float()), judge(targets)
            terms[name] = {
                "discriminator_loss": discriminator_loss(real[-1], fake[-1]).item(),
                "adversarial": adversarial_loss(fake[-1]).item(),
                "feature_matching": feature_matching_loss(fake[:-1], real[:-1], through_denominator=False).item(),
                "with scores": feature_matching_loss(fake, real, through_denominator=False).item(),
            }
    close = 1e-4 if precision == "float32" else 1e-2
    for name, when in (("discriminator_loss", "before"), ("adversarial", "after"), ("feature_matching", "after")):
        other = "before" if when == "after" else "after"
        assert row[name] == pytest.approx(terms[when][name], rel=close), f"{name} is that of D {when} its update"
        assert terms[other][name] != pytest.approx(terms[when][name], rel=0.03), f"{name}: both are told apart"
    assert terms["after"]["with scores"] != pytest.approx(terms["after"]["feature_matching"], rel=0.03)


def test_scores_are_no_part_of_equation_3(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the last layer says, the features match as well as before, and no gradient of it reaches the module."""
    matched, gradients = [], []
    for number, bias in enumerate((0.0, 5.0)):
        learners = caught_learners(monkeypatch)

        def shout(_: object, learners: list[Learner] = learners, bias: float = bias) -> None:
            discriminator = learners[0].discriminator
            assert discriminator is not None
            with torch.no_grad():
                discriminator.layers[-1].weight.mul_(1 + bias)  # type: ignore[union-attr, operator]
                discriminator.layers[-1].bias.add_(bias)  # type: ignore[union-attr, operator]

        at_step(monkeypatch, 1, shout)
        recipe = {
            "losses": {"reconstruction": 1e-9, "feature_matching": 1.0},
            "discriminator": {"channels": 4, "lr": 1e-12, "warmup_steps": 0},
        }
        out = tmp_path / str(number)
        run(cache, out, **recipe, steps=1, log_every=1, valid_every=0, precision="float32")
        matched.append(rows(out, "train")[0]["feature_matching"])
        gradients.append([p.grad for p in learners[0].estimator.parameters() if p.grad is not None])
        monkeypatch.undo()
    assert matched[0] == pytest.approx(matched[1], rel=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-9) for a, b in zip(*gradients, strict=True))


def test_every_window_of_every_step_has_a_random_condition_of_its_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equation 5's epsilon in training, and the conditions of `l1_random` in validation."""
    sample, noises = Posterior.sample, []
    monkeypatch.setattr(Posterior, "sample", lambda one, noise: noises.append(noise) or sample(one, noise))
    forward, conditions = LatentModule.forward, []
    monkeypatch.setattr(
        LatentModule, "forward", lambda one, latents, c=None: conditions.append(c) or forward(one, latents, c)
    )
    run(cache, tmp_path, **RECIPES["variational"], steps=3, valid_every=3)
    drawn = torch.cat(noises)
    assert drawn.shape == (3 * 4, 3)
    assert len(drawn.unique(dim=0)) == len(drawn)
    # After training, two batches of validation windows: with the oracle's condition and with a random one.
    random = torch.cat(conditions[3:][1::2])
    assert random.shape == (2 * 4, 3)
    assert len(random.unique(dim=0)) == len(random)


def test_a_baselines_discriminator_learns_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator's loss is worth what the discriminator says after its update of 0.5."""
    generator, discriminator = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for part, value in ((generator, 2.0), (discriminator, 1.0)):
        nn.init.constant_(part.weight, value)
    training = AdversarialTraining(
        generator,
        discriminator=nn.Sequential(discriminator),
        prepare=lambda excerpt: (excerpt, excerpt),
        generator_loss=lambda estimate, target, of_estimate, of_target: {"fooled": of_estimate.mean()},  # type: ignore
        discriminator_loss=lambda of_estimate, of_target: of_estimate.mean(),  # type: ignore
        save=lambda path, said: None,
        learning_rate=0.5,
        betas=(0.0, 0.0),
    )
    metrics = BaselineLearner(training, device=CPU).update(torch.ones(1, 1, 1), 0, adversarial=True, where="")
    # It scores the estimate, 2, with 1 * 2; its weight falls by the rate, to 0.5; the generator then gets 0.5 * 2.
    assert (metrics["discriminator"], metrics["fooled"]) == (pytest.approx(2.0), pytest.approx(1.0))
    assert generator.weight.item() == pytest.approx(1.5)


def test_an_autoencoders_adversary_learns_first() -> None:
    adversary = {"weight": 1.0, "features": 1.0, "fft_sizes": (256,), "filters": 4, "lr": 0.05}
    shape = {"n_fft": 512, "fine": (16, 32, 1), "coarse": (16, 32, 1), "latent_channels": 4}
    config = AutoencoderTrainConfig.model_validate(
        {
            "source": "s", "pcm": "p", "out": "o", "steps": 1, "batch_size": 2, "warmup_steps": 1, "lr": 1e-9,
            "precision": "float32", "adversary": adversary, "model": shape,
        }
    )  # fmt: skip
    trainer = Trainer(config.model, config, Ranks(0, 1, CPU))
    audio = 0.1 * torch.randn(2, 1, 8_192, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(trainer.adversary)
    heard: list[Tensor] = []
    model = trainer.parallel
    trainer.parallel = lambda *given: heard.append(model(*given)) or heard[-1]  # type: ignore[assignment, return-value]
    metrics = trainer.update(audio, 0, where="")
    after = trainer.adversary
    assert before is not None
    assert after is not None
    estimate = heard[0][0].detach()  # type: ignore[index]
    with torch.no_grad():
        told = {
            name: (
                of_adversary(judge(audio), judge(estimate)).item(),
                *map(float, generator_losses(judge(audio), judge(estimate))),
            )
            for name, judge in (("before", before), ("after", after))
        }
    assert metrics["adversary"] == pytest.approx(told["before"][0], rel=1e-3)
    assert (metrics["fooled"], metrics["features"]) == pytest.approx(told["after"][1:], rel=1e-3)
    assert told["before"][1] != pytest.approx(told["after"][1], rel=0.03)
