"""Do one thing with what a run has trained, in a worker process: evaluate, generate or fuse."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from lab.config.keys import Config
from lab.config.schema import ConfigError, to_dict
from lab.protocol import Command, RecordKind, TaskFailed
from lab.supervise.worker_process import QUIT_S, cache_folder, worker_environment

log = logging.getLogger("lab")


def run_task(
    task: Literal["evaluate", "generate", "fuse"],
    config: Config,
    run_dir: Path,
    *,
    on_text: Callable[[str], object] = lambda _: None,
    **given: object,
) -> dict[str, Any]:
    """Start a process that does it, and wait for what it finds.

    Arguments:
        on_text: gets what is generated, piece by piece.
        given: what the task takes, see ``run`` in ``lab/train/<task>_task.py``.

    Raises:
        ConfigError: a user's mistake, as found with model and data at hand.
        TaskFailed: the process ended without a result.
    """
    order = {
        "task": task,
        "config": to_dict(config),
        "run_dir": str(run_dir),
        "cache": str(cache_folder()),
        "given": given,
    }
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as records, tempfile.TemporaryFile() as complaints:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "lab.train.task", "--records", str(write_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=[write_end],
                env=worker_environment(config),
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        with _ended_with_this(child):
            _send(child, json.dumps(order))
            result = _result_of(records, on_text)
            if result is not None:
                return result
        complaints.seek(0)
        words = complaints.read().decode("utf-8", "replace").strip().splitlines()
    end = f"exit code {child.returncode}"
    raise TaskFailed(f"{task} failed: the worker died: {(words or [end])[-1]}"[:500])


def _send(child: subprocess.Popen[bytes], line: str) -> None:
    """If it is dead already, the end of its records says so."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write(line.encode() + b"\n")
        child.stdin.flush()


def _result_of(records: IO[bytes], on_text: Callable[[str], object]) -> dict[str, Any] | None:
    """Handle what the process sends; None where it ended without a result."""
    for line in records:
        if not line.endswith(b"\n"):
            return None  # a death cut it in half
        record = json.loads(line)
        match record["kind"]:
            case RecordKind.TEXT:
                on_text(record["text"])
            case RecordKind.PROGRESS | RecordKind.WARNING as kind:
                log.log(
                    logging.INFO if kind == RecordKind.PROGRESS else logging.WARNING,
                    "%s",
                    record["text"],
                )
            case RecordKind.BAD_CONFIG:
                raise ConfigError(record["key"], record["value"], record["allowed"])
            case RecordKind.ERROR:
                log.debug("%s", record["trace"])
                raise TaskFailed(record["text"])
            case RecordKind.RESULT:
                return record["result"]
    return None


@contextmanager
def _ended_with_this(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever ends the wait, SIGTERM too, ends the process and what it started."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    handled = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    except BaseException:
        _send(child, Command.QUIT)  # it gives wired memory back; a killed process may not
        with suppress(subprocess.TimeoutExpired):
            child.wait(QUIT_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        raise
    finally:
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.close()
        child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
