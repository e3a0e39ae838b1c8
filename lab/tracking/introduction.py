"""How a run introduces itself before its first step: what it trains, on what, and when it reloads.

One line a subject; the console draws them as a panel on a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.config.keys import Adapter, Config, Data, Hardware, Model, Reload, Train
from lab.records.facts import RunFacts
from lab.tracking.closing import relative
from lab.tracking.text import amount, clean, limit

METRICS = {"process": "process memory", "mlx": "MLX's memory", "active": "MLX's active memory"}


def introduce(
    config: Config,
    facts: RunFacts,
    environment: Mapping[str, Any],
    *,
    profile: str,
    run_dir: Path,
) -> dict[str, str]:
    """What to say of a run, by subject.

    Arguments:
        environment: of its first worker: device and threads.
        profile: the hardware profile that ``hardware=auto`` stands for here.
    """
    lines = {
        "model": _model(config.model, facts),
        "adapter": adapter_words(config.adapter) if config.adapter.kind != "full" else "",
        "device": _device(config.train, environment),
        "hardware": _hardware(config.hardware, profile),
        "data": _data(config.data, facts),
        "tokens": _tokens(config.train, facts),
        "batch": _batch(config.train),
        "shapes": _shapes(facts),
        "reload": reload_words(config),
        "budget": limit(config.memory.budget_gb),
        "run": relative(run_dir),
    }
    return {subject: clean(text) for subject, text in lines.items() if text}


def as_lines(name: str, introduction: Mapping[str, str]) -> str:
    """A run's introduction as aligned lines."""
    lines = (f"  {subject:<8} {text}" for subject, text in introduction.items())
    return "\n".join([clean(f"run {name}"), *lines])


def adapter_words(adapter: Adapter) -> str:
    start = f", from {relative(Path(adapter.start_from))}" if adapter.start_from else ""
    sizes = f"rank {adapter.rank}, alpha {adapter.alpha:g}, on {adapter.num_layers} layers"
    return f"{adapter.kind} of {sizes}{start}"


def reload_words(config: Config) -> str:
    """When a run reloads and how, e.g. ``every 100 steps or above 16 GB of process memory``."""
    if config.trainer == "mlx_lm":
        return "never, with trainer=mlx_lm"
    when = " or ".join(_triggers(config.reload, config.memory.budget_gb))
    if not when:
        return "never"
    if not config.checkpoint.enabled:
        return f"{when}; skipped, with checkpoint.enabled=false"
    method = "" if config.reload.policy == "adaptive" else f", {METHODS[config.reload.method]}"
    return f"{when}{method}"


METHODS = {"in_process": "in the same process", "process": "by a new process"}


def _triggers(reload: Reload, budget_gb: float) -> list[str]:
    policy, memory = reload.policy, METRICS[reload.metric]
    if policy == "none":
        return []
    said = []
    if "interval" in policy and reload.interval_steps:
        said.append(f"every {reload.interval_steps} steps")
    if "threshold" in policy and reload.memory_threshold_gb:
        said.append(f"above {limit(reload.memory_threshold_gb)} of {memory}")
    if policy == "adaptive":
        share = f"at most {reload.max_overhead * 100:.3g}% of the time"
        said.append(f"as rarely as {limit(budget_gb)} allow, {share}")
    if reload.leak_threshold_mb:
        said.append(f"when {memory} grows by over {reload.leak_threshold_mb:g} MB a step")
    return said


def _model(model: Model, facts: RunFacts) -> str:
    scratch = model.scratch
    drawn = f"random, {scratch.num_layers} layers of {scratch.hidden_size}" if scratch else ""
    source = relative(Path(model.path)) if model.path else model.hub_id or drawn
    share = facts.trained / max(facts.parameters, 1)
    trained = f"{amount(facts.trained)} trained ({share:.2%})" if share < 1 else "all trained"
    return f"{model.name} ({source}), {amount(facts.parameters)} parameters, {trained}"


def _device(train: Train, environment: Mapping[str, Any]) -> str:
    on_cpu = "cpu" in str(environment.get("device"))
    threads = environment.get("threads")
    kind = f"CPU, {threads} thread{'s' * (threads != 1)}" if on_cpu else "GPU"
    name = environment.get("device_name") or "unknown"
    compiled = ", compiled" if train.compile else ""
    return f"{name} ({kind}), {train.dtype}{compiled}"


def _hardware(hardware: Hardware, profile: str) -> str:
    if hardware.name == "auto":
        return f"{profile}, by hardware=auto: {hardware.memory_gb:.3g} GB found"
    return f"{hardware.name}, as chosen: for {hardware.memory_gb:g} GB"


def _data(data: Data, facts: RunFacts) -> str:
    source = relative(Path(data.path)) if data.path else data.hub_id
    name = f"{data.name} ({source})" if source else data.name
    held_out = " held out" if facts.val_is_held_out else ""
    samples = f"{facts.train_samples:,} samples, {facts.val_samples:,}{held_out} for validation"
    return f"{name}: {samples}"


def _tokens(train: Train, facts: RunFacts) -> str:
    parts = [f"median {facts.median_tokens:,} a sample, longest {facts.longest_tokens:,}"]
    cut = f"{_share(facts.cut, facts.measured)} cut" if facts.cut else "none cut"
    parts.append(f"{cut} to {train.max_seq_length:,}")
    if facts.empty:
        parts.append(f"{_share(facts.empty, facts.measured)} teach nothing")
    if facts.measured < facts.file_samples:
        parts.append(f"estimated from {facts.measured:,}")
    return ", ".join(parts)


def _share(count: int, whole: int) -> str:
    """A percentage; the count itself where that would round to nothing."""
    share = count / whole
    if share < 0.001:
        return f"{count:,}"
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _batch(train: Train) -> str:
    samples = f"{train.batch_size} samples x {train.grad_accumulation_steps} accumulated"
    return f"{samples} x up to {train.max_seq_length:,} tokens, {train.steps:,} steps"


def _shapes(facts: RunFacts) -> str:
    """The smallest and the largest batch: the most that a step needs is known beforehand."""
    if not facts.shapes or facts.padded_fraction is None:
        return ""
    by_cells = sorted(facts.shapes, key=lambda shape: shape[0] * shape[1])
    smallest, largest = (f"{size} x {width:,}" for size, width, _ in (by_cells[0], by_cells[-1]))
    count, rows = len(facts.shapes), max(rows for _, _, rows in facts.shapes)
    sizes = smallest if smallest == largest else f"{smallest} to {largest}"
    return (
        f"{count}, {sizes} tokens, up to {rows:,} in the loss, {facts.padded_fraction:.1%} padding"
    )
