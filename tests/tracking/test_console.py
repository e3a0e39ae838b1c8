"""What a run says on the console while it goes on and when it ends."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from lab.records.files import RunFiles
from lab.records.origin import Origin
from lab.tracking.closing import format_summary
from lab.tracking.console import event_line, open_progress
from lab.tracking.trackers import open_trackers
from tests.tracked import SUMMARY, make_config, make_reload, make_row


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
        "import sys, lab.records.files, lab.tracking.wandb, lab.tracking.console, "
        "lab.tracking.closing, lab.plots.memory_plot; "
        "sys.exit(str([m for m in ('mlx', 'wandb', 'rich', 'matplotlib', 'hydra') "
        "if m in sys.modules]))"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert out.stderr.strip() == "[]"
