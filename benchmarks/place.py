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
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.turns import Started

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = ROOT / "models" / "smollm2-135m"
RUNS = "outputs/runs"  # where Hydra makes them: hydra.run.dir would make it compose twice
OUT, ERR = "stdout.txt", "stderr.txt"
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
        seconds: from the start of its command to its end.
    """

    started: Started
    seconds: float

    @cached_property
    def folder(self) -> Path:
        return next(self.started.folder.glob(f"{RUNS}/*/*"))

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return _jsonl(self.folder / "metrics.jsonl")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in _jsonl(self.folder / "events.jsonl") if e["event"] == kind]

    def column(self, key: str) -> list[Any]:
        return [row[key] for row in self.rows]

    def epoch(self, seconds: float) -> float:
        """A ``time`` of its rows or events in seconds since the epoch.

        They count from the run's start, which is when config.yaml is written, to a few ms.
        """
        return (self.folder / "config.yaml").stat().st_mtime + seconds

    def cycles(self) -> list[float]:
        """Seconds from each row to the next: a step and all that the lab does around it."""
        return self.started.intervals([self.epoch(time) for time in self.column("time")])


class Place:
    """Starts processes, each in a folder of its own, with the environment of a user.

    Bytecode is cached, as a user has it, in the place; W&B's settings of whoever runs this do not
    reach it. Each run has its own ``outputs``, so that nothing is left in the project's.
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
        return self.run_of(self.start_train(*overrides))

    def child(self, module: str, *arguments: object) -> Any:
        """``python -m benchmarks.MODULE`` with these arguments; its last line, read as JSON."""
        return self.answer_of(self.start_child(module, *arguments))

    def start_train(self, *overrides: str) -> Started:
        return self._start(str(ROOT / "train.py"), *overrides)

    def start_child(self, module: str, *arguments: object) -> Started:
        return self._start("-m", f"benchmarks.{module}", *map(str, arguments))

    def run_of(self, started: Started) -> Run:
        _wait(started)
        return Run(started, time.time() - started.began)

    def answer_of(self, started: Started) -> Any:
        return json.loads(_wait(started).splitlines()[-1])

    def _start(self, *arguments: str) -> Started:
        folder = self.folder / f"process_{next(self._numbers)}"
        folder.mkdir()
        with (folder / OUT).open("wb") as out, (folder / ERR).open("wb") as err:
            began = time.time()
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return Started(process, folder, began)


def _wait(started: Started) -> str:
    code = started.process.wait()
    out, err = ((started.folder / name).read_text() for name in (OUT, ERR))
    if code:
        raise SystemExit(f"{started.process.args}: exit code {code}\n{(out + err)[-TAIL:]}")
    return out


def smollm2(*, layers: int = 8, length: int = 512) -> list[str]:
    """Overrides for LoRA of rank 8 on the last layers of SmolLM2-135M, one batch of 2 a step.

    Makes the model where it is not there yet.
    """
    if not (SMOLLM2 / "config.json").is_file():
        say(f"making {SMOLLM2.relative_to(ROOT)}")
        subprocess.run([sys.executable, "-m", "tools.pretrained", SMOLLM2], cwd=ROOT, check=True)
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
