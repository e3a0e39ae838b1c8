"""``lab whatif``: predictions held against runs of a known law, and against real ones."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.records.files import RunFiles
from lab.whatif.command import to_json
from lab.whatif.recommend import front
from lab.whatif.study import Study, study_of
from tests.runs import jsonl, start
from tests.whatif.conftest import STEPS, lab, write_lines
from tests.whatif.worlds import SAVE_S, STEP_S, World, index_sweep

WITHIN = 0.02  # of the peak


def only(study: Study) -> Any:
    [outcome] = study.outcomes
    return outcome.predicted


# --- Against runs of a known law ----------------------------------------------------------------

WORLDS = {
    "arrays": World(),
    "arrays, slowly": World(active=0.05),
    "nothing": World(active=0.0),
    "what a reload in process keeps": World(active=0.4, kept=0.6),
    "from step 60 on": World(since=60),
}
POLICIES: dict[str, dict[str, Any]] = {
    "none": {},
    "interval 7": {"reload__policy": "interval", "reload__interval_steps": 7},
    "interval 25": {"reload__policy": "interval", "reload__interval_steps": 25},
    "interval 160": {"reload__policy": "interval", "reload__interval_steps": 160},
    "threshold": {"reload__policy": "threshold", "reload__memory_threshold_gb": 0.125},
    "too low a threshold": {"reload__policy": "threshold", "reload__memory_threshold_gb": 0.05},
    "either": {
        "reload__policy": "interval_or_threshold",
        "reload__interval_steps": 50,
        "reload__memory_threshold_gb": 0.115,
    },
}


def words_of(policy: dict[str, Any]) -> list[str]:
    given = {"reload__policy": "none"} | policy
    return [f"{key.replace('__', '.')}={value}" for key, value in given.items()]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("world", WORLDS)
def test_a_policy_is_predicted_from_a_run_with_another(
    tmp_path: Path, world: str, policy: str
) -> None:
    recorded = {"reload__policy": "interval", "reload__interval_steps": 70}
    WORLDS[world].train(tmp_path / "recorded", STEPS, **recorded)
    measured = WORLDS[world].train(tmp_path / "measured", STEPS, **POLICIES[policy])
    predicted = only(study_of(tmp_path / "recorded", words_of(POLICIES[policy])))
    count = sum(predicted.reloads.values())
    off = 0 if "threshold" not in words_of(POLICIES[policy])[0] else 1
    assert abs(count - len(measured.reloads)) <= off
    assert predicted.peak_gb == pytest.approx(measured.peak_gb, rel=WITHIN)
    assert predicted.mean_gb == pytest.approx(measured.mean_gb, rel=WITHIN)
    spent = len(measured.reloads) * 0.3 + 0.02
    assert predicted.overhead_fraction == pytest.approx(spent / (spent + 8), rel=0.2)


def test_a_run_without_reloads_is_enough_and_what_is_assumed_is_said(tmp_path: Path) -> None:
    World().train(tmp_path / "recorded", STEPS)
    policy = POLICIES["interval 25"]
    measured = World().train(tmp_path / "measured", STEPS, **policy)
    study = study_of(tmp_path / "recorded", words_of(policy))
    assert only(study).peak_gb == pytest.approx(measured.peak_gb, rel=WITHIN)
    assert [("own start" in n, "estimated" in n) for n in study.notes] == [
        (True, False),
        (False, True),
    ]


def test_a_run_whose_first_session_is_too_short_for_warm_up_will_do(tmp_path: Path) -> None:
    World().train(tmp_path / "recorded", STEPS, **POLICIES["too low a threshold"])
    measured = World().train(tmp_path / "measured", STEPS, **POLICIES["interval 25"])
    predicted = only(study_of(tmp_path / "recorded", words_of(POLICIES["interval 25"])))
    assert predicted.peak_gb == pytest.approx(measured.peak_gb, rel=0.05)


def test_a_short_run_tells_of_a_long_one(tmp_path: Path) -> None:
    World().train(tmp_path / "recorded", STEPS)
    measured = World().train(tmp_path / "measured", 4 * STEPS)
    study = study_of(tmp_path / "recorded", ["reload=none", f"train.steps={4 * STEPS}"])
    assert only(study).peak_gb == pytest.approx(measured.peak_gb, rel=WITHIN)
    assert "160 steps are recorded; to 640 growth goes on" in study.notes[0]


@settings(max_examples=30, deadline=None)
@given(every=st.integers(1, 2 * STEPS), steps=st.integers(1, 2 * STEPS))
def test_an_interval_is_counted_exactly(recorded: Path, every: int, steps: int) -> None:
    words = ["reload=interval", f"reload.interval_steps={every}", f"train.steps={steps}"]
    predicted = only(study_of(recorded, words))
    assert dict(predicted.reloads) == ({"interval": n} if (n := (steps - 1) // every) else {})
    assert len(predicted.curve) == steps


@settings(max_examples=30, deadline=None)
@given(threshold=st.floats(0.09, 0.3), interval=st.integers(0, 200))
def test_no_step_after_which_a_trigger_fires_is_skipped(
    recorded: Path, threshold: float, interval: int
) -> None:
    """Wherever the predicted curve lies above the threshold, the run is reloaded at once."""
    words = ["reload=interval_or_threshold", f"reload.interval_steps={interval}"]
    predicted = only(study_of(recorded, [*words, f"reload.memory_threshold_gb={threshold!r}"]))
    above = int((predicted.curve[:-1] > threshold).sum())
    assert predicted.reloads.get("threshold", 0) <= above
    reloaded = predicted.reloads.get("threshold", 0) + predicted.reloads.get("interval", 0)
    assert reloaded >= above


def test_a_leak_trigger_acts_on_the_slope(recorded: Path) -> None:
    words = ["reload=leak", "reload.leak_threshold_mb=0.5,2", "reload.window_steps=30"]
    fires, rests = (outcome.predicted for outcome in study_of(recorded, words).outcomes)
    assert dict(fires.reloads) == {"leak": (STEPS - 1) // 40}  # ten of warm-up, then the window
    assert dict(rests.reloads) == {}


def test_a_leak_trigger_asks_for_growth_that_is_certain(tmp_path: Path) -> None:
    World(active=0.0).train(tmp_path, STEPS)  # noise has slopes too
    words = ["reload=leak", "reload.leak_threshold_mb=0.001", "reload.window_steps=30"]
    assert only(study_of(tmp_path, words)).leaves == []


def test_the_budget_reloads_or_ends_a_run_that_no_policy_keeps_in_it(recorded: Path) -> None:
    words = ["reload=none", "memory.budget_gb=0.15,0.05"]
    kept, ended = (outcome.predicted for outcome in study_of(recorded, words).outcomes)
    assert kept.reloads["budget"] >= 1
    assert kept.ended is None
    assert kept.peak_gb < 0.16
    assert ended.ended is not None
    assert ended.ended < 10


# --- What to take -------------------------------------------------------------------------------


def test_no_reload_is_advised_where_the_budget_holds_it(recorded: Path) -> None:
    [advice] = study_of(recorded, ["memory.budget_gb=1"]).advice
    assert "no reload is needed" in advice.text
    assert advice.best.setting.label == "none"


def test_the_advice_fits_the_budget_at_the_least_cost(recorded: Path) -> None:
    study = study_of(recorded, ["memory.budget_gb=0.15"])
    [advice] = study.advice
    fitting = [outcome for outcome in study.outcomes if outcome.fits]
    assert advice.best in fitting
    least = min(outcome.predicted.overhead_fraction for outcome in fitting)
    assert advice.best.predicted.overhead_fraction == least
    assert advice.best in front(fitting)
    assert advice.text.startswith("within 0.15 GB: reload=")


def test_a_budget_that_nothing_keeps_is_said(recorded: Path) -> None:
    [advice] = study_of(recorded, ["memory.budget_gb=0.01"]).advice
    assert "none of these stays" in advice.text


def test_settings_that_do_the_same_are_one(recorded: Path) -> None:
    words = ["reload=none,interval", "reload.interval_steps=0,25,50"]
    labels = [outcome.setting.label for outcome in study_of(recorded, words).outcomes]
    assert labels == ["none", "interval 25", "interval 50"]


def test_numbers_may_be_typed_as_hydra_takes_them(recorded: Path) -> None:
    words = ["reload=interval,threshold", "reload.interval_steps=2e1,30.0"]
    outcomes = study_of(recorded, [*words, "reload.memory_threshold_gb=1.2e-1"]).outcomes
    labels = [outcome.setting.label for outcome in outcomes]
    assert labels == ["interval 20", "interval 30", "threshold 0.12 GB"]


def test_a_new_budget_moves_the_threshold_as_auto_does(recorded: Path) -> None:
    words = ["reload=threshold", "memory.budget_gb=1,2", "reload.memory_threshold_gb=auto"]
    labels = [outcome.setting.label for outcome in study_of(recorded, words).outcomes]
    assert labels == ["threshold 0.85 GB", "threshold 1.7 GB"]


def test_thresholds_that_nobody_named_lie_where_memory_does(recorded: Path) -> None:
    study = study_of(recorded, [])  # within a budget of 100 GB
    without, *others = study.outcomes
    assert without.setting.label == "none"
    found = [o.setting.config.reload for o in others]
    thresholds = [r.memory_threshold_gb for r in found if r.policy == "threshold"]
    lowest, highest = without.predicted.curve.min(), without.predicted.curve.max()
    assert len(thresholds) >= 5
    assert all(lowest < threshold < highest for threshold in thresholds)
    assert max(thresholds) - min(thresholds) > 0.6 * (highest - lowest)


def test_settings_that_nobody_named_do_different_things(recorded: Path, tmp_path: Path) -> None:
    study = study_of(recorded, ["memory.budget_gb=0.15,1", f"train.steps={STEPS},{2 * STEPS}"])
    run = [(o.budget_gb, o.setting.config.train.steps) for o in study.outcomes]
    assert [key for key, _ in groupby(run)] == list(dict.fromkeys(run))
    done = [(key, tuple(o.predicted.leaves)) for key, o in zip(run, study.outcomes, strict=True)]
    assert len(set(done)) == len(done)
    assert len(set(study.notes)) == len(study.notes)
    World(active=0.0).train(tmp_path, STEPS, checkpoint__enabled=False)
    [alone] = study_of(tmp_path, []).outcomes
    assert alone.setting.label == "none"


# --- The command --------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_draws_the_front(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab(monkeypatch, recorded, "reload=none,interval", "reload.interval_steps=20,40") == 0
    said = capsys.readouterr().out
    assert "interval 20" in said
    assert "advice   within 100 GB: reload=none" in said
    assert (recorded / "whatif.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_recommended_that_leaves_the_budget(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab(monkeypatch, recorded, "memory.budget_gb=0.01") == 0
    said = capsys.readouterr().out
    assert "recommended" not in said
    assert [line.split()[-1] for line in said.splitlines()].count("lowest") == 1


def test_json_has_everything(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab(monkeypatch, recorded, "--json", "reload.policy=none,interval") == 0
    told = json.loads(capsys.readouterr().out)
    assert [s["policy"] for s in told["settings"]] == ["none", "interval 100"]
    assert told["settings"][1]["reloads"] == {"interval": 1}
    assert told["reload_seconds"]["in_process"]["estimated"]


def test_hundreds_of_settings_are_each_predicted_once(recorded: Path) -> None:
    every = ",".join(str(n) for n in range(1, 301))
    study = study_of(recorded, ["reload=interval", f"reload.interval_steps={every}"])
    assert len(study.outcomes) == 300


def test_measured_runs_of_a_sweep_lie_beside_what_the_others_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, policy in enumerate(("none", "interval 25", "threshold")):
        World().train(tmp_path / str(number), STEPS, **POLICIES[policy])
    index_sweep(tmp_path, ["0", "1", "2"])
    assert lab(monkeypatch, tmp_path, "--json") == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["policy"] for check in checks] == ["none", "interval 25", "threshold 0.125 GB"]
    for check in checks:
        assert check["predicted"]["reloads"] == check["measured"]["reloads"]
        peak = check["measured"]["peak_gb"]
        assert check["predicted"]["peak_gb"] == pytest.approx(peak, rel=WITHIN)
    assert lab(monkeypatch, tmp_path) == 0
    assert "each predicted from the others" in capsys.readouterr().out


def test_a_live_run_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    World().train(tmp_path / "run", STEPS)
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:60]))
    files = RunFiles(tmp_path / "run")  # its lock is held, as by a supervisor
    with metrics.open("a") as file:
        file.write(lines[60][:40])  # half a row
    study = study_of(tmp_path / "run", ["reload=none"])
    assert len(only(study).curve) == STEPS
    assert "60 steps are recorded" in study.notes[0]
    files.close()


@pytest.mark.parametrize("step", [50, STEPS - 5])
def test_memory_that_was_not_read_lies_between_its_neighbours(tmp_path: Path, step: int) -> None:
    settings = {"reload__policy": "interval", "reload__interval_steps": 100}
    run = World(noise=0.0).train(tmp_path, STEPS, **settings)
    rows = jsonl(tmp_path / "metrics.jsonl")
    rows[step - 1]["memory/process_gb"] = None
    write_lines(tmp_path / "metrics.jsonl", rows)
    words = ["reload=interval", "reload.interval_steps=100"]
    curve = only(study_of(tmp_path, words)).curve
    for at in (step + 1, step + 3):  # the steps that follow keep their place
        assert curve[at - 1] == pytest.approx(run.rows[at - 1]["memory/process_gb"], rel=0.003)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data/padded_fraction", float("nan")),
        ("tokens", 10**400),
        ("step_seconds", 10**400),
        ("step_seconds", float("inf")),
        ("memory/peak_gb", 10**400),
        ("time", float("inf")),
    ],
    ids=["nan padding", "huge tokens", "huge seconds", "inf seconds", "huge peak", "inf time"],
)
def test_a_figure_that_no_run_has_is_none(tmp_path: Path, key: str, value: float) -> None:
    World().train(tmp_path, STEPS)
    rows = jsonl(tmp_path / "metrics.jsonl")
    for row in rows[50:]:
        row |= {"tokens": 8, "data/padded_fraction": 0.0, key: value}
    write_lines(tmp_path / "metrics.jsonl", rows)
    told = to_json(study_of(tmp_path, ["reload=none,interval", "memory.budget_gb=0.2"]))
    json.dumps(told, allow_nan=False)


def test_an_event_of_a_step_that_no_run_has_is_left_out(tmp_path: Path) -> None:
    World().train(tmp_path, STEPS)
    events = jsonl(tmp_path / "events.jsonl")
    write_lines(tmp_path / "events.jsonl", [{"event": "reload", "step": -1}, *events])
    assert only(study_of(tmp_path, ["reload=none"])).leaves == []


def test_seconds_of_remedies_are_not_those_of_every_step_too(tmp_path: Path) -> None:
    World().train(tmp_path, STEPS)
    events = jsonl(tmp_path / "events.jsonl")
    remedy = {"event": "remedy", "step": 100, "remedy": "collect", "seconds": 40.0, "time": 1.0}
    for event in events:
        event["time"] += remedy["seconds"]
    write_lines(tmp_path / "events.jsonl", [remedy, *events])
    predicted = only(study_of(tmp_path, ["reload=none"]))
    assert predicted.seconds == pytest.approx(STEPS * STEP_S + SAVE_S, rel=0.01)


def test_without_checkpoints_no_reload_is_predicted_and_that_is_said(tmp_path: Path) -> None:
    World().train(tmp_path, STEPS, checkpoint__enabled=False)
    study = study_of(tmp_path, ["reload=none,interval,threshold", "memory.budget_gb=0.12"])
    for outcome in study.outcomes:
        assert outcome.predicted.leaves == []
        assert outcome.predicted.ended is not None  # the supervisor can only end it
    assert any("checkpoint.enabled=false" in note for note in study.notes)


def test_a_picture_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    World().train(tmp_path, STEPS)
    (tmp_path / "whatif.png").mkdir()
    before = sorted(tmp_path.iterdir())
    assert lab(monkeypatch, tmp_path, "reload=none") == 1
    assert "cannot write to" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


# --- Against real runs --------------------------------------------------------------------------

RAGGED = (
    *(
        "train.steps=60",
        "train.max_seq_length=256",
        "data.max_shapes=0",
        "data.pad_multiple=1",
        "worker.threads=1",
    ),
    *("memory.cache_clear_interval=0", "memory.cache_limit_gb=4", "reload.metric=process"),
)


def test_ragged_batches_are_predicted_from_a_real_run(tmp_path: Path) -> None:
    """The cache grows with each new shape, so a session's cache depends on where it begins."""
    start(tmp_path / "none", *RAGGED, "reload=none")
    every = ("reload=interval", "reload.interval_steps=25")
    measured = start(tmp_path / "interval", *RAGGED, *every)
    study = study_of(tmp_path / "none", every)
    assert study.model.shapes is not None
    assert dict(only(study).reloads) == measured.summary["reloads"] == {"interval": 2}
    peak = measured.summary["peak_process_gb"]
    assert only(study).peak_gb == pytest.approx(peak, rel=0.05)
