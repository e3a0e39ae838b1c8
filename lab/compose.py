"""From what Hydra composed to one frozen :class:`lab.config.keys.Config`; OmegaConf ends here.

Composed values may still say ``auto`` or nothing at all: :func:`decide` fills them from the machine
and the profile.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING as REQUIRED
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from lab import modelsize
from lab.config.keys import TIERS, VERSION, Config
from lab.config.schema import AUTO, ConfigError, draft, from_dict
from lab.config.units import GB
from lab.machine.machine import Machine
from lab.machine.probe import ProbeError, probe_machine
from lab.records.slope import WARM_UP_STEPS

CONF = Path(__file__).resolve().parents[1] / "conf"
NAME_LENGTH = 80

# A machine sold with 16 GB shows the process a little less.
USABLE_SHARE = 0.9
THRESHOLD_SHARE = 0.85
CACHE_SHARE = 0.1
# On the CPU more took 0.6 GB of the process (SmolLM2, LoRA) and won no time.
CPU_CACHE_GB = 0.1


# --- Schema: what Hydra may put where -----------------------------------------------------------


schemas = SimpleNamespace()


@cache
def schema(cls: type[Any]) -> type[Any]:
    """A dataclass that OmegaConf can merge into, with the keys of a frozen config class.

    Frozen ones would become read-only nodes. Leaves are untyped: the strict checks of
    :mod:`lab.config.keys` judge them, where OmegaConf would take "7" for 7 and "yes" for true.
    """
    hints = get_type_hints(cls)
    made = make_dataclass(
        cls.__name__,
        [
            (f.name, _node(hints[f.name]), field(default=_default(f)))
            for f in fields(cls)
            if f.name != "version"
        ],
    )
    # Where a launcher's process finds it by name: cloudpickle before 3 loses a dataclass's fields.
    setattr(schemas, cls.__name__, made)
    made.__module__, made.__qualname__ = __name__, f"schemas.{cls.__name__}"
    return made


def _default(spec: Field[Any]) -> Any:
    return MISSING if spec.default is REQUIRED else spec.default


def _node(hint: Any) -> Any:
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        inner = _node(next(a for a in arguments if a is not NoneType))
        return inner if inner is Any else inner | None
    if get_origin(hint) is dict:
        return dict[str, _node(arguments[1])]
    return schema(hint) if is_dataclass(hint) else Any


# --- Resolvers: what YAML may ask ---------------------------------------------------------------


@cache
def profile_sizes() -> dict[str, int]:
    """Memory in GB of each profile, from the names alone: this is asked at every start."""
    named = (re.fullmatch(r".*_(\d+)gb", p.stem) for p in (CONF / "hardware").glob("*.yaml"))
    return {match[0]: int(match[1]) for match in named if match}


@cache
def profiles() -> dict[str, dict[str, Any]]:
    """The ``hardware`` mapping of each profile's YAML, as it stands there."""
    files = [(name, CONF / "hardware" / f"{name}.yaml") for name in profile_sizes()]
    return {n: yaml.safe_load(f.read_text(encoding="utf-8"))["hardware"] for n, f in files}


def detected_profile(machine: Machine) -> str:
    """The largest profile that the machine's memory holds, or the smallest there is.

    A profile for CUDA is for nothing else, and goes before the others there: it trains in bf16.
    """
    sizes = {
        name: size
        for name, size in profile_sizes().items()
        if machine.backend == "cuda" or not name.startswith("cuda")
    }
    fitting = [name for name in sizes if sizes[name] * USABLE_SHARE <= machine.memory_gb]
    best = [name for name in fitting if name.startswith("cuda")] or fitting
    return max(best, key=sizes.__getitem__, default=min(sizes, key=sizes.__getitem__))


def run_name(name: object, overrides: Iterable[str]) -> str:
    """A name that is safe as a folder's: the one given, or the overrides that change the run."""
    text = str(name)
    if name == AUTO:
        text = ",".join(
            f"{key}={shown_value(override)}"
            for override in overrides
            if (key := override_key(override)) != "name" and key.partition(".")[0] != "tracker"
        )
    safe = re.sub(r"[^a-zA-Z0-9_.,=+-]+", "-", text).strip("-.,") or "default"
    if len(safe) <= NAME_LENGTH:
        return safe
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]  # long names that differ stay different
    return f"{safe[: NAME_LENGTH - 9]}-{digest}"


def sweeping(overrides: Sequence[str]) -> list[str]:
    """The overrides that make a sweep one, by their own values or by an experiment's."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    chosen = [
        text
        for text, override in zip(overrides, parsed, strict=True)
        if override.is_sweep_override() or override.key_or_group == "experiment"
    ]
    return chosen or list(overrides)


def _profile_here() -> str:
    try:
        return detected_profile(probe_machine())
    except ProbeError:  # --help works without MLX; a run asks again and says what is wrong
        return min(profile_sizes(), key=profile_sizes().__getitem__)


def register() -> None:
    """Make the schema and the resolvers known to Hydra."""
    ConfigStore.instance().store("schema", schema(Config))
    resolvers = {
        "detected_profile": _profile_here,
        "machine": lambda key: getattr(probe_machine(), key),
        "model_tier": modelsize.tier_of_folder,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    # Hydra hands the cache on to each job of a sweep: its folder is named once, as ${now:} is.
    for name, choose in {"run_name": list[str], "sweep_name": sweeping}.items():
        OmegaConf.register_new_resolver(
            name,
            lambda given, overrides, choose=choose: run_name(
                given, choose(plain_overrides(overrides))
            ),
            replace=True,
            use_cache=True,
        )


register()


# --- One job ------------------------------------------------------------------------------------


def compose_config(
    cfg: DictConfig,
    overrides: Sequence[str],
    *,
    named_by: Sequence[str] | None = None,
    side_by_side: int = 1,
    machine: Machine | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, list[str]]:
    """Resolve, decide and check what Hydra composed.

    Arguments:
        cfg: the composed config, with or without its ``hydra`` node.
        overrides: what the user gave on the command line for this job.
        named_by: those of them that make its name where it has none; by default all.
        side_by_side: how many jobs share the machine, memory and cores.
        machine: the machine to decide for; by default the one this runs on.
        environ: where W&B's own variables are looked for; by default the process's.

    Returns:
        The config, and one line for each thing that the user should know but that stops nothing.

    Raises:
        ConfigError: a value is impossible.
        OmegaConfBaseException: an interpolation is.
    """
    # Looked at before the profile's table is asked for it, and only where there is a model at all.
    tier = None if OmegaConf.is_missing(cfg, "model") else cfg.model.tier
    if tier not in TIERS:
        raise ConfigError("model.tier", tier, f"must be one of {', '.join(TIERS)}")
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    raw = OmegaConf.to_container(task, resolve=True, throw_on_missing=True)
    assert isinstance(raw, dict)
    given = {override_key(o): o.partition("=")[2] for o in overrides}
    raw["version"] = VERSION
    raw["name"] = run_name(raw["name"], overrides if named_by is None else named_by)
    values = draft(Config, raw)
    apply_wandb_environment(values["tracker"], given, os.environ if environ is None else environ)
    _resolve_paths(values)
    warnings = decide(values, (machine or probe_machine()).share(side_by_side))
    config = from_dict(Config, values)
    return config, warnings + idle_settings(config, given)


def plain_overrides(overrides: ListConfig | Sequence[str]) -> list[str]:
    """Overrides as they were typed: OmegaConf would resolve a ``${`` in them on reading."""
    return [str(o) for o in OmegaConf.to_container(overrides, resolve=False) or ()]


def override_key(override: str) -> str:
    """The dotted name that an override sets."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def shown_value(override: str) -> str:
    """What an override sets, as a person reads it: without quotes, of a path its end."""
    return override.partition("=")[2].strip("'\"").rstrip("/").rpartition("/")[2]


def decide(values: dict[str, Any], machine: Machine) -> list[str]:
    """Fill every ``auto`` in place, and what the profile's table leaves open.

    Returns:
        Warnings, one line each.

    Raises:
        ConfigError: the model does not fit.
    """
    warnings = _decide_memory(values, machine)
    cpu = machine.backend == "cpu"
    compiled = not cpu or values["trainer"] == "mlx_lm"  # which always compiles
    _fill(values["train"], compile=compiled, dtype="float32" if cpu else "bfloat16")
    _fill(values["data"], pad_multiple={"cpu": 32, "metal": 64, "cuda": 256}[machine.backend])
    _fill(values["worker"], threads=machine.cores)
    _decide_size(values, machine)
    return warnings


def _fill(group: dict[str, Any], **decided: object) -> None:
    for key, value in decided.items():
        if group[key] == AUTO:
            group[key] = value


def _decide_memory(values: dict[str, Any], machine: Machine) -> list[str]:
    warnings = []
    hardware, memory, reload = values["hardware"], values["memory"], values["reload"]
    own = machine.budget_gb
    if hardware["memory_gb"] * USABLE_SHARE > machine.memory_gb:
        warnings.append(
            f"hardware={hardware['name']} is for {hardware['memory_gb']:g} GB, this machine has "
            f"{machine.memory_gb:.1f} GB: training within its own budget of {own:.1f} GB"
        )
    _fill(memory, budget_gb=min(hardware["budget_gb"], own))
    if memory["budget_gb"] > own:
        warnings.append(
            f"memory.budget_gb={memory['budget_gb']:g} is more than this machine's {own:.1f} GB, "
            "which is used"
        )
        memory["budget_gb"] = own
    budget = memory["budget_gb"]
    _fill(values["objective"], memory_limit_gb=budget)
    cache_limit = budget * CACHE_SHARE
    if machine.backend == "cpu":
        cache_limit = min(cache_limit, CPU_CACHE_GB)
    _fill(memory, cache_limit_gb=round(cache_limit, 3), limit_gb=budget)
    _fill(
        reload,
        memory_threshold_gb=round(THRESHOLD_SHARE * budget, 2),
        metric="mlx" if machine.backend == "cuda" else "process",
    )
    acts = reload["policy"] in ("threshold", "interval_or_threshold")
    if acts and reload["memory_threshold_gb"] > budget:
        warnings.append(
            f"reload.memory_threshold_gb={reload['memory_threshold_gb']:g} cannot fire: it is "
            f"above memory.budget_gb={budget:g}"
        )
    return warnings


def _decide_size(values: dict[str, Any], machine: Machine) -> None:
    """Adapter and batch, where the profile's table or the user left them open."""
    adapter, train, hardware = values["adapter"], values["train"], values["hardware"]
    if adapter["kind"] == "full":
        _check_weights(values)
        _fill(train, batch_size=hardware["batch_size"])
        return
    if adapter["rank"] is None:
        raise _does_not_fit(values, machine)
    if adapter["alpha"] is None:
        adapter["alpha"] = 2.0 * adapter["rank"]
    tier = hardware["tiers"].get(values["model"]["tier"], {})
    if tier.get("rank") is None:  # the user has set the rank himself: begin small
        adapter["num_layers"] = adapter["num_layers"] or 8
        _fill(train, batch_size=1)
    _fill(train, batch_size=hardware["batch_size"])


def _does_not_fit(values: dict[str, Any], machine: Machine) -> ConfigError:
    model, hardware = values["model"], values["hardware"]["name"]
    holding = {
        name: profile["memory_gb"]
        for name, profile in profiles().items()
        if profile["tiers"].get(model["tier"])
        and (machine.backend == "cuda" or not name.startswith("cuda"))
    }
    smallest = min(holding, key=holding.__getitem__)
    return ConfigError(
        "model",
        model["name"],
        f"does not fit hardware={hardware}; the smallest profile that holds a model of tier "
        f"{model['tier']} is {smallest}, or set adapter.rank yourself",
    )


def _check_weights(values: dict[str, Any]) -> None:
    parameters = modelsize.parameters_of(values["model"])
    size = parameters * (4 if values["train"]["dtype"] == "float32" else 2) / GB
    budget = values["memory"]["budget_gb"]
    if size > budget:
        raise ConfigError(
            "adapter",
            "full",
            f"cannot train model={values['model']['name']}: its weights alone take about "
            f"{size:.0f} GB of a budget of {budget:.1f} GB; choose adapter=lora or qlora",
        )


def _resolve_paths(values: dict[str, Any]) -> None:
    """Make paths absolute, from where the command is given, and see that they are there."""
    for group in ("model", "data"):
        path = values[group]["path"]
        if path is not None:
            values[group]["path"] = str(Path(path).expanduser().resolve())
    folder, data = values["model"]["path"], values["data"]["path"]
    if folder is not None:
        modelsize.read_config(Path(folder))
    if data is not None and not Path(data).exists():
        raise ConfigError("data.path", data, "there is no such file or folder")


def apply_wandb_environment(
    tracker: dict[str, Any], given: Mapping[str, str], environ: Mapping[str, str]
) -> None:
    """W&B's own variables win over what the user left alone, an override wins over them."""
    modes = {m: m for m in ("offline", "online")} | {"dryrun": "offline", "disabled": "none"}
    mode = environ.get("WANDB_MODE", "").lower()
    if mode and not {"tracker", "tracker.mode"} & given.keys():
        if mode not in modes:
            raise ConfigError("WANDB_MODE", mode, f"must be one of {', '.join(modes)}")
        tracker["mode"] = modes[mode]
    for key in ("project", "entity"):
        value = environ.get(f"WANDB_{key.upper()}")
        if value and f"tracker.{key}" not in given:
            tracker[key] = value
    tags = environ.get("WANDB_TAGS")
    if tags and "tracker.tags" not in given:
        tracker["tags"] = tuple(tag.strip() for tag in tags.split(",") if tag.strip())


def idle_settings(config: Config, given: Collection[str]) -> list[str]:
    """A line for each setting that the user gave and that does nothing in this run.

    Arguments:
        given: the keys that the user set.
    """
    triggers = ("interval_steps", "memory_threshold_gb", "leak_threshold_mb")
    idle_here = {
        "none": triggers,
        "interval": ("memory_threshold_gb",),
        "threshold": ("interval_steps",),
        "leak": ("interval_steps", "memory_threshold_gb"),
    }
    policy, kind, data = config.reload.policy, config.adapter.kind, config.data.name
    idle = {f"reload.{key}": f"reload.policy={policy}" for key in idle_here.get(policy, ())}
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
    if config.trainer == "mlx_lm":
        idle |= dict.fromkeys(_UNKNOWN_TO_MLX_LM, "trainer=mlx_lm")
    warnings = [f"{key} does nothing with {cause}" for key, cause in idle.items() if key in given]
    return warnings + _leak_never_seen(config)


_UNKNOWN_TO_MLX_LM = (
    "train.max_grad_norm",
    "data.pad_multiple",
    "reload.method",
    "memory.cache_limit_gb",
    "memory.limit_gb",
    "memory.cache_clear_interval",
)
_ADAMW = {"weight_decay", "beta1", "beta2", "bias_correction"}
_USED_BY = {
    "adamw": _ADAMW,
    "adam": _ADAMW - {"weight_decay"},
    "muon": _ADAMW | {"momentum"},  # AdamW has the parameters that Muon is not meant for
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
