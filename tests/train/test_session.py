"""A session saved and restored: the curve is the straight run's only if every part is restored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

from lab.data.dataset import open_data
from lab.train import checkpoint, stateful
from lab.train.checkpoint import CheckpointError, Snapshot
from lab.train.progress import PendingReload, Progress
from lab.train.reload_policy import PolicyState
from lab.train.session import Session, TrainingContext
from tests.runs import config_of

PARTS = tuple(stateful.training_state(nn.Linear(1, 1), optim.SGD(0.1), Progress()))
SPLIT, LAST = 3, 7


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> TrainingContext:
    """A tiny model with dropout, whose batches differ from step to step."""
    folder = tmp_path_factory.mktemp("data")
    texts = (f"{n} and {n + 1} are {2 * n + 1}; " * 3 for n in range(40))
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "data.jsonl").write_text("".join(lines))
    config = config_of(
        "data=jsonl", f"data.path={folder / 'data.jsonl'}", "data.val_fraction=0",
        "train.val_interval_steps=0", "adapter=lora", "adapter.dropout=0.3", "optimizer=adamw",
        "optimizer.warmup_steps=5", f"train.steps={LAST}", "train.batch_size=2",
        "train.compile=false",
    )  # fmt: skip
    data = open_data(
        config.data, config.train, config.seed, tokenizer_folder=None, cache_dir=folder
    )
    return TrainingContext(config, data, (), None, data.train_samples.tokenizer.vocab_size)


def train(session: Session, context: TrainingContext, steps: int) -> list[tuple[float, float]]:
    """Train some steps; the loss and gradient norm of each."""
    losses = []
    for _ in range(steps):
        session.progress.step += 1
        losses.append(session.train_step(context.data.train.step(session.progress.step)).evaluate())
    return losses


@dataclass(frozen=True)
class Straight:
    """A run without a reload, and its checkpoint half-way.

    Attributes:
        losses: loss and gradient norm of each step after it.
        end: the state after the last step.
    """

    folder: Path
    losses: list[tuple[float, float]]
    end: Snapshot


@pytest.fixture(scope="module")
def straight(context: TrainingContext, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    session = Session(context)
    train(session, context, SPLIT)
    folder = checkpoint.save(tmp_path_factory.mktemp("checkpoints"), session.snapshot(), {})
    losses = train(session, context, LAST - SPLIT)
    return Straight(folder, losses, session.snapshot())


def bits(state: Any) -> Any:
    """A state that ``==`` compares bit for bit."""
    if not isinstance(state, dict):
        return state
    digest = checkpoint.weights_sha256
    return {k: digest({k: v}) if isinstance(v, mx.array) else v for k, v in state.items()}


def test_with_every_part_restored_nothing_differs(
    context: TrainingContext, straight: Straight
) -> None:
    session = Session(context, straight.folder)
    assert train(session, context, LAST - SPLIT) == straight.losses
    end = session.snapshot()
    assert end.step == straight.end.step == LAST
    assert end.states.keys() == set(PARTS)
    for name in PARTS:
        assert bits(end.states[name]) == bits(straight.end.states[name]), name


@pytest.mark.parametrize("part", PARTS)
def test_without_one_part_the_curve_differs(
    context: TrainingContext, straight: Straight, part: str
) -> None:
    session = Session(context)
    states = dict(checkpoint.load(straight.folder).states)
    states[part] = session.parts[part].state_dict()
    stateful.load_state_dicts(session.parts, states)
    assert train(session, context, LAST - SPLIT) != straight.losses


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_does_not_fit_is_refused_before_any_is_changed(
    context: TrainingContext, straight: Straight, part: str
) -> None:
    session = Session(context)
    before = {name: bits(state) for name, state in session.snapshot().states.items()}
    states = dict(checkpoint.load(straight.folder).states)
    states[part] = {"unknown": 1}
    with pytest.raises(CheckpointError, match=part):
        stateful.load_state_dicts(session.parts, states)
    del states[part]
    with pytest.raises(CheckpointError, match=f"{part}: expected, not found"):
        stateful.load_state_dicts(session.parts, states)
    assert {name: bits(state) for name, state in session.snapshot().states.items()} == before


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("rng", 0, -1),
        ("rng", 1, 2**32),
        ("progress", "pending", {"step": 1}),
        ("progress", "pending", "os.system"),
    ],
)
def test_a_value_that_a_part_refuses_replaces_no_array(
    context: TrainingContext, straight: Straight, part: str, key: Any, value: object
) -> None:
    session = Session(context)
    before = [bits(session.snapshot().states[name]) for name in ("model", "optimizer")]
    states = dict(checkpoint.load(straight.folder).states)
    states[part][key] = value
    with pytest.raises(CheckpointError, match=rf"state\.json: {part}"):
        stateful.load_state_dicts(session.parts, states)
    assert [bits(session.snapshot().states[name]) for name in ("model", "optimizer")] == before


def test_a_checkpoint_whose_progress_is_another_steps_is_refused(
    context: TrainingContext, straight: Straight, tmp_path: Path
) -> None:
    states = checkpoint.load(straight.folder).states
    folder = checkpoint.save(tmp_path, Snapshot(SPLIT + 1, states), {})
    message = rf"step_{SPLIT + 1}: .*progress\.step: expected {SPLIT + 1}, found {SPLIT}"
    with pytest.raises(CheckpointError, match=message):
        Session(context, folder)


def test_progress_comes_back_as_it_was_through_json() -> None:
    pending = PendingReload(5, "leak", "process", {"memory/active_gb": 1.5}, 1e9, 0.25)
    progress = Progress(5, 2, 30, 4, PolicyState(next_look=9, wait=8), pending)
    restored = Progress()
    restored.load_state_dict(json.loads(json.dumps(progress.state_dict())))
    assert restored == progress
