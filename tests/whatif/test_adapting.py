"""``lab whatif reload=adaptive``: the run's own policy on a predicted curve, against real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.protocol import RUNGS, Rung
from lab.whatif.censuses import Censuses
from lab.whatif.recorded import read_recording
from lab.whatif.study import Study, study_of
from tests.runs import start
from tests.whatif.measured import KB_A_GB, growth_modes, write_recorded
from tests.whatif.worlds import World

# Of the peak of one run; those of three differ by up to 2 % (python -m benchmarks whatif). Rows
# have no peak of the process within a step, which adaptive looks at too.
WITHIN = {"interval": 0.025, "threshold": 0.02, "adaptive": 0.04}
WORDS = {
    "interval": ["reload=interval", "reload.interval_steps=31"],
    "threshold": ["reload=threshold", "reload.memory_threshold_gb=0.1"],
    "adaptive": ["reload=adaptive"],
}
BUDGET = "memory.budget_gb=0.12"


def only(study: Study) -> Any:
    [outcome] = study.outcomes
    return outcome.predicted


# --- Against real runs, as they were recorded ---------------------------------------------------


@pytest.mark.parametrize("policy", WORDS)
@pytest.mark.parametrize("fault", growth_modes())
def test_what_a_policy_did_is_predicted_from_the_run_without(
    tmp_path: Path, fault: str, policy: str
) -> None:
    """All growth modes at 1 MB a step; what frees them is known from the census."""
    write_recorded(tmp_path, fault)
    predicted = only(study_of(tmp_path, [*WORDS[policy], BUDGET]))
    did = growth_modes()[fault]["measured"][policy]
    reloads, remedies = (sum(p.values()) for p in (predicted.reloads, predicted.remedies))
    assert abs(reloads - did["reloads"]) <= (policy != "interval")
    assert abs(remedies - did["remedies"]) <= 1
    assert policy != "adaptive" or predicted.peak_gb <= 0.12
    assert predicted.peak_gb * KB_A_GB == pytest.approx(did["peak"], rel=WITHIN[policy])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cycles", "collect is taken to give all growth back: the recorded run has collect"),
        ("cycles", "a census of lab explain gave memory back after step 7, 28, 112"),
        ("token_memo", "in process is taken to give back nothing but the cache: the recorded run"),
        ("ema", "clear_cache is taken to give back the cache and collect no more: the recorded"),
    ],
)
def test_what_is_known_of_the_growth_is_said(tmp_path: Path, fault: str, said: str) -> None:
    write_recorded(tmp_path, fault, sole=False)
    assert said in "\n".join(study_of(tmp_path, ["reload=adaptive", BUDGET]).notes)


def test_without_an_explanation_a_reload_is_taken_to_help_and_that_is_said(tmp_path: Path) -> None:
    write_recorded(tmp_path, "token_memo", explained=False)
    study = study_of(tmp_path, ["reload=adaptive", BUDGET])
    taken = [leave.rung for leave in only(study).leaves]
    assert taken[:3] == ["clear_cache", "collect", "reload_in_process"]
    notes = "\n".join(study.notes)
    assert "a reload in process is taken to come back to the run's own start: no recorded" in notes
    assert "collect no more: no recorded run tells" in notes


def test_an_explanation_of_another_version_is_as_none(tmp_path: Path) -> None:
    write_recorded(tmp_path, "token_memo")
    explained = json.loads((tmp_path / "explain.json").read_text())
    (tmp_path / "explain.json").write_text(json.dumps(explained | {"version": 99}))
    assert "no recorded run tells" in "\n".join(
        study_of(tmp_path, WORDS["adaptive"] + [BUDGET]).notes
    )


def test_one_that_only_a_process_helps_is_not_helped_by_any_policy_in_process(
    tmp_path: Path,
) -> None:
    write_recorded(tmp_path, "token_memo")
    words = ["reload=interval", "reload.interval_steps=53", "memory.budget_gb=1"]
    words.append("reload.method=in_process,process")
    kept, given = (outcome.predicted for outcome in study_of(tmp_path, words).outcomes)
    highest = max(growth_modes()["token_memo"]["process"]) / KB_A_GB
    # Where its table doubles, at steps 8, 32 and 128, is not what a session grows by.
    assert kept.peak_gb == pytest.approx(highest, rel=0.08)
    assert given.peak_gb < 0.6 * highest


def test_adaptive_is_advised_where_it_is_the_cheapest(tmp_path: Path) -> None:
    write_recorded(tmp_path, "cycles")
    words = ["reload=interval,adaptive", "reload.interval_steps=31", BUDGET]
    [advice] = study_of(tmp_path, words).advice
    assert advice.text.startswith("within 0.12 GB: reload=adaptive")
    assert ", 1 lesser remedy, " in advice.text


def test_the_cheaper_reload_is_taken_where_the_seconds_of_both_are_estimated(
    tmp_path: Path,
) -> None:
    write_recorded(tmp_path, "ema")
    predicted = only(study_of(tmp_path, ["reload=adaptive", BUDGET, "train.steps=400"]))
    reloads = [leave.rung for leave in predicted.leaves if leave.rung.startswith("reload")]
    assert reloads == ["reload_in_process"] * 6


def test_censuses_come_when_growth_is_certain_three_times_a_run(tmp_path: Path) -> None:
    write_recorded(tmp_path, "ragged_cache")
    censuses = Censuses(read_recording(tmp_path))  # recorded after steps 14 and 56
    censuses.session_begins(53, "reload_process")
    assert censuses.next_step == 53 + 14
    censuses.taken(67)
    assert censuses.next_step == 4 * 67
    censuses.session_begins(106, "reload_process")
    assert censuses.next_step == 106 + 14
    censuses.taken(120)
    assert censuses.next_step == 0


@pytest.mark.parametrize("fault", ["ragged_cache", "cycles"])
def test_a_census_is_no_reload_that_the_threshold_backs_off_from(
    tmp_path: Path, fault: str
) -> None:
    write_recorded(tmp_path, fault)  # both are given back by a census, so some are predicted
    words = ["reload=threshold", "reload.memory_threshold_gb=0.02", "train.steps=300"]
    steps = [leave.step for leave in only(study_of(tmp_path, words)).leaves]
    assert steps == [1, 3, 7, 15, 31, 63, 127, 255]


# --- Against runs of a known law ----------------------------------------------------------------


@pytest.mark.parametrize("cure", RUNGS)
def test_a_recorded_adaptive_run_tells_of_another_budget(tmp_path: Path, cure: Rung) -> None:
    world, adaptive = World(cure=cure), {"reload__policy": "adaptive", "reload__method": "process"}
    world.train(tmp_path / "recorded", 160, **adaptive, memory__budget_gb=0.13)
    measured = world.train(tmp_path / "measured", 160, **adaptive, memory__budget_gb=0.15)
    study = study_of(tmp_path / "recorded", ["reload=adaptive", "memory.budget_gb=0.15"])
    predicted = only(study)
    assert abs(len(predicted.leaves) - len(measured.taken)) <= 1
    assert predicted.peak_gb == pytest.approx(measured.peak_gb, rel=WITHIN["adaptive"])
    assert predicted.peak_gb <= 0.15
    used = {leave.rung for leave in predicted.leaves}
    assert used == set(RUNGS[: RUNGS.index(cure) + 1])
    assert not [note for note in study.notes if "begins with" in note]  # their seconds are recorded


def test_a_run_that_does_not_grow_is_left_alone(tmp_path: Path) -> None:
    World(active=0.0).train(tmp_path / "recorded", 160)
    assert only(study_of(tmp_path / "recorded", ["reload=adaptive"])).leaves == []


# --- Against real runs, now ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_adaptive_run_is_predicted_from_the_one_without(tmp_path: Path) -> None:
    growing = ("fault=trainer_list", "fault.trainer_list.mb_per_step=2", "train.steps=60")
    common = (*growing, "train.max_seq_length=64", "worker.threads=1")
    start(tmp_path / "none", *common, "reload=none", "memory.budget_gb=1")
    adaptive = ("reload=adaptive", "memory.budget_gb=0.1")
    measured = start(tmp_path / "adaptive", *common, *adaptive)
    predicted = only(study_of(tmp_path / "none", adaptive))
    reloads, remedies = measured.events("reload"), measured.events("remedy")
    assert reloads
    assert abs(sum(predicted.reloads.values()) - len(reloads)) <= 1
    assert abs(sum(predicted.remedies.values()) - len(remedies)) <= 1
    peak = measured.summary["peak_process_gb"]
    assert predicted.peak_gb == pytest.approx(peak, rel=0.03)
