"""What composes, and what is decided: every file, model, warning and name."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lab.compose.overrides import run_name
from lab.compose.profiles import CONF
from lab.compose.structured import CONFIG_SCHEMA
from lab.config.keys import Config, dump
from lab.config.schema import ConfigError, to_dict
from tests.composing import ROOT, composed, config, machine, refusal

pytestmark = pytest.mark.usefixtures("hydra_here")


# --- Every file, every decision -----------------------------------------------------------------

NEEDS = {
    "jsonl": ["data.path={folder}"],
    "hub": ["data.hub_id=a/b"],
    "local": ["model.path={folder}"],
}


def options() -> list[str]:
    files = (p for p in CONF.glob("*/*.yaml") if p.parent.name != "hydra")
    return sorted(f"{p.parent.name}={p.stem}" for p in files)


@pytest.mark.parametrize("option", options())
def test_every_file_composes_and_survives_being_saved(
    option: str, model_folder: Path, tmp_path: Path
) -> None:
    needs = [n.format(folder=model_folder) for n in NEEDS.get(option.partition("=")[2], [])]
    found = config(option, *needs)
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump(found))
    assert Config.load(saved) == found
    assert "auto" not in {v for k, v in leaves(to_dict(found)) if k != "hardware.name"}


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_opens_with_the_command_that_uses_it(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @")]
    assert lines[0].startswith("# python train.py")
    group = path.parent.name
    assert path.stem == "config" or f"{group}={path.stem}" in lines[0]


@pytest.mark.parametrize(
    ("backend", "decided"),
    [
        ("cpu", (False, "float32", 32, "process", 0.1)),
        ("metal", (True, "bfloat16", 64, "process", 7.6)),
        ("cuda", (True, "bfloat16", 128, "mlx", 7.6)),
    ],
)
def test_auto_is_decided_by_the_backend(backend: str, decided: tuple) -> None:
    found = config("hardware=ultra_96gb", on=machine(backend))
    train, memory = found.train, found.memory
    assert (
        train.compile,
        train.dtype,
        found.data.pad_multiple,
        found.reload.metric,
        memory.cache_limit_gb,
    ) == decided
    assert (memory.budget_gb, memory.limit_gb, found.worker.threads) == (76, 76, 2)
    assert found.reload.memory_threshold_gb == 64.6


def test_mlx_lm_compiles_on_any_backend_unless_it_is_told_not_to() -> None:
    assert config("trainer=mlx_lm", on=machine("cpu")).train.compile is True
    assert config("trainer=mlx_lm", "train.compile=false").train.compile is False


def test_what_the_user_says_is_not_decided_again() -> None:
    found = config("train.dtype=bfloat16", "train.compile=true", "data.pad_multiple=7")
    assert (found.train.dtype, found.train.compile, found.data.pad_multiple) == (
        "bfloat16",
        True,
        7,
    )


def test_tiny_has_its_own_batch_and_rate_on_any_hardware() -> None:
    for profile in ("base_16gb", "ultra_192gb"):
        found = config(f"hardware={profile}")
        train = found.train
        assert (train.batch_size, train.max_seq_length, train.grad_accumulation_steps) == (
            8,
            128,
            1,
        )
        assert train.grad_checkpoint is False
        assert found.optimizer.learning_rate != 2e-4


def test_tiny_is_trained_whole_and_pretrained_models_with_lora() -> None:
    assert config().adapter.kind == "full"
    assert config("model=smollm2_135m").adapter.kind == "lora"
    assert config("model=smollm2_135m", "adapter=full").adapter.kind == "full"
    assert config("adapter=lora").adapter.kind == "lora"


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("quick_100", (100, 50, "base_16gb", "interval_or_threshold", 100)),
        ("full_1000", (1000, 100, "pro_32gb", "interval_or_threshold", 200)),
        ("stress_10000", (10000, 500, "ultra_96gb", "threshold", 100)),
    ],
)
def test_experiments(experiment: str, expected: tuple) -> None:
    for model in ("tiny", "smollm2_135m"):
        found = config(f"experiment={experiment}", f"model={model}")
        assert expected == (
            found.train.steps,
            found.checkpoint.interval_steps,
            found.hardware.name,
            found.reload.policy,
            found.reload.interval_steps,
        )
        assert found.reload.memory_threshold_gb < found.memory.budget_gb


def test_debug_goes_over_any_experiment() -> None:
    found = config("experiment=full_1000", "debug=quick")
    assert (found.train.steps, found.tracker.mode, found.checkpoint.enabled) == (5, "none", False)
    assert (found.hardware.name, found.reload.policy) == ("pro_32gb", "none")
    assert config("debug=overfit", "model=smollm2_135m").data.overfit_batches == 1


def test_debug_profile_is_a_short_run_of_one_batch_a_step() -> None:
    found = config("debug=profile", "model=smollm2_135m", "hardware=pro_32gb")
    steps = found.profiler.warmup_steps + found.profiler.steps
    assert (found.train.steps, found.train.grad_accumulation_steps) == (steps, 1)
    assert config().profiler.steps == 0
    assert refusal("debug=profile", "trainer=mlx_lm") == (
        "profiler.steps=10: cannot act with trainer=mlx_lm, whose train() runs unchanged; "
        "choose trainer=lab"
    )


def test_mlx_lms_trainer_cannot_repeat_a_batch() -> None:
    assert refusal("debug=overfit", "trainer=mlx_lm") == (
        "data.overfit_batches=1: cannot act with trainer=mlx_lm, which draws its own batches; "
        "choose trainer=lab"
    )


@pytest.mark.parametrize(("name", "picked"), [("x", 1), ("y", None), ("z", "other"), ("", "other")])
def test_pick_takes_the_option_of_a_name_or_the_other(name: str, picked: object) -> None:
    found = OmegaConf.create({"name": name, "value": "${pick:${name},{x:1,y:null},other}"})
    assert found.value == picked


def test_the_user_wins_over_an_experiment() -> None:
    found = config("experiment=full_1000", "reload=none", "hardware=base_16gb", "train.steps=7")
    assert (found.reload.policy, found.hardware.name, found.train.steps) == ("none", "base_16gb", 7)


def test_faults_combine_and_are_off_by_default() -> None:
    assert config().fault.crash is None
    crash = config("fault=crash", "fault.crash.step=5").fault.crash
    assert crash is not None
    assert crash.step == 5


# --- A local model ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "tier"),
    [
        ({"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536}, "compact"),
        ({"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336}, "small"),
        ({"hidden_size": 5120, "num_hidden_layers": 40, "intermediate_size": 17408}, "medium"),
        ({"hidden_size": 5120, "num_hidden_layers": 64, "intermediate_size": 25600}, "large"),
        ({"hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 28672}, "xlarge"),
        (
            {
                "hidden_size": 2048,
                "num_hidden_layers": 48,
                "intermediate_size": 6144,
                "moe_intermediate_size": 768,
                "num_experts": 128,
                "head_dim": 128,
            },
            "large",
        ),
    ],
)
def test_tier_of_a_local_model(tmp_path: Path, sizes: dict, tier: str) -> None:
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_000}
    (tmp_path / "config.json").write_text(json.dumps({**heads, **sizes}))
    found = config("model=local", f"model.path={tmp_path}", "adapter=qlora", on=machine(memory=512))
    assert found.model.tier == tier


def test_model_path_is_saved_absolute(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_folder.parent)
    found = config("model=local", f"model.path={model_folder.name}")
    assert found.model.path == str(model_folder.resolve())


@pytest.mark.parametrize("content", [None, "", "{", "[]", "\x00"])
def test_a_damaged_model_folder(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    line = refusal("model=local", f"model.path={tmp_path}")
    assert line.startswith(f"model.path={tmp_path}: ")


# --- Warnings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (["reload=none", "reload.interval_steps=10"], "reload.interval_steps does nothing"),
        (["reload=interval", "reload.memory_threshold_gb=1"], "reload.memory_threshold_gb does"),
        (["reload=none", "reload.leak_threshold_mb=1"], "reload.leak_threshold_mb does nothing"),
        (["data.hub_id=a/b"], "data.hub_id does nothing with data=stdlib_docs"),
        (["adapter.rank=4"], "adapter.rank does nothing with adapter=full"),
        (["hardware=pro_32gb", "reload.memory_threshold_gb=65"], "65 cannot fire"),
        (["optimizer=adam", "optimizer.weight_decay=0.1"], "optimizer.weight_decay does nothing"),
        (["optimizer=sgd", "optimizer.beta1=0.5"], "optimizer.beta1 does nothing"),
        (["reload.leak_threshold_mb=1", "reload.interval_steps=50"], "cannot fire: the slope"),
        (["trainer=mlx_lm", "train.max_grad_norm=0"], "max_grad_norm does nothing with trainer="),
        (["trainer=mlx_lm", "reload.method=process"], "reload.method does nothing with trainer="),
    ],
)
def test_settings_that_cannot_act_are_said(overrides: list[str], warned: str) -> None:
    found = composed(*overrides)[1]
    assert len(found) == 1
    assert warned in found[0]


@pytest.mark.parametrize(
    "overrides",
    [
        ["reload=none"],
        ["reload=leak", "reload.leak_threshold_mb=2"],
        ["reload=interval", "reload.interval_steps=0"],
        ["reload=threshold", "reload.memory_threshold_gb=1"],
        ["experiment=full_1000", "reload=none"],
    ],
)
def test_nothing_is_said_where_all_is_well(overrides: list[str]) -> None:
    assert composed(*overrides)[1] == []


# --- W&B's own variables ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "overrides", "mode"),
    [
        ({}, [], "offline"),
        ({"WANDB_MODE": "online"}, [], "online"),
        ({"WANDB_MODE": "disabled"}, [], "none"),
        ({"WANDB_MODE": "dryrun"}, [], "offline"),
        ({"WANDB_MODE": "online"}, ["tracker=none"], "none"),
        ({"WANDB_MODE": "online"}, ["tracker.mode=offline"], "offline"),
        ({"WANDB_MODE": "online"}, ["tracker.project=p"], "online"),
    ],
)
def test_wandb_mode(environ: dict[str, str], overrides: list[str], mode: str) -> None:
    assert composed(*overrides, environ=environ)[0].tracker.mode == mode


def test_wandb_project_entity_and_tags() -> None:
    environ = {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e", "WANDB_TAGS": "a, b"}
    tracker = composed("tracker=wandb_online", environ=environ)[0].tracker
    assert (tracker.project, tracker.entity, tracker.tags) == ("p", "e", ("a", "b"))
    assert composed("tracker.project=mine", environ=environ)[0].tracker.project == "mine"


def test_an_unknown_wandb_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="WANDB_MODE=turbo: must be one of"):
        composed(environ={"WANDB_MODE": "turbo"})


# --- The schema ---------------------------------------------------------------------------------


def test_a_fresh_process_unpickles_a_composed_config() -> None:
    """A launcher's process does, before it imports anything else of this package."""
    pickled = pickle.dumps(OmegaConf.structured(CONFIG_SCHEMA))
    code = "import pickle, sys; print(*pickle.load(sys.stdin.buffer))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=pickled, capture_output=True, check=False
    )
    assert done.stdout.decode().split() == [f.name for f in fields(CONFIG_SCHEMA)], done.stderr


# --- Names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("auto", [], "default"),
        ("auto", ["seed=1", "reload=none"], "seed=1,reload=none"),
        ("auto", ["name=auto", "tracker=none", "tracker.project=p"], "default"),
        ("auto", ["model.path=/a/b/smollm2/"], "model.path=smollm2"),
        ("auto", ["reload.interval_steps=0,25"], "reload.interval_steps=0,25"),
        ("auto", ["data.path='a b=c'"], "data.path=a-b=c"),
        ("../../etc/passwd", [], "etc-passwd"),
        ("...", [], "default"),
        (7, [], "7"),
    ],
)
def test_run_name(name: object, overrides: list[str], expected: str) -> None:
    assert run_name(name, overrides) == expected


def test_long_names_stay_short_and_different() -> None:
    names = {run_name("auto", [f"data.path={'x' * 300}{i}"]) for i in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 80 for name in names)
