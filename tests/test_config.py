"""Every profile, group and key: what composes, what is decided, and what a bad value gets."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from lab import compose as lab_compose
from lab.compose import CONF, compose_config, detected_profile, profile_sizes, profiles, run_name
from lab.config import Config, ConfigError, dump, from_dict, to_dict
from lab.launch import explain
from lab.machine import Machine

GB = 2**30
ROOT = Path(__file__).resolve().parents[1]


def machine(backend: str = "cpu", memory: float = 256, budget: float | None = None) -> Machine:
    return Machine(
        system="Linux",
        architecture="x86_64",
        backend=backend,
        device_name="recorded",
        cores=2,
        memory_bytes=int(memory * GB),
        budget_bytes=int((budget or 0.8 * memory) * GB),
    )


BIG = machine()


@pytest.fixture(autouse=True, scope="module")
def hydra_here() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


PARSER = OverridesParser.create()


@cache
def of_groups(groups: tuple[str, ...], on: Machine) -> DictConfig:
    """What Hydra composes of these options; values are set on a copy, as Hydra does, but faster."""
    return compose("config", list(groups))


def composed(
    *overrides: str, on: Machine = BIG, environ: dict[str, str] | None = None
) -> tuple[Config, list[str]]:
    groups = tuple(o for o in overrides if (CONF / o.partition("=")[0].lstrip("+~")).is_dir())
    values = [o for o in overrides if o not in groups]
    with patch.object(lab_compose, "probe_machine", lambda: on):
        cfg = copy.deepcopy(of_groups(groups, on))
        ConfigLoaderImpl._apply_overrides_to_config(PARSER.parse_overrides(values), cfg)
        return compose_config(cfg, overrides, machine=on, environ=environ or {})


def config(*overrides: str, on: Machine = BIG) -> Config:
    return composed(*overrides, on=on)[0]


def refusal(*overrides: str, on: Machine = BIG) -> str:
    """The line that a user sees."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Hydra's own kinds among them
        composed(*overrides, on=on)
    code, line = explain(caught.value, overrides)
    assert code == 2
    assert "\n" not in line
    return line


# --- Hardware -----------------------------------------------------------------------------------

PROFILES = {  # memory, budget, batch, accumulation, sequence, gradient checkpointing
    "base_16gb": (16, 12, 1, 16, 512, True),
    "pro_32gb": (32, 25, 2, 8, 1024, True),
    "max_64gb": (64, 51, 4, 4, 1024, False),
    "ultra_96gb": (96, 76, 4, 4, 1024, True),
    "ultra_192gb": (192, 153, 8, 2, 2048, False),
    "cuda_80gb": (80, 64, 4, 4, 1024, True),
}
MODELS = {
    "smollm2_135m": "compact",
    "hermes_3_8b": "small",
    "qwen3_14b": "medium",
    "qwen3_32b": "large",
    "hermes_3_70b": "xlarge",
}
TIERS = {  # rank, layers, batch
    "base_16gb": {"compact": (32, 8, 2), "small": (32, 8, 1)},
    "pro_32gb": {"compact": (64, 16, 8), "small": (64, 16, 4), "medium": (48, 12, 2)},
    "max_64gb": {
        "compact": (64, 16, 4),
        "small": (64, 16, 2),
        "medium": (64, 16, 2),
        "large": (96, 20, 2),
    },
    "ultra_96gb": {
        "compact": (64, 16, 4),
        "small": (64, 16, 2),
        "medium": (64, 16, 2),
        "large": (96, 20, 2),
        "xlarge": (128, 24, 2),
    },
    "ultra_192gb": {
        "compact": (64, 16, 32),
        "small": (64, 16, 16),
        "medium": (96, 20, 8),
        "large": (128, 24, 8),
        "xlarge": (256, 32, 8),
    },
}
TIERS["cuda_80gb"] = TIERS["ultra_96gb"]
HOLDS = {"medium": "pro_32gb", "large": "max_64gb", "xlarge": "ultra_96gb"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("profile", PROFILES)
def test_profile_has_the_figures_of_the_table(profile: str, model: str) -> None:
    memory, budget, batch, accumulation, sequence, checkpointing = PROFILES[profile]
    size = TIERS[profile].get(MODELS[model])
    if size is None:
        line = refusal(f"hardware={profile}", f"model={model}")
        assert f"model={model}: does not fit hardware={profile}" in line
        assert HOLDS[MODELS[model]] in line
        return
    found = config(f"hardware={profile}", f"model={model}")
    hardware, train, adapter = found.hardware, found.train, found.adapter
    assert (hardware.memory_gb, hardware.budget_gb, hardware.batch_size) == (memory, budget, batch)
    assert found.memory.budget_gb == budget
    assert train.grad_accumulation_steps == accumulation
    assert (train.max_seq_length, train.grad_checkpoint) == (sequence, checkpointing)
    assert (found.optimizer.learning_rate, train.max_grad_norm) == (2e-4, 1.0)
    assert (adapter.rank, adapter.num_layers, train.batch_size) == size
    assert adapter.alpha == 2 * size[0]
    assert adapter.targets == ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    ("backend", "memory", "profile"),
    [
        ("cpu", 8, "base_16gb"),
        ("cpu", 15.5, "base_16gb"),
        ("cpu", 23.5, "base_16gb"),
        ("metal", 64, "max_64gb"),
        ("metal", 80, "max_64gb"),
        ("metal", 512, "ultra_192gb"),
        ("cuda", 23.7, "base_16gb"),
        ("cuda", 79.2, "cuda_80gb"),
        ("cuda", 139.8, "cuda_80gb"),
    ],
)
def test_auto_takes_the_largest_profile_that_fits(
    backend: str, memory: float, profile: str
) -> None:
    here = machine(backend, memory)
    assert detected_profile(here) == profile
    found, warnings = composed("model=smollm2_135m", on=here)
    assert (found.hardware.name, found.hardware.memory_gb) == ("auto", here.memory_gb)
    assert found.memory.budget_gb == here.budget_gb
    assert found.adapter.rank == TIERS[profile]["compact"][0]
    assert warnings == []


def test_a_profile_for_a_larger_machine_runs_within_this_ones_budget() -> None:
    found, warnings = composed("hardware=ultra_96gb", on=machine(memory=24))
    assert found.memory.budget_gb == 19.2
    (warning,) = warnings
    assert warning.startswith("hardware=ultra_96gb is for 96 GB, this machine has 24.0 GB")
    assert warning.endswith("its own budget of 19.2 GB")


def test_the_machines_budget_is_never_exceeded() -> None:
    found, warnings = composed(
        "hardware=base_16gb", "memory.budget_gb=100", on=machine(memory=20, budget=16)
    )
    assert found.memory.budget_gb == 16
    assert "memory.budget_gb=100 is more than" in warnings[0]


def test_a_smaller_budget_is_the_users_choice() -> None:
    assert config("memory.budget_gb=2").memory.limit_gb == 2


def test_setting_the_rank_makes_a_model_fit() -> None:
    found = config("hardware=base_16gb", "model=hermes_3_70b", "adapter.rank=4")
    assert (found.adapter.rank, found.adapter.alpha, found.adapter.num_layers) == (4, 8, 8)
    assert found.train.batch_size == 1


def test_alpha_follows_the_users_rank() -> None:
    assert config("model=smollm2_135m", "adapter.rank=8").adapter.scale == 2
    assert config("model=smollm2_135m", "adapter.rank=8", "adapter.alpha=4").adapter.scale == 0.5


def test_full_training_of_a_model_that_is_too_large() -> None:
    line = refusal("hardware=pro_32gb", "model=hermes_3_8b", "adapter=full", on=machine(memory=16))
    assert line.startswith("adapter=full: cannot train model=hermes_3_8b")
    assert "choose adapter=lora or qlora" in line


# --- Every file, every decision -----------------------------------------------------------------

NEEDS = {
    "jsonl": ["data.path={folder}"],
    "hub": ["data.hub_id=a/b"],
    "local": ["model.path={folder}"],
}


def options() -> list[str]:
    files = (p for p in CONF.glob("*/*.yaml") if p.parent.name != "hydra")
    return sorted(f"{p.parent.name}={p.stem}" for p in files)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    sizes = {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    return tmp_path


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
        ("cuda", (True, "bfloat16", 256, "mlx", 7.6)),
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
    found = config(
        "model=local", f"model.path={tmp_path}", "hardware=ultra_192gb", on=machine(memory=512)
    )
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


# --- Bad values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("train.steps=0", "at least 1"),
        ("train.steps=-5", "at least 1"),
        ("train.steps=1.5", "whole number"),
        ("train.steps=abc", "whole number"),
        ("train.steps=null", "whole number"),
        ("train.steps=true", "whole number"),
        ("train.steps=[1]", "whole number"),
        ("train.steps='7'", "whole number"),
        ("train.batch_size=0", "at least 1"),
        ("train.max_seq_length=4", "at least 8"),
        ("train.max_grad_norm=-1", "at least 0"),
        ("train.compile=maybe", "auto or true or false"),
        ("train.deterministic=yes", "true or false"),
        ("train.deterministic=1", "true or false"),
        ("train.dtype=int8", "float32, bfloat16, float16"),
        ("train.dtype=null", None),
        ("train.on_nonfinite=ignore", "stop, continue"),
        ("optimizer.learning_rate=0", "above 0"),
        ("optimizer.learning_rate=nan", "finite"),
        ("optimizer.learning_rate=inf", "finite"),
        ("optimizer.beta1=1", "at most 0.99999"),
        ("optimizer.schedule=step", "constant, linear, cosine"),
        ("optimizer.warmup_steps=1000", "at most train.steps (400)"),
        ("adapter.dropout=1", "at most 0.95"),
        ("adapter.targets=q_proj", "list"),
        ("data.val_fraction=0.9", "at most 0.5"),
        ("data.pad_multiple=0", "at least 1"),
        ("reload.policy=adaptive", "interval_or_threshold"),
        ("reload.interval_steps=-1", "at least 0"),
        ("reload.memory_threshold_gb=-1", "at least 0"),
        ("reload.leak_threshold_mb=nan", "finite"),
        ("reload.window_steps=7", "at least 8"),
        ("reload.metric=rss", "active, mlx, process"),
        ("reload.method=thread", "in_process, process"),
        ("memory.budget_gb=0", "above 0"),
        ("memory.budget_gb=much", "auto or a number"),
        ("memory.cache_limit_gb=-1", "at least 0"),
        ("checkpoint.keep=0", "at least 1"),
        ("worker.timeout_s=0", "above 0"),
        ("worker.threads=0", "at least 1"),
        ("tracker.mode=cloud", "offline, online, none"),
        ("seed=-1", "at least 0"),
        ("seed=4294967296", "at most"),
        ("model.scratch.num_heads=5", None),
        ("objective=beauty", "final_loss"),
        ("sweep.on_failure=cry", "continue, stop"),
        ("trainer=torch", "lab"),
        ("train=3", "mapping"),
        ("model.tier=huge", "compact, small, medium, large, xlarge"),
        ("model=foo", "smollm2_135m"),
        ("reload=foo", "interval_or_threshold"),
        ("experiment=foo", "quick_100"),
        ("hardware=foo", "base_16gb"),
        ("train.stepz=3", "did you mean train.steps?"),
        ("+train.stepz=3", "did you mean train.steps?"),
        ("train.steps.x=3", "single value"),
        ("modell=tiny", "did you mean model?"),
        ("+secret=1", "is not a key"),
        ("version=2", "is not a key"),
        ("~model", "cannot be left out"),
        ("~train.steps", "cannot be left out"),
        ("seed=${nothing.here}", "not found"),
        ("data=jsonl", "data.path"),
        ("data=hub", "data.hub_id"),
        ("model=local", "model.path=FOLDER"),
        ("data.path=/not/here", "no such file"),
        ("model.path=/not/here", "must be a folder"),
    ],
)
def test_a_bad_value_names_key_value_and_what_is_allowed(
    override: str, allowed: str | None
) -> None:
    if allowed is None and override == "train.dtype=null":
        assert config(override).train.dtype == "float32"  # nothing said: decided
        return
    line = refusal(override)
    key, _, value = override.lstrip("+").partition("=")
    if value not in ("", "jsonl", "hub", "local") and "num_heads" not in key:
        assert line.startswith(f"{key}={value.strip(chr(39))}") or key == "optimizer.beta1"
    assert allowed is None or allowed in line


def test_dropout_with_gradient_checkpointing_is_refused() -> None:
    line = refusal("model=smollm2_135m", "hardware=base_16gb", "adapter.dropout=0.1")
    assert line.startswith("train.grad_checkpoint=true: gives a wrong gradient")


def test_a_tiny_model_may_not_also_have_a_folder(model_folder: Path) -> None:
    assert "must have one of them" in refusal(f"model.path={model_folder}")


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


# --- Saved configs ------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30),
    rate=st.floats(1e-30, 1e30),
    seed=st.integers(0, 2**32 - 1),
    path=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20),
    tags=st.lists(st.sampled_from(["yes", "null", "1", "1e3", "~", "a: b", "é", "#x"])),
)
def test_a_saved_config_is_the_same_config(
    name: str,
    rate: float,
    seed: int,
    path: str | None,
    tags: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    base = BASE
    made = replace(
        base,
        name=name.replace("${", ""),
        seed=seed,
        optimizer=replace(base.optimizer, learning_rate=rate),
        data=replace(base.data, path=path and path.replace("${", "")),
        tracker=replace(base.tracker, tags=tuple(tags)),
    )
    saved = tmp_path_factory.getbasetemp() / "roundtrip.yaml"
    saved.write_text(dump(made), encoding="utf-8", newline="")
    assert Config.load(saved) == made
    assert from_dict(Config, to_dict(made)) == made


with initialize_config_dir(str(CONF), version_base="1.3"):
    BASE = config()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("name: !!python/object/apply:os.system [true]", "cannot be read"),
        ("name: ${oc.env:HOME}", "no interpolation"),
        ("_target_: os.system", "_target_"),
        ("model: {_target_: os.system}", "_target_"),
        ("version: 2", "this lab reads version 1"),
        ("name: [" * 5000, "cannot be read"),
        ("seed: 1" + "0" * 5000, "cannot be read"),
        ("train: {steps: 1" + "0" * 400 + "}", "is missing"),
        ("seed: 1" + "0" * 400, "at most"),
        ("seed: &a [x, *a]", "seed"),
        ("name: 2024-01-01", "must be text"),
        ("train: null", "must be a mapping"),
        ("\t", "cannot be read"),
    ],
)
def test_a_hostile_saved_config_is_refused(tmp_path: Path, line: str, says: str) -> None:
    key = line.partition(":")[0]
    kept = {k: v for k, v in to_dict(BASE).items() if k != key}
    saved = tmp_path / "config.yaml"
    saved.write_text(f"{yaml.safe_dump(kept)}{line}\n")
    with pytest.raises(ConfigError, match=says) as caught:
        Config.load(saved)
    assert len(str(caught.value)) < 1000


def test_a_yaml_bomb_does_not_go_off(tmp_path: Path) -> None:
    bomb = "\n".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 30))
    saved = tmp_path / "config.yaml"
    saved.write_text(f"b0: &b0 lol\n{bomb}\nname: *b29\n")
    with pytest.raises(ConfigError):
        Config.load(saved)


@pytest.mark.parametrize("content", ["", "[]", "7", "just text"])
def test_a_saved_config_that_is_none(tmp_path: Path, content: str) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(content)
    with pytest.raises(ConfigError, match="must be a mapping"):
        Config.load(saved)


def test_every_key_is_known_and_missing_ones_are_named(tmp_path: Path) -> None:
    values = to_dict(BASE)
    del values["train"]["steps"]
    with pytest.raises(ConfigError, match=r"train\.steps: is missing"):
        from_dict(Config, values)


# --- The command line, for real -----------------------------------------------------------------


def train(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train.steps=0"], "train.steps=0: must be at least 1 steps"),
        (["train.stepz=1"], "train.stepz=1: is not a key; did you mean train.steps?"),
        (
            ["seed=3", "-m", "train.steps=5,0"],
            "job 1 (seed=3 train.steps=0): train.steps=0: must be at least 1 steps",
        ),
    ],
)
def test_a_bad_command_line_leaves_nothing(tmp_path: Path, arguments: list[str], line: str) -> None:
    done = train(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line + "\n")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_numbers_its_jobs_in_one_folder(tmp_path: Path) -> None:
    done = train("-m", "seed=1,2", "train.steps=1", "tracker=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (sweep,) = tmp_path.glob("outputs/sweeps/*/*")
    assert sweep.name.endswith("_seed=1,2,train.steps=1")
    names = [Config.load(sweep / n / "config.yaml").name for n in ("0", "1")]
    assert names == ["seed=1,train.steps=1", "seed=2,train.steps=1"]


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    done = train("hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert "hydra.run.dir=run: already holds a run" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "shows"),
    [
        (["--help"], "stress_10000"),
        (["--hydra-help"], "Hydra"),
        (["--cfg", "job", "--resolve"], "steps: 400"),
        (["--info", "defaults"], "hardware/"),
        (["-sc", "query=bash"], "model=tiny"),
    ],
)
def test_hydras_own_commands_work(tmp_path: Path, arguments: list[str], shows: str) -> None:
    line = "python train.py model=ti"
    done = train(*arguments, cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_each_module_imports() -> None:
    code = (
        "import sys; import {module}; "
        "print(*sorted({{n.partition('.')[0] for n in sys.modules}} & {{{names}}}))"
    )
    for module, names in {
        "lab.config": "'omegaconf', 'hydra', 'mlx', 'wandb'",
        "lab.machine": "'omegaconf', 'hydra', 'mlx', 'wandb', 'yaml', 'psutil'",
        "lab.launch": "'mlx', 'wandb', 'rich', 'matplotlib', 'numpy', 'psutil'",
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", code.format(module=module, names=names)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "", module


def test_profiles_are_read_from_their_files() -> None:
    assert profiles().keys() == PROFILES.keys()
    assert {n: p["memory_gb"] for n, p in profiles().items()} == profile_sizes()
