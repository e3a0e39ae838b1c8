"""The cost of measuring and recording a step, in the worker and in its supervisor.

'between steps' is from a real run of the default model with W&B offline: the time from row to row
less the step_seconds of the later one, the median over its steps; it contains the reading, the
slope, the row and all else that the loop does. The parts are the same calls in a loop of their own,
where caches are warm: a lower bound. The supervisor's figure is its CPU time per row, all threads;
it runs while the worker computes, on another core where there is one. % are of a step of 30 ms.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Workspace, say, undisturbed

ROUNDS, STEPS, LOOPS = 3, 150, 2000
STEP_US = 30_000  # costs are given as a share of such a step
GOAL = Goal(1.0)
PACE_S = 0.005  # between two rows for the supervisor, so that its threads keep up


def measure(workspace: Workspace, options: Options) -> Report:
    """A real run, then each part by itself, round after round."""
    between: list[float] = []
    parts: dict[str, list[float]] = {}
    rounds = options.rounds or ROUNDS
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        run = workspace.train(*undisturbed(options.steps or STEPS))
        rest = zip(run.cycles(), run.column("step_seconds")[1:], strict=True)
        between.append(median(cycle - step for cycle, step in rest) * 1e6)
        for side in ("worker", "supervisor"):
            for name, microseconds in workspace.child("probe", side, run.folder).items():
                parts.setdefault(name, []).append(microseconds)
    worker = [sum(values) for values in zip(*(parts[n] for n in WORKER_PARTS), strict=True)]
    return Report(
        [
            Figure("worker: between steps of a real run", shares(between), "%", GOAL),
            Figure("worker: reading, slope, row and sending", shares(worker), "%", GOAL),
            Figure("worker: between steps of a real run", between, "us"),
            *(Figure(f"  {name}", values, "us") for name, values in parts.items()),
            Figure("supervisor", shares(parts["supervisor: CPU for each row"]), "%"),
        ],
    )


def shares(microseconds: Sequence[float]) -> list[float]:
    return [100 * cost / STEP_US for cost in microseconds]


WORKER_PARTS = ("reading", "slope", "row", "row sent")


def worker_parts(folder: Path) -> dict[str, float]:
    """Microseconds of each call that the worker makes for a step."""
    from lab.machine.blas import preload_blas

    preload_blas()
    import mlx.core as mx

    from lab.protocol import RecordKind
    from lab.records.slope import SlopeWindow
    from lab.train import memory
    from lab.train.channel import Channel

    kept = mx.zeros((1 << 20,))
    mx.eval(kept)
    stdin, _open_end = os.pipe()  # the write end stays open, or the channel would end the process
    sys.stdin = os.fdopen(stdin)
    drain = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert drain.stdin is not None
    channel, slope, reading = Channel(drain.stdin.fileno()), SlopeWindow(50), memory.read()
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    other = {key: value for key, value in row.items() if key not in reading.row()}
    noise = iter(range(LOOPS * 2))
    return {
        "reading": cost(memory.read),
        "slope": cost(lambda: slope.add((next(noise) * 7919) % 4096 * 4096)),
        "row": cost(lambda: {**other, **reading.row()}),
        "row sent": cost(lambda: channel.send(RecordKind.ROW, **row)),
    }


def cost(call: Callable[[], object]) -> float:
    """The median time of a call, in microseconds."""
    times = []
    for _ in range(LOOPS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return median(times[LOOPS // 10 :]) * 1e6


def supervisor_parts(folder: Path) -> dict[str, float]:
    """Microseconds of CPU per row: decode, write to file, show on the console, hand to W&B."""
    import psutil

    from lab.config.keys import Config
    from lab.records.files import RunFiles
    from lab.records.origin import Origin
    from lab.tracking.trackers import open_trackers

    copy = Path.cwd() / f"rows_{os.getpid()}"
    copy.mkdir()
    files, config = RunFiles(copy), Config.load(folder / "config.yaml")
    outputs = Path.cwd() / "outputs"
    with redirect_stdout(io.StringIO()):
        trackers = open_trackers(
            config,
            outputs=outputs,
            run_dir=copy,
            origin=Origin.new(folder / "config.yaml", None),
            overrides=[],
        )
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])

    def take(step: int) -> None:
        record = json.loads(json.dumps({**row, "step": step}))
        files.row(record)
        for tracker in trackers:
            tracker.log(record)

    def service() -> float:
        children = psutil.Process().children(recursive=True)
        return sum(sum(child.cpu_times()[:2]) for child in children)

    for step in range(1, LOOPS // 10):
        take(step)
        time.sleep(4 * PACE_S)  # W&B starts meanwhile
    before = time.process_time(), service()
    for step in range(LOOPS // 10, LOOPS + LOOPS // 10):
        take(step)
        time.sleep(PACE_S)
    own, beside = time.process_time() - before[0], service() - before[1]
    with redirect_stdout(io.StringIO()):
        for tracker in trackers:
            tracker.close({}, 0)
    return {
        "supervisor: CPU for each row": own / LOOPS * 1e6,
        "W&B's service: CPU for each row": beside / LOOPS * 1e6,
    }


def main(side: str, folder: Path) -> None:
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "worker": worker_parts,
        "supervisor": supervisor_parts,
    }
    print("\n" + json.dumps(parts[side](folder)), flush=True)
    os._exit(0)  # the channel's thread never ends: nobody closes its standard input


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
