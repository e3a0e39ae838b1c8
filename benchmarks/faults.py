"""The faults that the soak test injects: signals, damaged and foreign files, time, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.soak_run import NAMES, Run


class NoTarget(Exception):  # noqa: N818
    """There is nothing that this fault could harm at this moment."""


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
        if not pid:
            raise NoTarget
        try:
            os.kill(pid, number)
        except ProcessLookupError as gone:
            raise NoTarget from gone

    return fault


def kill_everything(run: Run) -> None:
    """Kill supervisor and worker, as a power cut would."""
    run.kill()


def checkpoint_file(run: Run) -> Path:
    files = sorted(p for p in run.run_dir.glob("checkpoints/step_*/*") if p.stat().st_size)
    if not files:
        raise NoTarget
    return run.draw.choice(files)


def flip_bit(run: Run) -> None:
    file = checkpoint_file(run)
    raw = bytearray(file.read_bytes())
    raw[run.draw.randrange(len(raw))] ^= 1 << run.draw.randrange(8)
    file.write_bytes(raw)


def truncate_file(run: Run) -> None:
    file = checkpoint_file(run)
    os.truncate(file, run.draw.randrange(file.stat().st_size))


def remove_file(run: Run) -> None:
    checkpoint_file(run).unlink()


def rows_or_events(run: Run) -> Path:
    path = run.run_dir / run.draw.choice(("metrics.jsonl", "events.jsonl"))
    if not path.exists() or not path.stat().st_size:
        raise NoTarget
    return path


def cut_rows(run: Run) -> None:
    """Cut the end of a file of rows, as if it had not reached the disk."""
    path = rows_or_events(run)
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


# --- Others in the run's folder -----------------------------------------------------------------

FOREIGN_NAMES = (
    *("notes.txt", ".DS_Store", "._metrics.jsonl", "metrics.jsonl.bak", "summary (1).json"),
    *("checkpoints/.DS_Store", "checkpoints/best/adapters.safetensors", "checkpoints/step_5 copy"),
)
FOREIGN_LINES = (b"hello\n", b"\n", b"[]\n", b'{"a": 1}\n', b"\xff\0\xff\n")


def add_files(run: Run) -> None:
    """Put files of somebody else into its folder; what becomes of them is seen at the end."""
    # Before there are checkpoints theirs is a name of the lab's, which a start would refuse.
    may_be_below = (run.run_dir / "checkpoints").is_dir()
    names = [n for n in FOREIGN_NAMES if may_be_below or "/" not in n]
    for name in run.draw.sample(names, 3):
        path, content = run.run_dir / name, run.draw.randbytes(run.draw.randrange(2000))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        run.foreign[path] = content


def add_line(run: Run) -> None:
    """Put a line into its files that is not the lab's, or half of one; take it out again."""
    path = rows_or_events(run)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    at = run.draw.randrange(len(lines))
    half = lines[at][: len(lines[at]) // 2] + b"\n"
    path.write_bytes(b"".join([*lines[:at], run.draw.choice((*FOREIGN_LINES, half)), *lines[at:]]))
    run.must_refuse(f"{path.name}, line {at + 1}")
    path.write_bytes(whole)


def take_a_name(run: Run) -> None:
    """Have a file of a name of the lab's in its folder before the run; take it away again."""
    add_files(run)
    path = run.run_dir / run.draw.choice(NAMES)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(run.draw.randbytes(run.draw.randrange(2000)))
    run.must_refuse("already holds", is_new=True)
    path.unlink()


# --- Time away ----------------------------------------------------------------------------------

DAY_S = 86_400.0


def stay_away(run: Run) -> None:
    """Hours go by before it is resumed, by every clock, and its files grow older."""
    hours = run.draw.uniform(0.05, 3) * DAY_S
    run.of_day += hours
    run.of_machine += hours
    for path in run.run_dir.rglob("*"):
        changed = path.stat().st_mtime - hours
        os.utime(path, (changed, changed))


def set_clock(run: Run) -> None:
    """The time of day is put back or forward before it is resumed."""
    run.of_day += run.draw.uniform(-3, 3) * DAY_S


def restart_machine(run: Run) -> None:
    """The clock that counts from the machine's start begins anew before it is resumed."""
    run.of_machine = run.draw.uniform(0, 60) - time.monotonic()


# --- The table ----------------------------------------------------------------------------------

BEFORE: dict[str, Callable[[Run], None]] = {"foreign file of a lab's name": take_a_name}
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
    "foreign files while it runs": add_files,
}
BETWEEN: dict[str, Callable[[Run], None]] = {
    "flipped bit in a checkpoint": flip_bit,
    "truncated checkpoint file": truncate_file,
    "missing checkpoint file": remove_file,
    "cut rows": cut_rows,
    "foreign files between sittings": add_files,
    "foreign line in rows or events": add_line,
    "days away": stay_away,
    "time of day set": set_clock,
    "machine restarted": restart_machine,
}
FULL = "full disk"
FAULTS = (*BEFORE, *LIVE, *BETWEEN, FULL)


def inject(run: Run, kind: str) -> None:
    """Start or resume the run, inject one fault at a random moment, and wait for its end.

    One that comes too late, or finds nothing to harm, does not count.
    """
    with suppress(NoTarget):
        if kind in BEFORE:
            BEFORE[kind](run)
        elif kind in BETWEEN:
            run_until(run, run.draw.choice((kill_everything, LIVE["SIGTERM to the supervisor"])))
            if run.is_complete:
                return  # nothing will be read again
            BETWEEN[kind](run)
        else:
            run_until(run, fill_disk if kind == FULL else LIVE[kind])
        run.faults.append(kind)


def run_until(run: Run, fault: Callable[[Run], None]) -> None:
    """Start or resume the run, harm it at a random moment, and wait for its end."""
    process = run.start()
    try:
        run.wait_for_moment()
        if process.poll() is not None:
            raise NoTarget
        fault(run)
    finally:
        run.wait()
