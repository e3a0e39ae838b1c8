"""Whether growth is certain on a predicted curve, which ``adaptive`` and a leak's trigger ask for.

It is taken from the recorded rows up to the first reload or remedy, then from the run's own test,
without the heap's figure, which no row has.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lab.config.keys import Config
from lab.config.units import GB, MB
from lab.records.growth import GrowthTest, Trend
from lab.whatif.recorded import Recording


class Certainty:
    """The test of one run, over its sessions.

    Arguments:
        recording: the run whose rows say when growth was certain.
    """

    def __init__(self, config: Config, recording: Recording) -> None:
        self._config, self._recording = config, recording
        self._test, self._is_as_recorded = self._new_test(), True

    def add(self, step: int, parts: Mapping[str, float]) -> Trend | None:
        """Take in the memory after a step, GB by part; the growth where it is certain."""
        held = {part: round(gb * GB) for part, gb in parts.items()}
        found = self._test.add(
            step, active=held["active"], cache=held["cache"], process=sum(held.values())
        )
        recorded = self._recording.trend
        if not self._is_as_recorded or step > len(recorded):
            return found
        rate = float(recorded[step - 1])
        return None if np.isnan(rate) else Trend(rate * MB, since=1)

    def begin_anew(self) -> None:
        """A reload or a remedy follows: what memory falls by is no part of how it grows."""
        self._test, self._is_as_recorded = self._new_test(), False

    def _new_test(self) -> GrowthTest:
        memory = self._config.memory
        return GrowthTest(
            cache_clear_interval=memory.cache_clear_interval,
            cache_limit=memory.cache_limit_gb * GB,
            arrays_in_process=self._recording.held == "process",
        )
