"""A heap full of holes: buffers are asked for generously, then cut to what was written.

What is cut off lies between two survivors. It is free, but too small for the next buffer and, being
less than a page, for the system to take back. The tenth that survives keeps all of it.
"""

from __future__ import annotations

from lab.config.keys import Growth
from lab.faults.fault import Fault, Moment

ASKED, WRITTEN = 4000, 400  # bytes of a line; the rest is less than a page


class Fragmentation(Fault):
    """Holds lines of a log in ``lines``, each at the start of what was a buffer."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.lines: list[bytearray] = []

    def grow(self, moment: Moment, wanted: float) -> float:
        count = max(round(wanted / ASKED), 1)
        buffers = [bytearray(ASKED) for _ in range(count)]
        tokens = moment.batches[0].targets.tolist()[:WRITTEN]
        written = f"{moment.step}: {tokens}".encode()[:WRITTEN]
        for buffer in buffers:  # after all were asked for: each one's end is another one's start
            buffer[: len(written)] = written
            del buffer[len(written) :]
        self.lines += buffers
        return count * ASKED
