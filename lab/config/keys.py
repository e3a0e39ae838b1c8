"""Every key of a run, with its type, range and unit.

:meth:`Config.load` reads a saved ``config.yaml``, :func:`from_dict` takes a composed config; both
return the frozen dataclasses below. Nothing here depends on Hydra. Nothing in a config names code:
values are plain scalars, and groups choose from the registries of this package.
"""

# ruff: noqa: RUF009  setting() only makes a field()

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self

from lab.config.rules import RULES
from lab.config.schema import ConfigError, from_dict, setting, to_dict, why_unreadable

CONFIG_VERSION = 2
"""Of a new config. In version 1 the leak trigger goes by the slope alone; it keeps its version."""
READABLE_VERSIONS = (1, CONFIG_VERSION)

ALL = "all"
TIERS = ("compact", "small", "medium", "large", "xlarge")
TRACKERS = ("tensorboard", "mlflow")  # beside W&B; also the names of their packages and extras


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A hardware profile's settings for models of one size; all null: they do not fit."""

    rank: int | None = setting(None, at_least=1)
    num_layers: int | None = setting(None, at_least=1, unit="layers")
    batch_size: int | None = setting(None, at_least=1, unit="sequences")
    grad_checkpoint: bool | None = setting(None)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    name: str = setting()
    memory_gb: float = setting(above=0, unit="GB")
    budget_gb: float = setting(above=0, unit="GB")
    batch_size: int = setting(at_least=1, unit="sequences")
    tiers: dict[str, Tier] = setting()


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Sizes of a byte-level Llama with random initial weights."""

    hidden_size: int = setting(at_least=8)
    num_layers: int = setting(at_least=1, unit="layers")
    num_heads: int = setting(at_least=1, unit="heads")
    intermediate_size: int = setting(at_least=8)


@dataclass(frozen=True, kw_only=True)
class Model:
    name: str = setting()
    tier: str = setting(choices=TIERS)
    path: str | None = setting(None)
    hub_id: str | None = setting(None)
    scratch: Scratch | None = setting(None)


@dataclass(frozen=True, kw_only=True)
class Data:
    name: str = setting(choices=("stdlib_docs", "jsonl", "hub"))
    path: str | None = setting(None)
    hub_id: str | None = setting(None)
    hub_config: str | None = setting(None)
    val_fraction: float = setting(at_least=0.0, at_most=0.5)
    pad_multiple: int = setting(at_least=1, unit="tokens", auto=True)
    max_shapes: int = setting(0, at_least=0, at_most=64)
    buckets: tuple[int, ...] = setting(())
    overfit_batches: int = setting(0, at_least=0, unit="batches")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    kind: str = setting(choices=("full", "lora", "dora", "qlora"))
    rank: int | None = setting(at_least=1)
    alpha: float | None = setting(above=0)
    num_layers: int | Literal["all"] | None = setting(at_least=1, unit="layers", words=(ALL,))
    dropout: float = setting(at_least=0.0, at_most=0.95)
    targets: tuple[str, ...] = setting()
    start_from: str | None = setting(None)

    @property
    def scale(self) -> float:
        assert self.alpha is not None  # set, as the rank is, wherever there is an adapter
        assert self.rank is not None
        return self.alpha / self.rank


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    name: str = setting(choices=("adamw", "adam", "muon", "adafactor", "sgd"))
    learning_rate: float = setting(above=0)
    weight_decay: float = setting(at_least=0)
    beta1: float = setting(at_least=0, at_most=0.99999)
    beta2: float = setting(at_least=0, at_most=0.99999)
    momentum: float = setting(at_least=0, at_most=0.99999)
    bias_correction: bool = setting()
    schedule: str = setting(choices=("constant", "linear", "cosine"))
    warmup_steps: int = setting(at_least=0, unit="steps")
    final_fraction: float = setting(at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Train:
    steps: int = setting(at_least=1, unit="steps")
    batch_size: int = setting(at_least=1, unit="sequences", auto=True)
    batch_by: str = setting("samples", choices=("samples", "tokens"))
    packing: bool = setting(False)
    grad_accumulation_steps: int = setting(at_least=1, unit="batches a step")
    max_seq_length: int = setting(at_least=8, unit="tokens")
    max_grad_norm: float = setting(at_least=0)
    grad_checkpoint: bool = setting(auto=True)
    mask_prompt: bool = setting()
    compile: bool = setting(auto=True)
    dtype: str = setting(choices=("float32", "bfloat16", "float16"), auto=True)
    deterministic: bool = setting()
    on_nonfinite: str = setting(choices=("stop", "continue"))
    val_interval_steps: int = setting(at_least=0, unit="steps")
    val_batches: int | Literal["all"] = setting(at_least=1, unit="batches", words=(ALL,))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    enabled: bool = setting()
    interval_steps: int = setting(at_least=0, unit="steps")
    keep: int = setting(at_least=1)


@dataclass(frozen=True, kw_only=True)
class Reload:
    policy: str = setting(
        choices=("none", "interval", "threshold", "interval_or_threshold", "leak", "adaptive")
    )
    interval_steps: int = setting(at_least=0, unit="steps")
    memory_threshold_gb: float = setting(at_least=0, unit="GB", auto=True)
    leak_threshold_mb: float = setting(at_least=0, unit="MB a step")
    window_steps: int = setting(at_least=8, unit="steps")
    metric: str = setting(choices=("active", "mlx", "process"), auto=True)
    method: str = setting(choices=("in_process", "process"))
    max_overhead: float = setting(0.01, at_least=0.0, at_most=1.0)


@dataclass(frozen=True, kw_only=True)
class Memory:
    budget_gb: float = setting(above=0, unit="GB", auto=True)
    cache_limit_gb: float = setting(at_least=0, unit="GB", auto=True)
    limit_gb: float = setting(above=0, unit="GB", auto=True)
    cache_clear_interval: int = setting(at_least=0, unit="steps")
    leak_warning_mb: float = setting(at_least=0, unit="MB a step")
    wired_fraction: float = setting(0.6, at_least=0.0, at_most=1.0)


@dataclass(frozen=True, kw_only=True)
class Worker:
    timeout_s: float = setting(above=0, unit="seconds")
    start_timeout_s: float = setting(1800.0, above=0, unit="seconds")
    max_restarts: int = setting(at_least=0)
    threads: int = setting(at_least=1, unit="threads", auto=True)


@dataclass(frozen=True, kw_only=True)
class Crash:
    step: int = setting(at_least=1, unit="steps")


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Memory that grows on purpose: how fast, and from which step on."""

    mb_per_step: float = setting(1.0, at_least=0.01, at_most=10, unit="MB a step")
    start_step: int = setting(1, at_least=1, unit="steps")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Faults injected on purpose, any number of them: a crash, and ways in which memory grows.

    The latter are in ``lab/faults``, one file each.
    """

    crash: Crash | None = setting(None)
    lazy_loss: Growth | None = setting(None)
    lazy_metric: Growth | None = setting(None)
    trainer_list: Growth | None = setting(None)
    module_list: Growth | None = setting(None)
    closure: Growth | None = setting(None)
    exceptions: Growth | None = setting(None)
    cycles: Growth | None = setting(None)
    ema: Growth | None = setting(None)
    prefetch: Growth | None = setting(None)
    ragged_cache: Growth | None = setting(None)
    compile_shapes: Growth | None = setting(None)
    compile_constant: Growth | None = setting(None)
    token_memo: Growth | None = setting(None)
    streams: Growth | None = setting(None)
    fragmentation: Growth | None = setting(None)
    validation_graph: Growth | None = setting(None)

    @property
    def growing(self) -> dict[str, Growth]:
        """The growth modes that are on, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: growth for name, growth in found.items() if isinstance(growth, Growth)}


@dataclass(frozen=True, kw_only=True)
class Explain:
    enabled: bool = setting(False, auto=True)


@dataclass(frozen=True, kw_only=True)
class Profiler:
    """Which steps are profiled: those after the warm-up; see :mod:`lab.train.profiler`."""

    warmup_steps: int = setting(3, at_least=0, unit="steps")
    steps: int = setting(0, at_least=0, unit="steps")


@dataclass(frozen=True, kw_only=True)
class Tracker:
    name: str = setting("wandb", choices=("wandb", *TRACKERS))
    mode: str = setting(choices=("offline", "online", "none"))
    also: tuple[str, ...] = setting((), choices=TRACKERS)
    project: str | None = setting(None)
    entity: str | None = setting(None)
    tags: tuple[str, ...] = setting()
    notes: str | None = setting(None)
    log_host: bool = setting(True)
    uri: str | None = setting(None)

    @property
    def beside_wandb(self) -> tuple[str, ...]:
        """Trackers other than W&B, each once."""
        return tuple(name for name in TRACKERS if name == self.name or name in self.also)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The figure of a run that a sweeper minimizes; see :mod:`lab.records.objective`.

    For ``throughput`` it is minus tokens/s. Over the limit the score is peak / limit (> 0): it
    ranks below every run within it, the closest first.
    """

    name: str = setting(
        choices=(
            *("final_loss", "overhead", "peak_memory", "reloads", "throughput"),
            "time_over_budget",
        )
    )
    memory_limit_gb: float = setting(above=0, unit="GB", auto=True)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    on_failure: str = setting(choices=("continue", "stop"))


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of one run."""

    version: int = setting(at_least=1)
    name: str = setting()
    seed: int = setting(at_least=0, at_most=2**32 - 1)
    trainer: str = setting(choices=("lab", "mlx_lm"))
    objective: Objective = setting()
    hardware: Hardware = setting()
    model: Model = setting()
    data: Data = setting()
    adapter: Adapter = setting()
    optimizer: Optimizer = setting()
    train: Train = setting()
    checkpoint: Checkpoint = setting()
    reload: Reload = setting()
    memory: Memory = setting()
    worker: Worker = setting()
    fault: Fault = setting()
    explain: Explain = setting(Explain())
    profiler: Profiler = setting(Profiler())
    tracker: Tracker = setting()
    sweep: Sweep = setting()

    def __post_init__(self) -> None:
        _check_version(self.version)
        for rule in RULES:
            rule(self)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a saved ``config.yaml``, which may be hostile: safe YAML, known keys, no ``${``.

        Raises:
            ConfigError: it cannot be read, is of another version, or a value is impossible.
        """
        import yaml  # not at the top: a worker gets its config as JSON and starts faster without

        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(str(path), "", f"cannot be read: {why_unreadable(error)}") from error
        if isinstance(raw, dict) and "version" in raw:
            _check_version(raw["version"])  # before a newer version's keys are called unknown
        return from_dict(cls, raw)


def _check_version(version: object) -> None:
    if version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise ConfigError("version", version, f"this lab reads version {readable}")


def dump(config: Config) -> str:
    """The text of ``config.yaml``."""
    import yaml

    values = to_dict(config)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if any(char in text for char in "\x85\u2028\u2029"):  # PyYAML folds them into another text
        text = yaml.safe_dump(values, sort_keys=False)
    return text
