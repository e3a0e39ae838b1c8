"""A run of the soak test: started and resumed as a user would, watched through its files."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.records.files import read_summary
from lab.records.rows import read_jsonl

ROOT = Path(__file__).resolve().parent.parent
STEPS, LONGEST_S, MAX_ATTEMPTS = 24, 120, 20

COMMON = (
    f"train.steps={STEPS}", "train.batch_size=2", "train.max_seq_length=64",
    "train.val_interval_steps=0", "checkpoint.interval_steps=5", "worker.timeout_s=8",
    "worker.start_timeout_s=30",
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
    """The run did not end as the reference run; the text says what differs."""


@dataclass
class Run:
    """A run in a folder of its own, started and resumed until it is complete.

    Attributes:
        faults: those that were injected so far.
    """

    folder: Path
    variant: str
    draw: random.Random
    process: subprocess.Popen[bytes] | None = None
    faults: list[str] = field(default_factory=list)

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
        """Start or resume it as a user would."""
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
        """Wait until a random step has its row, or for a random time of the start-up."""
        assert self.process is not None
        known = len(self.rows())
        target = self.draw.randint(known, STEPS)
        until = time.monotonic() + (self.draw.uniform(0, 1.5) if target == known else LONGEST_S)
        while time.monotonic() < until and self.process.poll() is None:
            if target > known and len(self.rows()) >= target:
                time.sleep(self.draw.uniform(0, 0.02))  # anywhere within the step that follows
                return
            time.sleep(0.003)


def finish(run: Run) -> None:
    """Start or resume the run until it is complete.

    Raises:
        Lost: it is not complete after ``MAX_ATTEMPTS`` resumptions.
    """
    for _ in range(MAX_ATTEMPTS):
        if read_summary(run.run_dir).get("state") == "completed":
            return
        run.start()
        run.wait()
    raise Lost(f"it is not complete after {MAX_ATTEMPTS} resumptions")
