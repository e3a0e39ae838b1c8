"""How a run was begun, and whether its config, data and model are still those."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from lab.config.schema import ConfigError
from lab.records.digest import sha256_of_file
from lab.records.rows import read_jsonl

# A difference in these changes what is learned; in the others only the bits, perhaps.
DECISIVE = {"data_fingerprint": "data", "model_fingerprint": "model.path"}
TOLD = ("python", "mlx", "mlx_lm", "device", "device_name", "blas", "threads")
RUN_ID = "[0-9a-z]{1,32}"


@dataclass(frozen=True)
class Origin:
    """How a run was begun: the fields of its ``run_started`` event.

    Attributes:
        run_id: names the run to trackers, over restarts and resumptions.
        group: the sweep that it is a job of.
        config_sha256: hash of its ``config.yaml`` as first written.
    """

    run_id: str
    group: str | None
    config_sha256: str

    @classmethod
    def new(cls, config: Path, group: str | None) -> Self:
        return cls(_run_id(os.environ), group, sha256_of_file(config))

    @classmethod
    def of(cls, run_dir: Path) -> Self:
        """That of a run which was begun earlier.

        Raises:
            ConfigError: its config was edited since, or its first event is not what it should be.
        """
        config = run_dir / "config.yaml"
        first = next(read_jsonl(run_dir / "events.jsonl"), None)
        if first is None:  # it was cut off before it began
            return cls.new(config, None)
        run_id, group, digest = (first.get(k) for k in ("run_id", "group", "config_sha256"))
        if not isinstance(run_id, str) or not re.fullmatch(RUN_ID, run_id):
            raise ConfigError("run", run_dir, "events.jsonl does not begin as a run's does")
        if not isinstance(digest, str) or digest != sha256_of_file(config):
            raise ConfigError(
                "run", config, "was changed since the run began; a changed run is a new run"
            )
        return cls(run_id, group if isinstance(group, str) else None, digest)

    def event(self) -> dict[str, Any]:
        return asdict(self)


def _run_id(environ: Mapping[str, str]) -> str:
    """A new run's: the one that W&B's agent has given it already, where one has started it."""
    given = environ.get("WANDB_RUN_ID", "")
    if environ.get("WANDB_SWEEP_ID") and re.fullmatch(RUN_ID, given):
        return given
    return uuid.uuid4().hex[:12]


def check_environment(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare the environment of a run's first worker with that of the one that goes on.

    Returns:
        One line for each difference that may cost the last bits.

    Raises:
        ConfigError: the data or the model is another.
    """
    for key, setting in DECISIVE.items():
        if key in then and then[key] != now.get(key):
            what = setting.partition(".")[0]
            raise ConfigError(
                setting,
                f"fingerprint {_short(now.get(key))}",
                f"is not the {what} that the run was begun with ({_short(then[key])})",
            )
    return [
        f"{key} is {now.get(key)}, and was {then[key]} when the run began: its curve may differ"
        for key in TOLD
        if key in then and then[key] != now.get(key)
    ]


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:12]
