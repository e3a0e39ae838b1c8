"""The worker process from outside: started, heard, told, and ended; its death is data."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config.keys import Config
from lab.config.schema import to_dict
from lab.config.units import GB
from lab.machine import process
from lab.machine.interpreter import environment_with_lab
from lab.protocol import Outcome

STOP_GRACE_S = 5.0

SILENCE_S = 0.25  # between two looks at a worker that says nothing

OUTCOMES = set(Outcome) - {Outcome.FAILED}  # any other exit code is a death

SECRETS = ("WANDB_API_KEY",)  # the worker never talks to W&B

Record = dict[str, Any]


@dataclass(frozen=True)
class Exit:
    """How a worker process ended.

    Attributes:
        outcome: ``finished reload stopped nonfinite unsaved bad_config``, or ``died``.
        cause: in words, for a death: the signal, the exit code, or that nothing was heard.
    """

    outcome: str
    cause: str


class WorkerProcess:
    """One worker: a fresh interpreter with a pipe for records and a standard input for words.

    It waits for the word ``go`` before it takes the memory to train with, so one can be started
    while another still runs.
    """

    def __init__(
        self,
        config: Config,
        checkpoints: Path,
        *,
        cache: Path,
        generation: int,
        started: float,
    ) -> None:
        self._cause: str | None = None
        self._records, write_end = os.pipe()
        command = [
            *(sys.executable, "-m", "lab.train.worker"),
            *("--checkpoints", str(checkpoints)),
            *("--records", str(write_end)),
            *("--cache", str(cache)),
            *("--generation", str(generation)),
            *("--started", repr(started)),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                bufsize=0,  # a signal's handler may speak in the middle of another word
                pass_fds=[write_end],
                env=_environment(config),
                start_new_session=True,  # Ctrl-C reaches the supervisor, which asks nicely
            )
        finally:
            os.close(write_end)
        self._say(json.dumps(to_dict(config)))

    @property
    def pid(self) -> int:
        return self._process.pid

    def records(self, timeout_s: float) -> Iterator[Record]:
        """Everything that the worker sends until it closes its pipe.

        While it sends nothing, a record of kind ``silence`` comes every ``SILENCE_S`` seconds. A
        worker that sends nothing for ``timeout_s`` seconds is killed, which ends the iteration.
        """
        pending, heard = b"", time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._records, selectors.EVENT_READ)
            while True:
                if not selector.select(min(SILENCE_S, timeout_s)):
                    if time.monotonic() - heard >= timeout_s:
                        self.kill(f"nothing was heard of it for {timeout_s:g} s")
                    yield {"kind": "silence"}
                    continue
                chunk, heard = os.read(self._records, 1 << 16), time.monotonic()
                if not chunk:
                    return  # what a death cut off in the middle of a line was never sent
                *lines, pending = (pending + chunk).split(b"\n")
                yield from map(json.loads, lines)

    def memory_gb(self) -> float | None:
        """What it takes now, seen from outside, in GB; None if it is gone."""
        try:
            return process.process_bytes_of(self.pid) / GB
        except ProcessLookupError:
            return None

    def tell(self, *words: object) -> None:
        """Send one line to the worker; it may be dead already, which :meth:`close` will tell."""
        self._say(" ".join(map(str, words)))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line.encode() + b"\n")

    def kill(self, cause: str | None = None) -> None:
        """End it and everything it started, at once; ``cause`` says why."""
        self._cause = self._cause or cause
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> Exit:
        """Wait for its end, with force if it does not come, and say how it ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill(f"did not end within {STOP_GRACE_S:g} s")
            self._process.wait()
        os.close(self._records)
        return self._exit()

    def _exit(self) -> Exit:
        code = self._process.returncode
        if code in OUTCOMES and self._cause is None:
            return Exit(Outcome(code).name.lower(), "")
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Exit("died", f"{self._cause} ({cause})" if self._cause else cause)


def _environment(config: Config) -> dict[str, str]:
    """The worker's environment: what makes its backend repeatable, and no secret of W&B's."""
    environment = {k: v for k, v in environment_with_lab().items() if k not in SECRETS}
    environment["PYTHONUNBUFFERED"] = "1"
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        environment[name] = str(config.worker.threads)
    if config.train.deterministic:
        environment["MLX_CUDA_USE_CUDNN_SDPA"] = "0"  # its backward adds in an order of its own
    return environment
