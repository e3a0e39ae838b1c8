"""A run introduces itself once its first worker knows model and data; its trackers open."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.config.keys import Config
from lab.machine.hardware import fitting_profile
from lab.records.facts import RunFacts
from lab.records.origin import Origin
from lab.tracking.console import DRAWN
from lab.tracking.folders import outputs_of
from lab.tracking.introduction import as_lines, introduce
from lab.tracking.trackers import Tracker, open_trackers

log = logging.getLogger("lab")


def open_introduced(
    config: Config,
    run_dir: Path,
    facts: RunFacts,
    environment: Mapping[str, Any],
    *,
    on_cuda: bool,
    origin: Origin,
    overrides: list[str],
) -> list[Tracker]:
    """Open a run's trackers, and say in its log and on the console what it is.

    Arguments:
        environment: of its first worker.
        overrides: what the user changed.
    """
    profile = fitting_profile(config.hardware.memory_gb, on_cuda=on_cuda)
    introduction = introduce(config, facts, environment, profile=profile, run_dir=run_dir)
    trackers = open_trackers(
        config,
        outputs=outputs_of(run_dir),
        run_dir=run_dir,
        origin=origin,
        overrides=overrides,
        introduction=introduction,
    )
    log.info("%s", as_lines(config.name, introduction), extra=DRAWN)
    return trackers
