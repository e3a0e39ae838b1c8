"""A profiled run: where its steps go, as a table, a picture and a trace; it learns the same."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lab import cli
from lab.config.units import GB, MB
from lab.records.files import RunFiles
from lab.records.profile import (
    FORWARD,
    LOOP,
    PHASES,
    Profile,
    Span,
    read_profile,
    summarise_spans,
    write_profile,
)
from lab.tracking.profile_table import profile_table
from tests.runs import Run, start

# Dropout draws random numbers in every forward pass; two batches make a step.
OVERRIDES = (
    *("adapter=lora", "adapter.rank=4", "adapter.num_layers=1", "adapter.dropout=0.1"),
    *("train.steps=8", "train.grad_accumulation_steps=2", "train.val_interval_steps=5"),
    *("checkpoint.enabled=true", "checkpoint.interval_steps=0"),
    *("reload.policy=interval", "reload.interval_steps=4"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run whose steps 3 to 6 are profiled, and the same run without."""
    place = tmp_path_factory.mktemp("profiled")
    window = ("profiler.warmup_steps=2", "profiler.steps=4")
    return (
        start(place / "profiled", "debug=profile", *OVERRIDES, *window),
        start(place / "plain", "debug=profile", *OVERRIDES, "profiler.steps=0"),
    )


@pytest.fixture(scope="module")
def profile(runs: tuple[Run, Run]) -> Profile:
    found = read_profile(runs[0].folder)
    assert found is not None
    return found


def test_a_profiled_run_learns_the_same_in_every_bit(runs: tuple[Run, Run]) -> None:
    profiled, plain = runs
    assert not (plain.folder / "profile.json").exists()
    assert profiled.result.exit_code == plain.result.exit_code == 0
    for key in ("loss", "val_loss", "grad_norm", "tokens"):
        assert [r.get(key) for r in profiled.rows] == [r.get(key) for r in plain.rows]
    assert profiled.summary["weights_sha256"] == plain.summary["weights_sha256"]
    assert profiled.state(8) == plain.state(8)  # random numbers too


def test_every_phase_of_a_step_has_its_time(profile: Profile) -> None:
    assert profile.steps == (3, 6)
    assert [part.name for part in profile.phases] == list(PHASES)
    assert {part.name: part.times for part in profile.sometimes} == {
        "validation": 1,
        "checkpoint": 1,
        "reload": 1,
    }
    assert all(part.seconds > 0 for part in (*profile.phases, *profile.sometimes))


def test_each_kind_of_module_has_its_time_and_memory(profile: Profile) -> None:
    kinds = {part.name: part for part in profile.modules}
    assert list(kinds) == ["embedding", "attention", "mlp", "norm", "head, loss", "other"]
    assert all(part.seconds > 0 for part in profile.modules)
    assert all(part.peak is not None and part.peak >= 0 for part in profile.modules)
    # The adapter is in the second of two layers: what comes before it needs no backward pass.
    assert kinds["embedding"].backward == 0
    assert kinds["attention"].backward
    assert kinds["attention"].kept
    # Together they keep what the forward pass keeps as a whole, and the backward pass frees it.
    forward, backward = profile.phases[2], profile.phases[3]
    assert forward.kept
    assert backward.kept
    assert sum(part.kept or 0 for part in profile.modules) == pytest.approx(forward.kept, rel=0.1)
    assert -backward.kept > 0.8 * forward.kept


def test_what_a_step_takes_in_parts_is_what_it_takes_as_trained(
    runs: tuple[Run, Run], profile: Profile
) -> None:
    peaks = [row["memory/peak_gb"] - row["memory/active_gb"] for row in runs[1].rows[2:6]]
    starts = [0, *(part.kept or 0 for part in profile.phases)]
    parts = zip(starts, (part.peak or 0 for part in profile.phases), strict=False)
    assert max(before + peak for before, peak in parts) == pytest.approx(max(peaks) * GB, rel=0.3)


def test_the_trace_is_one_that_profilers_open(runs: tuple[Run, Run]) -> None:
    trace = json.loads((runs[0].folder / "profile.json").read_text())
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    threads: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in (e for e in events if e["ph"] == "X"):
        threads.setdefault((event["pid"], event["tid"]), []).append(event)
    assert threads.keys() == named
    for found in threads.values():  # spans of a thread lie within one another or apart
        found.sort(key=lambda e: (e["ts"], -e["dur"]))
        for first, second in pairwise(found):
            end = first["ts"] + first["dur"]
            assert second["ts"] + second["dur"] <= end + 50 or second["ts"] >= end - 50
    counters = {e["name"] for e in events if e["ph"] == "C"}
    assert counters >= {"active memory (MB)", "peak memory (MB)", "process memory (MB)"}
    paths = {e["args"].get("detail") for e in events if e.get("cat") == FORWARD}
    assert {"model.layers.1.self_attn", "model.layers.0.mlp"} <= paths


def test_lab_plot_draws_the_profile_again(
    runs: tuple[Run, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    picture = runs[0].folder / "profile.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    assert cli.main(["plot", str(runs[0].folder)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == str(picture)
    assert picture.exists()
    assert cli.main(["plot", str(runs[1].folder)]) == 0
    assert "profile" not in capsys.readouterr().out.replace(str(runs[1].folder), "")


def test_the_end_of_a_run_says_where_its_steps_go(runs: tuple[Run, Run], profile: Profile) -> None:
    head, *lines, note, last = profile_table(profile).splitlines()
    assert head.split() == [
        *("profile", "of", "steps", "3", "to", "6", "ms", "share", "kept", "MB", "peak", "MB")
    ]
    assert [line for line in lines if line.startswith("    attention ")]
    assert note == "  of modules: kept by all of a kind, peak of one"
    assert "ms as trained; waited for part by part it takes " in last


# --- Figures of spans ---------------------------------------------------------------------------


def span(track: str, name: str, step: int, seconds: float, **more: Any) -> Span:
    return Span(track=track, name=name, step=step, start=float(step), seconds=seconds, **more)


SPANS = [
    *(span(LOOP, name, step, 0.1) for step in (1, 2) for name in ("dispatch", "evaluate")),
    *(span("pass", "whole step", step, 0.2, active=9) for step in (1, 2)),
    span("pass", "graph", 1, 0.1, active=MB, kept=0, peak=0),
    span("pass", "forward, loss", 1, 0.2, active=MB, kept=40, peak=60),
    span("pass", "backward", 1, 0.1, active=MB + 40, kept=-40, peak=30),
    span("pass", "update", 2, 0.3, active=MB, kept=0, peak=0),
]


def test_a_model_whose_modules_cannot_be_told_apart_is_other() -> None:
    found = summarise_spans(SPANS)
    [other] = found.modules
    assert (other.name, other.seconds, other.backward) == ("other", 0.2, 0.1)
    assert (other.kept, other.peak, found.active) == (40, 60, MB)
    assert found.in_parts == pytest.approx(1.75)  # of twice and one and a half times


def test_steps_without_a_pass_have_a_table_of_what_is_known() -> None:
    found = summarise_spans(SPANS[:4])
    assert (found.usual_seconds, found.modules, found.in_parts) == (0.2, (), None)
    assert profile_table(found).endswith("  a step took 200.0 ms as trained")


def test_a_damaged_profile_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = RunFiles(tmp_path)
    files.row({"step": 1, "loss": 1.0, "time": 1.0, "memory/active_gb": 0.5})
    files.close()
    write_profile(tmp_path, [replace(SPANS[0], seconds=0.5)])
    found = read_profile(tmp_path)
    assert found is not None
    assert found.usual_seconds == 0.5
    (tmp_path / "profile.json").write_text('{"traceEvents": [{"ph": "X", "args": {}}]}')
    assert cli.main(["plot", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"run={tmp_path / 'profile.json'}: cannot be read: ")
