"""Ray, for the launcher of that name: started before it would, so that signals stay the sweep's."""

from __future__ import annotations

import os
import sys

from omegaconf import DictConfig, OmegaConf


def start_ray(config: DictConfig) -> None:
    """Start Ray where the launcher is Ray's, which then uses it as it is.

    ``ray.init`` takes SIGTERM for itself: whoever wants it must ask for it afterwards.
    """
    if not config.hydra.launcher._target_.endswith(".RayLauncher"):
        return
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # it would leave out what two jobs both say
    import ray

    ray.init(**OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True))  # type: ignore[arg-type]


def stop_ray() -> None:
    """Stop it, once the last lines of its jobs have come."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown(_exiting_interpreter=True)
