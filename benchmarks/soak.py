"""Inject faults into hundreds of short runs at random moments and resume them: nothing may be lost.

``python -m benchmarks.soak --faults 300 --seed 0``. Every run must end with the rows, the weights
and the optimizer's state of a run without faults, bit for bit, with no figure false, no process
left and, where W&B is on, with one whole W&B run. Half of the runs lack something that machines
usually have. A seed fixes everything but the exact moments.
"""

from __future__ import annotations

import argparse
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.faults import BEFORE, BETWEEN, FAULTS, FULL, LIVE, inject
from benchmarks.machines import LACKS
from benchmarks.soak_check import check, end_of
from benchmarks.soak_run import VARIANTS, Run, finish

DISK = "8m"  # size of a run's own file system, where one can be mounted


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
    """One run with one to six faults.

    Returns:
        The run, and what was lost in it; None if nothing.
    """
    draw = random.Random(f"{seed} {number}")
    lacks = draw.choice(list(LACKS)) if draw.random() < 0.5 else None
    run = Run(root / f"{number}", draw.choice(list(VARIANTS)), draw, lacks)
    with small_disk(run.folder) as has_disk:
        before = draw.choices([*BEFORE], k=draw.randint(0, 1))
        later = [*LIVE, *BETWEEN, *([FULL] if has_disk else [])]
        try:
            for kind in (*before, *draw.choices(later, k=draw.randint(1, 5))):
                if not run.is_complete:
                    inject(run, kind)
            finish(run)
            check(run, expected[run.variant])
        except Exception as lost:  # noqa: BLE001 - whatever a check stumbles over was not there
            shutil.copytree(run.folder / "disk", run.folder / "lost", dirs_exist_ok=True)
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


def table(title: str, injected: Counter[str], losses: Counter[str]) -> str:
    lines = [f"\n{title:<34} {'times':>6} {'lost':>5}"]
    lines += [f"{kind:<34} {injected[kind]:>6} {losses[kind]:>5}" for kind in injected]
    return "\n".join(lines)


def main() -> int:
    """Run the campaign; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="lab-soak-"))
    expected = {variant: reference_end(root, variant) for variant in VARIANTS}
    faults, faults_lost = Counter(dict.fromkeys(FAULTS, 0)), Counter[str]()
    runs, runs_lost = Counter[str](), Counter[str]()
    number, began = 0, time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        while faults.total() < arguments.faults:
            batch = range(number, number + 8 * arguments.jobs)
            number = batch.stop
            for run, lost in pool.map(lambda n: trial(n, arguments.seed, root, expected), batch):
                kinds = (run.variant, f"no {run.lacks}" if run.lacks else "nothing missing")
                faults.update(run.faults)
                runs.update(kinds)
                if lost is not None:
                    faults_lost.update(run.faults)
                    runs_lost.update(kinds)
                    print(f"{run.folder} ({', '.join((*kinds, *run.faults))}): {lost}")
            took = time.monotonic() - began
            print(f"... {faults.total()} faults in {number} runs, {took:.0f} s", flush=True)
    print(table("runs", runs, runs_lost))
    print(table("faults", faults, faults_lost))
    print(f"{'all':<34} {faults.total():>6} {faults_lost.total():>5}")
    print(f"{number} runs in {time.monotonic() - began:.0f} s, seed {arguments.seed}")
    if runs_lost:
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
