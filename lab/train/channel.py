"""The worker's end of the line to its supervisor; what is said on it is in :mod:`lab.protocol`."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable

from lab.config.schema import ConfigError
from lab.protocol import RUNGS, Command, Outcome, RecordKind, Rung
from lab.train import memory

ABANDONED_EXIT = 70
GRACE_S = 3.0  # for the step to end and its checkpoint to be saved


class Channel:
    """Sends records over a pipe; receives commands on standard input.

    A daemon thread reads standard input; ``mx.eval`` releases the GIL, so it runs while a step
    does. End of file means that the supervisor is gone: the worker stops after its current step,
    and exits at once with ``ABANDONED_EXIT`` if it has not within ``GRACE_S`` seconds, as it does
    at ``quit``.

    Arguments:
        descriptor: the open file descriptor that records are written to.

    Attributes:
        stopping: ``stop`` was received, or the supervisor is gone.
        over_budget: ``reload`` was received.
        replays_until, remedies: as ``replay`` and ``remedy`` said, by step; complete after ``go``.
        abandoned: the supervisor is gone.
    """

    def __init__(self, descriptor: int) -> None:
        self._out = descriptor
        self._held: tuple[RecordKind, dict[str, object]] | None = None
        self._heard = threading.Condition()
        self._go: int | None = None
        self._committed = -1
        self.stopping = False
        self.over_budget = False
        self.replays_until = 0
        self.remedies: dict[int, Rung] = {}
        self.abandoned = False
        threading.Thread(target=self._listen, daemon=True, name="supervisor").start()

    def send(self, kind: RecordKind, **fields: object) -> None:
        """Send one record, after the one that is held back.

        Raises:
            BrokenPipeError: the supervisor is gone.
        """
        self.flush()
        self._write(kind, fields)

    def hold(self, kind: RecordKind, **fields: object) -> None:
        """Keep one record until the next one or :meth:`flush`.

        Sending wakes the supervisor, which may take the worker's core: better while the device is
        busy than between two steps.
        """
        self.flush()
        self._held = kind, fields

    def flush(self) -> None:
        """Send the record that is held back, if there is one.

        Raises:
            BrokenPipeError: the supervisor is gone.
        """
        if self._held is not None:
            held, self._held = self._held, None
            self._write(*held)

    def _write(self, kind: RecordKind, fields: dict[str, object]) -> None:
        rest = memoryview(json.dumps({"kind": kind, **fields}).encode() + b"\n")
        while rest:
            rest = rest[os.write(self._out, rest) :]

    def event(self, event: str, step: int, **fields: object) -> None:
        """Send one row of ``events.jsonl``."""
        self.send(RecordKind.EVENT, event=event, step=step, **fields)

    def wait_for_go(self) -> int:
        """Wait until this worker is the one that is to train.

        Returns:
            The newest step whose checkpoint it may load.

        Raises:
            BrokenPipeError: it is not needed.
        """
        with self._heard:
            self._heard.wait_for(lambda: self._go is not None or self.stopping)
            if self._go is None:
                raise BrokenPipeError("this worker is not needed")
            return self._go

    def wait_until_written(self, step: int) -> None:
        """Return once the supervisor has every row up to ``step`` on disk.

        Raises:
            BrokenPipeError: the supervisor is gone, so a checkpoint must not outrun its rows.
        """
        self.send(RecordKind.COMMIT, step=step)
        with self._heard:
            self._heard.wait_for(lambda: self._committed >= step or self.abandoned)
            if self._committed < step:
                raise BrokenPipeError("the supervisor is gone")

    def _listen(self) -> None:
        for line in sys.stdin:
            word, _, argument = line.strip().partition(" ")
            with self._heard:
                match word:
                    case Command.REPLAY:
                        self.replays_until = int(argument)
                    case Command.REMEDY:
                        step, _, rung = argument.partition(" ")
                        self.remedies[int(step)] = next(r for r in RUNGS if r == rung)
                    case Command.GO:
                        self._go = int(argument)
                    case Command.COMMITTED:
                        self._committed = int(argument)
                    case Command.STOP:
                        self.stopping = True
                    case Command.RELOAD:
                        self.over_budget = True
                    case Command.QUIT:
                        _quit()
                self._heard.notify_all()
        with self._heard:
            self.abandoned = self.stopping = True
            self._heard.notify_all()
        timer = threading.Timer(GRACE_S, _quit)
        timer.daemon = True
        timer.start()


def reported(channel: Channel, work: Callable[[], Outcome]) -> Outcome:
    """Do the work of this process; what it raises becomes a record and an outcome."""
    try:
        return work()
    except ConfigError as error:
        channel.send(
            RecordKind.BAD_CONFIG,
            key=error.key,
            value=error.plain_value,
            allowed=error.allowed,
        )
        return Outcome.BAD_CONFIG
    except BrokenPipeError:
        return Outcome.STOPPED
    except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor must hear of it
        text = " ".join(f"{type(error).__name__}: {error}".split())
        channel.send(RecordKind.ERROR, text=text, trace=traceback.format_exc())
        return Outcome.FAILED


def _quit() -> None:
    """Leave in the middle of whatever the main thread does, with no memory wired."""
    memory.release_wired()
    os._exit(ABANDONED_EXIT)
