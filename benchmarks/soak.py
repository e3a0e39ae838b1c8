"""Hundreds of short runs, each harmed at random moments and resumed: nothing may be lost.

``python -m benchmarks.soak --faults 300 --seed 0``. Every run must end with the rows, the weights
and the optimizer's state of an unharmed one, to the last bit, with no process left and, where W&B
is on, with one whole W&B run. What a seed does is the same each time, but for the moments.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.records.files import read_summary
from lab.records.rows import read_jsonl

ROOT = Path(__file__).resolve().parent.parent
STEPS, LONGEST_S, SITTINGS = 24, 120, 20
DISK = "6m"  # of a run's own file system, where one can be mounted

COMMON = (
    f"train.steps={STEPS}", "train.batch_size=2", "train.max_seq_length=64",
    "train.val_interval_steps=0", "checkpoint.interval_steps=5", "worker.timeout_s=8",
    "worker.max_restarts=8",
)  # fmt: skip
VARIANTS = {
    "in_process": "reload=interval reload.interval_steps=7 tracker=none",
    "process": "reload=interval reload.interval_steps=7 reload.method=process tracker=none",
    "lora": "adapter=lora adapter.dropout=0.1 train.grad_accumulation_steps=2 reload=interval "
    "reload.interval_steps=6 reload.method=process checkpoint.keep=1 tracker=none",
    "wandb": "optimizer=muon reload=interval reload.interval_steps=9 tracker=wandb_offline",
}


class Lost(Exception):  # noqa: N818
    """What a harmed run did not end with."""


# --- One run ------------------------------------------------------------------------------------


@dataclass
class Run:
    """A run in a folder of its own, started and resumed until it is complete."""

    folder: Path
    variant: str
    draw: random.Random
    process: subprocess.Popen[bytes] | None = None
    suffered: list[str] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.folder / "disk" / "run"

    def rows(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.run_dir / "metrics.jsonl"))

    def events(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.run_dir / "events.jsonl"))

    def worker(self) -> int | None:
        pids = [e["pid"] for e in self.events() if e["event"] == "worker_started"]
        return pids[-1] if pids else None

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, or go on with it, as a user would."""
        if (self.run_dir / "events.jsonl").exists():
            command = ["-m", "lab.cli", "resume", str(self.run_dir)]
        else:
            shutil.rmtree(self.run_dir, ignore_errors=True)
            overrides = (*COMMON, *VARIANTS[self.variant].split())
            command = [str(ROOT / "train.py"), *overrides, f"hydra.run.dir={self.run_dir}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.process

    def wait(self) -> int:
        assert self.process is not None
        try:
            return self.process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Lost(f"it did not end within {LONGEST_S} s") from None

    def kill(self) -> None:
        for pid in (self.process and self.process.pid, self.worker()):
            with suppress(ProcessLookupError):
                os.kill(pid or 0, signal.SIGKILL) if pid else None

    def wait_for_moment(self) -> None:
        """Until a step drawn beforehand has its row, or a moment of the start-up has come."""
        assert self.process is not None
        known = len(self.rows())
        target = self.draw.randint(known, STEPS)
        until = time.monotonic() + (self.draw.uniform(0, 1.5) if target == known else LONGEST_S)
        while time.monotonic() < until and self.process.poll() is None:
            if target > known and len(self.rows()) >= target:
                time.sleep(self.draw.uniform(0, 0.02))  # anywhere within the step that follows
                return
            time.sleep(0.003)


# --- What happens to it -------------------------------------------------------------------------


def signal_supervisor(number: signal.Signals, times: int = 1) -> Callable[[Run], None]:
    def harm(run: Run) -> None:
        assert run.process is not None
        for _ in range(times):
            with suppress(ProcessLookupError):
                run.process.send_signal(number)
            time.sleep(run.draw.uniform(0, 0.1))

    return harm


def signal_worker(number: signal.Signals) -> Callable[[Run], None]:
    def harm(run: Run) -> None:
        pid = run.worker()
        with suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)

    return harm


def kill_everything(run: Run) -> None:
    """A power cut, as far as processes go."""
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
    """The end of the rows did not reach the disk."""
    path = run.run_dir / run.draw.choice(("metrics.jsonl", "events.jsonl"))
    if path.exists():
        first = path.read_bytes().find(b"\n") + 1
        os.truncate(path, max(first, path.stat().st_size - run.draw.randrange(1, 300)))


def fill_disk(run: Run) -> None:
    """No byte more for the run, for a while; its user makes room before it goes on."""
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


def suffer(run: Run, kind: str) -> None:
    """One fault; those of files need a run that has been cut off. It may come too late to count."""
    process = run.start()
    run.wait_for_moment()
    if process.poll() is not None:
        return
    if kind in ON_DISK:
        kill_everything(run)
        run.wait()
        if read_summary(run.run_dir).get("state") == "completed":
            return  # too late to harm what is needed again
        ON_DISK[kind](run)
    elif kind == FULL:
        fill_disk(run)
    else:
        LIVE[kind](run)
    run.suffered.append(kind)
    run.wait()


def finish(run: Run) -> None:
    for _ in range(SITTINGS):
        if read_summary(run.run_dir).get("state") == "completed":
            return
        run.start()
        run.wait()
    raise Lost(f"it is not complete after {SITTINGS} resumptions")


# --- What it must end with ----------------------------------------------------------------------

COMPARED = ("step", "loss", "grad_norm", "learning_rate", "tokens", "data/padded_fraction")


def end_of(run: Run) -> dict[str, object]:
    """All that a run leaves which no fault may change."""
    last = run.run_dir / "checkpoints" / f"step_{STEPS}"
    names = ("adapters.safetensors", "optimizer.safetensors")
    if missing := [name for name in names if not (last / name).exists()]:
        raise Lost(f"{last.name} lacks {missing}")
    return {
        "rows": [[row[key] for key in COMPARED] for row in run.rows()],
        "weights": read_summary(run.run_dir).get("weights_sha256"),
        "files": [hashlib.sha256((last / name).read_bytes()).hexdigest() for name in names],
    }


def check(run: Run, expected: dict[str, object]) -> None:
    """Compare with the unharmed run.

    Raises:
        Lost: says what differs.
    """
    found = end_of(run)
    for key, value in expected.items():
        if found[key] != value:
            raise Lost(f"{key} differ")
    if any(e["event"] == "replay_mismatch" for e in run.events()):
        raise Lost("a replayed step gave another loss")
    if left := _processes(run):
        raise Lost(f"processes are left: {left}")
    if run.variant == "wandb":
        _check_wandb(run)


def _processes(run: Run) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(run.folder) in (folder / "cmdline").read_text():
                found.append(folder.name)
    return found


def _check_wandb(run: Run) -> None:
    folders = list((run.folder / "outputs" / "wandb").glob("offline-run-*"))
    if len(folders) != 1:
        raise Lost(f"{len(folders)} W&B runs")
    inspect = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json"]
    told = subprocess.run([*inspect, str(folders[0])], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in told.stdout.splitlines()]
    history = [r["history"]["item"] for r in records if r["type"] == "history"]
    rows = {h["step"]: h["loss"] for h in history if "loss" in h}
    if rows != {row["step"]: row["loss"] for row in run.rows()}:
        raise Lost("W&B does not hold the rows")


# --- The campaign -------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own for a run; False where mounting is not allowed."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)


def trial(number: int, seed: int, place: Path, expected: dict[str, Any]) -> tuple[Run, str | None]:
    """One run with one to three faults; what it lost, if anything."""
    draw = random.Random(f"{seed} {number}")
    run = Run(place / f"{number}", draw.choice(list(VARIANTS)), draw)
    with small_disk(run.folder) as has_disk:
        kinds = [*LIVE, *ON_DISK, *([FULL] if has_disk else [])]
        try:
            for kind in draw.choices(kinds, k=draw.randint(1, 3)):
                if read_summary(run.run_dir).get("state") != "completed":
                    suffer(run, kind)
            finish(run)
            check(run, expected[run.variant])
        except (Lost, OSError, ValueError) as lost:
            shutil.copytree(run.run_dir, run.folder / "lost", dirs_exist_ok=True)
            return run, repr(lost)
        finally:
            run.kill()
    shutil.rmtree(run.folder, ignore_errors=True)
    return run, None


def unharmed(place: Path, variant: str) -> dict[str, object]:
    run = Run(place / f"unharmed-{variant}", variant, random.Random(0))
    run.run_dir.parent.mkdir(parents=True)
    finish(run)
    return end_of(run)


def main() -> int:
    """Run the campaign; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="lab-soak-"))
    expected = {variant: unharmed(place, variant) for variant in VARIANTS}
    suffered: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    number, began = 0, time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        while suffered.total() < arguments.faults:
            batch = range(number, number + 4 * arguments.jobs)
            number = batch.stop
            for run, lost in pool.map(lambda n: trial(n, arguments.seed, place, expected), batch):
                suffered.update(run.suffered)
                if lost is not None:
                    losses.update(run.suffered)
                    print(f"{run.folder} ({run.variant}; {', '.join(run.suffered)}): {lost}")
            print(f"... {suffered.total()} faults in {number} runs", flush=True)
    print(f"\n{'fault':<30} {'times':>6} {'lost':>5}")
    for kind in (*LIVE, *ON_DISK, FULL):
        print(f"{kind:<30} {suffered[kind]:>6} {losses[kind]:>5}")
    print(f"{'all':<30} {suffered.total():>6} {losses.total():>5}")
    print(f"{number} runs in {time.monotonic() - began:.0f} s, seed {arguments.seed}")
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
