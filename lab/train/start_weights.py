"""Start from the trained weights of another run, or of mlx-lm: ``adapter.start_from``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.nn as nn

from lab.config.keys import Adapter
from lab.config.schema import ConfigError
from lab.train.checkpoint import (
    ADAPTER_CONFIG,
    MODEL,
    WEIGHTS,
    CheckpointError,
    load_arrays,
    steps,
)
from lab.train.stateful import check_states, trained_weights

ALLOWED = f"must be a run, a checkpoint of one, or a folder with mlx-lm's {WEIGHTS}"


def load_start_weights(model: nn.Module, adapter: Adapter) -> None:
    """Give the trained parameters the values that ``adapter.start_from`` names, if it names any.

    Optimizer, schedule and data begin anew. Names and shapes must be exactly those of ``model``;
    values are cast to its types.

    Raises:
        ConfigError: there are no such weights, they are of other shapes, or they were trained with
            another scale, which no shape shows.
    """
    if adapter.start_from is None:
        return
    folder = _weights_folder(Path(adapter.start_from))
    expected = trained_weights(model)
    try:
        found = load_arrays(folder / WEIGHTS)
        cast = {k: a.astype(expected[k].dtype) if k in expected else a for k, a in found.items()}
        check_states({MODEL: cast}, {MODEL: expected})
    except CheckpointError as error:
        raise ConfigError("adapter.start_from", folder, str(error)) from error
    _check_scale(folder, adapter)
    model.load_weights(list(cast.items()), strict=False)


def _weights_folder(given: Path) -> Path:
    """The folder with the weights: itself, or the newest checkpoint of a run."""
    if (given / WEIGHTS).is_file():
        return given
    checkpoints = given / "checkpoints"
    for step in reversed(steps(checkpoints)):
        if (checkpoints / f"step_{step}" / WEIGHTS).is_file():
            return checkpoints / f"step_{step}"
    raise ConfigError("adapter.start_from", given, ALLOWED)


def _check_scale(folder: Path, adapter: Adapter) -> None:
    if adapter.kind == "full":
        return
    try:
        config: Any = json.loads((folder / ADAPTER_CONFIG).read_text())
        scale = float(config["lora_parameters"]["scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"has no {ADAPTER_CONFIG} that tells its scale"
        raise ConfigError("adapter.start_from", folder, reason) from error
    if scale != adapter.scale:
        assert adapter.rank is not None
        raise ConfigError(
            "adapter.alpha",
            adapter.alpha,
            f"gives scale {adapter.scale:g}; adapter.start_from was trained with {scale:g}: "
            f"adapter.alpha={scale * adapter.rank:g}",
        )
