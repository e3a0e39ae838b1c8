"""The counters of a run: the part of a session that is neither arrays nor random numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lab.config.schema import from_dict
from lab.train.ladder import Ladder
from lab.train.reload_policy import PolicyState


@dataclass(frozen=True)
class PendingReload:
    """A reload that was decided and whose effect is not measured yet.

    Attributes:
        step: the step after which it was decided.
        before: memory figures at the decision, by their logged keys, in GB.
        decided_at: by the run's clock; in older checkpoints, which have no ``saved_at``, in seconds
            since the epoch.
        median_step_seconds: of recent steps; what the first step after it takes longer is its cost.
    """

    step: int
    reason: str
    method: str
    before: dict[str, float | None]
    decided_at: float
    median_step_seconds: float


@dataclass
class Progress:
    """Counters carried from step to step. The batches follow from ``step`` and the seed alone.

    Attributes:
        step: optimizer updates done.
        reloads: reloads decided so far.
        truncated: samples seen that were cut to the sequence length.
        empty: samples seen that had no completion token left.
        policy: state of the reload policy.
        pending: a reload whose first step is still to come.
        ladder: what ``reload=adaptive`` remembers; None in any other policy.
        censuses: taken by the explainer so far; None before the first.
    """

    step: int = 0
    reloads: int = 0
    truncated: int = 0
    empty: int = 0
    policy: PolicyState = field(default_factory=PolicyState)
    pending: PendingReload | None = None
    ladder: Ladder | None = None
    censuses: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace every counter.

        Raises:
            ConfigError: a key that is missing or unknown, or a value of another type.
        """
        loaded = from_dict(Progress, state)
        for key in fields(self):
            setattr(self, key.name, getattr(loaded, key.name))
