"""Every key of a run: its type, its range, its unit, and the error that a bad value gets.

A saved ``config.yaml`` is read with :meth:`Config.load`, a composed one with :func:`from_dict`;
both end in the frozen dataclasses below, and nothing but ``lab.compose`` and ``lab.launch`` knows
that Hydra exists. Nothing in a config names code: values are plain scalars, and groups choose from
the registries of this package.
"""

# ruff: noqa: RUF009  setting() only makes a field()

from __future__ import annotations

import difflib
import math
import reprlib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

VERSION = 1
AUTO = "auto"
GB = 2**30
MB = 2**20

T = TypeVar("T")

TIERS = ("compact", "small", "medium", "large", "xlarge")
OBJECTIVES = (  # keys of summary.json
    "final_loss",
    "tokens_per_second",
    "peak_process_gb",
    "peak_mlx_gb",
    "mean_process_gb",
    "overhead_fraction",
)


class ConfigError(ValueError):
    """A value that the run cannot work with.

    Attributes:
        key: dotted name of the setting, e.g. ``train.batch_size``.
        value: what was given.
        allowed: what would be accepted, and the remedy where there is one.
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        given = key if value == "" else f"{key}={_shown(value)}"
        super().__init__(f"{given}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed


def _shown(value: object) -> str:
    """A value as it would be typed. Never long: a hostile YAML can unfold to any size."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = value if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def setting(
    default: Any = MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    auto: bool = False,
) -> Any:
    """A field with its range. ``auto`` fields also take the word ``auto`` until the run decides."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return field(default=default, metadata={**limits, "unit": unit, "auto": auto})


def _allowed(metadata: Any) -> str:
    """The range of a field in words: ``at least 1, at most 64 sequences``."""
    if metadata.get("choices"):
        return "one of " + ", ".join(metadata["choices"])
    words = [
        f"{name.replace('_', ' ')} {metadata[name]:g}"
        for name in ("at_least", "above", "at_most")
        if metadata.get(name) is not None
    ]
    return " and ".join(words) + (f" {metadata['unit']}" if metadata.get("unit") else "")


def _check_range(key: str, value: object, metadata: Any) -> None:
    allowed = f"must be {_allowed(metadata)}"
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(key, value, f"{allowed}, and finite")
    if metadata.get("choices") and value not in metadata["choices"]:
        raise ConfigError(key, value, allowed)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, above, high = metadata.get("at_least"), metadata.get("above"), metadata.get("at_most")
    below = (low is not None and value < low) or (above is not None and value <= above)
    if below or (high is not None and value > high):
        raise ConfigError(key, value, allowed)


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What a hardware profile gives to models of one size; nothing at all: they do not fit."""

    rank: int | None = setting(None, at_least=1)
    num_layers: int | None = setting(None, at_least=1, unit="layers")
    batch_size: int | None = setting(None, at_least=1, unit="sequences")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    name: str = setting()
    memory_gb: float = setting(above=0, unit="GB")
    budget_gb: float = setting(above=0, unit="GB")
    batch_size: int = setting(at_least=1, unit="sequences")
    tiers: dict[str, Tier] = setting()


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Sizes of a Llama that starts from random weights and reads bytes."""

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


@dataclass(frozen=True, kw_only=True)
class Adapter:
    kind: str = setting(choices=("full", "lora", "dora", "qlora"))
    rank: int | None = setting(at_least=1)
    alpha: float | None = setting(above=0)
    num_layers: int | None = setting(at_least=1, unit="layers")
    dropout: float = setting(at_least=0.0, at_most=0.95)
    targets: tuple[str, ...] = setting()

    @property
    def scale(self) -> float:
        assert self.alpha is not None  # decided, as the rank is, where there is an adapter
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
    grad_accumulation_steps: int = setting(at_least=1, unit="batches a step")
    max_seq_length: int = setting(at_least=8, unit="tokens")
    max_grad_norm: float = setting(at_least=0)
    grad_checkpoint: bool = setting()
    mask_prompt: bool = setting()
    compile: bool = setting(auto=True)
    dtype: str = setting(choices=("float32", "bfloat16", "float16"), auto=True)
    deterministic: bool = setting()
    on_nonfinite: str = setting(choices=("stop", "continue"))
    val_interval_steps: int = setting(at_least=0, unit="steps")
    val_batches: int = setting(at_least=1, unit="batches")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    enabled: bool = setting()
    interval_steps: int = setting(at_least=0, unit="steps")
    keep: int = setting(at_least=1)


@dataclass(frozen=True, kw_only=True)
class Reload:
    policy: str = setting(
        choices=("none", "interval", "threshold", "interval_or_threshold", "leak")
    )
    interval_steps: int = setting(at_least=0, unit="steps")
    memory_threshold_gb: float = setting(at_least=0, unit="GB", auto=True)
    leak_threshold_mb: float = setting(at_least=0, unit="MB a step")
    window_steps: int = setting(at_least=8, unit="steps")
    metric: str = setting(choices=("active", "mlx", "process"), auto=True)
    method: str = setting(choices=("in_process", "process"))


@dataclass(frozen=True, kw_only=True)
class Memory:
    budget_gb: float = setting(above=0, unit="GB", auto=True)
    cache_limit_gb: float = setting(at_least=0, unit="GB", auto=True)
    limit_gb: float = setting(above=0, unit="GB", auto=True)
    cache_clear_interval: int = setting(at_least=0, unit="steps")
    leak_warning_mb: float = setting(at_least=0, unit="MB a step")


@dataclass(frozen=True, kw_only=True)
class Worker:
    timeout_s: float = setting(above=0, unit="seconds")
    max_restarts: int = setting(at_least=0)
    threads: int = setting(at_least=1, unit="threads", auto=True)


@dataclass(frozen=True, kw_only=True)
class Crash:
    step: int = setting(at_least=1, unit="steps")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Faults put into the run on purpose, to see it survive them; several may be armed."""

    crash: Crash | None = setting(None)


@dataclass(frozen=True, kw_only=True)
class Tracker:
    mode: str = setting(choices=("offline", "online", "none"))
    project: str | None = setting(None)
    entity: str | None = setting(None)
    tags: tuple[str, ...] = setting()


@dataclass(frozen=True, kw_only=True)
class Sweep:
    on_failure: str = setting(choices=("continue", "stop"))


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole."""

    version: int = setting(at_least=1)
    name: str = setting()
    seed: int = setting(at_least=0, at_most=2**32 - 1)
    trainer: str = setting(choices=("lab",))
    objective: str = setting(choices=OBJECTIVES)
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
    tracker: Tracker = setting()
    sweep: Sweep = setting()

    def __post_init__(self) -> None:
        _check_version(self.version)
        for rule in RULES:
            rule(self)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a saved ``config.yaml``, which may be hostile: safe YAML, known keys, no ``${``."""
        import yaml  # not at the top: a worker gets its config as JSON and starts sooner

        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(str(path), "", f"cannot be read: {reason}") from error
        if isinstance(raw, dict) and "version" in raw:
            _check_version(raw["version"])  # before a newer version's keys are called unknown
        return from_dict(cls, raw)


# --- Rules between keys -------------------------------------------------------------------------


def _check_version(version: object) -> None:
    if version != VERSION:
        raise ConfigError("version", version, f"this lab reads version {VERSION}")


def _one_model_source(config: Config) -> None:
    model = config.model
    given = [n for n in ("path", "hub_id", "scratch") if getattr(model, n) is not None]
    if not given:
        raise ConfigError("model.path", None, f"model={model.name} needs it: model.path=FOLDER")
    if len(given) > 1:
        said = " and ".join(f"model.{name}" for name in given)
        remedy = "a folder goes with model=local"
        raise ConfigError("model", model.name, f"has {said}, must have one of them; {remedy}")
    scratch = model.scratch
    if scratch is None:
        return
    if scratch.hidden_size % (2 * scratch.num_heads):
        raise ConfigError(
            "model.scratch.hidden_size",
            scratch.hidden_size,
            f"must be a multiple of twice model.scratch.num_heads ({2 * scratch.num_heads})",
        )


def _data_has_source(config: Config) -> None:
    needed = {"jsonl": "path", "hub": "hub_id"}.get(config.data.name)
    if needed is not None and getattr(config.data, needed) is None:
        key = f"data.{needed}"
        raise ConfigError(key, None, f"data={config.data.name} needs it: {key}={needed.upper()}")


def _adapter_fits(config: Config) -> None:
    adapter = config.adapter
    if adapter.kind == "full":
        return
    for name in ("rank", "alpha", "num_layers"):
        if getattr(adapter, name) is None:
            raise ConfigError(f"adapter.{name}", None, "must be set for an adapter")
    if not adapter.targets:
        raise ConfigError("adapter.targets", "[]", "must name at least one layer, e.g. [q_proj]")


def _dropout_twice(config: Config) -> None:
    # mx.checkpoint runs the forward pass again and draws another dropout mask there: the gradient
    # would be silently wrong.
    if config.train.grad_checkpoint and config.adapter.dropout > 0:
        raise ConfigError(
            "train.grad_checkpoint",
            True,
            f"gives a wrong gradient with adapter.dropout={config.adapter.dropout:g}; "
            "set one of them to 0 or false",
        )


def _schedule_fits(config: Config) -> None:
    if config.optimizer.warmup_steps > config.train.steps:
        raise ConfigError(
            "optimizer.warmup_steps",
            config.optimizer.warmup_steps,
            f"must be at most train.steps ({config.train.steps})",
        )


RULES = (_one_model_source, _data_has_source, _adapter_fits, _dropout_twice, _schedule_fits)


# --- From and to plain values -------------------------------------------------------------------


def from_dict(cls: type[T], raw: object) -> T:
    """Build a frozen config class from plain values, strictly.

    Raises:
        ConfigError: a key that does not exist or is missing, a value of another type or out of
            its range, or any text that holds an interpolation.
    """
    return cls(**_values(cls, raw, "", undecided=False))


def draft(cls: type[Any], raw: object) -> dict[str, Any]:
    """The same checks on values that are not all decided yet: ``auto`` and null pass as they are.

    Returns:
        Plain nested mappings, complete, of the right types; rules between keys are not looked at.
    """
    return _values(cls, raw, "", undecided=True)


def _values(cls: type[Any], raw: object, prefix: str, *, undecided: bool) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(
            prefix.rstrip(".") or "config", raw, "must be a mapping of keys to values"
        )
    known = {f.name: f for f in fields(cls)}
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"{prefix}{key}", raw[key], unknown_key(str(key), prefix, list(known))
            )
    hints = get_type_hints(cls)
    values = {}
    for name, spec in known.items():
        key = f"{prefix}{name}"
        if name in raw:
            values[name] = _convert(key, raw[name], hints[name], spec.metadata, undecided=undecided)
        elif spec.default is MISSING:
            raise ConfigError(key, "", "is missing")
        else:
            values[name] = spec.default
    return values


def unknown_key(name: str, prefix: str, known: list[str]) -> str:
    """What to say of a key that does not exist: the nearest one, or all that there are."""
    if not known:
        return f"is not a key; {prefix.rstrip('.')} is a single value"
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"is not a key; did you mean {prefix}{near[0]}?"
    return f"is not a key; {prefix.rstrip('.') or 'a config'} has {', '.join(known)}"


def _convert(key: str, value: Any, hint: Any, metadata: Any, *, undecided: bool) -> Any:
    if undecided and metadata.get("auto") and (value is None or value == AUTO):
        return AUTO
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None:
            return None
        inner = next(a for a in arguments if a is not NoneType)
        return _convert(key, value, inner, metadata, undecided=undecided)
    if isinstance(hint, type) and is_dataclass(hint):
        values = _values(hint, value, f"{key}.", undecided=undecided)
        return values if undecided else hint(**values)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(key, value, "must be a mapping of keys to values")
        return {
            str(k): _convert(f"{key}.{k}", v, arguments[1], {}, undecided=undecided)
            for k, v in value.items()
        }
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(key, value, "must be a list, e.g. [a,b]")
        items = enumerate(value)
        return tuple(
            _convert(f"{key}[{i}]", v, arguments[0], {}, undecided=undecided) for i, v in items
        )
    value = _scalar(key, value, hint, metadata)
    _check_range(key, value, metadata)
    return value


def _scalar(key: str, value: Any, hint: type, metadata: Any) -> Any:
    if hint is float and type(value) is int:
        # An int that no float can hold becomes one that no range allows.
        value = float(value) if abs(value) < 2**1023 else math.inf
    if type(value) is not hint:
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        allowed = _allowed(metadata)
        word = "auto or " if metadata.get("auto") else ""
        kind = "" if metadata.get("choices") else kinds[hint] + ", " * bool(allowed)
        raise ConfigError(key, value, f"must be {word}{kind}{allowed}")
    if hint is str and "${" in value:
        raise ConfigError(key, value, "must be plain text; a saved config holds no interpolation")
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a config, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(config)


def dump(config: Config) -> str:
    """The text of ``config.yaml``."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
