"""A heap full of holes: buffers are asked for generously, then cut to what was written.

What is cut off lies between two survivors. It is free, but too small for the next buffer and, being
less than a page, for the system to take back. The few bytes that survive keep all of it.
"""

from __future__ import annotations

from lab.config.keys import Growth
from lab.faults.fault import Fault, Moment

ASKED = 4000  # bytes, below a page


class Fragmentation(Fault):
    """Holds lines of a log in ``lines``, each at the start of what was a buffer."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.lines: list[bytearray] = []

    def grow(self, moment: Moment, wanted: float) -> float:
        count = max(round(wanted / ASKED), 1)
        buffers = [bytearray(ASKED) for _ in range(count)]
        written = f"{moment.step}: {moment.batches[0].num_tokens} tokens".encode()
        for buffer in buffers:  # after all were asked for: each one's end is another one's start
            buffer[: len(written)] = written
            del buffer[len(written) :]
        self.lines += buffers
        return count * ASKED
