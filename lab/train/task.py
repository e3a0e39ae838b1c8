"""A process that does one thing with what a run has trained: evaluate, generate or fuse.

Started by ``lab.supervise.task`` as ``python -m lab.train.task``, as a worker is: a fresh
interpreter with the worker's environment, so that what it computes has the same last bits. The
first line of its standard input says what is to be done.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lab.machine.blas import preload_blas

preload_blas()  # before MLX is imported: afterwards it is too late

from lab.config.keys import Config  # noqa: E402
from lab.config.schema import ConfigError, from_dict  # noqa: E402
from lab.protocol import Outcome, RecordKind  # noqa: E402
from lab.train import checkpoint, memory  # noqa: E402
from lab.train.channel import Channel, reported  # noqa: E402

# Each is a module of lab/train/ with ``run``; only the one that is asked for is imported.
TASKS = {"evaluate": "evaluate_task", "generate": "generate_task", "fuse": "fuse_task"}


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        config: of the run.
        run_dir: its folder.
        cache: folder of the data index.
        given: what the task itself takes.
    """

    config: Config
    run_dir: Path
    cache: Path
    given: Mapping[str, Any]
    channel: Channel

    def progress(self, text: str) -> None:
        self.channel.send(RecordKind.PROGRESS, text=text)

    def warn(self, text: str) -> None:
        self.channel.send(RecordKind.WARNING, text=text)


def main() -> int:
    """Do one task; the exit code, an :class:`Outcome`."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, required=True, help="descriptor to write records to")
    descriptor, order = parser.parse_args().records, json.loads(sys.stdin.readline())
    channel = Channel(descriptor)
    task = Task(
        config=from_dict(Config, order["config"]),
        run_dir=Path(order["run_dir"]),
        cache=Path(order["cache"]),
        given=order["given"],
        channel=channel,
    )

    def work() -> Outcome:
        if not checkpoint.steps(task.run_dir / "checkpoints"):
            raise ConfigError("run", task.run_dir, "has no checkpoint, so no weights were kept")
        do: Callable[[Task], Mapping[str, Any]]
        do = import_module(f"lab.train.{TASKS[order['task']]}").run
        channel.send(RecordKind.RESULT, result=do(task))
        return Outcome.FINISHED

    outcome = reported(channel, work)
    memory.release_wired()
    return outcome


if __name__ == "__main__":
    sys.exit(main())
