"""From Hydra's composed config to a frozen :class:`lab.config.keys.Config`; OmegaConf ends here.

Composed values may still be ``auto`` or null: :func:`fill_auto` replaces them by what the machine
and the hardware profile give.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.compose import model_size
from lab.compose.auto import fill_auto
from lab.compose.idle import idle_settings
from lab.compose.overrides import override_key, run_name
from lab.compose.resolvers import register
from lab.compose.tracker import apply_wandb_environment, check_tracker
from lab.config.keys import CONFIG_VERSION, TIERS, Config
from lab.config.schema import ConfigError, draft, from_dict
from lab.machine.machine import Machine
from lab.machine.probe import probe_machine

register()


def compose_config(
    cfg: DictConfig,
    overrides: Sequence[str],
    *,
    named_by: Sequence[str] | None = None,
    side_by_side: int = 1,
    machine: Machine | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[Config, list[str]]:
    """Resolve, complete and check a composed config.

    Arguments:
        cfg: the composed config, with or without its ``hydra`` node.
        overrides: what the user gave on the command line for this job.
        named_by: those of them that an automatic name is made of; by default all.
        side_by_side: how many jobs share the machine's memory and cores.
        machine: what ``auto`` values are chosen for; by default the machine this runs on.
        environ: environment to read W&B's own variables from; by default the process's.

    Returns:
        The config, and its warnings, one line each.

    Raises:
        ConfigError: a value is impossible.
        OmegaConfBaseException: an interpolation is, or a key is missing.
    """
    # Checked first: the profile's table is indexed with it while interpolations are resolved.
    tier = None if OmegaConf.is_missing(cfg, "model") else cfg.model.tier
    if tier not in TIERS:
        raise ConfigError("model.tier", tier, f"must be one of {', '.join(TIERS)}")
    task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    raw = OmegaConf.to_container(task, resolve=True, throw_on_missing=True)
    assert isinstance(raw, dict)
    given = {override_key(o): o.partition("=")[2] for o in overrides}
    raw["version"] = CONFIG_VERSION
    raw["name"] = run_name(raw["name"], overrides if named_by is None else named_by)
    values = draft(Config, raw)
    environ = os.environ if environ is None else environ
    apply_wandb_environment(values["tracker"], given, environ)
    _resolve_paths(values)
    warnings = fill_auto(values, (machine or probe_machine()).share(side_by_side))
    config = from_dict(Config, values)
    check_tracker(config.tracker, environ)
    return config, warnings + idle_settings(config, given)


def _resolve_paths(values: dict[str, Any]) -> None:
    """Make paths absolute, relative to the working directory, and check that they exist."""
    for group in ("model", "data"):
        path = values[group]["path"]
        if path is not None:
            values[group]["path"] = str(Path(path).expanduser().resolve())
    start = values["adapter"]["start_from"]
    if start is not None:
        values["adapter"]["start_from"] = str(Path(start).expanduser().resolve())
        if not Path(start).expanduser().is_dir():
            raise ConfigError("adapter.start_from", start, "there is no such folder")
    folder, data = values["model"]["path"], values["data"]["path"]
    if folder is not None:
        model_size.read_config(Path(folder))
    if data is not None and not Path(data).exists():
        raise ConfigError("data.path", data, "there is no such file or folder")
