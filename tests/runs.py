"""Real runs for tests: composed as on the command line, trained by real worker processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir

from lab.compose.profiles import CONF
from lab.config.keys import Config
from lab.machine.probe import probe_machine
from lab.supervise.experiment import Result, run
from tests.composing import composed

# A second thread gains nothing on so small a model, and takes a core from the tests beside it.
QUICK = (
    "tracker=none", "train.val_interval_steps=0", "train.steps=6", "train.batch_size=2",
    "worker.threads=1",
)  # fmt: skip


def config_of(*overrides: str) -> Config:
    """The config that ``python train.py`` would run with these overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return composed(*overrides, on=probe_machine(), environ=dict(os.environ))[0]


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    folder: Path
    result: Result

    @property
    def rows(self) -> list[dict[str, Any]]:
        return jsonl(self.folder / "metrics.jsonl")

    def column(self, key: str) -> list[Any]:
        return [row[key] for row in self.rows]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in jsonl(self.folder / "events.jsonl") if e["event"] == kind]

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    def arrays(self, step: int, name: str) -> dict[str, tuple[str, list[int], bytes]]:
        """Type, shape and bits of every array of a checkpoint's file, by name."""
        raw = (self.checkpoint(step) / name).read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        header.pop("__metadata__")
        return {
            key: (a["dtype"], a["shape"], raw[slice(*(start + o for o in a["data_offsets"]))])
            for key, a in header.items()
        }

    def state(self, step: int) -> dict[str, Any]:
        return json.loads((self.checkpoint(step) / "state.json").read_text())

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step_{step}"


def start(folder: Path, *overrides: str) -> Run:
    """Run to the end in this process's supervision, quick unless overridden."""
    result = run(config_of(*QUICK, *overrides), folder, overrides=list(overrides), warnings=[])
    return Run(folder, result)


def started(
    repo: Path, *arguments: str, cwd: Path, terminal: int | None = None, everything: bool = False
) -> subprocess.Popen[bytes]:
    """``train.py`` in a process and a session of its own."""
    return subprocess.Popen(
        [sys.executable, str(repo / "train.py"), *arguments],
        cwd=cwd, stdin=terminal, stdout=terminal or subprocess.PIPE,
        stderr=subprocess.STDOUT if everything else terminal, start_new_session=True,
    )  # fmt: skip


def assert_ended_as(run: Run, straight: Run) -> None:
    assert run.column("step") == straight.column("step")
    for key in ("loss", "grad_norm", "learning_rate", "tokens"):
        assert run.column(key) == straight.column(key)
    assert run.column("time") == sorted(run.column("time"))
    assert run.summary["state"] == "completed"
    assert run.summary["weights_sha256"] == straight.summary["weights_sha256"]
    assert not run.events("replay_mismatch")
