"""What a bad value gets, and what a saved config may hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.compose.profiles import CONF
from lab.config.keys import Config, dump
from lab.config.schema import ConfigError, from_dict, to_dict
from tests.composing import config, refusal

pytestmark = pytest.mark.usefixtures("hydra_here")


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
        ("train.val_batches=0", "all or at least 1 batches"),
        ("train.val_batches=some", "all or a whole number, at least 1 batches"),
        ("train.val_batches=null", "all or a whole number"),
        ("adapter.num_layers=-1", "all or at least 1 layers"),
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
        ("reload.policy=sometimes", "interval_or_threshold, leak, adaptive"),
        ("reload.max_overhead=2", "at most 1"),
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
        ("version=1", "is not a key"),
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
    line = refusal("model=qwen3_1_7b", "hardware=base_16gb", "adapter.dropout=0.1")
    assert line.startswith("train.grad_checkpoint=true: gives a wrong gradient")


def test_a_tiny_model_may_not_also_have_a_folder(model_folder: Path) -> None:
    assert "must have one of them" in refusal(f"model.path={model_folder}")


# --- Saved configs ------------------------------------------------------------------------------


@settings(max_examples=30)
@example(name="é", rate=1e-3, seed=0, path="\x85", tags=[])
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


@pytest.mark.parametrize("version", [1, 2])
def test_a_saved_config_keeps_its_version(tmp_path: Path, version: int) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump(to_dict(BASE) | {"version": version}))
    loaded = Config.load(saved)
    assert loaded.version == version
    assert yaml.safe_load(dump(loaded))["version"] == version


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("name: !!python/object/apply:os.system [true]", "cannot be read"),
        ("name: ${oc.env:HOME}", "no interpolation"),
        ("_target_: os.system", "_target_"),
        ("model: {_target_: os.system}", "_target_"),
        ("version: 3", "this lab reads version 1 and 2"),
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


def test_a_config_saved_before_a_key_was_there_still_loads() -> None:
    values = to_dict(BASE)
    del values["memory"]["wired_fraction"]
    assert from_dict(Config, values).memory.wired_fraction == 0.6


def test_all_batches_and_all_layers_are_words_of_their_own() -> None:
    made = config("adapter=lora", "adapter.num_layers=all", "train.val_batches=all")
    assert (made.adapter.num_layers, made.train.val_batches) == ("all", "all")
    assert from_dict(Config, yaml.safe_load(dump(made))) == made


@pytest.mark.parametrize(
    ("key", "typed"),
    [
        ("train.steps", "1e2"),
        ("seed", "3.0"),
        ("train.batch_size", "2E0"),
        ("train.val_batches", "1e1"),
    ],
)
def test_a_whole_number_may_be_typed_as_a_float_and_is_saved_as_an_int(
    key: str, typed: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(dump(config(f"{key}={typed}")))
    value = to_dict(Config.load(tmp_path / "config.yaml"))
    for name in key.split("."):
        value = value[name]
    assert (type(value), value) == (int, int(float(typed)))
    with pytest.raises(ConfigError, match="whole number"):
        from_dict(Config, {**to_dict(config()), "seed": 3.0})  # no file that is ours holds one


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.steps=1.5", "train.steps=1.5: must be a whole number, at least 1 steps"),
        ("train.steps=1e16", "train.steps=1e+16: must be a whole number, at least 1 steps"),
        ("train.steps=inf", "train.steps=inf: must be a whole number, at least 1 steps"),
        ("seed='7'", "4294967295; write seed=7, without quotes"),
        ("memory.budget_gb='2.5'", "above 0 GB; write memory.budget_gb=2.5, without quotes"),
    ],
)
def test_a_number_that_cannot_be_taken_says_what_to_type(override: str, said: str) -> None:
    assert refusal(override).endswith(said)


@pytest.mark.parametrize("value", [True, 3, 1.5, None, "text", Path("folder")])
def test_an_error_is_told_alike_by_another_process(value: object) -> None:
    """The worker finds it, the supervisor tells it; between them is JSON."""
    error = ConfigError("a.key", value, "must be another")
    sent = json.loads(json.dumps(error.plain_value))
    assert str(ConfigError(error.key, sent, error.allowed)) == str(error)


def test_a_bound_is_told_with_all_its_digits() -> None:
    with pytest.raises(ConfigError, match=r"at most 4294967295"):
        from_dict(Config, to_dict(BASE) | {"seed": -1})
