"""What a run is called in W&B, and what leads back to its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.records.origin import Origin
from lab.tracking.labels import Labels, labels_of
from tests.tracked import make_config

SWEEP = "18-43-02_threshold_sweep"


def job_of(tmp_path: Path, *overrides: str, swept: tuple[str, ...] = (), number: int = 3) -> Labels:
    """The labels of a job of a sweep whose files say so."""
    run_dir = tmp_path / "outputs" / "sweeps" / SWEEP / str(number)
    run_dir.mkdir(parents=True)
    (run_dir / "job.json").write_text(json.dumps({"number": number, "overrides": overrides}))
    (run_dir.parent / "sweep.json").write_text(json.dumps({"swept": swept}))
    return labels_of(make_config(name="mine"), run_dir, Origin("abc", SWEEP, ""))


def test_a_job_is_named_by_its_number_and_what_was_swept(tmp_path: Path) -> None:
    labels = job_of(
        tmp_path, "train.steps=5", "reload.memory_threshold_gb=0.25", "model=tiny",
        swept=("reload.memory_threshold_gb", "model"),
    )  # fmt: skip
    assert labels.name == "job-3 memory_threshold_gb=0.25 model=tiny"
    assert labels.config["job"] == 3
    assert labels.config["run_dir"] == f"outputs/sweeps/{SWEEP}/3"
    assert labels.tags == ["mlx", "interval_or_threshold", "tiny", SWEEP, "x", "y"]


def test_a_name_that_was_given_stands_before_the_jobs_number(tmp_path: Path) -> None:
    labels = job_of(tmp_path, "seed=1", "name=mine", swept=("seed",))
    assert labels.name == "mine-3 seed=1"


def test_names_and_tags_are_no_longer_than_the_server_takes(tmp_path: Path) -> None:
    labels = job_of(tmp_path, "name=" + "n" * 300, "data.path=" + "p" * 300, swept=("data.path",))
    assert len(labels.name) == 128
    long = labels_of(make_config(), tmp_path, Origin("abc", "g" * 100, ""))
    assert "g" * 64 in long.tags


@pytest.mark.parametrize(
    "job", ["[]", '{"number": "3"}', '{"number": 3, "overrides": {}}', "\0", ""]
)
def test_a_damaged_job_file_costs_the_job_only(tmp_path: Path, job: str) -> None:
    (tmp_path / "job.json").write_text(job)
    labels = labels_of(make_config(name="mine"), tmp_path, Origin("abc", SWEEP, ""))
    assert labels.name in ("mine", "job-3")


def test_the_command_is_that_of_the_run_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    labels = job_of(
        tmp_path, "seed=1", "+hydra.job.env_set.WANDB_API_KEY=0123", "name=hf_0123456789",
        "data.path=https://me:secret@host/x.jsonl",
    )  # fmt: skip
    assert labels.config["command"] == (
        "python train.py seed=1 '+hydra.job.env_set.WANDB_API_KEY=***' 'name=***' "
        "'data.path=https://***@host/x.jsonl'"
    )


def test_a_run_of_its_own_has_the_command_that_hydra_saved(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- seed=2\n- name=mine\n")
    labels = labels_of(make_config(name="mine"), tmp_path, Origin("abc", None, ""))
    assert labels.config["command"] == "python train.py seed=2 name=mine"
    assert labels.name == "mine"
    assert "job" not in labels.config


def test_a_job_type_tells_training_a_baseline_and_a_reproduction(tmp_path: Path) -> None:
    config, origin = make_config(), Origin("abc", None, "")
    assert labels_of(config, tmp_path, origin).job_type == "train"
    baseline = replace(config, trainer="mlx_lm")
    assert labels_of(baseline, tmp_path, origin).job_type == "baseline"
    made_again = labels_of(config, tmp_path, replace(origin, reproduces="outputs/runs/a"))
    assert made_again.job_type == "reproduce"
    assert made_again.config["reproduces"] == "outputs/runs/a"
    assert made_again.config["command"] == "lab reproduce outputs/runs/a"
