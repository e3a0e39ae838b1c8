"""What a run says on the console while it goes on and when it ends."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.records.facts import RunFacts
from lab.records.files import RunFiles
from lab.records.origin import Origin
from lab.tracking.closing import format_summary
from lab.tracking.console import open_progress
from lab.tracking.introduction import as_lines, introduce, reload_words
from lab.tracking.lines import event_line, fitting
from lab.tracking.text import part_of, size
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
        "step    1/1000  loss 10.0000  1,234 tok/s  process 1.250/4.0 GB  reloads 0  -:-- left"
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
        "reload after step 5 (interval, process): 1.500 -> 0.750 GB in 1.00 s",
        "reload after step 7 (interval) skipped; later ones go unmentioned",
        "worker died (step 9): cause=SIGKILL",
    ]
    assert event_line({"event": "reload", "step": 1}, "process") is not None


def test_a_terminal_shows_one_live_line_with_events_and_logs_above_it():
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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_steps_that_are_replayed_are_told_with_how_far_they_are() -> None:
    out = io.StringIO()
    progress = open_progress(make_config(), stream=out)
    for step in (71, 72):
        progress.log(make_row(step))
    progress.event({"event": "worker_died", "step": 72, "time": 1.0, "cause": "SIGKILL"})
    for step in range(1, 73):
        progress.replay(make_row(step), 72)
    progress.log(make_row(73))
    lines = out.getvalue().splitlines()
    replayed = [line for line in lines if "replaying 1 to 72" in line]
    assert replayed == lines[2:-1]
    assert len(replayed) == 15  # at the pace of training: a line each twentieth of the run
    assert replayed[0].startswith("step   1/100  replaying 1 to 72  ")
    assert replayed[0].endswith("-:-- left to replay")
    assert replayed[7].startswith("step  35/100  ")
    assert replayed[7].endswith("0:18 left to replay")
    assert lines[-1].startswith("step  73/100  loss ")


def test_a_replay_is_drawn_on_a_terminal() -> None:
    out = Terminal()
    progress = open_progress(make_config(), stream=out)
    progress.replay(make_row(1), 72)
    progress.close(SUMMARY, 0)
    assert "replaying 1 to 72" in out.getvalue()


def test_a_validation_loss_is_told_once_and_with_its_step_where_that_has_no_line() -> None:
    out = io.StringIO()
    progress = open_progress(make_config(steps=40), stream=out)
    for step in range(1, 41):
        progress.log(make_row(step, **({"val_loss": step / 4} if step in (8, 13) else {})))
    told = [line for line in out.getvalue().splitlines() if "  val " in line]
    assert [line.split("/")[0] for line in told] == ["step  8", "step 14"]
    assert "  val 2.0000  " in told[0]
    assert "  val 3.2500 (step 13)  " in told[1]


def test_the_latest_validation_loss_stays_in_the_live_line_with_its_step() -> None:
    out = Terminal()
    progress = open_progress(make_config(), stream=out)
    progress.log(make_row(8, val_loss=2.0))
    progress.log(make_row(make_config().train.steps))
    progress.close(SUMMARY, 0)
    assert "val 2.0000 (step 8)" in out.getvalue()


@pytest.mark.parametrize(
    ("gb", "whole", "shown"),
    [
        (0.08, 12.5, "82 MB/12.5 GB"),
        (0.5, 18.8, "512 MB/18.8 GB"),
        (1.2539, 18.8, "1.254/18.8 GB"),
        (0.08, 0.5, "82/512 MB"),
        (0.0012, 0.5, "1.2/512 MB"),
        (1.5, 0.5, "1.500 GB/512 MB"),
        (None, 18.8, "-/18.8 GB"),
    ],
)
def test_a_memory_figure_has_the_unit_that_shows_it(
    gb: float | None, whole: float, shown: str
) -> None:
    assert part_of(gb, whole) == shown


@given(st.floats(0.01, 500), st.sampled_from([0.06, 18.8]))
def test_growth_by_two_megabytes_shows(gb: float, whole: float) -> None:
    later = gb + 2 / 1024
    assert part_of(gb, whole) != part_of(later, whole)
    assert size(gb) != size(later)


@given(
    st.dictionaries(
        st.sampled_from(["loss", "validation", "speed", "memory", "reloads", "left"]),
        st.text("x", min_size=1, max_size=20),
        min_size=1,
    ),
    st.integers(1, 100),
)
def test_a_line_goes_into_the_terminal_and_keeps_what_matters(
    status: dict[str, str], width: int
) -> None:
    shown = fitting(status, width)
    kept = [status[name] for name in ("loss", "memory") if name in status]
    assert len(shown) <= max(width, len("  ".join(kept)))
    if len("  ".join(status.values())) <= width:
        assert shown == "  ".join(status.values())


# --- The introduction ---------------------------------------------------------------------------

FACTS = RunFacts(
    parameters=134_515_008,
    trained=921_600,
    weights_bytes=541_746_432,
    optimizer_bytes=7_372_808,
    train_samples=3_611,
    val_samples=203,
    val_is_held_out=True,
    file_samples=3_814,
    measured=3_814,
    median_tokens=93,
    longest_tokens=2_061,
    cut=458,
    empty=3,
)
HERE = {"device": "Device(cpu, 0)", "device_name": "a chip", "threads": 2}


def introduced(facts: RunFacts = FACTS, **groups: Mapping[str, Any]) -> dict[str, str]:
    config = changed(**groups)
    return introduce(config, facts, HERE, profile="base_16gb", run_dir=Path("outputs/run"))


def changed(**groups: Mapping[str, Any]) -> Any:
    config = make_config()
    values = {n: replace(getattr(config, n), **fields) for n, fields in groups.items()}
    return replace(config, **values)


def test_a_run_introduces_itself() -> None:
    lines = introduced(
        hardware={"name": "auto", "memory_gb": 15.6},
        train={"batch_size": 8, "grad_accumulation_steps": 4, "max_seq_length": 256},
        memory={"budget_gb": 12.5},
    )
    assert lines["model"].endswith("134.5 million parameters, 921,600 trained (0.69%)")
    assert lines["device"].startswith("a chip (CPU, 2 threads), float32")
    assert lines["hardware"] == "base_16gb, by hardware=auto: 15.6 GB found"
    assert lines["data"] == "stdlib_docs: 3,611 samples, 203 held out for validation"
    assert lines["tokens"] == ("median 93 a sample, longest 2,061, 12% cut to 256, 3 teach nothing")
    assert lines["batch"] == "8 samples x 4 accumulated x up to 256 tokens, 100 steps"
    assert lines["budget"] == "12.5 GB"
    assert lines["run"] == "outputs/run"
    text = as_lines("a run", lines)
    assert text.splitlines()[0] == "run a run"
    assert "\n  budget   12.5 GB\n" in text


def test_what_is_estimated_or_whole_is_said_so() -> None:
    estimated = replace(FACTS, file_samples=150_000, empty=0, cut=0, trained=FACTS.parameters)
    lines = introduced(estimated, hardware={"name": "pro_32gb", "memory_gb": 32.0})
    assert lines["tokens"].endswith(f"none cut to {make_config().train.max_seq_length}, "
                                    "estimated from 3,814")  # fmt: skip
    assert lines["model"].endswith("all trained")
    assert lines["hardware"] == "pro_32gb, as chosen: for 32 GB"


def test_the_shapes_are_told_with_the_largest() -> None:
    shapes = ((8, 96, 600), (8, 512, 4_100), (8, 512, 3_000))
    few = introduced(replace(FACTS, shapes=shapes, padded_fraction=0.1149))
    assert few["shapes"] == "3, 8 x 96 to 8 x 512 tokens, up to 4,100 in the loss, 11.5% padding"
    one = introduced(replace(FACTS, shapes=shapes[:1], padded_fraction=0.3))
    assert one["shapes"].startswith("1, 8 x 96 tokens, up to 600 in the loss")
    assert "shapes" not in introduced()


def test_what_a_config_names_cannot_control_the_terminal() -> None:
    lines = introduced(model={"name": "x\x1b[2Jy"}, hardware={"name": "\x07"})
    assert "\x1b" not in as_lines("a\x1b[2J", lines) + "".join(lines.values())
    assert "\x07" not in lines["hardware"]


@pytest.mark.parametrize(
    ("reload", "words"),
    [
        ({"policy": "none", "interval_steps": 9}, "never"),
        ({"policy": "interval", "interval_steps": 100}, "every 100 steps, in the same process"),
        ({"policy": "interval", "interval_steps": 0}, "never"),
        (
            {"interval_steps": 100, "memory_threshold_gb": 16.0, "method": "process"},
            "every 100 steps or above 16 GB of process memory, by a new process",
        ),
        (
            {"policy": "threshold", "memory_threshold_gb": 0.25, "metric": "mlx"},
            "above 256 MB of MLX's memory, in the same process",
        ),
        (
            {"policy": "leak", "leak_threshold_mb": 1.5, "metric": "active"},
            "when MLX's active memory grows by over 1.5 MB a step, in the same process",
        ),
        (
            {"policy": "adaptive", "max_overhead": 0.02},
            "as rarely as 4 GB allow, at most 2% of the time",
        ),
    ],
)
def test_when_a_run_reloads_is_said_in_words(reload: dict[str, Any], words: str) -> None:
    assert reload_words(changed(reload=reload)) == words


def test_a_run_that_cannot_reload_says_so() -> None:
    assert reload_words(replace(make_config(), trainer="mlx_lm")).startswith("never")
    assert "skipped" in reload_words(changed(checkpoint={"enabled": False}))


def test_on_a_terminal_the_introduction_is_a_panel_and_the_log_has_it_as_text(
    tmp_path: Path,
) -> None:
    out, root = Terminal(), logging.getLogger()
    handlers = [logging.StreamHandler(out), logging.FileHandler(tmp_path / "train.log")]
    for handler in handlers:
        root.addHandler(handler)
    try:
        progress = open_progress(make_config(), introduction={"model": "tiny"}, stream=out)
        root.warning("%s", "run a run\n  model    tiny", extra={"is_drawn": True})
        progress.close(SUMMARY, 0)
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
    assert out.getvalue().count("tiny") == 1
    assert "\u256d" in out.getvalue()
    assert (tmp_path / "train.log").read_text() == "run a run\n  model    tiny\n"


# --- The end ------------------------------------------------------------------------------------


def test_the_end_says_where_the_memory_lay_and_how_validation_went(tmp_path: Path) -> None:
    peaks = {
        "process": {"step": 300, "active_gb": 0.01, "cache_gb": 0.02, "rest_gb": 0.05},
        "mlx": {"step": 12, "weights_gb": 0.5, "other_gb": 0.001, "activations_gb": 1.25},
    }
    more = {"memory_at_peak": peaks, "final_val_loss": 4.75, "peak_mlx_gb": 1.75}
    lines = format_summary(SUMMARY | more, tmp_path).splitlines()
    assert "  loss     - -> 4.5000, validation 4.7500" in lines
    assert "  memory   peak 420 MB of the process, 1.750 GB of MLX" in lines
    assert (
        "  process  at step 300: arrays 10 MB, MLX's cache 20 MB, Python and the rest 51 MB"
    ) in lines
    assert "  MLX      at step 12: weights 512 MB, activations 1.250 GB" in lines


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
    assert "peak 420 MB of the process, - of MLX" in text
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
    assert "lab resume" in format_summary({"state": "failed", "steps": 3}, tmp_path)
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
