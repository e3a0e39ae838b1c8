"""A training session: model, optimizer, random state and progress, with the step built on them.

A reload drops a session and opens another from its checkpoint. What all sessions of a worker share
and none changes is its :class:`TrainingContext`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from lab.config.keys import Config
from lab.data.batches import Batch
from lab.data.dataset import OpenData
from lab.faults.fault import build_faults
from lab.records.slope import SlopeWindow
from lab.train import checkpoint, deterministic, memory, optimizers, stateful, step
from lab.train.checkpoint import Arrays, CheckpointError, Snapshot
from lab.train.model import build_model
from lab.train.progress import Progress
from lab.train.start_weights import load_start_weights


@dataclass(frozen=True)
class TrainingContext:
    """Config, data and base model: what every session of a worker uses and none changes.

    Attributes:
        validation: the micro-batches of every validation loss.
        folder: the base model's folder; None for a model from scratch.
        vocab_size: tokens that the tokenizer knows.
        clock: the run's: seconds since its start, restarts included, time away left out.
    """

    config: Config
    data: OpenData
    validation: tuple[Batch, ...]
    folder: Path | None
    vocab_size: int
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class SessionTimes:
    """When a session was opened, by the run's clock.

    Attributes:
        saved: its checkpoint was on disk; None where that is not known.
        build_started, ready: building it began and was done.
    """

    saved: float | None
    build_started: float
    ready: float


class Session:
    """A model in training.

    Attributes:
        parts: all that a step changes, by name; what a checkpoint holds.
        slope, growth, step_seconds: of this session's steps only; a reload starts them anew.
        faults: growth modes put into the run on purpose; what they hold is dropped with them.
        train_step, evaluate: built for this session, since a compiled step holds its arrays.
    """

    def __init__(self, context: TrainingContext, folder: Path | None = None) -> None:
        """Build from the config, then go on from the checkpoint in ``folder`` where there is one.

        Raises:
            ConfigError: the model cannot be built.
            CheckpointError: the checkpoint is damaged or does not belong to this model.
        """
        config, build_started = context.config, context.clock()
        snapshot = checkpoint.load(folder) if folder else None
        self.model, self.optimizer = build(context, from_start=snapshot is None)
        self.optimizer.init(self.model.trainable_parameters())
        self.progress = Progress()
        self.parts = stateful.training_state(self.model, self.optimizer, self.progress)
        if snapshot is not None:
            self._restore(snapshot)
        self.slope = SlopeWindow(config.reload.window_steps)
        self.growth = memory.growth_test(config.memory)
        self.step_seconds: deque[float] = deque(maxlen=32)
        self.faults = build_faults(config.fault)
        if config.train.deterministic and mx.default_device().type == mx.gpu:
            deterministic.make_embedding_gradients_deterministic(self.model)
        if config.train.grad_checkpoint:
            step.checkpoint_layers(self.model)
        self.train_step, self.evaluate = step.build_train_step(
            self.model,
            self.optimizer,
            max_grad_norm=config.train.max_grad_norm,
            compiled=config.train.compile,
        )
        memory.read()  # so that the first step's peak is its own
        saved = snapshot.saved_at if snapshot else None
        self.times = SessionTimes(saved, build_started, ready=context.clock())

    def weights(self) -> Arrays:
        """The trained parameters by name."""
        return stateful.trained_weights(self.model)

    def snapshot(self) -> Snapshot:
        """All that a step changes, as of now."""
        return Snapshot(self.progress.step, stateful.state_dicts(self.parts))

    def _restore(self, snapshot: Snapshot) -> None:
        try:
            stateful.load_state_dicts(self.parts, snapshot.states)
        except CheckpointError as error:
            raise CheckpointError(f"step_{snapshot.step}: {error}") from error
        if self.progress.step != snapshot.step:
            found = f"state.json: progress.step: expected {snapshot.step}"
            raise CheckpointError(f"step_{snapshot.step}: {found}, found {self.progress.step}")
        mx.eval(self.model.parameters(), self.optimizer.state)


def build(
    context: TrainingContext, *, from_start: bool = True
) -> tuple[nn.Module, optim.Optimizer]:
    """The model with its adapter, and its optimizer, as both trainers start from them.

    Arguments:
        from_start: no checkpoint is restored, so ``adapter.start_from`` counts.

    Raises:
        ConfigError: the model cannot be built.
    """
    config = context.config
    mx.random.seed(config.seed)
    model = build_model(
        config.model,
        config.adapter,
        folder=context.folder,
        vocab_size=context.vocab_size,
        dtype=getattr(mx, config.train.dtype),
    )
    deterministic.check_experts(model, config.train, on_gpu=mx.default_device().type == mx.gpu)
    if from_start:
        load_start_weights(model, config.adapter)
    optimizer = optimizers.build_optimizer(
        config.optimizer, steps=config.train.steps, dtype=stateful.trained_dtype(model)
    )
    return model, optimizer
