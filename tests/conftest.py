"""Fixtures that all tests share, and what becomes of tests that this machine cannot run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hypothesis import settings

from lab.compose.profiles import CONF
from lab.machine.blas import preload_blas

# Models here are too small for a second thread, which would wait on another test's core. A worker
# has as many as its config says.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
preload_blas()  # before any test module imports MLX
os.environ.pop("WANDB_SERVICE", None)  # a developer's own

# How long an example takes says how busy the machine is.
settings.register_profile("lab", parent=settings.default, deadline=None)
settings.load_profile("lab")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not has_accelerator():
            item.add_marker(pytest.mark.skip(reason="no Metal or CUDA device here"))


@cache
def has_accelerator() -> bool:
    import mlx.core as mx

    return mx.is_available(mx.gpu)


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own W&B and Hydra settings decide nothing in a test.

    But for the address of W&B's process: W&B sets and removes it as it comes and goes. Put back
    after a test that ended the process, it would lead the next run of this one to nobody.
    """
    for name in list(os.environ):
        is_setting = name.startswith("WANDB_") and name != "WANDB_SERVICE"
        if is_setting or name == "HYDRA_FULL_ERROR":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def repo() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def pretrained() -> Path:
    """A real pretrained model, SmolLM2-135M in f32; made if it is not there yet."""
    folder = ROOT / "models" / "smollm2-135m"
    command = [sys.executable, "-m", "tools.pretrained", str(folder)]
    made = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"no pretrained model: {made.stderr.strip()}")
    return folder


@pytest.fixture(scope="session")
def shallow(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pretrained model's first two blocks of 30: as real, and a quarter to read and train."""
    import mlx.core as mx

    folder = tmp_path_factory.mktemp("shallow") / "model"
    shutil.copytree(pretrained, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = mx.load(str(pretrained / "model.safetensors"))
    assert isinstance(weights, dict)
    deeper = re.compile(r"model\.layers\.(?![01]\.)")
    kept = {name: array for name, array in weights.items() if not deeper.match(name)}
    mx.save_safetensors(str(folder / "model.safetensors"), kept, metadata={"format": "mlx"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    return folder


@pytest.fixture(scope="module")
def hydra_here() -> Iterator[None]:
    """Hydra is set up to compose this project's configs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model folder of which only the sizes are there."""
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
