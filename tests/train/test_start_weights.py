"""``adapter.start_from``: weights of a run or of mlx-lm, taken only where they fit exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from lab.config.keys import Adapter
from lab.config.schema import ConfigError
from lab.train import adapters, checkpoint
from lab.train.model import build_model
from lab.train.start_weights import WEIGHTS, load_start_weights
from lab.train.stateful import trained_weights
from tests.architectures import make_folder
from tests.runs import Run, config_of, start

SIZE = ("adapter=lora", "adapter.rank=4", "adapter.alpha=8", "adapter.num_layers=2")
STEPS = ("train.steps=4", "train.val_interval_steps=0", "checkpoint.interval_steps=2", *SIZE)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("runs") / "earlier", *STEPS)


def test_a_run_starts_from_the_newest_weights_of_another(earlier: Run, tmp_path: Path) -> None:
    run = start(
        tmp_path / "run", *STEPS, f"adapter.start_from={earlier.folder}",
        "optimizer.learning_rate=1e-30", "optimizer.weight_decay=0", "optimizer.warmup_steps=0",
    )  # fmt: skip
    assert run.result.exit_code == 0
    assert run.summary["weights_sha256"] == earlier.summary["weights_sha256"]
    assert run.rows[0]["loss"] != earlier.rows[0]["loss"]


def test_a_reload_goes_on_from_its_checkpoint_not_from_there(earlier: Run, tmp_path: Path) -> None:
    given = (*STEPS, f"adapter.start_from={earlier.folder}")
    straight = start(tmp_path / "straight", *given)
    reloaded = start(tmp_path / "reloaded", *given, "reload=interval", "reload.interval_steps=2")
    assert reloaded.column("loss") == straight.column("loss")
    assert reloaded.summary["weights_sha256"] == straight.summary["weights_sha256"]


def adapter_of(folder: Path, *overrides: str) -> Adapter:
    return config_of(*SIZE, *overrides, f"adapter.start_from={folder}").adapter


def model_of(adapter: Adapter, folder: Path) -> mx.array:
    mx.random.seed(1)
    config = config_of("model=local", f"model.path={folder}")
    return build_model(config.model, adapter, folder=folder, vocab_size=0, dtype=mx.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture
def saved(base: Path, tmp_path: Path) -> Path:
    """An adapter as mlx-lm leaves it: weights and config, no more."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    adapter = config_of(*SIZE).adapter
    model = model_of(adapter, base)
    weights = {k: mx.random.normal(a.shape) for k, a in trained_weights(model).items()}
    mx.save_safetensors(str(folder / WEIGHTS), weights)
    (folder / "adapter_config.json").write_text(json.dumps(adapters.adapter_config(model, adapter)))
    return folder


def test_mlx_lms_own_adapter_is_taken_to_the_bit(base: Path, saved: Path) -> None:
    adapter = adapter_of(saved)
    model = model_of(adapter, base)
    load_start_weights(model, adapter)
    found, expected = trained_weights(model), checkpoint.load_arrays(saved / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(mx.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("adapter.rank=8", "lora_a: expected"),
        ("adapter.num_layers=1", "lora_a: found, not expected"),
        ("adapter.targets=[q_proj]", "found, not expected"),
        ("adapter=dora", "m: expected, not found"),
    ],
)
def test_weights_of_another_shape_are_refused(
    base: Path, saved: Path, override: str, said: str
) -> None:
    adapter = adapter_of(saved, override)
    with pytest.raises(ConfigError) as error:
        load_start_weights(model_of(adapter, base), adapter)
    assert error.value.key == "adapter.start_from"
    assert said in error.value.allowed


def test_another_scale_is_refused_with_the_alpha_that_gives_it(base: Path, saved: Path) -> None:
    adapter = adapter_of(saved, "adapter.alpha=40")
    with pytest.raises(ConfigError) as error:
        load_start_weights(model_of(adapter, base), adapter)
    assert (error.value.key, error.value.allowed[-15:]) == ("adapter.alpha", "adapter.alpha=8")


def test_a_folder_without_weights_is_refused(base: Path, saved: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    with pytest.raises(ConfigError, match="must be a run, a checkpoint of one"):
        load_start_weights(model_of(adapter, base), adapter)
    (saved / "adapter_config.json").unlink()
    adapter = adapter_of(saved)
    with pytest.raises(ConfigError, match="tells its scale"):
        load_start_weights(model_of(adapter, base), adapter)


def test_resuming_with_a_mended_line_prints_the_command_that_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps({"text": f"{n} is {n}"}) + "\n" for n in range(30)))
    given = (*STEPS, "data=jsonl", f"data.path={data}")
    run = start(tmp_path / "run", *given)
    (run.folder / "summary.json").unlink()
    newest = run.folder / "checkpoints" / "step_4"
    shutil.rmtree(newest)
    rows = run.folder / "metrics.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:2]))
    data.write_text(data.read_text().replace("7 is 7", "7 is seven"))
    hydra = run.folder / ".hydra"
    hydra.mkdir()
    (hydra / "overrides.yaml").write_text("".join(f"- {o}\n" for o in given))
    from lab.supervise import experiment

    with pytest.raises(ConfigError) as error:
        experiment.resume(run.folder)
    command = error.value.allowed.partition("to go on from its weights: ")[2]
    assert command.startswith("python train.py train.steps=4 ")
    assert command.endswith(f"adapter.start_from={run.folder}")
