"""Early warnings: a discriminator that has won, a posterior that has collapsed. Each is said once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

PATIENCE = 50  # updates that a mean is taken over
WON = 0.05  # equation 4; 0.5 is a discriminator that sees no difference
COLLAPSED_NATS = 0.05  # of the whole condition, where a useful one has several


class Alarms:
    """Looks at the metrics of updates and validations; `update` and `valid` return what there is to say, if anything.

    State of this process only: a resumed run may say a thing again.
    """

    def __init__(self, *, warmup_steps: int) -> None:
        self._warmup_steps = warmup_steps
        self._recent: deque[float] = deque(maxlen=PATIENCE)
        self._said: set[str] = set()

    def update(self, metrics: Mapping[str, float]) -> str | None:
        if "discriminator_loss" not in metrics:
            return None
        self._recent.append(metrics["discriminator_loss"])
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) < PATIENCE or mean > WON:
            return None
        return self._once(
            "discriminator",
            f"the discriminator wins: its loss was {mean:.3f} on average over {PATIENCE} updates (0.5: it sees no "
            "difference), so its gradient teaches the module little; lower discriminator.lr or losses.adversarial",
        )

    def valid(self, step: int, metrics: Mapping[str, float]) -> str | None:
        if "kl" not in metrics or step <= self._warmup_steps or not metrics["kl"] <= COLLAPSED_NATS:
            return None
        return self._once(
            "posterior",
            f"the posterior has collapsed: the condition holds {metrics['kl']:.3f} nats; l1 is {metrics['l1']:.4f} "
            f"with the oracle's and {metrics['l1_random']:.4f} with a random one; lower losses.kl",
        )

    def _once(self, name: str, text: str) -> str | None:
        if name in self._said:
            return None
        self._said.add(name)
        return text
