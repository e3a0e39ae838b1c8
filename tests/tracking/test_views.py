"""A run in TensorBoard and in MLflow, as they read it back: each row once, whatever was cut off."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import cli
from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.records.files import RunFiles
from lab.records.origin import Origin
from lab.tracking import tensorboard
from lab.tracking.closing import command, format_summary
from lab.tracking.opening import ways_to_open
from lab.tracking.trackers import Tracker, open_trackers
from tests.compared import write_config, write_sweep
from tests.runs import Run, config_of, jsonl, start
from tests.tracked import SUMMARY, make_config, make_reload, make_row
from tests.tracking.test_wandb import history, read_back

# Imported where they are used: they take seconds, of every process that only collects tests too.
if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Figures = dict[str, list[tuple[int, float]]]
ORIGIN = Origin("abc", "a sweep", "")
TOOLS = ("tensorboard", "mlflow")


@pytest.fixture(autouse=True)
def _no_mlflow_settings_of_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


# --- Read back ----------------------------------------------------------------------------------


def in_files(run_dir: Path) -> Figures:
    """The numbers of a run's rows, and of its reloads, by key: step and value."""
    found: Figures = {}
    for row in jsonl(run_dir / "metrics.jsonl"):
        for key in {*row} - {"step"}:
            if row[key] is not None:
                found.setdefault(key, []).append((row["step"], float(row[key])))
    for event in jsonl(run_dir / "events.jsonl"):
        if event["event"] == "reload":
            for when in ("before", "after"):
                memory = event[when]["memory/process_gb"]
                found.setdefault(f"reload/{when}_gb", []).append((event["step"], memory))
    return found


def in_tensorboard(run_dir: Path, _: Path) -> Figures:
    events = accumulated(run_dir)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in scalar_tags(events)}


def accumulated(run_dir: Path) -> EventAccumulator:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalar_tags(events: EventAccumulator) -> list[str]:
    tags = events.Tags()["scalars"]
    assert isinstance(tags, list)
    return tags


def in_mlflow(_: Path, outputs: Path) -> Figures:
    client, run = mlflow_run(outputs)
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return {key: [(m.step, m.value) for m in past] for key, past in histories.items()}


def mlflow_run(outputs: Path) -> tuple[MlflowClient, MlflowRun]:
    from mlflow import MlflowClient

    client = MlflowClient((outputs / "mlruns").resolve().as_uri())
    experiments = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    [run] = client.search_runs(experiments)
    return client, run


READ: dict[str, Callable[[Path, Path], Figures]] = {
    "tensorboard": in_tensorboard,
    "mlflow": in_mlflow,
}


def of_float32(figures: Figures) -> Figures:
    """As TensorBoard keeps them."""
    return {
        key: [(step, struct.unpack("f", struct.pack("f", value))[0]) for step, value in past]
        for key, past in figures.items()
    }


def of_rows(tool: str, run_dir: Path, outputs: Path) -> Figures:
    """What a tool has of rows and reloads; the summary's figures left out."""
    found = READ[tool](run_dir, outputs)
    return {key: past for key, past in found.items() if not key.startswith("summary/")}


def expected(tool: str, run_dir: Path) -> Figures:
    figures = in_files(run_dir)
    return of_float32(figures) if tool == "tensorboard" else figures


def test_lab_sync_has_nothing_to_do_for_them_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = write_sweep(Path("outputs/sweeps/day/s"), (0, 5))
    for job, tool in enumerate(TOOLS):
        write_config(sweep / str(job), {"tracker.name": tool, "tracker.mode": "none"})
    assert cli.main(["sync", f"{sweep}/0", str(sweep)]) == 0
    one, both = capsys.readouterr().out.splitlines()
    opened = f"nothing to sync; to open it: {command('tensorboard', '--logdir', 'outputs')}"
    assert one == f"{sweep}/0 has tracker=tensorboard: {opened}"
    assert both.startswith(f"{sweep} has tracker=tensorboard: nothing to sync; to open it: ")
    assert not list(tmp_path.glob("outputs/wandb/*"))


# --- A tracker alone ----------------------------------------------------------------------------


def config_with(*tools: str) -> Config:
    config = make_config("none")
    return replace(config, tracker=replace(config.tracker, also=tools))


def tracker_of(config: Config, run_dir: Path, outputs: Path) -> Tracker:
    tracker, _ = open_trackers(
        config, outputs=outputs, run_dir=run_dir, origin=ORIGIN, overrides=[], interactive=False
    )
    return tracker


CUT_OFF = """
import os, signal, sys
from pathlib import Path
from lab.records.origin import Origin
from lab.tracking.mlflow import MlflowView
from lab.tracking.tensorboard import TensorboardView
from tests.tracked import make_config, make_row

run_dir, outputs = Path(sys.argv[1]), Path(sys.argv[2])
run = make_config("none"), run_dir, Origin("abc", "a sweep", ""), 1000.0
for view in (MlflowView(*run, outputs=outputs), TensorboardView(*run)):
    for step in (1, 2, 3):
        view.add(make_row(step), 1000.0)
    view.add({"step": 4, "loss": 2.5}, 1000.0)
    view.flush()
    view.add(make_row(5), 1000.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_goes_on_in_the_same_place_with_each_row_once(
    repo: Path, tmp_path: Path
) -> None:
    """Of step 4 the tools have the loss only, of step 5 nothing, when the process is killed."""
    run_dir, outputs = tmp_path / "outputs" / "run", tmp_path / "outputs"
    run_dir.mkdir(parents=True)
    words = [sys.executable, "-c", CUT_OFF, str(run_dir), str(outputs)]
    killed = subprocess.run(words, cwd=repo, check=False, env={**os.environ, "PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL
    for tool in TOOLS:
        assert of_rows(tool, run_dir, outputs)["loss"][-1] == (4, 2.5)

    files = RunFiles(run_dir)
    for step in range(1, 6):
        files.row(make_row(step))
    files.event(make_reload(2))
    *trackers, _ = open_trackers(
        config_with(*TOOLS), outputs=outputs, run_dir=run_dir, origin=ORIGIN, overrides=[]
    )
    files.row(last := make_row(6, val_loss=3.5))
    files.event(reload := make_reload(6))
    for tracker in trackers:
        tracker.log(last)
        tracker.event(reload)
        assert tracker.close(SUMMARY, 0) == []
    for tool in TOOLS:
        assert of_rows(tool, run_dir, outputs) == expected(tool, run_dir)


def test_a_tensorboard_that_is_open_shows_a_resumed_run_once(tmp_path: Path) -> None:
    """Its rows after the last one on file are gone, though it has read them."""
    tracker = tracker_of(config_with("tensorboard"), tmp_path, tmp_path)
    for step in (1, 2, 3):
        tracker.log(make_row(step))
    assert tracker.close({"state": "interrupted"}, 130) == []
    shown = accumulated(tmp_path)
    RunFiles(tmp_path).row(row := make_row(1))
    assert tracker_of(config_with("tensorboard"), tmp_path, tmp_path).close({}, 1) == []
    [loss] = shown.Reload().Scalars("loss")
    assert (loss.step, loss.value) == (1, row["loss"])


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tracker_that_fails_costs_one_line(
    tool: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    tracker = tracker_of(config_with(tool), blocked / "run", blocked / "outputs")
    tracker.log(make_row(1))
    [line] = tracker.close(SUMMARY, 0)
    name = {"tensorboard": "TensorBoard", "mlflow": "MLflow"}[tool]
    assert line.startswith(f"{name} failed: ")
    assert line.endswith("; metrics.jsonl has every row")
    assert len(caplog.records) == 1


def test_what_is_compared_and_how_it_ended_is_in_tensorboards_hparams(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    tracker = tracker_of(config_with("tensorboard"), tmp_path, tmp_path)
    tracker.log(make_row(1))
    tracker.event(make_reload(1))
    assert tracker.close(SUMMARY, 0) == []
    events = accumulated(tmp_path)
    about = {
        tag: tensorboard._tb().hparams.HParamsPluginData.FromString(content)
        for tag, content in events.PluginTagToContent(metadata.PLUGIN_NAME).items()
    }
    hparams = about[metadata.SESSION_START_INFO_TAG].session_start_info.hparams
    assert hparams["reload.policy"].string_value == "interval_or_threshold"
    assert hparams["train.steps"].number_value == 100
    assert hparams["train.deterministic"].bool_value
    assert not [key for key in hparams if key.startswith(("tracker.", "hardware."))]
    assert about[metadata.SESSION_END_INFO_TAG].session_end_info.status == 1
    [reason] = events.Tensors("reload/reason")
    assert reason.tensor_proto.string_val == [b"interval"]
    assert events.Scalars("summary/reloads/interval")[0].value == 2


# --- Beside W&B, through a whole run ------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is reloaded once, in W&B, TensorBoard and MLflow."""
    outputs = tmp_path_factory.mktemp("views") / "outputs"
    also = ("tracker=wandb_offline", "tracker.also=[mlflow,tensorboard]", "tracker.notes=a note")
    return start(outputs / "run", *also, "reload=interval", "reload.interval_steps=3")


def test_each_tracker_has_every_row_of_a_run(whole: Run) -> None:
    outputs = whole.folder.parent
    assert whole.result.exit_code == 0
    assert len(whole.events("reload")) == 1
    for tool in TOOLS:
        assert of_rows(tool, whole.folder, outputs) == expected(tool, whole.folder)
    [folder] = (outputs / "wandb").glob("offline-run-*")
    logged = [row for row in history(read_back(folder)) if "loss" in row]
    assert logged == [{k: v for k, v in row.items() if v is not None} for row in whole.rows]


def test_mlflow_has_the_runs_settings_labels_summary_and_files(whole: Run) -> None:
    client, run = mlflow_run(whole.folder.parent)
    config = Config.load(whole.folder / "config.yaml")
    assert run.data.params["reload.interval_steps"] == "3"
    assert run.data.params["optimizer.learning_rate"] == str(config.optimizer.learning_rate)
    assert (run.info.run_name, run.info.status) == (config.name, "FINISHED")
    assert run.data.tags["mlflow.note.content"] == "a note"
    assert run.data.tags["commit"] == whole.summary["environment"]["git_commit"]
    assert run.data.tags["weights_sha256"] == whole.summary["weights_sha256"]
    assert run.data.metrics["summary/final_loss"] == whole.summary["final_loss"]
    assert run.data.metrics["summary/reloads/interval"] == 1
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"config.yaml", "events.jsonl", "memory.png"}


def test_the_last_lines_say_how_to_open_each(whole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole.folder.parents[1])
    config = Config.load(whole.folder / "config.yaml")
    others = ways_to_open(config, Path("outputs/run"))
    text = format_summary(whole.summary, Path("outputs/run"), others=others)
    opened = [line.removeprefix("  open     ") for line in text.splitlines() if "open" in line]
    assert opened == others
    assert opened[0].endswith("tensorboard --logdir outputs")
    assert "mlflow ui --backend-store-uri outputs/mlruns" in opened[1]
    [alone] = [w for w in ways_to_open(config, Path("outputs/run"), is_sweep=True) if "logdir" in w]
    assert alone.endswith("--logdir outputs/run")


# --- What is asked for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "mode", "beside"),
    [
        (["tracker=tensorboard"], "none", ("tensorboard",)),
        (["tracker=mlflow", "tracker.also=[tensorboard]"], "none", ("tensorboard", "mlflow")),
        (["tracker.also=[mlflow,mlflow]"], "offline", ("mlflow",)),
        (["tracker=none"], "none", ()),
        ([], "offline", ()),
    ],
)
def test_a_trackers_name_and_those_beside_it(
    overrides: list[str], mode: str, beside: tuple[str, ...]
) -> None:
    tracker = config_of(*overrides).tracker
    assert (tracker.mode, tracker.beside_wandb) == (mode, beside)


def test_a_tracker_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^tracker\.also\[0\]=comet: must be one of tensorboard"):
        config_of("tracker.also=[comet]")


def test_a_tracker_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.compose.tracker.find_spec", lambda name: None)
    said = r"^tracker=mlflow: is not installed: pip install 'mlx-memory-lab\[mlflow\]'$"
    with pytest.raises(ConfigError, match=said):
        config_of("tracker=mlflow")


def test_a_run_whose_tracker_is_not_installed_here_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "_tb", tensorboard._tb.__wrapped__)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    [line] = tracker_of(config_with("tensorboard"), tmp_path, tmp_path).close(SUMMARY, 0)
    assert "pip install 'mlx-memory-lab[tensorboard]'" in line
