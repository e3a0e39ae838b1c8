"""The model that a run has trained, with the weights of its newest good checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.train import checkpoint
from lab.train.checkpoint import MODEL, CheckpointError
from lab.train.model import build_model
from lab.train.stateful import check_states, trained_weights


def load_trained(
    config: Config,
    run_dir: Path,
    *,
    folder: Path | None,
    vocab_size: int,
    warn: Callable[[str], None],
) -> tuple[nn.Module, int]:
    """The model, built as for training and not in training mode, and the step of its weights.

    Arguments:
        folder: the base model's; None for a model from scratch.
        vocab_size: tokens of a model from scratch.
        warn: gets a line on each checkpoint that cannot be used.

    Raises:
        ConfigError: the model cannot be built, or there is no checkpoint of it.
    """
    checkpoints = run_dir / "checkpoints"
    mx.random.seed(config.seed)  # the frozen weights of a model from scratch come from it
    model = build_model(
        config.model,
        config.adapter,
        folder=folder,
        vocab_size=vocab_size,
        dtype=getattr(mx, config.train.dtype),
    )
    for step in reversed(checkpoint.steps(checkpoints)):
        try:
            weights = checkpoint.load(checkpoints / f"step_{step}").states.get(MODEL)
            check_states({MODEL: weights}, {MODEL: trained_weights(model)})
        except CheckpointError as error:
            warn(f"checkpoint skipped: {error}")
            continue
        assert weights is not None
        model.load_weights(list(weights.items()), strict=False)
        model.eval()
        mx.eval(model.parameters())
        return model, step
    raise ConfigError("run", run_dir, "has no checkpoint that can be used")
