"""Everything that a step reads or writes: built, restored and snapshotted as one thing.

A reload drops a session and opens another from its snapshot. What all sessions of a worker share
and never change (the data index, the tokenizer, the path of the base weights) is not in it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from lab.config.keys import Config
from lab.config.schema import from_dict
from lab.data.batches import Batch
from lab.data.dataset import OpenData
from lab.records.slope import SlopeWindow
from lab.train import checkpoint, deterministic, memory, optimizers, step
from lab.train.checkpoint import CheckpointError, Snapshot, check_same
from lab.train.model import build_model
from lab.train.reload_policy import PolicyState


@dataclass(frozen=True)
class Shared:
    """What every session of a worker uses and none changes.

    Attributes:
        validation: the micro-batches of every validation loss.
        folder: the base model's folder; None for a model from scratch.
        vocab_size: tokens that the tokenizer knows.
    """

    config: Config
    data: OpenData
    validation: tuple[Batch, ...]
    folder: Path | None
    vocab_size: int


@dataclass(frozen=True)
class Opening:
    """When a session was opened, in seconds since the epoch.

    Attributes:
        written_at: its checkpoint was on disk; 0 without one.
        began, ready: building it began and was done.
    """

    written_at: float
    began: float
    ready: float


@dataclass(frozen=True)
class PendingReload:
    """A reload that was decided and whose effect is not known yet.

    Attributes:
        step: the step after which it was decided.
        before: memory figures at the decision, by their logged keys, in GB.
        decided_at: seconds since the epoch.
        median_step_seconds: of recent steps, to tell what the first step after costs more.
    """

    step: int
    reason: str
    method: str
    before: dict[str, float]
    decided_at: float
    median_step_seconds: float


@dataclass
class Progress:
    """The counters that a session carries from step to step.

    Attributes:
        step: optimizer updates done.
        reloads: reloads decided so far.
        truncated: samples seen that were cut to the sequence length.
        empty: samples seen that had no completion token left.
        policy: what the reload policy remembers.
        pending: a reload that waits for its first step.
    """

    step: int = 0
    reloads: int = 0
    truncated: int = 0
    empty: int = 0
    policy: PolicyState = field(default_factory=PolicyState)
    pending: PendingReload | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """From a checkpoint's JSON.

        Raises:
            ConfigError: a key that is missing, unknown or of another type.
        """
        pending = raw["pending"]
        return cls(
            **{name: int(raw[name]) for name in ("step", "reloads", "truncated", "empty")},
            policy=from_dict(PolicyState, raw["policy"]),
            pending=None if pending is None else from_dict(PendingReload, pending),
        )


class Session:
    """A model in training: its weights, optimizer, random numbers and position."""

    def __init__(self, shared: Shared, folder: Path | None = None) -> None:
        """Build from the config, then go on from the checkpoint in ``folder`` where there is one.

        Raises:
            ConfigError: the model cannot be built.
            CheckpointError: the checkpoint is damaged or does not belong to this model.
        """
        config, began = shared.config, time.time()
        snapshot = checkpoint.load(folder) if folder else None
        self.model, self.optimizer = build(shared)
        self.optimizer.init(self.model.trainable_parameters())
        self.progress = Progress()
        if snapshot is not None:
            try:
                self._restore(snapshot)
            except CheckpointError as error:
                raise CheckpointError(f"step_{snapshot.step}: {error}") from error
        self.slope = SlopeWindow(config.reload.window_steps)
        self.step_seconds: deque[float] = deque(maxlen=32)
        if config.train.deterministic and mx.default_device().type == mx.gpu:
            deterministic.make_embeddings_repeatable(self.model)
        if config.train.grad_checkpoint:
            step.checkpoint_layers(self.model)
        self.train_step, self.evaluate = step.build_train_step(
            self.model,
            self.optimizer,
            max_grad_norm=config.train.max_grad_norm,
            compiled=config.train.compile,
        )
        memory.read()  # so that the first step's peak is its own
        self.opening = Opening(snapshot.written_at if snapshot else 0.0, began, time.time())

    def weights(self) -> dict[str, mx.array]:
        """The trained parameters by name."""
        return trained_weights(self.model)

    def snapshot(self) -> Snapshot:
        """All that a step changes, as of now."""
        return snapshot_of(self.model, self.optimizer, self.progress)

    def _restore(self, snapshot: Snapshot) -> None:
        check_same("weights", snapshot.weights, self.weights())
        check_same("optimizer", snapshot.optimizer, _flat(self.optimizer.state))
        try:
            progress = Progress.from_json(snapshot.state["progress"])
            high, low = (_word(word) for word in snapshot.state["rng"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"state.json: {error!r}") from error
        self.model.load_weights(list(snapshot.weights.items()), strict=False)
        self.optimizer.state = tree_unflatten(list(snapshot.optimizer.items()))
        # An optimizer counts as initialised again only through init, which keeps what is there.
        self.optimizer.init(self.model.trainable_parameters())
        self.progress = replace(progress, step=snapshot.step)
        mx.random.seed((high << 32) | low)
        mx.eval(self.model.parameters(), self.optimizer.state)


def build(shared: Shared) -> tuple[nn.Module, optim.Optimizer]:
    """The model with its adapter and the optimizer of a run that begins, whoever trains it.

    Raises:
        ConfigError: the model cannot be built.
    """
    config = shared.config
    mx.random.seed(config.seed)
    model = build_model(
        config.model,
        config.adapter,
        folder=shared.folder,
        vocab_size=shared.vocab_size,
        dtype=getattr(mx, config.train.dtype),
    )
    return model, optimizers.build_optimizer(config.optimizer, steps=config.train.steps)


def trained_weights(model: nn.Module) -> dict[str, mx.array]:
    """The trained parameters by name."""
    return _flat(model.trainable_parameters())


def snapshot_of(model: nn.Module, optimizer: optim.Optimizer, progress: Progress) -> Snapshot:
    """All that a step changes, as of now."""
    return Snapshot(
        step=progress.step,
        weights=trained_weights(model),
        optimizer=_flat(optimizer.state),
        state={"rng": _rng_words(), "progress": progress.to_json()},
    )


def _word(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise ValueError(f"expected 32 bits of a random state, found {value!r}")
    return value


def _rng_words() -> list[int]:
    return mx.random.state[0].tolist()  # type: ignore[index]


def _flat(tree: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(tree))
