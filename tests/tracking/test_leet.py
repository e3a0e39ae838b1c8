"""What ``wandb leet`` shows: of a run, of a sweep."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb.util import get_core_path

from lab.config.keys import dump
from lab.records.files import RunFiles
from lab.records.origin import Origin
from lab.records.rows import METRIC_KEYS
from lab.sweep.index import Job
from lab.tracking.leet import STATE_FILE, link_runs, show_first
from lab.tracking.service import wait_for_files
from lab.tracking.wandb import WandbTracker
from tests.tracked import SUMMARY, make_config, make_row


def make_job(sweep: Path, number: int) -> Path:
    """A job's folder, and its run in W&B's."""
    run_dir, config = sweep / str(number), make_config()
    Job(number=number, overrides=(f"seed={number}",)).write(run_dir)
    (run_dir / "config.yaml").write_text(dump(config))
    origin, files = Origin.new(run_dir / "config.yaml", sweep.name), RunFiles(run_dir)
    files.event({"event": "run_started", "step": 0, "time": 0.0, **origin.event()})
    tracker = WandbTracker(config, outputs=sweep.parents[2], run_dir=run_dir, origin=origin)
    tracker.log(make_row(1))
    assert tracker.close(SUMMARY, 0) == []
    files.close()
    return run_dir


def test_only_the_runs_of_the_sweep_are_shown_by_name(tmp_path: Path) -> None:
    sweeps = [tmp_path / "outputs" / "sweeps" / "day" / name for name in ("one", "two")]
    runs = [[make_job(sweep, number) for number in (0, 1)] for sweep in sweeps]
    (sweeps[0] / "sweep.json").write_text(json.dumps({"swept": ["seed"]}))
    wait_for_files()
    folder = sweeps[0] / "wandb"
    for _ in range(2):  # the second takes the place of the first
        assert link_runs(sweeps[0], runs[0]) == folder
        shown = sorted(path.name.split("-", 2)[2] for path in folder.glob("run-*"))
        assert shown == ["0 seed=0", "1 seed=1"]
    for file in folder.glob("*/*.wandb"):
        inspect = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--summary"]
        done = subprocess.run([*inspect, "--run-file", str(file)], capture_output=True, check=True)
        assert json.loads(done.stdout)["name"].removeprefix("job-") in file.name


def test_a_sweep_without_offline_runs_has_no_such_folder(tmp_path: Path) -> None:
    assert link_runs(tmp_path, [tmp_path / "0"]) is None
    assert list(tmp_path.iterdir()) == []


# --- On a terminal ------------------------------------------------------------------------------

SECONDS = 20.0  # until it must have drawn


def drawn(home: Path, *arguments: str, until: Callable[[str], bool]) -> str:
    """What leet draws on a terminal of 80 columns, until it is as expected."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [get_core_path(), "leet", "run", "--no-observability", *arguments]
    env = os.environ | {"HOME": str(home), "WANDB_CONFIG_DIR": str(home), "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=env) as process:
        os.close(its)
        output, deadline, shown = b"", time.monotonic() + SECONDS, ""
        while not until(shown) and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                output += os.read(ours, 65536)
            shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode(errors="ignore"))
        process.kill()  # it may be waiting for a reader
    os.close(ours)
    return shown


def charts(shown: str) -> list[str]:
    return re.findall(r"│([a-z]+(?:[/_][a-z_]+)?) *\[x: step\]", shown)


def has_two_charts(shown: str) -> bool:
    return len(charts(shown)) >= 2


def test_a_narrow_terminal_shows_loss_and_memory(tmp_path: Path) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "day" / "one"
    runs = [make_job(sweep, number) for number in (0, 1)]
    wait_for_files()
    every, linked = tmp_path / "outputs" / "wandb", link_runs(sweep, runs)
    [file] = every.glob(f"*/run-{Origin.of(runs[0]).run_id}.wandb")
    for opened in ([every], ["--run-file", file, every], [linked]):
        shown = drawn(tmp_path, *map(str, opened), until=has_two_charts)
        assert charts(shown)[:2] == ["loss", "memory/process_gb"]
        assert shown.count("● run-") == (2 if opened == [linked] else 0)


def test_what_the_user_made_of_a_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "day" / "one"
    for folder in (tmp_path / "outputs" / "wandb", sweep / "wandb"):
        folder.mkdir(parents=True)
        (folder / STATE_FILE).write_text("{}")
    link_runs(sweep, [make_job(sweep, 0)])
    assert [path.read_text() for path in tmp_path.rglob(STATE_FILE)] == ["{}", "{}"]
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "shared"))
    make_job(sweep, 1)
    wait_for_files()
    assert [path.name for path in (tmp_path / "shared" / "wandb").glob(".*")] == []


def test_the_memory_shown_is_what_the_policy_watches(tmp_path: Path) -> None:
    show_first(tmp_path, ["mlx", "mlx", "process"], [f"run-{n}" for n in range(11)])
    state = json.loads((tmp_path / STATE_FILE).read_text())
    assert state["selected_runs"] == []
    shown = [key for key in METRIC_KEYS if re.search(state["metrics_filter"]["query"], key)]
    assert sorted(shown) == [
        "loss", "memory/active_gb", "memory/cache_gb", "memory/process_gb", "tokens_per_second",
    ]  # fmt: skip
