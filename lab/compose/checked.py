"""What ``--check`` says of a run: the figures that its config comes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab.config.keys import Adapter, Config, Model, Reload, Tracker, Train


def checked_run(config: Config, warnings: Sequence[str], folder: Path) -> list[str]:
    """Lines on a run that may begin.

    Arguments:
        folder: that it would be in.
    """
    rows = {
        "model": _model(config.model, config.train),
        "data": " ".join(filter(None, (config.data.name, config.data.path or config.data.hub_id))),
        "adapter": _adapter(config.adapter),
        "train": _train(config),
        "reload": _reload(config.reload),
        "budget": f"{config.memory.budget_gb:g} GB",
        "tracker": _tracker(config.tracker),
        "folder": str(folder),
    }
    said = [f"  {name:<8} {text}" for name, text in rows.items()]
    return [*warnings, "checked; nothing was run", *said]


def _tracker(tracker: Tracker) -> str:
    wandb = () if tracker.mode == "none" and tracker.beside_wandb else (tracker.mode,)
    return ", ".join((*wandb, *tracker.beside_wandb))


def _model(model: Model, train: Train) -> str:
    scratch = model.scratch
    drawn = f"{scratch.num_layers} layers of {scratch.hidden_size}, random" if scratch else ""
    source = model.path or model.hub_id or drawn
    return f"{model.name} ({source}), {train.dtype}"


def _adapter(adapter: Adapter) -> str:
    if adapter.kind == "full":
        return "full"
    layers = f"{adapter.num_layers} layers"
    return f"{adapter.kind} of rank {adapter.rank}, alpha {adapter.alpha:g}, on {layers}"


def _train(config: Config) -> str:
    train, optimizer = config.train, config.optimizer
    batch = f"{train.batch_size} x {train.grad_accumulation_steps} sequences"
    rate = f"{optimizer.name} at {optimizer.learning_rate:g}"
    return f"{train.steps} steps of {batch}, up to {train.max_seq_length} tokens, {rate}"


def _reload(reload: Reload) -> str:
    if reload.policy == "none":
        return "none"
    every = f"every {reload.interval_steps} steps" if "interval" in reload.policy else ""
    above = f"above {reload.memory_threshold_gb:g} GB" if "threshold" in reload.policy else ""
    return ", ".join(filter(None, (reload.policy, every, above, reload.method)))
