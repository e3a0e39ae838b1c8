"""A run of the soak test: started and resumed as a user would, watched through its files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machines import environment_of
from lab.records.claim import LAB_FILES
from lab.records.files import read_summary
from lab.records.rows import read_jsonl

ROOT = Path(__file__).resolve().parent.parent
STEPS, LONGEST_S = 24, 180

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
    # Its loss grows for 15 steps, and is not finite from then on.
    "nonfinite": "optimizer=sgd optimizer.learning_rate=0.5 train.dtype=float16 "
    "train.max_grad_norm=0 train.on_nonfinite=continue reload=interval reload.interval_steps=7 "
    "reload.method=process tracker=none",
}
HYDRAS = ("train.log", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
NAMES = (*LAB_FILES, *HYDRAS)
"""Every name that a run refuses to find in its folder."""


class Lost(Exception):  # noqa: N818
    """The run did not end as the reference run; the text says what differs."""


@dataclass
class Run:
    """A run in a folder of its own, started and resumed until it is complete.

    Attributes:
        lacks: what its machine has not got, a key of ``machines.LACKS``.
        faults: those that were injected so far.
        foreign: files of others in its folder, and what is in them.
        of_day, of_machine: how far its machine's two clocks were set, in seconds.
        seconds: for which it ran so far, by a clock that nobody sets.
        sittings: how often it was started or resumed.
    """

    folder: Path
    variant: str
    draw: random.Random
    lacks: str | None = None
    process: subprocess.Popen[bytes] | None = None
    faults: list[str] = field(default_factory=list)
    foreign: dict[Path, bytes] = field(default_factory=dict)
    of_day: float = 0.0
    of_machine: float = 0.0
    seconds: float = 0.0
    sittings: int = 0
    _began: float = 0.0

    @property
    def run_dir(self) -> Path:
        return self.folder / "disk" / "run"

    @property
    def is_begun(self) -> bool:
        return (self.run_dir / "events.jsonl").exists()

    @property
    def is_complete(self) -> bool:
        return read_summary(self.run_dir).get("state") == "completed"

    def rows(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.run_dir / "metrics.jsonl"))

    def events(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.run_dir / "events.jsonl"))

    def contents(self) -> dict[Path, bytes]:
        """Every file of its folder."""
        return {path: path.read_bytes() for path in self.run_dir.rglob("*") if path.is_file()}

    def worker(self) -> int | None:
        pids = [e["pid"] for e in self.events() if e.get("event") == "worker_started"]
        return pids[-1] if pids else None

    def start(self) -> subprocess.Popen[bytes]:
        """Start or resume it as a user would."""
        if self.is_begun:
            return self._launch("-m", "lab.cli", "resume", str(self.run_dir))
        for name in NAMES:  # of a start that was killed before it had begun
            with suppress(OSError):
                (self.run_dir / name).unlink()
        return self.launch_new()

    def launch_new(self) -> subprocess.Popen[bytes]:
        """Start it, whatever its folder holds."""
        overrides = (*COMMON, *VARIANTS[self.variant].split())
        return self._launch(str(ROOT / "train.py"), *overrides, f"hydra.run.dir={self.run_dir}")

    def _launch(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = environment_of(
            self.folder, lacks=self.lacks, of_day=self.of_day, of_machine=self.of_machine
        )
        temporary = self.folder.parent / "temporary"  # of all runs: a cache without a home is there
        temporary.mkdir(exist_ok=True)
        environment["TMPDIR"] = str(temporary)
        self.sittings += 1
        with self._log.open("wb") as log:
            self._began = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.process

    @property
    def _log(self) -> Path:
        """Of this sitting alone: what a killed one started may go on writing for a moment."""
        return self.folder / f"log-{self.sittings}.txt"

    def wait(self) -> int:
        assert self.process is not None
        try:
            return self.process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Lost(f"it did not end within {LONGEST_S} s") from None
        finally:
            self.seconds += time.monotonic() - self._began

    def must_refuse(self, naming: str, *, is_new: bool = False) -> None:
        """Start or resume it: it must refuse in one line and change nothing.

        Raises:
            Lost: it does something else.
        """
        before = self.contents()
        self.launch_new() if is_new else self.start()
        code = self.wait()
        said = self._log.read_text(errors="replace")
        if code != 2 or naming not in said or said.count("\n") != 1:
            raise Lost(f"exit code {code} and {said!r} where {naming!r} was to be refused")
        if changed := before.items() ^ self.contents().items():
            raise Lost(f"a refusal changed {sorted({path.name for path, _ in changed})}")

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
    """Start or resume the run, which is not disturbed any more: it must complete at once.

    Raises:
        Lost: it does not.
    """
    if run.is_complete:
        return
    run.start()
    code = run.wait()
    if code or not run.is_complete:
        raise Lost(f"exit code {code} of a start that nothing disturbed")
