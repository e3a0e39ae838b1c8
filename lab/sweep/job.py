"""One job of a sweep, in a process of its own: ``python -m lab.sweep.job``.

A job that is killed takes neither the sweep with it nor, under a launcher that reuses its
processes, the jobs beside it; and what a run's trackers leave in a process does not reach the next
run. The child reads a :class:`JobSpec` as JSON from its standard input, which must stay open: when
it ends, or no process holds the sweep's lease any more, the job stops as at SIGHUP.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from lab.config.keys import Config
from lab.config.schema import ConfigError, from_dict, to_dict
from lab.machine.interpreter import environment_with_lab
from lab.machine.machine import Machine
from lab.machine.probe import know_machine, probe_machine
from lab.sweep.index import SweepIndex, this_host
from lab.sweep.lease import is_leased, mark_alive
from lab.tracking.closing import ERROR
from lab.tracking.text import clean

POLL_SECONDS = 0.2
LOG_FILE = "train.log"
TAIL_BYTES = 1 << 14  # of the log: its last lines
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

ENDING = re.compile(r"job \d+ ended with exit code \d+(: )?")  # as :func:`failure` has it

log = logging.getLogger("lab")


@dataclass(frozen=True)
class JobSpec:
    """What the child process is to run.

    Attributes:
        config: plain values of a config; None to resume the run in ``folder``.
        folder: the run's.
        sweep: the sweep's.
        warnings: found while composing.
        machine: plain values of a :class:`Machine`, so that the job need not probe again.
        quiet: its standard output is its log, which nothing else has to write.
    """

    config: dict[str, Any] | None
    folder: str
    sweep: str
    overrides: list[str]
    warnings: list[str]
    machine: dict[str, Any]
    quiet: bool = False

    @classmethod
    def begin(
        cls, config: Config, folder: Path, sweep: Path, overrides: list[str], warnings: list[str]
    ) -> JobSpec:
        machine = asdict(probe_machine())
        return cls(to_dict(config), str(folder), str(sweep), overrides, warnings, machine)

    @classmethod
    def resume(cls, folder: Path, sweep: Path) -> JobSpec:
        return cls(None, str(folder), str(sweep), [], [], asdict(probe_machine()))


# --- The launcher's process ---------------------------------------------------------------------


def run_in_subprocess(
    spec: JobSpec, *, prefix: str = "", quiet: bool = False
) -> tuple[int, int | None]:
    """Run a job to its end in a process of its own, to which signals are forwarded.

    Arguments:
        prefix: put before each of its lines, where several jobs share a console.
        quiet: its lines go into its log only.

    Returns:
        The job's exit code, negative if a signal killed it; and the signal that came to this
        process meanwhile, if any.
    """
    with ExitStack() as opened:
        out: Any = subprocess.PIPE if prefix else None
        if quiet:
            out = opened.enter_context(Path(spec.folder, LOG_FILE).open("ab"))
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.sweep.job"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT if out else None,
            env=environment_with_lab(),
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process, which passes it on
        )
    got: list[int] = []

    def forward(number: int, _: object) -> None:
        got.append(number)
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(replace(spec, quiet=quiet))) + "\n")
        process.stdin.flush()
        for line in process.stdout or ():
            print(prefix + line, end="", flush=True)
        return process.wait(), got[0] if got else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def last_words(folder: Path) -> str:
    """What a job's log ends with: its run's error, its headline, or what it was refused with."""
    with suppress(OSError), (folder / LOG_FILE).open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
        for line in reversed(file.read().decode(errors="replace").splitlines()):
            if line.startswith(ERROR):
                return clean(line.removeprefix(ERROR))
            line = ENDING.sub("", line)
            if line and not line.startswith("  "):  # no other detail of the run's end
                return clean(line)
    return ""


def failure(number: int, exit_code: int, folder: Path) -> str:
    """How a job failed, and why, on one line; empty for one that did not."""
    if exit_code < 0:
        return f"job {number} was killed by {signal.Signals(-exit_code).name}"
    if not exit_code:
        return ""
    why = last_words(folder)
    return f"job {number} ended with exit code {exit_code}" + (f": {why}" if why else "")


# --- The child ----------------------------------------------------------------------------------


def main() -> int:
    spec = JobSpec(**json.loads(sys.stdin.readline()))
    folder, sweep = Path(spec.folder), Path(spec.sweep)
    mark_alive(folder)
    know_machine(Machine(**spec.machine))
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[
            logging.StreamHandler(sys.stdout),
            *([] if spec.quiet else [logging.FileHandler(folder / LOG_FILE)]),
        ],
    )
    Thread(target=_stop_at_end_of_input, daemon=True).start()
    if SweepIndex.read(sweep).host == this_host():
        Thread(target=_stop_when_not_leased, args=(sweep,), daemon=True).start()
    from lab.supervise import experiment

    try:
        if spec.config is None:
            return experiment.resume(folder).exit_code
        return experiment.run(
            from_dict(Config, spec.config),
            folder,
            overrides=spec.overrides,
            warnings=spec.warnings,
            group=sweep.name,
        ).exit_code
    except ConfigError as error:
        log.error("%s", error)  # noqa: TRY400 - a user's mistake has no traceback
        return 2
    except Exception:
        log.exception("the job failed")
        return 1


def _stop_at_end_of_input() -> None:
    sys.stdin.read()
    _stop()


def _stop_when_not_leased(sweep: Path) -> None:
    while is_leased(sweep):
        time.sleep(POLL_SECONDS)
    _stop()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


if __name__ == "__main__":
    sys.exit(main())
