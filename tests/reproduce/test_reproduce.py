"""``lab reproduce``: a run is repeated from its config.yaml alone, and differences are named."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config.keys import dump
from lab.config.schema import ConfigError
from lab.reproduce.compare_records import COMPARED, Records, compare_records
from lab.reproduce.report import report
from lab.reproduce.reproduce import fit, reproduce
from tests.composing import machine
from tests.conftest import ROOT
from tests.runs import Run, config_of, start

NAMES = "loss, learning rate, tokens and weights, bit for bit"


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A completed run with one in-process reload."""
    return start(tmp_path_factory.mktemp("done") / "run", "reload.interval_steps=3", "name=first")


@pytest.fixture
def done(done_once: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of that run to tamper with, in the working folder that reproductions go to."""
    shutil.copytree(done_once.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return replace(done_once, folder=tmp_path / "run")


def made() -> list[Path]:
    """The folders of the reproductions made in this working folder."""
    return sorted(Path("outputs").glob("runs/*/*"))


def change_row(run: Run, step: int, **values: object) -> None:
    rows = run.rows
    rows[step - 1] |= values
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_summary(run: Run, **values: object) -> None:
    (run.folder / "summary.json").write_text(json.dumps(run.summary | values))


def cut_off(run: Run) -> None:
    """Cut the run off as a kill in the middle of the fifth row would."""
    (run.folder / "summary.json").unlink()
    lines = (run.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run.folder / "metrics.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:-20])


# --- Identical ----------------------------------------------------------------------------------


def test_a_run_with_a_reload_is_identical(done: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert reproduce(done.folder) == 0
    assert f"identical: 6 steps, {NAMES}\n  environment: the same\n" in caplog.text
    assert re.search(r"peak of the process +0\.\d{3} +0\.\d{3}  GB\n", caplog.text)
    [folder] = made()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d_first", "/".join(folder.parts[2:]))
    assert (folder / "config.yaml").read_bytes() == (done.folder / "config.yaml").read_bytes()
    assert "identical: 6 steps" in (folder / "train.log").read_text()
    assert len(Run(folder, done.result).events("reload")) == 1


def test_reloads_change_nothing(done: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The records of a run beside the config of another, which reloads by process."""
    caplog.set_level("INFO")
    other = config_of(
        "tracker=none", "train.val_interval_steps=0", "train.steps=6", "train.batch_size=2",
        "reload.interval_steps=2", "reload.method=process", "name=first",
    )  # fmt: skip
    (done.folder / "config.yaml").write_text(dump(other))
    assert reproduce(done.folder) == 0
    assert "run/config.yaml was changed since its run began" in caplog.text
    assert f"identical: 6 steps, {NAMES}" in caplog.text
    again = Run(made()[0], done.result)
    assert [e["method"] for e in again.events("reload")] == ["process"] * 2


def test_a_killed_run_is_compared_as_far_as_it_went(
    done: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cut_off(done)
    assert reproduce(done.folder) == 0
    assert "identical: 4 steps, loss, learning rate and tokens, bit for bit\n" in caplog.text
    assert "weights are not compared: the run was cut off, or still goes on" in caplog.text
    assert "environment: the same" in caplog.text


def test_a_run_that_failed_by_itself_fails_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    crashing = ("fault=crash", "worker.max_restarts=0", "checkpoint.enabled=false")
    assert start(tmp_path / "run", *crashing).result.exit_code == 1
    caplog.set_level("INFO")
    assert reproduce(tmp_path / "run") == 0
    assert "identical: 2 steps, loss, learning rate and tokens, bit for bit" in caplog.text
    assert "weights are not compared: the run failed" in caplog.text


def test_a_config_alone_is_simply_run(
    done: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(done.folder / "config.yaml", alone)
    assert reproduce(alone) == 0
    assert "no records beside config.yaml" in caplog.text
    assert Run(made()[0], done.result).column("loss") == done.column("loss")


# --- Different ----------------------------------------------------------------------------------


def test_the_first_step_that_differs_is_named(done: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    loss = done.column("loss")[2]
    change_row(done, 3, loss=loss + 1e-12)
    change_row(done, 5, loss=None)
    change_summary(done, environment=done.summary["environment"] | {"mlx": "0.1"})
    assert reproduce(done.folder) == 1
    told = f"step 3: loss {loss + 1e-12!r} then, {loss!r} now"
    assert f"different: 2 of 6 steps, the first is {told}\n" in caplog.text
    mlx = done.events("worker_started")[0]["environment"]["mlx"]
    assert f"  environment: mlx 0.1 then, {mlx} now\n" in caplog.text
    assert f"mlx is {mlx}, and was 0.1 when the run began" in caplog.text  # before it trained


def test_other_weights_are_different(done: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    weights = done.summary["weights_sha256"]
    change_summary(done, weights_sha256="f" * 64)
    assert reproduce(done.folder) == 1
    assert f"different: the weights, {'f' * 64} then, {weights} now" in caplog.text


# --- Not to be compared -------------------------------------------------------------------------


def test_other_data_is_refused_before_training(done: Run, caplog: pytest.LogCaptureFixture) -> None:
    other = done.summary["environment"] | {"data_fingerprint": "e" * 16}
    change_summary(done, environment=other)
    assert reproduce(done.folder) == 2
    assert "is not the data that the run was begun with (eeeeeeeeeeee)" in caplog.text
    assert not Path("outputs").exists()


@pytest.mark.parametrize("key", ["model", "data"])
def test_a_model_or_data_that_is_gone_is_one_line(
    done: Run, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    config = config_of("tracker=none")
    groups = {
        "model": replace(config.model, path="gone", scratch=None),
        "data": replace(config.data, name="jsonl", path="gone"),
    }
    (done.folder / "config.yaml").write_text(dump(replace(config, **{key: groups[key]})))
    assert reproduce(done.folder) == 2
    [line] = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert re.fullmatch(rf"{key}.path=gone: .*(must be|is no such) .*", line)
    assert not Path("outputs").exists()


REFUSED = {
    "gone": "run=gone: there is no such folder",
    "empty": "run=empty: is not a run's folder: it holds no config.yaml",
    "sweep": "run=sweep: is not one run; give one of its runs: sweep/0",
    "newer": "version=99: this lab reads version 1 and 2",
    "damaged": "cannot be read",
    "broken": "run=broken/summary.json: cannot be read",
    "odd": "its records cannot be read",
}


@pytest.mark.parametrize("folder", REFUSED)
def test_what_cannot_be_compared_is_one_line(done: Run, folder: str) -> None:
    Path("empty").mkdir()
    for name in ("newer", "damaged", "broken", "odd"):
        shutil.copytree("run", name)
    shutil.copytree("run", "sweep/0")
    for path, old, new in (
        ("newer", "version: 2", "version: 99"),
        ("damaged", "name: ", "name: {"),
    ):
        config = Path(path, "config.yaml")
        config.write_text(config.read_text().replace(old, new, 1))
    Path("broken/summary.json").write_text("{")
    Path("odd/metrics.jsonl").unlink()
    Path("odd/metrics.jsonl").mkdir()
    with pytest.raises(ConfigError, match=re.escape(REFUSED[folder])) as refused:
        reproduce(Path(folder))
    assert "\n" not in str(refused.value)
    assert not Path("outputs").exists()


def test_an_interrupted_reproduction_says_so(tmp_path: Path) -> None:
    config = config_of("tracker=none", "train.val_interval_steps=0", "train.steps=2000")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(dump(config))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1999, "loss": 0.5}\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.cli", "reproduce", "run"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("step "))
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait() == 130
    assert "cannot be compared: the reproduction was interrupted after" in rest


def test_a_run_whose_rows_are_lost_is_compared_by_its_weights(
    done: Run, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree("run", "lost")
    Path("lost/metrics.jsonl").write_bytes(bytes(range(256)) * 9)
    caplog.set_level("INFO")
    assert reproduce(Path("lost")) == 0
    assert "of lost only the weights can be compared: its metrics.jsonl is damaged" in caplog.text
    assert "identical: the weights, bit for bit; its metrics.jsonl is damaged" in caplog.text


# --- Comparing, without a run -------------------------------------------------------------------


def records(count: int, state: str | None = "completed", **fields: Any) -> Records:
    rows = tuple(
        {"step": step, "loss": 6 / step, "learning_rate": 0.001, "tokens": 900 + step}
        for step in range(1, count + 1)
    )
    weights = "a" * 64 if state == "completed" else None
    return Records(rows=rows, state=state, steps=count, weights=weights, **fields)


@given(
    count=st.integers(1, 40),
    harm=st.dictionaries(st.integers(0, 39), st.sampled_from(COMPARED), max_size=5),
    reached=st.integers(0, 40),
)
def test_the_first_step_found_is_the_first_that_differs(
    count: int, harm: dict[int, str], reached: int
) -> None:
    """Whichever records are other ones, and however far an interrupted reproduction came."""
    then = records(count)
    rows = [dict(row) for row in then.rows]
    harm = {position: key for position, key in harm.items() if position < count}
    for position, key in harm.items():
        rows[position][key] += 1
    found = compare_records(replace(then, rows=tuple(rows)), then)
    assert found.first_step == min((position + 1 for position in harm), default=None)
    assert [d.key for d in found.first] == [harm[p] for p in sorted(harm)[:1]]
    assert (found.differing, found.same) == (len(harm), count - len(harm))
    assert found.verdict == ("different" if harm else "identical")

    part = compare_records(then, records(min(reached, count), "interrupted"))
    assert (part.verdict, part.same) == ("undecided", min(reached, count))


@pytest.mark.parametrize(
    ("then", "now", "verdict", "why_not"),
    [
        ("completed", "completed", "identical", ""),
        ("completed", "failed", "undecided", "the reproduction failed"),  # no room for its weights
        ("failed", "failed", "identical", "the run failed"),
        ("failed", "completed", "identical", "the run failed"),
        ("budget_exceeded", "interrupted", "identical", "the run exceeded its memory budget"),
        (None, "completed", "identical", "the run was cut off, or still goes on"),
    ],
)
def test_an_end_is_judged_too(then: str | None, now: str, verdict: str, why_not: str) -> None:
    found = compare_records(records(8, then), records(8, now))
    assert (found.verdict, found.why_not) == (verdict, why_not)
    assert found.weights is (None if why_not else True)


def test_weights_of_another_step_are_not_compared() -> None:
    then, now = replace(records(4, "interrupted"), weights="b" * 64), records(8)
    found = compare_records(then, now)
    assert found.verdict == "identical"
    told = "weights are not compared: they are of step 4 then, of step 8 now"
    assert told in report(found, then, now)


def test_a_complete_reproduction_that_lacks_a_step_is_different() -> None:
    found = compare_records(records(8), records(7))
    assert (found.verdict, found.first_step) == ("different", 8)
    assert "step 8: record there then, missing now" in report(found, records(8), records(7))


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [(None, None, True), (None, 1.0, False), (0.0, -0.0, False), (5.0, 5.000000000000001, False)],
)
def test_null_is_null_and_every_bit_counts(then: object, now: object, same: bool) -> None:
    rows = [
        ({"step": 1, "loss": loss, "learning_rate": None, "tokens": 1},) for loss in (then, now)
    ]
    found = compare_records(*(replace(records(1), rows=row) for row in rows))
    assert (found.verdict == "identical") is same


def test_a_run_that_need_not_repeat_is_compared_within_a_tolerance() -> None:
    then, near, far = (
        replace(records(1), rows=({**records(1).rows[0], "loss": loss},), weights=str(loss))
        for loss in (5.0, 5.05, 5.2)
    )
    found = compare_records(then, near, tolerance=0.02)
    text = report(found, then, near)
    assert found.exit_code == 0
    assert text.startswith(
        "the same: 1 step, loss within 2%, learning rate and tokens bit for bit\n"
    )
    assert "weights are not compared: train.deterministic=false" in text
    assert compare_records(then, far, tolerance=0.02).verdict == "different"
    other_tokens = replace(then, rows=({**then.rows[0], "tokens": 1},))
    assert compare_records(other_tokens, near, tolerance=0.02).verdict == "different"


def test_hostile_records_are_told_on_plain_lines(tmp_path: Path) -> None:
    summary = {
        "state": ["x"], "steps": "7", "weights_sha256": 3, "peak_process_gb": 10**400,
        "tokens_per_second": float("nan"), "seconds": [1], "environment": {"mlx": "\x1b[2J\n"},
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    odd = '{"step": 1, "loss": {"a": 1}, "memory/process_gb": "x"}'
    lines = ['{"step": [1]}', odd, "[" * 100_000, '{"step": 2']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    then = Records.read(tmp_path)
    assert [row["step"] for row in then.rows] == [1]
    now = records(1, environment={"mlx": "0.32.4"})
    found = compare_records(then, now)
    text = report(found, then, now)
    assert found.verdict == "different"
    assert all(line.isprintable() for line in text.splitlines())
    (tmp_path / "summary.json").unlink()
    assert Records.read(tmp_path).figures == {}


# --- Another machine ----------------------------------------------------------------------------


def test_a_config_of_a_larger_machine_runs_within_this_ones_budget() -> None:
    config = config_of("tracker=none")
    memory = replace(config.memory, budget_gb=150.0, limit_gb=150.0)
    larger = replace(config, memory=memory, worker=replace(config.worker, threads=64))
    fitted, notes = fit(larger, machine(memory=16))
    assert (fitted.memory.budget_gb, fitted.memory.limit_gb) == (12.8, 12.8)
    assert notes == [
        "memory.budget_gb=150 is more than this machine's 12.8 GB, which is used",
        "worker.threads=64 is more than this machine's 2 cores: the last bits may differ",
    ]
    assert replace(fitted, memory=memory) == larger
    assert fit(fitted, machine(memory=256))[0] == fitted


def test_reproductions_have_the_usual_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.reproduce import reproduce as module

    monkeypatch.setattr(module.time, "strftime", lambda form: form.replace("%", ""))
    assert module.usual_folder("../../a b") == Path("outputs/runs/Y-m-d/H-M-S_a-b")
