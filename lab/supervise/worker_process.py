"""The worker process as its supervisor sees it: started, read from, sent commands, ended.

Its death is a value (:class:`WorkerExit`), not an exception.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lab.config.keys import Config
from lab.config.schema import to_dict
from lab.config.units import GB
from lab.machine import process
from lab.machine.interpreter import environment_with_lab
from lab.protocol import Command, Outcome, RecordKind
from lab.supervise.last_words import LastWords

EXIT_GRACE_S = 5.0  # for the process to end once its standard input is closed
QUIT_S = 1.0  # for the process to end by itself once it was told that it is to be killed
QUIT_POLL_S = 0.02
POLL_S = 0.25  # between two looks at a worker that sends nothing
SECRETS = ("WANDB_API_KEY",)  # the worker never talks to W&B

Record = dict[str, Any]


@dataclass(frozen=True)
class WorkerExit:
    """How a worker process ended.

    Attributes:
        outcome: its exit code; ``FAILED`` for every kind of death.
        cause: of a death, in words: the signal, the exit code, or that it sent nothing; else empty.
        stderr: the end of what it wrote to its standard error.
    """

    outcome: Outcome
    cause: str = ""
    stderr: str = ""


class WorkerProcess:
    """One worker: a fresh interpreter, a pipe for its records, its standard input for commands.

    It waits for ``go`` before it takes the memory to train with, so one can be started while
    another still runs.

    Arguments:
        checkpoints: the run's folder of checkpoints.
        generation: worker processes of this run before this one.
        started: the run's start, by ``time.monotonic``.
        environment: variables on top of the usual ones.
        is_first: it tells what data and model are; of later workers nobody asks that.

    Attributes:
        is_ready: its record of kind ``ready`` was read.
    """

    def __init__(
        self,
        config: Config,
        checkpoints: Path,
        *,
        generation: int,
        started: float,
        environment: Mapping[str, str] = MappingProxyType({}),
        is_first: bool = True,
    ) -> None:
        self.is_ready = False
        self._kill_cause: str | None = None
        self._records, write_end = os.pipe()
        command = [
            *(sys.executable, "-m", "lab.train.worker"),
            *("--checkpoints", str(checkpoints)),
            *("--records", str(write_end)),
            *("--cache", str(cache_folder())),
            *("--generation", str(generation)),
            *("--started", repr(started)),
            *(["--first"] if is_first else []),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,  # a signal handler may write in the middle of another write
                pass_fds=[write_end],
                env={**worker_environment(config), **environment},
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which sends `stop`
            )
        except BaseException:
            os.close(self._records)
            raise
        finally:
            os.close(write_end)
        assert self._process.stderr is not None
        self._last_words = LastWords(self._process.stderr)
        self._write_line(json.dumps(to_dict(config)))

    @property
    def pid(self) -> int:
        return self._process.pid

    def records(self, timeout_s: float, start_timeout_s: float) -> Iterator[Record | None]:
        """Every record that the worker sends until it closes its pipe, or has ended.

        While it sends nothing, None comes every ``POLL_S`` seconds. A worker that sends nothing
        for ``timeout_s`` seconds, or before it is ready for ``start_timeout_s``, is killed, which
        ends the iteration.
        """
        pending, last_heard = b"", time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._records, selectors.EVENT_READ)
            while True:
                if not selector.select(min(POLL_S, timeout_s)):
                    if self._process.poll() is not None and not selector.select(0):
                        return  # something that it started still holds its pipe open
                    limit_s = timeout_s if self.is_ready else start_timeout_s
                    if time.monotonic() - last_heard >= limit_s:
                        self.kill(f"nothing was heard of it for {limit_s:g} s")
                    yield None
                    continue
                chunk, last_heard = os.read(self._records, 1 << 16), time.monotonic()
                if not chunk:
                    return  # a last line that a death cut in half is dropped
                *lines, pending = (pending + chunk).split(b"\n")
                for record in map(json.loads, lines):
                    self.is_ready = self.is_ready or record["kind"] == RecordKind.READY
                    yield record

    def memory_gb(self) -> float | None:
        """Its memory at this moment, read from outside, in GB; None if it is gone."""
        try:
            return process.process_bytes_of(self.pid) / GB
        except ProcessLookupError:
            return None

    def send(self, command: Command, *arguments: int | str) -> None:
        """Send one command; if the worker is dead already, :meth:`close` returns how it died."""
        self._write_line(" ".join(map(str, (command, *arguments))))

    def _write_line(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line.encode() + b"\n")

    def kill(self, cause: str | None = None) -> None:
        """End it and everything it started, now; ``cause`` says why.

        It is asked first: on macOS memory that a killed process had wired can stay wired until the
        machine is started again.
        """
        if self._process.returncode is not None:
            return  # its number may be another process's by now
        if not process.has_ended(self.pid):  # else how it ended is known, and not for this cause
            self._kill_cause = self._kill_cause or cause
        self.send(Command.QUIT)
        deadline = time.monotonic() + QUIT_S
        # Not Popen.wait, which reaps it and so gives its number, that of its group, away.
        while not process.has_ended(self.pid) and time.monotonic() < deadline:
            time.sleep(QUIT_POLL_S)
        # On macOS a group of which only a dead leader is left answers EPERM.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> WorkerExit:
        """Wait for its end, for ``EXIT_GRACE_S`` seconds at most, and return how it ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill(f"did not end within {EXIT_GRACE_S:g} s")
            self._process.wait()
        os.close(self._records)
        return self._exit()

    def _exit(self) -> WorkerExit:
        code, why = self._process.returncode, self._kill_cause
        if why is None and code in set(Outcome) - {Outcome.FAILED}:
            return WorkerExit(Outcome(code))
        cause = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        words = self._last_words.text()
        return WorkerExit(Outcome.FAILED, f"{why} ({cause})" if why else cause, words)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has none
        return f"signal {number}"


def cache_folder() -> Path:
    """Where what is made once is kept between runs: the user's cache, or ``LAB_CACHE_DIR``.

    Without a home folder, or with one that cannot be written, it is a folder of this user among the
    system's temporary ones.
    """
    if given := os.environ.get("LAB_CACHE_DIR"):
        return Path(given)
    with suppress(OSError, RuntimeError):  # RuntimeError: nobody knows this user's home
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "mlx-memory-lab"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return Path(tempfile.gettempdir()) / f"mlx-memory-lab-{os.getuid()}"


def worker_environment(config: Config) -> dict[str, str]:
    """The worker's environment variables: what makes its backend deterministic, and no secret."""
    environment = {k: v for k, v in environment_with_lab().items() if k not in SECRETS}
    environment["PYTHONUNBUFFERED"] = "1"
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        environment[name] = str(config.worker.threads)
    if config.train.deterministic:
        environment["MLX_CUDA_USE_CUDNN_SDPA"] = "0"  # its backward adds in an order of its own
    return environment
