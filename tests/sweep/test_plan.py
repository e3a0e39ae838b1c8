"""A sweep's jobs as planned from its command line, before any of it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lab.compose.config import compose_config
from lab.compose.resolvers import register
from lab.config.schema import ConfigError
from lab.faults.truth import TRUTHS
from lab.sweep import plan
from lab.sweep.local_ray import INIT_DEFAULTS, set_init_defaults

register()

pytestmark = pytest.mark.usefixtures("hydra_here")


def by_hydra(*overrides: str) -> DictConfig:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    return hydra.compose_config("config", list(overrides), RunMode.MULTIRUN, from_shell=False)


def composed(*overrides: str) -> DictConfig:
    """As a sweep is planned: composed, then what depends on other settings is filled in."""
    config = by_hydra(*overrides)
    plan.prefer_command_line(config)
    set_init_defaults(config)
    plan.set_trials_at_once(config)
    return config


def jobs(*overrides: str) -> list[list[str]]:
    return plan.jobs(composed(*overrides))


def test_lists_ranges_and_globs_multiply() -> None:
    found = jobs("seed=range(1,4)", "reload=glob(*,exclude=[a*,in*,l*])", "train.steps=choice(5,6)")
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
    assert jobs("experiment=optuna_threshold") == [
        [f"reload.memory_threshold_gb={gb}", "experiment=optuna_threshold"] for gb in (0.05, 0.6)
    ]
    assert jobs("experiment=interval_sweep", "reload.interval_steps=7,9") == [
        ["experiment=interval_sweep", f"reload.interval_steps={n}"] for n in (7, 9)
    ]


def test_experiment_remedies_is_each_growth_mode_by_each_policy() -> None:
    found = jobs("experiment=remedies")
    modes = {word for job in found for word in job if word.startswith("fault=")}
    assert modes == {f"fault={mode}" for mode in ("none", *TRUTHS)}
    assert len(found) == len({tuple(job) for job in found}) == 4 * len(modes)
    for job in (job for job in found if job[0] in ("fault=none", "fault=streams")):
        config = compose_config(compose("config", job), job)[0]
        fault, policy = (word.partition("=")[2] for word in job[:2])
        assert config.name.startswith(f"fault={fault},reload={policy}")
        assert config.reload.policy == policy
        assert config.memory.budget_gb == (1 if policy == "none" else 0.12)
        assert config.train.steps == 160


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


@pytest.mark.parametrize(
    ("option", "key", "value", "other"),
    [
        ("hydra/launcher=joblib", "launcher.n_jobs", 2, -1),
        ("hydra/launcher=submitit_local", "launcher.timeout_min", 7 * 24 * 60, 60),
        ("hydra/launcher=submitit_slurm", "launcher.max_num_timeout", 10, 0),
        ("hydra/sweeper=optuna", "sweeper.max_failure_rate", 1.0, 0.0),
        *(
            (f"hydra/sweeper/sampler={sampler}", "sweeper.sampler.seed", 0, None)
            for sampler in ("tpe", "random", "cmaes", "nsgaii", "motpe")
        ),
    ],
)
def test_defaults_of_plugins_come_from_yaml_and_give_way_to_the_user(
    option: str, key: str, value: float, other: float | None
) -> None:
    """Also to one who asks for what the plugin ships."""
    options = ("hydra/sweeper=optuna", option) if "sampler" in option else (option,)
    assert OmegaConf.select(by_hydra(*options).hydra, key) == value
    said = f"hydra.{key}={'null' if other is None else other}"
    assert OmegaConf.select(by_hydra(*options, said).hydra, key) == other


def test_an_experiment_that_chooses_a_launcher_gets_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    chosen = "# @package _global_\ndefaults: [{override /hydra/launcher: joblib}]\n"
    (tmp_path / "experiment" / "two.yaml").write_text(chosen)
    searched = f"hydra.searchpath=[{tmp_path}]"
    assert by_hydra(searched, "experiment=two").hydra.launcher.n_jobs == 2
    said = chosen + "hydra: {launcher: {n_jobs: -1}}\n"
    (tmp_path / "experiment" / "two.yaml").write_text(said)
    assert by_hydra(searched, "experiment=two").hydra.launcher.n_jobs == -1


def test_trials_run_as_many_at_a_time_as_the_launchers_jobs() -> None:
    assert composed("hydra/sweeper=optuna").hydra.sweeper.n_jobs == 1
    assert composed("hydra/sweeper=optuna", "hydra/launcher=joblib").hydra.sweeper.n_jobs == 2


def test_ray_gets_its_defaults_unless_it_connects_to_a_cluster() -> None:
    init = composed("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=6").hydra.launcher.ray
    assert dict(init.init) == {"address": None, **INIT_DEFAULTS, "num_cpus": 6}
    address = composed("hydra/launcher=ray", "hydra.launcher.ray.init.address=auto")
    assert dict(address.hydra.launcher.ray.init) == {"address": "auto"}
