"""A scratch folder: start runs in it as a user would, and read their files."""

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
from typing import TYPE_CHECKING, Any

from benchmarks.interleave import StartedProcess

if TYPE_CHECKING:
    from lab.config.keys import Config
    from lab.data.dataset import OpenData

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = ROOT / "models" / "smollm2-135m"
RUNS = "outputs/runs"  # Hydra's default; setting hydra.run.dir would make Hydra compose twice
OUT, ERR = "stdout.txt", "stderr.txt"
TAIL = 2000  # characters of a failed command's output to show


@dataclass(frozen=True)
class Options:
    """Command-line options for a benchmark; None is the benchmark's own default."""

    rounds: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Attributes:
        seconds: from the start of its command to its end.
    """

    started: StartedProcess
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
        """A ``time`` of a row or an event as seconds since the epoch.

        Such times count from the run's start, which is within a few ms of config.yaml's mtime.
        """
        return (self.folder / "config.yaml").stat().st_mtime + seconds

    def cycles(self) -> list[float]:
        """Seconds from each row to the next: a step and everything that the lab does around it."""
        return self.started.intervals([self.epoch(time) for time in self.column("time")])


class Workspace:
    """Starts processes, each in a folder of its own, with the environment of a user.

    Bytecode is cached in the workspace, as a user would have it; the caller's ``WANDB_*`` variables
    are removed. Each run has its own ``outputs``, so that nothing is left in the project's.
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
        """Run ``python train.py`` with these overrides to its end."""
        return self.run_of(self.start_train(*overrides))

    def child(self, module: str, *arguments: object) -> Any:
        """Run ``python -m benchmarks.MODULE``; the last line of its output, parsed as JSON."""
        return self.answer_of(self.start_child(module, *arguments))

    def start_train(self, *overrides: str) -> StartedProcess:
        return self._start(str(ROOT / "train.py"), *overrides)

    def start_child(self, module: str, *arguments: object) -> StartedProcess:
        return self._start("-m", f"benchmarks.{module}", *map(str, arguments))

    def run_of(self, started: StartedProcess) -> Run:
        _wait(started)
        return Run(started, time.time() - started.began)

    def answer_of(self, started: StartedProcess) -> Any:
        return json.loads(_wait(started).splitlines()[-1])

    def _start(self, *arguments: str) -> StartedProcess:
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
        return StartedProcess(process, folder, began)


def _wait(started: StartedProcess) -> str:
    code = started.process.wait()
    out, err = ((started.folder / name).read_text() for name in (OUT, ERR))
    if code:
        raise SystemExit(f"{started.process.args}: exit code {code}\n{(out + err)[-TAIL:]}")
    return out


def smollm2(*, layers: int = 8, length: int = 512) -> list[str]:
    """Overrides for LoRA of rank 8 on the last layers of SmolLM2-135M, one batch of 2 a step.

    Makes the model if it does not exist.
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
    """Overrides for a run of steps only: no validation, no reload, one checkpoint at the end."""
    return [
        *(f"train.steps={steps}", "train.val_interval_steps=0"),
        *("reload=none", "checkpoint.interval_steps=0"),
    ]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each pair."""
    return [a / b for a, b in zip(above, below, strict=True)]


def say(text: str) -> None:
    """Print a line of progress to standard error."""
    print(f"... {text}", file=sys.stderr, flush=True)


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def open_data_of(config: Config) -> tuple[OpenData, Path | None]:
    """A run's data as its worker opens it, and its model's folder; None for one from scratch."""
    from lab.data.dataset import open_data
    from lab.supervise.worker_process import cache_folder
    from lab.train import model_files

    folder = model_files.folder_of(config.model)
    data = open_data(
        *(config.data, config.train, config.seed),
        tokenizer_folder=folder,
        cache_dir=cache_folder(),
    )
    return data, folder
