"""W&B's own process beside this one: kept quiet, and ended in time."""

from __future__ import annotations

import atexit
import functools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import Thread, Timer
from typing import Any, TypeVar

T = TypeVar("T")

# Grace period at exit for W&B's own process after it failed or hung.
EXIT_SECONDS = 1.0


# How W&B's process says so. Its finish() succeeds all the same.
UPLOAD_FAILED = "error while uploading"

_said: list[str] = []


class _Said:
    """Takes what W&B would print to the terminal."""

    def info(self, msg: str) -> None:
        pass

    def warning(self, msg: str) -> None:
        _said.append(msg)

    def error(self, msg: str) -> None:
        _said.append(msg)


def bounded(work: Callable[[], T], seconds: float) -> T:
    """Let W&B do something on a thread of its own; wait so long for it, and leave it then.

    Raises:
        TimeoutError: it has not ended.
        Exception: what it raised.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  handed over; no exit of W&B's is this program's
            done.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    Thread(target=run, name="W&B", daemon=True).start()
    with suppress(TimeoutError):
        done.exception(seconds)
    if not done.done():
        bound_exit()
        raise TimeoutError(f"no answer within {seconds:g} s")
    return done.result()


def watch_upload() -> None:
    """Begin to listen to the warnings of a run; after ``wandb.setup``, which ends listening."""
    import wandb

    _said.clear()
    with suppress(AttributeError):  # another version may not have it
        wandb.termsetup(wandb.Settings(silent=True), _Said())


def upload_failed() -> bool:
    """Whether W&B gave up sending a run's data; asked once the run is finished."""
    return any(UPLOAD_FAILED in text for text in _said)


@contextmanager
def finishing(run: Any) -> Iterator[None]:
    """What is done within ends with ``run.finish``; else the run is finished as failed.

    Raises:
        RuntimeError: W&B gave up sending the run's data, which ``finish`` does not say.
    """
    try:
        yield
    except BaseException:
        with suppress(Exception):
            run.finish(exit_code=1)
        raise
    if upload_failed():
        raise RuntimeError("not all data could be sent")


def wait_for_files() -> None:
    """Wait until every finished run's file is whole: W&B closes it after ``finish`` returned."""
    import wandb

    wandb.teardown()


def report_no_errors() -> None:
    """Keep W&B from reporting its own errors to its makers.

    If its process dies while it starts, W&B 0.31 reports that while it holds a lock for which the
    report waits: the thread hangs for ever, and the end of the run for ``finish_seconds``.
    """
    with suppress(ImportError, AttributeError):  # another version may not have it
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()


def forget_service() -> None:
    """Tear W&B's service down, so that neither the next run nor the interpreter's exit uses it."""
    wandb: Any = sys.modules.get("wandb")
    with suppress(BaseException):  # it raises its failure again
        wandb.teardown(exit_code=1)


@functools.cache
def bound_exit() -> None:
    """Bound the interpreter's exit: W&B's own exit handler waits for its process for ever."""

    def kill_later() -> None:
        # Neither import nor wandb.setup() here: the import may be what hangs, and setup() waits for
        # a lock that is never released if W&B's process died while it started.
        setup: Any = sys.modules.get("wandb.sdk.wandb_setup")
        with suppress(AttributeError):  # its process may never have started
            process = setup._singleton._connection._proc._process  # noqa: SLF001  no public way
            timer = Timer(EXIT_SECONDS, process.kill)
            timer.daemon = True
            timer.start()

    atexit.register(kill_later)  # runs before W&B's handler, which was registered earlier
