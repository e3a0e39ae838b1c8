"""A moving average of the parameters that is never evaluated.

``decay * average + (1 - decay) * parameter`` is a node that holds the parameter's array of this
step, which training replaces with the next. Until somebody reads the average it holds the weights
of all steps so far. Its rate ends where all parameters and the optimizer's averages of their
gradients (Adam's moments) are taken at each step.
"""

from __future__ import annotations

import mlx.core as mx
from mlx.utils import tree_flatten

from lab.config.keys import Growth
from lab.faults.fault import Fault, Moment

DECAY = 0.999


class Ema(Fault):
    """Holds old parameters through ``averages``, lazy arrays by name.

    Below the whole, the arrays take turns.
    """

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.averages: dict[str, mx.array] = {}
        self._turn, self._step, self._taken = 0, 0, 0

    def grow(self, moment: Moment, wanted: float) -> float:  # noqa: ARG002
        arrays = _trained(moment)
        if moment.step != self._step:
            self._step, self._taken = moment.step, 0
        if self._taken == len(arrays):
            return 0
        name, array = arrays[self._turn % len(arrays)]
        self._turn, self._taken = self._turn + 1, self._taken + 1
        average = self.averages.get(name, array)
        self.averages[name] = DECAY * average + (1 - DECAY) * array
        return array.nbytes


def _trained(moment: Moment) -> list[tuple[str, mx.array]]:
    """Names and arrays that a step replaces: parameters, then the optimizer's of the same size."""
    parameters: list = tree_flatten(moment.model.trainable_parameters())  # type: ignore[assignment]
    state: list = tree_flatten(moment.optimizer.state)  # type: ignore[assignment]
    return parameters + [(f"optimizer.{name}", array) for name, array in state if array.ndim]
