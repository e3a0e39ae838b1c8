"""Ray for ``hydra/launcher=ray``: started before the launcher would, so that signals stay ours."""

from __future__ import annotations

import os
import sys

from omegaconf import DictConfig, OmegaConf, open_dict

from lab.compose.overrides import override_key, plain_overrides
from lab.config.units import MB

# Not in conf/hydra/env/launcher/ray.yaml, as other plugins' defaults are: users append these keys
# (+hydra.launcher.ray.init.num_cpus=6), and Hydra refuses to append one that a file sets.
INIT_DEFAULTS = {
    "num_cpus": 2,
    "include_dashboard": False,
    "object_store_memory": 75 * MB,  # the least that Ray takes
}


def set_init_defaults(config: DictConfig) -> None:
    """Fill in the keys of ``ray.init`` that the user left open.

    None of them where Ray connects to a cluster: it refuses them there.
    """
    if not _launches_on_ray(config) or config.hydra.launcher.ray.init.get("address") is not None:
        return
    given = {override_key(o) for o in plain_overrides(config.hydra.overrides.hydra)}
    init = config.hydra.launcher.ray.init
    with open_dict(init):
        for key, value in INIT_DEFAULTS.items():
            if init.get(key) is None and f"hydra.launcher.ray.init.{key}" not in given:
                init[key] = value


def start_ray(config: DictConfig) -> None:
    """Start Ray where the launcher is Ray's, which then uses it as it is.

    ``ray.init`` installs its own handler of SIGTERM: install ours after this call.
    """
    if not _launches_on_ray(config):
        return
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # it would drop a line that two jobs both print
    import ray

    ray.init(**OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True))  # type: ignore[arg-type]


def _launches_on_ray(config: DictConfig) -> bool:
    return config.hydra.launcher._target_.endswith(".RayLauncher")


def stop_ray() -> None:
    """Stop Ray, if it runs, once the last lines of its jobs have been printed."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown(_exiting_interpreter=True)
