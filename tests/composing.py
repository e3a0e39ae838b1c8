"""Compose configs as the command line does, for machines other than this one."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from lab.compose import resolvers
from lab.compose.config import compose_config
from lab.compose.errors import explain
from lab.compose.profiles import CONF, detected_profile
from lab.config.keys import Config
from lab.machine.machine import Machine

GB = 2**30
ROOT = Path(__file__).resolve().parents[1]


def machine(backend: str = "cpu", memory: float = 256, budget: float | None = None) -> Machine:
    return Machine(
        system="Linux",
        architecture="x86_64",
        backend=backend,
        device_name="recorded",
        cores=2,
        memory_bytes=int(memory * GB),
        budget_bytes=int((budget or 0.8 * memory) * GB),
    )


BIG = machine(memory=512)  # holds the largest model of conf/model in float32


PARSER = OverridesParser.create()


@cache
def compose_groups(groups: tuple[str, ...], profile: str) -> DictConfig:
    """Hydra's composition of group options; cached, since it is slow. Callers change a copy.

    Arguments:
        profile: the only thing that a machine decides here; its figures are filled in later.
    """
    return compose("config", list(groups))


def composed(
    *overrides: str, on: Machine = BIG, environ: dict[str, str] | None = None
) -> tuple[Config, list[str]]:
    groups = tuple(o for o in overrides if _is_hydras(o.partition("=")[0].lstrip("+~")))
    values = [o for o in overrides if o not in groups]
    with patch.object(resolvers, "probe_machine", lambda: on):
        cfg = copy.deepcopy(compose_groups(groups, detected_profile(on)))
        ConfigLoaderImpl._apply_overrides_to_config(PARSER.parse_overrides(values), cfg)
        return compose_config(cfg, overrides, machine=on, environ=environ or {})


def _is_hydras(key: str) -> bool:
    """Whether it is Hydra that makes something of it: a group's option, or a setting of its own."""
    return (CONF / key).is_dir() or key.startswith("hydra")


def config(*overrides: str, on: Machine = BIG) -> Config:
    return composed(*overrides, on=on)[0]


def refusal(*overrides: str, on: Machine = BIG) -> str:
    """The one line of the error that these overrides cause."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Hydra's own kinds among them
        composed(*overrides, on=on)
    code, line = explain(caught.value, overrides)
    assert code == 2
    assert "\n" not in line
    return line
