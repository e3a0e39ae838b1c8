"""A sweep's jobs as planned from its command line, before any of it starts."""

from __future__ import annotations

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from lab.config.schema import ConfigError
from lab.sweep import plan

pytestmark = pytest.mark.usefixtures("hydra_here")


def composed(*overrides: str) -> DictConfig:
    """As Hydra hands it to whoever looks before a sweep begins."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    config = hydra.compose_config("config", list(overrides), RunMode.MULTIRUN, from_shell=False)
    plan.prefer_command_line(config)
    plan.settle_plugins(config)
    return config


def jobs(*overrides: str) -> list[list[str]]:
    return plan.jobs(composed(*overrides))


def test_lists_ranges_and_globs_multiply() -> None:
    found = jobs("seed=range(1,4)", "reload=glob(*,exclude=[in*,l*])", "train.steps=choice(5,6)")
    assert found == [
        [f"seed={seed}", f"reload={reload}", f"train.steps={steps}"]
        for seed in (1, 2, 3)
        for reload in ("none", "threshold")
        for steps in (5, 6)
    ]


def test_a_value_of_the_command_line_takes_the_place_of_an_experiments() -> None:
    assert jobs("experiment=interval_sweep") == [
        [f"reload.interval_steps={n}", "experiment=interval_sweep"] for n in (0, 25, 50, 100)
    ]
    assert jobs("experiment=interval_sweep", "reload.interval_steps=7,9") == [
        ["experiment=interval_sweep", f"reload.interval_steps={n}"] for n in (7, 9)
    ]


def test_a_sampler_is_tried_with_each_choice_and_at_each_end() -> None:
    found = jobs("hydra/sweeper=optuna", "reload=none,leak", "train.steps=range(5,9)", "seed=3")
    assert found == [
        ["reload=none", "train.steps=5", "seed=3"],
        ["reload=leak", "train.steps=5", "seed=3"],
        ["reload=none", "train.steps=9", "seed=3"],
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.steps=range(9,5)", "must go up"),
        ("train.steps=range(5,9,-1)", "must go up"),
        ("train.steps=interval(5,9)", "must be whole numbers: train.steps=int(interval(5,9))"),
        ("reload.memory_threshold_gb=tag(log,interval(0,2))", "must begin above 0"),
        ("reload=glob(*)", "must list its values"),
        ("hydra.sweeper.n_jobs=0", "must be a number, and not 0"),
        ("hydra.sweeper.n_jobs=-1", "at least 1"),
    ],
)
def test_what_no_sampler_can_choose_from_is_refused(override: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        jobs("hydra/sweeper=optuna", override)
    assert line in str(caught.value)
    assert str(caught.value).startswith(override.partition("=")[0])


def test_an_interval_without_a_sampler_is_refused() -> None:
    with pytest.raises(ConfigError, match="is for hydra/sweeper=optuna"):
        jobs("optimizer.learning_rate=interval(0.1,0.2)")


@pytest.mark.parametrize(
    ("overrides", "jobs", "shared"),
    [
        ((), 9, 1),
        (("hydra/launcher=joblib",), 9, 2),
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=4"), 9, 4),
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=4"), 3, 3),
        (("hydra/launcher=ray",), 9, 2),
        (("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=6"), 9, 6),
        (("hydra/launcher=ray", "+hydra.launcher.ray.remote.num_cpus=2"), 9, 1),
        (("hydra/launcher=ray", "+hydra.launcher.ray.remote.num_gpus=1"), 9, 1),
        (("hydra/launcher=ray", "+hydra.launcher.ray.remote.num_gpus=0.25"), 9, 4),
        (("hydra/launcher=submitit_local",), 9, 9),
        (("hydra/launcher=submitit_slurm",), 9, 1),
        (("hydra/sweeper=optuna",), 1, 1),
        (("hydra/sweeper=optuna", "hydra/launcher=joblib"), 1, 2),
        (("hydra/sweeper=optuna", "hydra/launcher=submitit_local"), 1, 2),
        (("hydra/sweeper=optuna", "hydra/launcher=joblib", "hydra.sweeper.n_jobs=1"), 1, 1),
    ],
)
def test_how_many_jobs_share_the_machine(
    overrides: tuple[str, ...], jobs: int, shared: int
) -> None:
    assert plan.side_by_side(composed(*overrides), jobs) == shared


def test_a_plugins_defaults_are_ours_unless_the_user_says_otherwise() -> None:
    optuna = composed("hydra/sweeper=optuna").hydra.sweeper
    assert (optuna.sampler.seed, optuna.max_failure_rate, optuna.n_jobs) == (0, 1.0, 1)
    said = ("hydra.sweeper.sampler.seed=null", "hydra.sweeper.max_failure_rate=0.5")
    optuna = composed("hydra/sweeper=optuna", *said).hydra.sweeper
    assert (optuna.sampler.seed, optuna.max_failure_rate) == (None, 0.5)
    assert (
        "seed"
        not in composed("hydra/sweeper=optuna", "hydra/sweeper/sampler=grid").hydra.sweeper.sampler
    )
    ray = composed("hydra/launcher=ray").hydra.launcher.ray.init
    assert not ray.include_dashboard
    address = composed("hydra/launcher=ray", "hydra.launcher.ray.init.address=auto")
    assert dict(address.hydra.launcher.ray.init) == {"address": "auto"}
