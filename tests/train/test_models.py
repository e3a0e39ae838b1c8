"""Real pretrained models: trained with each adapter, read back by mlx-lm, refused when damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.config.schema import ConfigError
from tests.runs import Run, config_of, start
from tests.train.test_exact import METHODS, STRAIGHT, assert_same

pytestmark = pytest.mark.pretrained

SMALL = (
    "train.grad_accumulation_steps=1", "train.max_seq_length=64", "train.grad_checkpoint=false",
    "adapter.num_layers=2", "adapter.rank=4",
)  # fmt: skip


def local(folder: Path, *overrides: str) -> tuple[str, ...]:
    return ("model=local", f"model.path={folder}", *SMALL, *overrides)


@pytest.fixture(scope="module")
def lora(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("lora") / "run"
    return start(folder, *local(pretrained, *STRAIGHT, "adapter.dropout=0.1", "train.steps=2"))


def test_a_checkpoint_leaves_out_the_frozen_base(lora: Run, pretrained: Path) -> None:
    written = sum(file.stat().st_size for file in lora.checkpoint(2).iterdir())
    assert written < 0.01 * (pretrained / "model.safetensors").stat().st_size


def test_mlx_lm_generates_with_the_adapter(lora: Run, pretrained: Path, repo: Path) -> None:
    """Its own command, unchanged; the adapter changes what it says of the most likely token."""
    script = (
        "from lab.machine.blas import preload_blas; preload_blas()\n"
        "import sys; from mlx_lm.generate import main; main()"
    )
    command = [
        sys.executable, "-c", script, "--model", str(pretrained), "--prompt", "def add(a, b):",
        "--adapter-path", str(lora.checkpoint(2)), "--max-tokens", "4",
    ]  # fmt: skip
    told = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "Generation: 4 tokens" in told.stdout


@pytest.fixture(scope="module")
def straight(shallow: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("straight") / "run"
    return start(folder, *local(shallow, *STRAIGHT, "adapter.dropout=0.1"))


@pytest.mark.parametrize("method", [pytest.param("in_process", marks=pytest.mark.slow), "process"])
def test_reloads_change_nothing(straight: Run, shallow: Path, tmp_path: Path, method: str) -> None:
    run = start(tmp_path / "run", *local(shallow, *METHODS[method], "adapter.dropout=0.1"))
    assert [e["step"] for e in run.events("reload")] == [2, 4]
    assert_same(run, straight, last=6)


# The other adapters are read in the same way: tests/train/test_architectures.py does so in default.
@pytest.mark.parametrize(
    "adapter", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "dora")), "qlora"]
)
def test_each_adapter_trains_and_is_read_by_mlx_lm(
    adapter: str, shallow: Path, tmp_path: Path, repo: Path
) -> None:
    one_step = ("train.steps=1", "train.batch_size=1", "train.max_seq_length=32", "optimizer=sgd")
    run = start(tmp_path / "run", *local(shallow), f"adapter={adapter}", *one_step, *STRAIGHT)
    assert run.result.exit_code == 0
    folders = f"{str(shallow)!r}, adapter_path={str(run.checkpoint(1))!r}"
    script = f"from mlx_lm.utils import load; load({folders})"
    read = subprocess.run(
        [sys.executable, "-c", script], cwd=repo, capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr


def test_the_tier_comes_from_the_folder(pretrained: Path) -> None:
    assert config_of(*local(pretrained)).model.tier == "compact"


def damage(folder: Path, what: str) -> None:
    config = folder / "config.json"
    match what:
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "half the weights":
            os.truncate(folder / "model.safetensors", 1 << 20)
        case "an unknown architecture":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "nope"}))
        case "a type that is no name":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "../x"}))
        case "other sizes":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 64}))
        case "code to run":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"model_file": "a.py"}))
        case "half a tokenizer":
            os.truncate(folder / "tokenizer.json", 1000)


@pytest.mark.parametrize(
    "what",
    [
        "no weights", "half the weights", "an unknown architecture", "a type that is no name",
        "other sizes", "code to run", "half a tokenizer",
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused_in_one_line(
    what: str, shallow: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shallow, folder)
    damage(folder, what)
    run = start(tmp_path / "runs" / "run", *local(folder))
    assert run.result.exit_code == 2
    [line] = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(f"model.path={folder}")
    assert "\n" not in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_a_folder_that_is_no_model_is_refused(content: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"model\.path=.*/model: "):
        config_of(*local(folder))
