"""The protocol between a supervisor and its worker process, all of it.

Down the worker's standard input: one line of JSON, the config, then commands, one a line
(:class:`Command`). Up a pipe: records, one JSON object a line with a ``kind``
(:class:`RecordKind`). Last, the worker's exit code (:class:`Outcome`).

A worker imports and opens what it needs, waits for ``go``, takes the memory to train with and sends
``ready``; then come rows and events. The ends of the line are ``lab.supervise.worker_process`` and
``lab.train.channel``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Literal, get_args

Rung = Literal["clear_cache", "collect", "reload_in_process", "reload_process"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
"""The remedies of ``reload=adaptive``, each with what the ones before it do, the cheapest first."""
METHODS: Mapping[Rung, Literal["in_process", "process"]] = {
    "reload_in_process": "in_process",
    "reload_process": "process",
}
"""The rungs that are reloads, and how."""


class Command(StrEnum):
    """What the supervisor tells the worker: a word, and for the first four a step number.

    Attributes:
        REPLAY: ``replay STEP``: up to STEP take those remedies that follow, and decide none; before
            ``go``.
        REMEDY: ``remedy STEP RUNG``: take this one after STEP.
        GO: ``go STEP``: train, from the newest good checkpoint that is not newer than STEP.
        COMMITTED: ``committed STEP``: every row up to STEP is on disk.
        RELOAD: leave at a checkpoint, so that another process takes over.
        STOP: save a checkpoint after this step and end.
        QUIT: end at once and save nothing, memory unwired; SIGKILL follows.
    """

    REPLAY = "replay"
    REMEDY = "remedy"
    GO = "go"
    COMMITTED = "committed"
    RELOAD = "reload"
    STOP = "stop"
    QUIT = "quit"


class RecordKind(StrEnum):
    """What the worker sends, with the fields of each record.

    Attributes:
        READY: ``pid environment notes facts step``: model and data are loaded, the last step done
            is ``step``; always before the first row. The first worker of an attempt fills
            ``notes`` and ``facts`` (:class:`lab.records.facts.RunFacts`), and adds the
            fingerprints of data and model to ``environment``.
        ROW: a row of ``metrics.jsonl``.
        EVENT: ``event step`` and the event's own fields: a row of ``events.jsonl``.
        COMMIT: ``step``: to be answered by ``committed`` once every row up to it is on disk.
        LEAVING: it will end with ``RELOAD``, so the next worker can be started meanwhile.
        EXPLAIN: ``explanation``: the content of ``explain.json``.
        PROFILE: ``spans``: fields of each :class:`lab.records.profile.Span`, measured just now.
        PROGRESS: ``text``: how far something is that takes long before the first step.
        WARNING: ``text``, for the user.
        BAD_CONFIG: ``key value allowed`` of a ``ConfigError``; ``BAD_CONFIG`` follows.
        ERROR: ``text trace`` of an exception; ``FAILED`` follows.
        ENDED: ``weights_sha256 truncated empty test_loss test_tokens``: the last record of a run
            that has finished or was stopped; the last two are null without test data.
        TEXT: ``text``: the next words of what a task generates.
        RESULT: ``result``: what a task found (``lab.train.task``), its last record.
    """

    READY = "ready"
    ROW = "row"
    EVENT = "event"
    COMMIT = "commit"
    LEAVING = "leaving"
    EXPLAIN = "explain"
    PROFILE = "profile"
    PROGRESS = "progress"
    WARNING = "warning"
    BAD_CONFIG = "bad_config"
    ERROR = "error"
    ENDED = "ended"
    TEXT = "text"
    RESULT = "result"


class Outcome(IntEnum):
    """Why the worker stopped training: its exit code. Any code that is not here is a failure.

    Attributes:
        FINISHED: the last step is done and saved.
        FAILED: an exception; to the supervisor also death by a signal, and silence.
        BAD_CONFIG: the config cannot be run, as found with model and data at hand.
        RELOAD: go on from the checkpoint just written; as an exit code, in another process.
        STOPPED: it was told to stop, or its supervisor is gone.
        NONFINITE: loss or gradient is not finite, and ``train.on_nonfinite=stop``.
        UNSAVED: every step is done, but the last checkpoint could not be written.
    """

    FINISHED = 0
    FAILED = 1
    BAD_CONFIG = 2
    RELOAD = 64
    STOPPED = 65
    NONFINITE = 66
    UNSAVED = 67


class TaskFailed(RuntimeError):  # noqa: N818
    """A worker process came to no result with its one task; the text says why, in one line."""
