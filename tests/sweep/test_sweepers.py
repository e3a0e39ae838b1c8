"""What a sweep tries: listed by the user, taken from an experiment, or chosen by Optuna or W&B."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lab.config.keys import Config, Objective
from lab.records import objective
from tests.composing import ROOT
from tests.runs import jsonl
from tests.sweep.test_sweep import (
    LONG,
    interrupt,
    new_sweep,
    press_ctrl_c,
    resumed,
    run_of,
    states,
    sweep,
)
from tests.tracked import SUMMARY, make_config
from tests.tracking.test_wandb import inspect

PLUGINLESS = """
import sys, hydra_plugins
hydra_plugins.__path__ = []  # none is installed
from lab.launch import app
sys.exit(app())
"""


@pytest.mark.parametrize(
    ("choice", "extra"),
    [("hydra/launcher=submitit_slurm", "submitit"), ("hydra/sweeper=optuna", "optuna")],
)
def test_a_plugin_that_is_not_installed_is_one_line(
    tmp_path: Path, choice: str, extra: str
) -> None:
    done = sweep(tmp_path, choice, "-m", "seed=1,2", command=("-c", PLUGINLESS))
    line = f"{choice}: is not installed: pip install 'mlx-memory-lab[{extra}]'\n"
    assert (done.exit_code, done.said) == (2, line)
    assert list(tmp_path.iterdir()) == []


# --- The objective ------------------------------------------------------------------------------


def value(name: str, rows: list[dict] | None = None, **summary: object) -> float | None:
    config = make_config()
    config = replace(config, objective=replace(config.objective, name=name, memory_limit_gb=2.0))
    rows = rows if rows is not None else [{"memory/process_gb": gb} for gb in (0.5, 1.5, 1.0)]
    seconds = {"train": 60.0, "total": 90.0, "startup": 10.0}
    return objective.value(config, SUMMARY | {"seconds": seconds} | summary, rows)


def test_reloads_are_counted_for_whatever_reason() -> None:
    assert value("reloads", reloads={"interval": 3, "budget": 1}) == 4
    assert value("reloads", reloads={}) == 0


def test_time_over_the_budget_is_the_seconds_of_the_steps_above_the_limit() -> None:
    times, memory = (1.0, 2.0, 5.0, 5.5), (1.0, 2.5, 3.0, 2.0)
    rows = [{"time": t, "memory/process_gb": gb} for t, gb in zip(times, memory, strict=True)]
    assert value("time_over_budget", rows) == 4.0
    assert value("time_over_budget", rows[:1]) == 0.0


def test_the_objective_is_the_figure_of_its_name() -> None:
    assert value("final_loss") == 4.5
    assert value("overhead") == 0.0312
    assert value("peak_memory") == 1.5
    assert value("throughput") == -1234.5 * 60 / 80  # a quarter of its time went into reloads


@pytest.mark.parametrize("name", Objective.__dataclass_fields__["name"].metadata["choices"])
def test_what_is_not_there_is_no_objective(name: str) -> None:
    """Optuna would take NaN for a number, and fail."""
    missing = {"final_loss": math.nan, "overhead_fraction": None, "tokens_per_second": None}
    missing |= {"reloads": None}
    assert value(name, [], **missing) is None


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(1, 1e6), st.floats(1, 1e6))
def test_a_run_within_the_limit_is_better_than_any_above(
    peak: float, other_peak: float, speed: float, other_speed: float
) -> None:
    one = value("throughput", [{"memory/process_gb": peak}], tokens_per_second=speed)
    other = value("throughput", [{"memory/process_gb": other_peak}], tokens_per_second=other_speed)
    assert one is not None
    assert other is not None
    if peak <= 2 < other_peak:
        assert one < other
    elif peak <= 2 and other_peak <= 2:
        assert (one < other) == (speed > other_speed)
    elif peak > 2 and other_peak > 2:
        assert (one < other) == (peak / 2 < other_peak / 2)


# --- Whole sweeps -------------------------------------------------------------------------------


TRAIN = str(ROOT / "train.py")


def test_an_experiment_that_sweeps_is_one_run_where_its_value_is_given(tmp_path: Path) -> None:
    shorter = ("experiment=threshold_sweep", "train.steps=2", "tracker=none", "reload=none")
    done = sweep(tmp_path, "hydra.run.dir=run", *shorter, command=(TRAIN,))
    assert done.exit_code == 0, done.said
    assert len(jsonl(tmp_path / "run" / "metrics.jsonl")) == 2


def test_an_experiment_that_sweeps_needs_nothing_else(tmp_path: Path) -> None:
    shorter = ("reload.interval_steps=0,1", "train.steps=2", "train.val_interval_steps=0")
    done = new_sweep(tmp_path, "experiment=interval_sweep", *shorter)
    assert done.exit_code == 0, done.said
    assert [line.split()[1] for line in done.table] == ["interval_steps", "0", "1"]
    assert [run_of(done.folder, n).summary["reloads"] for n in (0, 1)] == [{}, {"interval": 1}]


OPTUNA = ("hydra/sweeper=optuna", "objective=overhead", "worker.max_restarts=0", "worker.threads=1")


def best_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "optimization_results.yaml").read_text())


@pytest.mark.slow
def test_a_study_survives_failed_trials_and_an_interruption(tmp_path: Path) -> None:
    chosen = ("fault=choice(crash,none)", "reload.interval_steps=range(40,60)")
    steps = (f"train.steps={LONG}", "checkpoint.interval_steps=5", "hydra.sweeper.n_trials=3")
    study = (*OPTUNA, *chosen, *steps)
    assert interrupt(tmp_path, *study, act=press_ctrl_c) == 130
    folder = tmp_path / "sweep"
    before = states(folder)
    done = resumed(tmp_path)
    assert done.exit_code == 1
    after = states(folder)
    assert sorted(after) == [0, 1, 2]
    assert set(after.values()) == {"failed", "completed"}
    assert before.items() - {(max(before), "interrupted")} <= after.items()
    completed = {
        run_of(folder, n).summary["overhead_fraction"]: n for n in after if after[n] == "completed"
    }
    best = best_of(folder)
    assert best["best_value"] == min(completed)
    config = Config.load(folder / str(completed[min(completed)]) / "config.yaml")
    assert best["best_params"]["reload.interval_steps"] == config.reload.interval_steps


@pytest.mark.slow
def test_the_study_of_thresholds_runs(tmp_path: Path) -> None:
    few = ("hydra.sweeper.n_trials=3", "train.steps=3", "train.val_interval_steps=0")
    done = new_sweep(tmp_path, "experiment=optuna_threshold", *few)
    assert done.exit_code == 0, done.said
    assert states(done.folder) == dict.fromkeys(range(3), "completed")
    best = best_of(done.folder)
    assert 0.05 <= best["best_params"]["reload.memory_threshold_gb"] <= 0.6
    assert best["best_value"] < 0  # minus tokens/s: within the limit


def test_a_study_in_which_all_failed_is_one_line(tmp_path: Path) -> None:
    done = new_sweep(
        tmp_path, *OPTUNA, "fault=crash", "hydra.sweeper.n_trials=1", "seed=range(1,3)"
    )
    assert done.exit_code == 1
    assert states(done.folder) == {0: "failed"}
    assert "error: ValueError: No trials are completed yet." in done.said
    assert "Traceback" not in done.said


# --- A sweep of W&B's own -----------------------------------------------------------------------

AGENT = """
import json, multiprocessing, os, sys
from wandb.wandb_agent import Agent
os.environ["WANDB_SWEEP_ID"] = "swp1"  # as run_agent() does
agent = Agent(None, multiprocessing.Queue(), sweep_id="swp1")
agent._sweep_command, order = json.loads(sys.argv[1])
answer = agent._process_command(order)
sys.exit(agent._run_processes["abcd1234"].wait() if "exception" not in answer else str(answer))
"""


def test_the_command_that_wandbs_agent_makes_of_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text())
    assert example["program"] == "train.py"
    command = [word.replace("wandb_online", "wandb_offline") for word in example["command"]]
    short = ["train.steps=2", "train.val_interval_steps=0"]
    chosen = {"reload.memory_threshold_gb": {"value": 0.25}, "reload.interval_steps": {"value": 1}}
    assert chosen.keys() == example["parameters"].keys()
    order = {
        "type": "run", "run_id": "abcd1234", "program": str(ROOT / "train.py"), "args": chosen,
    }  # fmt: skip
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    done = subprocess.run(
        [sys.executable, "-c", AGENT, json.dumps([[*command, *short], order])],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = tmp_path.glob("outputs/runs/*/*")
    assert run.name.partition("_")[2].startswith("reload.memory_threshold_gb=0.25,")
    [begun] = [e for e in jsonl(run / "events.jsonl") if e["event"] == "run_started"]
    assert begun["run_id"] == "abcd1234"
    [logged] = tmp_path.glob("outputs/wandb/offline-run-*-abcd1234")
    whole = json.loads(inspect(logged, "--summary"))
    summary = json.loads((run / "summary.json").read_text())
    assert example["metric"] == {"name": "objective", "goal": "minimize"}
    assert whole["summary"]["objective"] == objective.value(
        Config.load(run / "config.yaml"), summary, jsonl(run / "metrics.jsonl")
    )
    records = [json.loads(line) for line in inspect(logged).splitlines()]
    assert [r["run"]["sweep_id"] for r in records if r["type"] == "run"][:1] == ["swp1"]
