"""The faults that the soak test injects: signals, damaged files, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.soak_run import Run
from lab.records.files import read_summary


def signal_supervisor(number: signal.Signals, times: int = 1) -> Callable[[Run], None]:
    def fault(run: Run) -> None:
        assert run.process is not None
        for _ in range(times):
            with suppress(ProcessLookupError):
                run.process.send_signal(number)
            time.sleep(run.draw.uniform(0, 0.1))

    return fault


def signal_worker(number: signal.Signals) -> Callable[[Run], None]:
    def fault(run: Run) -> None:
        pid = run.worker()
        with suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)

    return fault


def kill_everything(run: Run) -> None:
    """Kill supervisor and worker, as a power cut would."""
    run.kill()


def checkpoint_file(run: Run) -> Path | None:
    files = sorted(p for p in run.run_dir.glob("checkpoints/step_*/*") if p.stat().st_size)
    return run.draw.choice(files) if files else None


def flip_bit(run: Run) -> None:
    file = checkpoint_file(run)
    if file is not None:
        raw = bytearray(file.read_bytes())
        raw[run.draw.randrange(len(raw))] ^= 1 << run.draw.randrange(8)
        file.write_bytes(raw)


def truncate_file(run: Run) -> None:
    file = checkpoint_file(run)
    if file is not None:
        os.truncate(file, run.draw.randrange(file.stat().st_size))


def remove_file(run: Run) -> None:
    file = checkpoint_file(run)
    if file is not None:
        file.unlink()


def cut_rows(run: Run) -> None:
    """Cut the end of a file of rows, as if it had not reached the disk."""
    path = run.run_dir / run.draw.choice(("metrics.jsonl", "events.jsonl"))
    if path.exists():
        first = path.read_bytes().find(b"\n") + 1
        os.truncate(path, max(first, path.stat().st_size - run.draw.randrange(1, 300)))


def fill_disk(run: Run) -> None:
    """Fill the disk for a while; there is room again before the run is resumed."""
    assert run.process is not None
    filler = run.folder / "disk" / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with suppress(subprocess.TimeoutExpired):
        run.process.wait(run.draw.uniform(0.05, 1.0))
    filler.unlink()


LIVE: dict[str, Callable[[Run], None]] = {
    "kill -9 of the worker": signal_worker(signal.SIGKILL),
    "kill -9 of the supervisor": signal_supervisor(signal.SIGKILL),
    "kill -9 of both": kill_everything,
    "SIGTERM to the supervisor": signal_supervisor(signal.SIGTERM),
    "SIGTERM to the worker": signal_worker(signal.SIGTERM),
    "Ctrl-C": signal_supervisor(signal.SIGINT),
    "Ctrl-C twice": signal_supervisor(signal.SIGINT, times=2),
    "closed terminal": signal_supervisor(signal.SIGHUP),
    "worker that hangs": signal_worker(signal.SIGSTOP),
}
ON_DISK: dict[str, Callable[[Run], None]] = {
    "flipped bit in a checkpoint": flip_bit,
    "truncated checkpoint file": truncate_file,
    "missing checkpoint file": remove_file,
    "cut rows": cut_rows,
}
FULL = "full disk"


def inject(run: Run, kind: str) -> None:
    """Start or resume the run, inject one fault at a random moment, and wait for its end.

    Faults in files need a run that was killed before. A fault that comes too late does not count.
    """
    process = run.start()
    run.wait_for_moment()
    if process.poll() is not None:
        return
    if kind in ON_DISK:
        kill_everything(run)
        run.wait()
        if read_summary(run.run_dir).get("state") == "completed":
            return  # too late: nothing will be read again
        ON_DISK[kind](run)
    elif kind == FULL:
        fill_disk(run)
    else:
        LIVE[kind](run)
    run.faults.append(kind)
    run.wait()
