"""Inject faults into hundreds of short runs at random moments and resume them: nothing may be lost.

``python -m benchmarks.soak --faults 300 --seed 0``. Every run must end with the rows, the weights
and the optimizer's state of a run without faults, bit for bit, with no process left and, where W&B
is on, with one whole W&B run. A seed fixes everything but the exact moments.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.faults import FULL, LIVE, ON_DISK, inject
from benchmarks.soak_run import STEPS, VARIANTS, Lost, Run, finish
from lab.records.files import read_summary

DISK = "6m"  # size of a run's own file system, where one can be mounted

# --- What a run must end with -------------------------------------------------------------------

COMPARED = ("step", "loss", "grad_norm", "learning_rate", "tokens", "data/padded_fraction")


def end_of(run: Run) -> dict[str, object]:
    """Everything that a run leaves and no fault may change."""
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
    """Compare with the reference run.

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
    """A small file system for one run; False where mounting is not allowed."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)


def trial(number: int, seed: int, root: Path, expected: dict[str, Any]) -> tuple[Run, str | None]:
    """One run with one to three faults.

    Returns:
        The run, and what was lost in it; None if nothing.
    """
    draw = random.Random(f"{seed} {number}")
    run = Run(root / f"{number}", draw.choice(list(VARIANTS)), draw)
    with small_disk(run.folder) as has_disk:
        kinds = [*LIVE, *ON_DISK, *([FULL] if has_disk else [])]
        try:
            for kind in draw.choices(kinds, k=draw.randint(1, 3)):
                if read_summary(run.run_dir).get("state") != "completed":
                    inject(run, kind)
            finish(run)
            check(run, expected[run.variant])
        except (Lost, OSError, ValueError) as lost:
            shutil.copytree(run.run_dir, run.folder / "lost", dirs_exist_ok=True)
            return run, repr(lost)
        finally:
            run.kill()
    shutil.rmtree(run.folder, ignore_errors=True)
    return run, None


def reference_end(root: Path, variant: str) -> dict[str, object]:
    run = Run(root / f"reference-{variant}", variant, random.Random(0))
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
    root = Path(tempfile.mkdtemp(prefix="lab-soak-"))
    expected = {variant: reference_end(root, variant) for variant in VARIANTS}
    injected: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    number, began = 0, time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        while injected.total() < arguments.faults:
            batch = range(number, number + 4 * arguments.jobs)
            number = batch.stop
            for run, lost in pool.map(lambda n: trial(n, arguments.seed, root, expected), batch):
                injected.update(run.faults)
                if lost is not None:
                    losses.update(run.faults)
                    print(f"{run.folder} ({run.variant}; {', '.join(run.faults)}): {lost}")
            print(f"... {injected.total()} faults in {number} runs", flush=True)
    print(f"\n{'fault':<30} {'times':>6} {'lost':>5}")
    for kind in (*LIVE, *ON_DISK, FULL):
        print(f"{kind:<30} {injected[kind]:>6} {losses[kind]:>5}")
    print(f"{'all':<30} {injected.total():>6} {losses.total():>5}")
    print(f"{number} runs in {time.monotonic() - began:.0f} s, seed {arguments.seed}")
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
