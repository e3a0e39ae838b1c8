"""Stored exceptions: each error's traceback holds the frames it went through, and their locals.

A check raises for a batch that it finds strange, the loop catches the error and keeps it for a
report. With it live the frame that raised and its logits, and the frames of all callers: after a
reload in process the old session too. The text of an error would hold nothing.
"""

from __future__ import annotations

import mlx.core as mx

from lab.faults.fault import Fault, Moment, predictions

ERRORS: list[ValueError] = []


class Exceptions(Fault):
    """Holds logits through the tracebacks in the module's ``ERRORS``."""

    def grow(self, moment: Moment, wanted: float) -> float:
        logits, _ = predictions(moment.model, moment.batches[0], wanted)
        try:
            _refuse(logits, moment.step)
        except ValueError as error:
            ERRORS.append(error)
        return logits.nbytes


def _refuse(logits: mx.array, step: int) -> None:
    raise ValueError(f"step {step}: {len(logits)} predictions look strange")
