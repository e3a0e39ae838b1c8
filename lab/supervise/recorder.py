"""Rows and events on their way into the run's files and its trackers; replayed ones are checked."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lab.explain.explanation import Explanation
from lab.explain.report import headline
from lab.protocol import RecordKind
from lab.records.files import MetricsLost, RunFiles
from lab.records.profile import Span
from lab.supervise.replay import REPEATED_EVENTS, same_loss

if TYPE_CHECKING:
    from lab.tracking.trackers import Tracker


log = logging.getLogger("lab")


class RunRecorder:
    """Stores each row and event in the files first, then hands it to the trackers.

    Of a step that is executed again the first row and the first events are kept; a loss that
    differs from the first one becomes a ``replay_mismatch`` event.

    Arguments:
        stored: name and step of those ``REPEATED_EVENTS`` that the files hold already.

    Attributes:
        files: the run's files.
        started: the run's start by ``time.monotonic``, as if it had never been interrupted.
        trackers: empty until the first worker is ready.
        loss_rtol: relative tolerance between the losses of a step and its replay.
        replay_differs: a replayed step gave another loss.
        spans: what the profiler has measured.
    """

    def __init__(self, files: RunFiles, stored: set[tuple[str, int]]) -> None:
        self.files = files
        self.started = time.monotonic() - files.last_time
        self.trackers: list[Tracker] = []
        self.loss_rtol = 0.0
        self.replay_differs = False
        self.spans: list[Span] = []
        self._stored = stored

    @property
    def last_step(self) -> int:
        """The newest step that has a row, 0 before the first."""
        return self.files.last_step

    def row(self, row: Mapping[str, Any]) -> None:
        """Store the row of the next step, or check that of a replayed one.

        Raises:
            MetricsLost: it cannot be written.
        """
        stored = self.files.row(row)
        if stored.is_new:
            for tracker in self.trackers:
                tracker.log(row)
            return
        for tracker in self.trackers:
            tracker.replay(row, self.last_step)
        if not same_loss(stored.loss, row["loss"], rtol=self.loss_rtol):
            self.replay_differs = True
            self.event("replay_mismatch", row["step"], expected=stored.loss, found=row["loss"])

    def event(self, event: str, step: int, **fields: object) -> None:
        """Store one event with the time since the run's start, unless a replay sends it again.

        Raises:
            MetricsLost: it cannot be written.
        """
        if event in REPEATED_EVENTS:
            if (event, step) in self._stored:
                return
            self._stored.add((event, step))
        row = {"event": event, "step": step, "time": time.monotonic() - self.started, **fields}
        self.files.event(row)
        for tracker in self.trackers:
            tracker.event(row)

    def finding(self, kind: RecordKind, record: Mapping[str, Any]) -> None:
        """Keep what the worker found beside rows and events."""
        if kind == RecordKind.PROFILE:
            self.spans += map(Span.of, record["spans"])
        else:
            self._explanation(record["explanation"])

    def _explanation(self, explanation: Mapping[str, Any]) -> None:
        """Store what the worker found of memory that grows, and say it; a run goes on without."""
        try:
            self.files.write_explanation(explanation)
        except MetricsLost as error:
            log.warning("%s", error)
        found = Explanation.of(explanation)
        if found.step is not None:  # what it emptied and collected is in the curve
            freed = {name: gb for name, gb, _ in found.remedies if gb is not None}
            self.event("census", found.step, freed_gb=freed)
        log.warning("%s", headline(found))

    def close_trackers(self, summary: Mapping[str, object], exit_code: int) -> list[str]:
        """Close them once, and return one line for each problem that the user should know of."""
        trackers, self.trackers = self.trackers, []
        return [line for tracker in trackers for line in tracker.close(summary, exit_code)]
