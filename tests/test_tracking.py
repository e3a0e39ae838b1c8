"""What a run writes and shows: its files, its W&B run as W&B itself reads it back, its progress."""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import json
import logging
import math
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wandb.util import get_core_path

from lab.compose import CONF, compose_config, register
from lab.config import Config, dump, to_dict
from lab.identity import Origin
from lab.tracking import open_trackers
from lab.tracking.closing import format_summary
from lab.tracking.files import MetricsLost, RunFiles
from lab.tracking.progress import event_line, open_progress
from lab.tracking.rows import MEMORY_KEYS, METRIC_KEYS, metric_gb, read_jsonl
from lab.tracking.wandb import WandbTracker

SUMMARY = {
    "version": 1,
    "state": "completed",
    "steps": 5,
    "final_loss": 4.5,
    "tokens_per_second": 1234.5,
    "peak_process_gb": 0.41,
    "peak_mlx_gb": None,
    "reloads": {"interval": 2, "leak": 1},
    "seconds": {"total": 92.4},
    "overhead_fraction": 0.0312,
}


@functools.cache
def base_config() -> Config:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose_config(hydra_compose("config"), [], environ={})[0]


def make_config(mode: str = "offline", *, steps: int = 100, name: str = "a run") -> Config:
    config = base_config()
    tracker = dataclasses.replace(config.tracker, mode=mode, project="p", tags=("x", "y"))
    return dataclasses.replace(
        config,
        name=name,
        tracker=tracker,
        train=dataclasses.replace(config.train, steps=steps),
        memory=dataclasses.replace(config.memory, budget_gb=4.0),
        reload=dataclasses.replace(config.reload, metric="process"),
    )


def make_row(step: int, **fields: object) -> dict[str, object]:
    row = dict.fromkeys(METRIC_KEYS, 0.1 * step)
    row |= {"step": step, "time": step / 2, "loss": 10 / step, "reload/count": 0}
    return row | {"memory/slope_mb_per_step": None} | fields


def make_reload(step: int) -> dict[str, object]:
    return {
        "event": "reload",
        "step": step,
        "time": 1.0,
        "reason": "interval",
        "method": "process",
        "before": {"memory/process_gb": 1.5, "memory/active_gb": 1.0},
        "after": {"memory/process_gb": 0.75, "memory/active_gb": 0.5},
        "seconds": {"save": 0.25, "drop": 0.25, "load": 0.5, "first_step": -0.1},
    }


# --- Files --------------------------------------------------------------------------------------


def test_rows_have_the_contracts_keys_in_its_order(tmp_path):
    files = RunFiles(tmp_path)
    files.row({"val_loss": 2.0, "loss": 1.0, "step": 1})
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert tuple(row) == (*METRIC_KEYS, "val_loss")


@given(st.lists(st.floats(), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_losses_come_back_to_the_last_bit_and_nonfinite_ones_as_null(tmp_path_factory, losses):
    folder = tmp_path_factory.mktemp("run")
    files = RunFiles(folder)
    for step, loss in enumerate(losses, 1):
        assert files.row(make_row(step, loss=loss)).is_new
    files.close()
    expected = [loss if math.isfinite(loss) else None for loss in losses]
    assert [row["loss"] for row in read_jsonl(folder / "metrics.jsonl")] == expected
    again = RunFiles(folder)
    assert [again.row(make_row(s + 1)).loss for s in range(len(losses))] == expected
    again.close()


@given(rows=st.integers(0, 40), cut=st.integers(0, 2000), again=st.integers(1, 5))
def test_a_cut_file_goes_on_with_no_gap_and_no_step_twice(tmp_path_factory, rows, cut, again):
    folder = tmp_path_factory.mktemp("run")
    files = RunFiles(folder)
    for step in range(1, rows + 1):
        files.row(make_row(step))
    files.close()
    path = folder / "metrics.jsonl"
    os.truncate(path, max(0, path.stat().st_size - cut))
    whole = path.read_bytes().count(b"\n")

    files = RunFiles(folder)
    assert files.last_step == whole
    for step in range(max(1, whole - 2), whole + again + 1):
        stored = files.row(make_row(step, loss=10 / step))
        assert bool(stored) == (step > whole)
        assert stored.loss == 10 / step
    files.close()
    steps = [json.loads(line)["step"] for line in path.read_bytes().splitlines()]
    assert steps == list(range(1, whole + again + 1))


def test_a_missing_step_is_refused(tmp_path):
    files = RunFiles(tmp_path)
    files.row(make_row(1))
    with pytest.raises(ValueError, match="step 3 after that of step 1"):
        files.row(make_row(3))


def test_a_last_line_of_garbage_is_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.5}\n' + b"\0" * 9000 + b"\n")
    assert RunFiles(tmp_path).last_step == 1
    assert path.read_bytes() == b'{"step": 1, "loss": 2.5}\n'


def test_events_are_rows_with_nonfinite_values_null_at_any_depth(tmp_path):
    RunFiles(tmp_path).event({"event": "reload", "before": {"a": math.inf, "b": [math.nan, 1]}})
    (event,) = read_jsonl(tmp_path / "events.jsonl")
    assert event == {"event": "reload", "before": {"a": None, "b": [None, 1]}}


def test_a_disk_that_is_full_leaves_whole_lines_and_names_the_file(tmp_path):
    files = RunFiles(tmp_path)
    files.row(make_row(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(MetricsLost, match=r"metrics\.jsonl: ") as caught:
            files.row(make_row(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.path == tmp_path / "metrics.jsonl"
    assert files.last_step == 1
    assert files.row(make_row(2))  # there is room again
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_folder_that_cannot_be_written_names_the_file(tmp_path):
    with pytest.raises(MetricsLost, match=r"metrics\.jsonl"):
        RunFiles(tmp_path / "missing")


def test_summary_is_replaced_whole(tmp_path):
    files = RunFiles(tmp_path)
    files.write_summary({"state": "failed"})
    with pytest.raises(TypeError):
        files.write_summary({"state": object()})
    files.write_summary({"state": "completed", "slope": math.nan})
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == {"state": "completed", "slope": None}
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "events.jsonl", "summary.json"}


@pytest.mark.parametrize(
    ("metric", "expected"), [("active", 1.0), ("mlx", 1.25), ("process", 3.0), ("auto", 3.0)]
)
def test_metric_gb_reads_rows_and_events(metric, expected):
    figures = {"active_gb": 1.0, "cache_gb": 0.25, "process_gb": 3.0}
    assert metric_gb(figures, metric) == expected
    assert metric_gb({f"memory/{k}": v for k, v in figures.items()}, metric) == expected
    assert metric_gb({"cache_gb": 0.25, "process_gb": None}, metric) is None


# --- W&B ----------------------------------------------------------------------------------------


def inspect(run_dir: Path, *options: str) -> str:
    """What ``wandb leet inspect --json`` prints; its own front takes a second to import."""
    (file,) = run_dir.glob("*.wandb")
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", *options]
    return subprocess.run(
        [*command, "--run-file", str(file)], check=True, capture_output=True, text=True
    ).stdout


def read_back(run_dir: Path) -> dict[str, list[dict]]:
    """The records of a W&B run by type."""
    found = collections.defaultdict(list)
    for record in map(json.loads, inspect(run_dir).splitlines()):
        found[record["type"]].append(record[record["type"]])
    return found


def history(records: dict[str, list[dict]]) -> list[dict[str, object]]:
    """The rows logged, without what W&B adds to them."""
    rows = [record["item"] for record in records["history"]]
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]


@pytest.fixture(autouse=True)
def _no_wandb_settings_of_this_user(monkeypatch):
    for name in list(os.environ):
        if name.startswith("WANDB_") and name != "WANDB_SERVICE":
            monkeypatch.delenv(name)


def test_wandb_offline_holds_the_run(tmp_path):
    """A run that is resumed at step 3 becomes one whole W&B run."""
    run_dir, outputs = tmp_path / "run", tmp_path / "outputs"
    run_dir.mkdir()
    files, config = RunFiles(run_dir), make_config()
    rows = [make_row(step) for step in range(1, 6)]
    rows[3] |= {"val_loss": 3.5, "memory/slope_mb_per_step": 0.5}
    rows[4] |= {"loss": math.nan}
    events = [make_reload(1), {"event": "cache_clear", "step": 2}, make_reload(4)]
    for row in rows[:2]:
        files.row(row)
    files.event(events[0])
    tracker = WandbTracker(config, outputs=outputs, run_dir=run_dir, group="a sweep")
    for row in rows[2:]:
        files.row(row)
        tracker.log(row)
    for event in events[1:]:
        files.event(event)
        tracker.event(event)
    assert tracker.close(SUMMARY, 0) == []

    (folder,) = (outputs / "wandb").glob("offline-run-*")
    reloads = [
        {"step": s, "reload/before_gb": 1.5, "reload/after_gb": 0.75, "reload/reason": "interval"}
        for s in (1, 4)
    ]
    rows[4] |= {"loss": None}
    records = read_back(folder)
    assert history(records) == [*rows[:2], reloads[0], *rows[2:], reloads[1]]
    whole = json.loads(inspect(folder, "--summary"))
    assert whole["name"] == "a run"
    assert whole["project"] == "p"
    assert whole["tags"] == ["x", "y"]
    assert whole["config"] == json.loads(json.dumps(to_dict(config)))
    assert (whole["state"], whole["exit_code"]) == ("finished", 0)
    assert whole["summary"]["step"] == 5
    assert whole["summary"]["state"] == "completed"
    assert whole["summary"]["reloads"] == {"interval": 2, "leak": 1}
    assert whole["summary"]["tokens_per_second"] == 1234.5
    assert records["run"][0]["run_group"] == "a sweep"
    metrics = {metric.get("name", metric.get("glob_name")): metric for metric in records["metric"]}
    assert all(metrics[key]["step_metric"] == "step" for key in ("*", *MEMORY_KEYS))
    wanted = {"min": True, "max": True, "mean": True, "last": True}
    assert all(metrics[key]["summary"] == wanted for key in MEMORY_KEYS)


def test_wandb_runs_of_one_process_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_NAME", "from outside")
    for number, overrides in enumerate(([], ["name=mine"]), 1):
        tracker = WandbTracker(
            make_config(name="mine"), outputs=tmp_path, run_dir=tmp_path, overrides=overrides
        )
        tracker.log(make_row(number))
        assert tracker.close({"state": "failed"}, number) == []
    runs = [read_back(folder) for folder in (tmp_path / "wandb").glob("offline-run-*")]
    found = {
        (
            run["run"][0]["display_name"],
            run["exit"][0]["exit_code"],
            *(row["step"] for row in history(run)),
        )
        for run in runs
    }
    assert found == {("from outside", 1, 1), ("mine", 2, 2)}


def test_wandb_whose_folder_cannot_be_made_is_told_and_stops_nothing(tmp_path, caplog):
    outputs = tmp_path / "outputs"
    outputs.write_text("a file")
    with caplog.at_level(logging.WARNING):
        tracker = WandbTracker(make_config(), outputs=outputs, run_dir=tmp_path)
        for step in range(1, 4):
            tracker.log(make_row(step))
        (line,) = tracker.close(SUMMARY, 0)
    assert line.startswith("W&B failed: ")
    assert line.endswith("metrics.jsonl has every row")
    assert [r.message.startswith("W&B failed, training goes on") for r in caplog.records] == [True]


ONLINE = """
import sys, time
from pathlib import Path
from lab.config import Config
from lab.tracking.wandb import WandbTracker
folder = Path(sys.argv[1])
tracker = WandbTracker(
    Config.load(folder / "config.yaml"),
    outputs=folder,
    run_dir=folder,
    finish_seconds=float(sys.argv[2]),
)
tracker.log({"step": 1, "loss": 1.0})
began = time.monotonic()
print("\\n".join(tracker.close({"state": "completed"}, 0)))
print(time.monotonic() - began)
"""


def close_online(folder: Path, finish_seconds: float, **env: str) -> tuple[list[str], float]:
    """The lines and seconds of ``close`` in a process of its own: W&B reads its settings once."""
    (folder / "config.yaml").write_text(dump(make_config("online")))
    out = subprocess.run(
        [sys.executable, "-c", ONLINE, str(folder), str(finish_seconds)],
        env=os.environ | {"HOME": str(folder), "NETRC": str(folder / "netrc")} | env,
        cwd=Path(__file__).parent.parent,
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert env.get("WANDB_API_KEY", "nothing") not in out.stdout + out.stderr
    *lines, seconds = out.stdout.splitlines()
    return lines, float(seconds)


def test_wandb_online_without_a_key_is_told_at_the_end(tmp_path):
    lines, _ = close_online(tmp_path, 15)
    assert len(lines) == 1
    assert "no API key" in lines[0]


def test_wandb_that_cannot_be_imported_is_told_at_the_end(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError('this W&B is broken')")
    lines, _ = close_online(tmp_path, 15, PYTHONPATH=str(tmp_path))
    assert lines == ["W&B failed: this W&B is broken; metrics.jsonl has every row"]


def test_wandb_that_hangs_holds_up_the_end_no_longer_than_its_bound(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls and never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        lines, seconds = close_online(tmp_path, 2, WANDB_BASE_URL=url, WANDB_API_KEY="k" * 40)
    assert seconds < 3
    assert lines == ["W&B did not finish within 2 s; metrics.jsonl has every row"]


# --- Progress and last words --------------------------------------------------------------------


def test_progress_into_a_pipe_is_about_one_plain_line_for_each_twentieth():
    out = io.StringIO()
    progress = open_progress(make_config(steps=1000), stream=out)
    for step in range(1, 1001):
        progress.log(make_row(step, **{"memory/process_gb": 1.25, "tokens_per_second": 1234.0}))
    assert progress.close(SUMMARY, 0) == []
    lines = out.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[0] == (
        "step    1/1000  loss 10.0000  1,234 tok/s  memory 1.25/4.00 GB  reloads 0  -:-- left"
    )
    assert lines[10].startswith("step  500/1000")
    assert lines[10].endswith("4:10 left")
    assert lines[-1].endswith("0:00 left")
    assert "\x1b" not in out.getvalue()


def test_events_are_one_line_each_and_skipped_reloads_are_told_once():
    out = io.StringIO()
    progress = open_progress(make_config(), stream=out)
    skipped = {"event": "reload_skipped", "step": 7, "time": 1.0, "reason": "interval"}
    died = {"event": "worker_died", "step": 9, "time": 1.0, "cause": "SIGKILL", "error": None}
    for event in (make_reload(5), {"event": "cache_clear", "step": 6}, skipped, skipped, died):
        progress.event(event)
    assert out.getvalue().splitlines() == [
        "reload after step 5 (interval, process): 1.50 -> 0.75 GB in 1.00 s",
        "reload after step 7 (interval) skipped; later ones go unmentioned",
        "worker died (step 9): cause=SIGKILL",
    ]
    assert event_line({"event": "reload", "step": 1}, "process") is not None


def test_a_terminal_shows_one_live_line_with_events_and_logs_above_it():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    handler, root = logging.StreamHandler(out), logging.getLogger()
    root.addHandler(handler)
    try:
        (progress,) = open_trackers(
            make_config("none"),
            outputs=Path(),
            run_dir=Path(),
            origin=Origin("abc", None, ""),
            overrides=[],
            interactive=False,
        )
        progress = open_progress(make_config(), stream=out)
        began = time.monotonic()
        for step in range(1, 101):
            progress.log(make_row(step))
        redraws = 2 + (time.monotonic() - began) / 0.2
        root.warning("told by the log")
        progress.event(make_reload(5))
        progress.close(SUMMARY, 0)
        root.warning("after the end")
    finally:
        root.removeHandler(handler)
    text = out.getvalue()
    assert 2 <= text.count("/100") <= redraws + 3
    assert text.index("told by the log") < text.index("reload after step 5") < text.rindex("/100")
    assert "[bold]" not in text
    assert text.endswith("after the end\n")
    assert handler.stream is out


def test_a_pipe_whose_reader_left_stops_nothing():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as stream:
        progress = open_progress(make_config(), stream=stream)
        progress.log(make_row(1))
        progress.close(SUMMARY, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for its own last flush


def test_last_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "outputs" / "a run"
    run_dir.mkdir(parents=True)
    RunFiles(run_dir).row(make_row(1, loss=9.25))
    text = format_summary(SUMMARY, run_dir, wandb_dir=Path("outputs/wandb"))
    assert "run completed after 5 steps in 1:32" in text
    assert "loss     9.2500 -> 4.5000" in text
    assert "1,234 tokens/s, 3.1% of the time in reloads and checkpoints" in text
    assert "peak 0.41 GB of the process, - GB of MLX" in text
    assert "3 (interval 2, leak 1)" in text
    assert "run      outputs/a run" in text
    assert "leet outputs/wandb" in text
    assert "resume" not in text


def test_last_words_of_runs_that_ended_early(tmp_path):
    interrupted = format_summary({"state": "interrupted", "steps": 3}, tmp_path)
    assert "run interrupted after 3 steps" in interrupted
    assert f"lab resume {tmp_path}" in interrupted
    failed = format_summary({"state": "failed"}, tmp_path, error="Traceback\nValueError: no\n")
    assert "error    ValueError: no" in failed
    assert "Traceback" not in failed
    assert "resume" not in failed
    (tmp_path / "checkpoints" / "step_2").mkdir(parents=True)
    assert "lab resume" in format_summary({"state": "failed"}, tmp_path)


def test_the_parent_pays_for_wandb_rich_and_matplotlib_only_when_it_uses_them():
    code = (
        "import sys, lab.tracking.files, lab.tracking.wandb, lab.tracking.progress, "
        "lab.tracking.closing, lab.analysis.plot; "
        "sys.exit(str([m for m in ('mlx', 'wandb', 'rich', 'matplotlib', 'hydra') "
        "if m in sys.modules]))"
    )
    root = Path(__file__).parent.parent
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert out.stderr.strip() == "[]"
