"""A memo of tokens in Python lists, as mlx-lm's ``CacheDataset`` keeps them, without an end.

A Python number takes 24 to 32 bytes and its place in the list 8, where the array has 4. The memo
lies on the data, which a reload in process keeps; its key has the step in it, so nothing is ever
found in it.
"""

from __future__ import annotations

import sys

from lab.config.keys import Growth
from lab.data.batches import Batch
from lab.faults.fault import Fault, Moment


class TokenMemo(Fault):
    """Holds lists of numbers in the attribute ``memo`` of the training data."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self._calls = 0

    def grow(self, moment: Moment, wanted: float) -> float:  # noqa: ARG002
        memo: dict = vars(moment.data).setdefault("memo", {})
        self._calls += 1
        memo[moment.step, self._calls] = lists = _lists(moment.batches[0])
        return sum(map(_size, lists))


def _lists(batch: Batch) -> tuple[list, ...]:
    return (batch.rows.tolist(), batch.targets.tolist(), batch.weights.tolist())


def _size(numbers: list) -> int:
    # Python has one object for each whole number up to 256.
    own = (n for n in numbers if type(n) is float or n > 256)
    return sys.getsizeof(numbers) + sum(map(_object_size, own))


def _object_size(number: float) -> int:
    return -(-sys.getsizeof(number) // 16) * 16  # pymalloc's steps
