"""Early warnings: said when they are due, once, and not for trainings that have neither of the two."""

from __future__ import annotations

import pytest

from reencoder_trainer.training.alarms import COLLAPSED_NATS, PATIENCE, WON, Alarms


def updates(alarms: Alarms, losses: list[float]) -> list[int]:
    """Which updates, counted from 1, were answered by a warning."""
    said = [alarms.update({"l1": 0.5, "discriminator_loss": loss}) for loss in losses]
    return [number for number, text in enumerate(said, start=1) if text is not None]


def collapsed(**changes: float) -> dict[str, float]:
    return {"l1": 0.49, "l1_random": 0.5, "kl": 0.001, **changes}


def test_a_discriminator_that_has_won_is_named_after_patience_and_once() -> None:
    alarms = Alarms(warmup_steps=0)
    assert updates(alarms, [0.01] * (3 * PATIENCE)) == [PATIENCE]


def test_the_warning_names_the_loss_and_the_remedy() -> None:
    alarms = Alarms(warmup_steps=0)
    texts = [alarms.update({"discriminator_loss": 0.01}) for _ in range(PATIENCE)]
    text = texts[-1]
    assert text is not None
    assert f"its loss was 0.010 on average over {PATIENCE} updates" in text
    assert "lower discriminator.lr or losses.adversarial" in text


@pytest.mark.parametrize("loss", [0.5, 1.01 * WON])
def test_a_discriminator_that_has_not_won_is_left_alone(loss: float) -> None:
    assert updates(Alarms(warmup_steps=0), [loss] * (3 * PATIENCE)) == []


def test_only_the_last_updates_count() -> None:
    # 0.5 leaves the window after PATIENCE more updates; until then one of it weighs 0.5 / PATIENCE = 0.01.
    lost, won = [0.5] * 1000, [0.0] * (2 * PATIENCE)
    weighing = int(WON * PATIENCE / 0.5)  # so many of the lost ones may still be in the window
    assert updates(Alarms(warmup_steps=0), [*lost, *won]) == [1000 + PATIENCE - weighing]


def test_a_streak_shorter_than_patience_is_no_victory() -> None:
    assert updates(Alarms(warmup_steps=0), [*[0.0] * (PATIENCE - 1), 0.5 * PATIENCE, *[0.5] * PATIENCE]) == []


def test_a_collapsed_posterior_is_named_after_the_warm_up_and_once() -> None:
    alarms = Alarms(warmup_steps=1_000)
    said = {step: alarms.valid(step, collapsed()) for step in (500, 999, 1_000, 1_500, 2_000)}
    assert [step for step, text in said.items() if text is not None] == [1_500]
    text = said[1_500]
    assert text is not None
    assert "holds 0.001 nats" in text
    assert "with the oracle's and" in text
    assert "lower losses.kl" in text


def test_a_posterior_that_knows_something_is_left_alone() -> None:
    alarms = Alarms(warmup_steps=0)
    assert alarms.valid(1, collapsed(kl=1.01 * COLLAPSED_NATS)) is None
    assert alarms.valid(2, collapsed(kl=5.0)) is None
    assert alarms.valid(3, collapsed()) is not None, "it may still collapse later"


def test_the_two_are_said_apart_from_each_other() -> None:
    alarms = Alarms(warmup_steps=0)
    assert alarms.valid(1, collapsed()) is not None
    assert updates(alarms, [0.0] * PATIENCE) == [PATIENCE]


def test_plain_l1_has_nothing_to_warn_of() -> None:
    alarms = Alarms(warmup_steps=0)
    assert all(alarms.update({"l1": 0.0, "grad_norm": 0.0}) is None for _ in range(3 * PATIENCE))
    assert alarms.valid(10_000, {"l1": 0.0, "l1_no_module": 0.5, "l1_channel_means": 0.8}) is None
