"""Warnings about settings that were given and have no effect in this run."""

from __future__ import annotations

from collections.abc import Collection

from lab.config.keys import Config
from lab.faults.truth import TRUTHS
from lab.records.slope import WARM_UP_STEPS


def idle_settings(config: Config, given: Collection[str]) -> list[str]:
    """A warning for each setting that was given and has no effect in this run.

    Arguments:
        given: dotted keys of the user's overrides.
    """
    triggers = ("interval_steps", "memory_threshold_gb", "leak_threshold_mb")
    idle_here = {
        "none": triggers,
        "interval": ("memory_threshold_gb",),
        "threshold": ("interval_steps",),
        "leak": ("interval_steps", "memory_threshold_gb"),
        "adaptive": ("interval_steps", "memory_threshold_gb"),
    }
    policy, kind, data = config.reload.policy, config.adapter.kind, config.data.name
    idle = {f"reload.{key}": f"reload.policy={policy}" for key in idle_here.get(policy, ())}
    if policy == "adaptive" and not config.reload.leak_threshold_mb:
        idle["reload.method"] = "reload.policy=adaptive, which chooses it"
    if policy != "adaptive":
        idle["reload.max_overhead"] = f"reload.policy={policy}"
    if kind == "full":
        sizes = ("rank", "alpha", "num_layers", "dropout", "targets")
        idle |= {f"adapter.{key}": "adapter=full" for key in sizes}
    if data != "jsonl":
        idle["data.path"] = f"data={data}"
    if data != "hub":
        idle["data.hub_id"] = idle["data.hub_config"] = f"data={data}"
    unused = {"weight_decay", "beta1", "beta2", "momentum", "bias_correction"} - _USED_BY[
        config.optimizer.name
    ]
    idle |= {f"optimizer.{key}": f"optimizer={config.optimizer.name}" for key in sorted(unused)}
    if "mlflow" not in config.tracker.beside_wandb:
        idle["tracker.uri"] = f"tracker={config.tracker.name}"
    if config.trainer == "mlx_lm":
        idle |= dict.fromkeys(_UNKNOWN_TO_MLX_LM, "trainer=mlx_lm")
    warnings = [f"{key} does nothing with {cause}" for key, cause in idle.items() if key in given]
    return warnings + _leak_never_seen(config) + _faults_never_seen(config)


_UNKNOWN_TO_MLX_LM = (
    "train.max_grad_norm",
    "data.pad_multiple",
    "data.max_shapes",
    "data.buckets",
    "train.batch_by",
    "reload.method",
    "memory.cache_limit_gb",
    "memory.limit_gb",
    "memory.wired_fraction",
    "memory.cache_clear_interval",
    "explain.enabled",
)

_ADAMW = {"weight_decay", "beta1", "beta2", "bias_correction"}

_USED_BY = {
    "adamw": _ADAMW,
    "adam": _ADAMW - {"weight_decay"},
    "muon": _ADAMW | {"momentum"},  # Muon leaves vectors and embeddings to AdamW
    "adafactor": {"weight_decay", "beta1"},
    "sgd": {"weight_decay", "momentum"},
}


def _leak_never_seen(config: Config) -> list[str]:
    reload, needed = config.reload, WARM_UP_STEPS + config.reload.window_steps
    by_interval = reload.policy in ("interval", "interval_or_threshold")
    if not (reload.leak_threshold_mb and by_interval and 0 < reload.interval_steps < needed):
        return []
    leak, interval = reload.leak_threshold_mb, reload.interval_steps
    known = f"the slope is known {needed} steps after a reload, reload.interval_steps={interval}"
    return [f"reload.leak_threshold_mb={leak:g} cannot fire: {known} comes before"]


def _faults_never_seen(config: Config) -> list[str]:
    """Growth modes that never act in this run, and those that its triggers cannot see."""
    reload, train, warnings = config.reload, config.train, []
    modes = {name: growth for name in TRUTHS if (growth := getattr(config.fault, name))}
    for name, growth in modes.items():
        start = growth.start_step
        if start > train.steps:
            warnings.append(
                f"fault.{name}.start_step={start} is never reached: train.steps={train.steps}"
            )
    if "validation_graph" in modes and not train.val_interval_steps:
        warnings.append("fault.validation_graph never acts with train.val_interval_steps=0")
    by_threshold = reload.policy in ("threshold", "interval_or_threshold")
    looks = (by_threshold and reload.memory_threshold_gb) or reload.leak_threshold_mb
    unseen = [f"fault.{name}" for name in modes if reload.metric not in TRUTHS[name].seen_by]
    if unseen and looks and reload.policy != "none":
        names, verb = ", ".join(unseen), "grows" if len(unseen) == 1 else "grow"
        warnings.append(
            f"{names} {verb} outside what reload.metric={reload.metric} counts, so no threshold "
            "sees it; reload.metric=process does"
        )
    return warnings
