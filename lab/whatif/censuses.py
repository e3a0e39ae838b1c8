"""When the explainer takes a census, which empties MLX's cache and collects: at most three a run.

A census is no remedy of a policy, but memory falls by one where a rung that keeps the state gives
the growth back. The recorded run shows its own; after a reload they come at other steps.
"""

from __future__ import annotations

import numpy as np

from lab.config.keys import Config
from lab.protocol import Rung
from lab.train.adaptive import KEEPING_STATE
from lab.whatif.cures import Cure
from lab.whatif.recorded import Recording

MOST_CENSUSES = 3  # a run
APART = 4  # a worker takes no other one before so many times the step of the last


class Censuses:
    """The censuses of one predicted run.

    Arguments:
        recording: what is predicted is as there up to the first reload or remedy.
    """

    def __init__(self, recording: Recording) -> None:
        certain = np.flatnonzero(np.isfinite(recording.trend))
        self._certain_after = int(certain[0]) + 1 if len(certain) else 0
        self._recorded = recording.cures.censuses
        self._done, self._not_before = 0, 0
        self.next_step = 0  # 0: there is none

    @classmethod
    def of(cls, config: Config, recording: Recording, cure: Cure | None) -> Censuses | None:
        """None where no census gives memory back."""
        helps = cure is not None and cure.rung in KEEPING_STATE
        return cls(recording) if helps and config.explain.enabled else None

    def taken(self, step: int) -> None:
        """A predicted one is done."""
        self._count(step)
        self.next_step = 0 if self._done >= MOST_CENSUSES else self._not_before

    def session_begins(self, step: int, rung: Rung) -> None:
        """A reload or remedy follows this step: growth is not certain for a while."""
        for recorded in self._recorded:
            if recorded <= step:
                self._count(recorded)
        self._recorded = ()
        self._not_before = 0 if rung == "reload_process" else self._not_before
        due = max(step + self._certain_after, self._not_before)
        self.next_step = due if self._done < MOST_CENSUSES and self._certain_after else 0

    def _count(self, step: int) -> None:
        self._done, self._not_before = self._done + 1, APART * step
