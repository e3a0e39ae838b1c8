"""A scratch folder in which runs are started as a user starts them, and read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = ROOT / "models" / "smollm2-135m"
TAIL = 2000  # characters of a failed command's output that are shown


@dataclass(frozen=True)
class Options:
    """What the command line asks of a benchmark; None: as the benchmark thinks best."""

    rounds: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        began: when its command was started, in seconds since the epoch.
        seconds: from there to the end of its process.
    """

    folder: Path
    began: float
    seconds: float

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return _jsonl(self.folder / "metrics.jsonl")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in _jsonl(self.folder / "events.jsonl") if e["event"] == kind]

    def column(self, key: str) -> list[float]:
        return [row[key] for row in self.rows]

    def cycles(self) -> list[float]:
        """Seconds from each row to the next: a step and all that the lab does around it."""
        times = self.column("time")
        return [after - before for before, after in pairwise(times)]


class Place:
    """Starts processes in a folder of their own, with the environment of a user.

    Bytecode is cached, as a user has it, in the folder; W&B's settings of whoever runs this do not
    reach it. Runs lie in the folder too, so nothing is left in ``outputs``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = count()
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("WANDB_")
        } | {"PYTHONPYCACHEPREFIX": str(folder / "pycache"), "PYTHONPATH": str(ROOT)}

    def train(self, *overrides: str) -> Run:
        """``python train.py`` with these overrides, to its end."""
        run_dir = self.folder / f"run_{next(self._numbers)}"
        began, start = time.time(), time.perf_counter()
        self._python(str(ROOT / "train.py"), *overrides, f"hydra.run.dir={run_dir}")
        return Run(run_dir, began, time.perf_counter() - start)

    def child(self, module: str, *arguments: object) -> Any:
        """``python -m benchmarks.MODULE`` with these arguments; its last line, read as JSON."""
        out = self._python("-m", f"benchmarks.{module}", *map(str, arguments))
        return json.loads(out.splitlines()[-1])

    def _python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            command = " ".join(("python", *arguments))
            raise SystemExit(f"{command}\n{(done.stdout + done.stderr)[-TAIL:]}")
        return done.stdout


def smollm2(*, layers: int = 8, length: int = 512) -> list[str]:
    """Overrides for LoRA of rank 8 on the last layers of SmolLM2-135M, one batch of 2 a step.

    Makes the model where it is not there yet.
    """
    if not (SMOLLM2 / "config.json").is_file():
        say(f"making {SMOLLM2.relative_to(ROOT)}")
        subprocess.run([sys.executable, "-m", "lab.pretrained", SMOLLM2], cwd=ROOT, check=True)
    return [
        *("model=local", f"model.path={SMOLLM2}", "adapter=lora"),
        *("adapter.rank=8", f"adapter.num_layers={layers}", f"train.max_seq_length={length}"),
        *("train.batch_size=2", "train.grad_accumulation_steps=1", "train.grad_checkpoint=false"),
    ]


def undisturbed(steps: int) -> list[str]:
    """Overrides for so many steps and nothing else: no validation, no reload, one checkpoint."""
    return [
        *(f"train.steps={steps}", "train.val_interval_steps=0"),
        *("reload=none", "checkpoint.interval_steps=0"),
    ]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each pair."""
    return [a / b for a, b in zip(above, below, strict=True)]


def say(text: str) -> None:
    """Tell who is waiting what is going on."""
    print(f"... {text}", file=sys.stderr, flush=True)


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
