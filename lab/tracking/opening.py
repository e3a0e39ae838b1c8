"""The commands that show a run or a sweep in the trackers beside W&B."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lab.config.keys import Config
from lab.tracking.closing import command, relative
from lab.tracking.folders import mlflow_store, outputs_of
from lab.tracking.labels import without_secrets


def ways_to_open(config: Config, folder: Path, *, is_sweep: bool = False) -> list[str]:
    """One line for each tracker beside W&B.

    Arguments:
        folder: of a run, which is shown among all others, or of a sweep, which is shown alone.
    """
    outputs = outputs_of(folder)
    shown = outputs if outputs.resolve() in folder.resolve().parents and not is_sweep else folder
    lines = {
        "tensorboard": command("tensorboard", "--logdir", relative(shown)),
        "mlflow": _mlflow(mlflow_store(config, outputs)),
    }
    return [lines[name] for name in config.tracker.beside_wandb]


def not_installed(name: str) -> str:
    """What a user reads of a tracker without its package."""
    return f"is not installed: pip install 'mlx-memory-lab[{name}]'"


def _mlflow(store: Path | str) -> str:
    if isinstance(store, str):
        return without_secrets(store)
    line = command("mlflow", "ui", "--backend-store-uri", relative(store))
    missing = "" if find_spec("flask") else "   # its pages need: pip install mlflow"
    return f"MLFLOW_ALLOW_FILE_STORE=true {line}{missing}"
