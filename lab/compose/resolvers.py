"""The schema and the OmegaConf resolvers that the YAML files use."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from lab.compose import model_size
from lab.compose.overrides import plain_overrides, run_name, sweeping
from lab.compose.profiles import detected_profile
from lab.compose.structured import CONFIG_SCHEMA
from lab.machine.hardware import profile_sizes
from lab.machine.probe import ProbeError, probe_machine


def _profile_here() -> str:
    try:
        return detected_profile(probe_machine())
    except ProbeError:  # --help works without MLX; a run asks again and says what is wrong
        return min(profile_sizes(), key=profile_sizes().__getitem__)


def register() -> None:
    """Register the schema with Hydra and the resolvers with OmegaConf."""
    ConfigStore.instance().store("schema", CONFIG_SCHEMA)
    # Hydra resolves interpolated groups once all others are chosen: "deferred" only makes its
    # option one, so that hydra/env=lab can ask which launcher and sweeper were.
    resolvers = {
        "detected_profile": _profile_here,
        "deferred": lambda option: option,
        "machine": lambda key: getattr(probe_machine(), key),
        "model_tier": model_size.tier_of_folder,
        "pick": lambda name, options, other: options.get(name, other),
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    # Cached, as ${now:} is: Hydra copies the cache to each job, so all agree on the sweep's folder.
    for name, choose in {"run_name": list[str], "sweep_name": sweeping}.items():
        OmegaConf.register_new_resolver(
            name,
            lambda given, overrides, choose=choose: run_name(
                given, choose(plain_overrides(overrides))
            ),
            replace=True,
            use_cache=True,
        )
