"""What was meant by a name that no key has: looked up in every group, and among others' names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from lab.compose.profiles import CONF
from lab.config.keys import Config

# Names of mlx_lm.lora and of other trainers, by the whole key or by its last part, and what to type
# here. A key in parentheses is a remark.
HABITS = {
    "lr": "optimizer.learning_rate",
    "optim": "optimizer={value}",
    "lr_schedule": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "warmup": "optimizer.warmup_steps",
    "wd": "optimizer.weight_decay",
    "iters": "train.steps (of the optimizer, so after train.grad_accumulation_steps batches)",
    "max_iters": "train.steps",
    "max_steps": "train.steps",
    "num_steps": "train.steps",
    "epochs": "train.steps (there are no epochs: samples / train.batch_size steps are one)",
    "max_epochs": "train.steps (there are no epochs: samples / train.batch_size steps are one)",
    "num_train_epochs": "train.steps (there are no epochs: samples / train.batch_size are one)",
    "per_device_train_batch_size": "train.batch_size",
    "max_seq_len": "train.max_seq_length",
    "seq_len": "train.max_seq_length",
    "max_length": "train.max_seq_length",
    "context_length": "train.max_seq_length",
    "gradient_accumulation_steps": "train.grad_accumulation_steps",
    "accumulate_grad_batches": "train.grad_accumulation_steps",
    "gradient_checkpointing": "train.grad_checkpoint",
    "gradient_clip_val": "train.max_grad_norm",
    "precision": "train.dtype",
    "bf16": "train.dtype",
    "fp16": "train.dtype",
    "steps_per_eval": "train.val_interval_steps",
    "eval_steps": "train.val_interval_steps",
    "eval_every": "train.val_interval_steps",
    "val_check_interval": "train.val_interval_steps",
    "save_every": "checkpoint.interval_steps",
    "save_steps": "checkpoint.interval_steps",
    "save_total_limit": "checkpoint.keep",
    "fine_tune_type": "adapter={value}",
    "lora_layers": "adapter.num_layers",
    "r": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "scale": "adapter.alpha (scale times adapter.rank)",
    "target_modules": "adapter.targets",
    "resume_adapter_file": "adapter.start_from",
    "adapter_path": "hydra.run.dir",
    "output_dir": "hydra.run.dir",
    "dataset": "data.path",
    "data.train": "data.path (a file, or a folder with train.jsonl and valid.jsonl)",
    "data.valid": "data.path (a folder with train.jsonl and valid.jsonl)",
    "interval": "reload.interval_steps",
    "threshold": "reload.memory_threshold_gb",
    "budget": "memory.budget_gb",
    "report_to": "tracker",
    "wandb": "tracker",
    "tensorboard": "tracker",
    "mlflow": "tracker",
    "project_name": "tracker.project",
    "num_threads": "worker.threads",
    "profile": "profiler.steps (or debug=profile)",
    "enable_profiling": "profiler.steps (or debug=profile)",
}

# Profiles and faults repeat the names of what a user sets elsewhere.
_NOT_MEANT = ("version", "hardware", "fault")


@cache
def group_options(group: str) -> tuple[str, ...]:
    """The options of one of this project's groups; none where there is no such group."""
    return tuple(sorted(path.stem for path in (CONF / group).glob("*.yaml")))


@cache
def all_keys() -> dict[str, Any]:
    """The type of each dotted key that a user sets; without profiles and faults."""
    return dict(_keys(Config, ""))


def _keys(cls: type[Any], prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(cls)
    for name in (f.name for f in fields(cls) if prefix or f.name not in _NOT_MEANT):
        inner = next((h for h in (hints[name], *get_args(hints[name])) if is_dataclass(h)), None)
        if isinstance(inner, type):
            yield from _keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hints[name]


def meant_by(name: str, value: str = "") -> str | None:
    """The keys that a name stands for which is none; None if nothing is like it.

    Arguments:
        name: dotted or not, with ``-`` or ``_``, e.g. ``lora.rank``.
        value: that was given with it, for a name that chooses from a group here.
    """
    key = name.lower().replace("-", "_")
    last = key.rpartition(".")[2]
    if habit := HABITS.get(key) or HABITS.get(last):
        return habit.format(value=value)
    if same := [known for known in all_keys() if known.rpartition(".")[2] == last]:
        depth = min(known.count(".") for known in same)
        return " or ".join(known for known in same if known.count(".") == depth)
    return _like(key)


def _like(key: str) -> str | None:
    """The key or group that is spelt most like this one: of its own group first."""
    group, dot, last = key.rpartition(".")
    within = (known for known in all_keys() if known.startswith(f"{group}{dot}"))
    siblings = {known.removeprefix(f"{group}{dot}").partition(".")[0] for known in within}
    if near := difflib.get_close_matches(last, sorted(siblings), n=1):
        return f"{group}{dot}{near[0]}"
    others = [known for known in all_keys() if not key.startswith(f"{known}.")]
    if near := difflib.get_close_matches(key, others, n=1, cutoff=0.75):
        return near[0]
    by_last = {known.rpartition(".")[2]: known for known in reversed(all_keys())}
    near = difflib.get_close_matches(last, by_last, n=1, cutoff=0.65)
    return by_last[near[0]] if near else None


def meant_option(option: str, options: Sequence[str]) -> str:
    """What is allowed for a group that has no such option: all, and which are like it."""
    word = re.sub(r"[^a-z0-9]+", "_", option.lower())  # as hubs write it: Qwen3-0.6B
    near = [name for name in options if word.strip("_") and name.startswith(word)]
    near = near or difflib.get_close_matches(word, options, n=1)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"must be one of {', '.join(options)}{hint}"


def override_for(name: str, value: str | None) -> str | None:
    """The override that says what a flag of another program does; None if there is none.

    Arguments:
        name: of the flag, e.g. ``batch-size``.
        value: None for a flag that was given none.
    """
    key = name.lower().replace("-", "_")
    if key not in all_keys() and not group_options(key):
        key = (meant_by(key, value or "VALUE") or "").partition(" ")[0]
    if not key or "=" in key:
        return key or None
    switch = all_keys().get(key) is bool
    return f"{key}={value if value is not None else 'true' if switch else 'VALUE'}"
