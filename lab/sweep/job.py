"""One job of a sweep, in a process of its own: ``python -m lab.sweep.job``.

Killed, it takes neither the sweep with it nor, under a launcher that keeps its processes, the jobs
beside it; and what a run's trackers leave in a process does not reach the next run. Its standard
input says what to do, and must stay open: when it ends, or nobody leads the sweep any more, the job
stops as when its terminal is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from lab.config.keys import Config
from lab.config.schema import ConfigError, from_dict, to_dict
from lab.machine.interpreter import environment_with_lab
from lab.machine.machine import Machine
from lab.machine.probe import know_machine, probe_machine
from lab.sweep.index import Index, this_host
from lab.sweep.lease import hold, is_led

LOOK_SECONDS = 0.2
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger("lab")


@dataclass(frozen=True)
class Order:
    """What a job is to do.

    Attributes:
        config: plain values of the config; None to resume the run that is in ``folder``.
        folder: the run's.
        sweep: the sweep's.
        warnings: found while composing.
        machine: what this machine has: the job need not look again.
    """

    config: dict[str, Any] | None
    folder: str
    sweep: str
    overrides: list[str]
    warnings: list[str]
    machine: dict[str, Any]

    @classmethod
    def begin(
        cls, config: Config, folder: Path, sweep: Path, overrides: list[str], warnings: list[str]
    ) -> Order:
        machine = asdict(probe_machine())
        return cls(to_dict(config), str(folder), str(sweep), overrides, warnings, machine)

    @classmethod
    def go_on(cls, folder: Path, sweep: Path) -> Order:
        return cls(None, str(folder), str(sweep), [], [], asdict(probe_machine()))


# --- From outside -------------------------------------------------------------------------------


def carry_out(order: Order, *, prefix: str = "") -> tuple[int, int | None]:
    """Run a job to its end in a process of its own.

    Signals that come meanwhile are passed on to it.

    Arguments:
        prefix: put before each of its lines, where several jobs share a terminal.

    Returns:
        Its exit code, negative if a signal killed it; and the signal that this process got, if any.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.sweep.job"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if prefix else None,
        stderr=subprocess.STDOUT if prefix else None,
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
        process.stdin.write(json.dumps(asdict(order)) + "\n")
        process.stdin.flush()
        for line in process.stdout or ():
            print(prefix + line, end="", flush=True)
        return process.wait(), got[0] if got else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# --- From inside --------------------------------------------------------------------------------


def main() -> int:
    order = Order(**json.loads(sys.stdin.readline()))
    folder, sweep = Path(order.folder), Path(order.sweep)
    hold(folder)
    know_machine(Machine(**order.machine))
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log")],
    )
    Thread(target=_stop_at_end_of_input, daemon=True).start()
    if Index.read(sweep).host == this_host():
        Thread(target=_stop_when_not_led, args=(sweep,), daemon=True).start()
    from lab.supervise import experiment

    try:
        if order.config is None:
            return experiment.resume(folder).exit_code
        return experiment.run(
            from_dict(Config, order.config),
            folder,
            overrides=order.overrides,
            warnings=order.warnings,
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


def _stop_when_not_led(sweep: Path) -> None:
    while is_led(sweep):
        time.sleep(LOOK_SECONDS)
    _stop()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


if __name__ == "__main__":
    sys.exit(main())
