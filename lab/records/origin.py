"""The origin of a run, and whether its config, data, model and environment are unchanged."""

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

# Fingerprints, and the setting to name if they differ: another one changes the training.
MUST_MATCH = {
    "data_fingerprint": "data",
    "model_fingerprint": "model.path",
    "weights_fingerprint": "model.path",
    "tokenizer_fingerprint": "model.path",
}
# A mismatch in these may change the last bits; it is only warned about, and a run goes on after an
# update.
WARN_IF_CHANGED = (
    *("lab", "git_commit", "platform", "architecture", "python", "mlx", "mlx_lm", "tokenizers"),
    *("device", "device_name", "blas", "threads"),
)
MLX_VARIABLES = "mlx_variables"  # in an environment: the MLX_* that were set, by name
RUN_ID = "[0-9a-z]{1,32}"


@dataclass(frozen=True)
class Origin:
    """The identity of a run from its start: the fields of its ``run_started`` event.

    Attributes:
        run_id: the run's id in trackers, kept over restarts and resumes.
        group: the sweep that it is a job of; None for a run of its own.
        config_sha256: hash of its ``config.yaml`` as first written.
        reproduces: the folder of the run that it was made again from; None for any other run.
    """

    run_id: str
    group: str | None
    config_sha256: str
    reproduces: str | None = None

    @classmethod
    def new(cls, config: Path, group: str | None, reproduces: str | None = None) -> Self:
        return cls(_run_id(os.environ), group, sha256_of_file(config), reproduces)

    @classmethod
    def of(cls, run_dir: Path) -> Self:
        """Read the origin of an earlier run and check its config against it.

        Raises:
            ConfigError: its config was edited since, or its first event is no ``run_started``.
        """
        config = run_dir / "config.yaml"
        events = run_dir / "events.jsonl"
        first = next(read_jsonl(events), None)
        if first is None:  # cut off before its first event
            return cls.new(config, None)
        run_id, group, digest = (first.get(k) for k in ("run_id", "group", "config_sha256"))
        if not isinstance(run_id, str) or not re.fullmatch(RUN_ID, run_id):
            raise ConfigError("run", f"{events}, line 1", "does not begin a run of this lab")
        if not isinstance(digest, str) or digest != sha256_of_file(config):
            raise ConfigError(
                "run", config, "was changed since the run began; a changed run is a new run"
            )
        reproduces = first.get("reproduces")
        group, reproduces = (t if isinstance(t, str) else None for t in (group, reproduces))
        return cls(run_id, group, digest, reproduces)

    def event(self) -> dict[str, Any]:
        return asdict(self)


def _run_id(environ: Mapping[str, str]) -> str:
    """A new run id; the one that W&B's sweep agent assigned, if an agent started this run."""
    given = environ.get("WANDB_RUN_ID", "")
    if environ.get("WANDB_SWEEP_ID") and re.fullmatch(RUN_ID, given):
        return given
    return uuid.uuid4().hex[:12]


def check_environment(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare the environment of a run's first worker with that of a later worker.

    Arguments:
        then: of the first worker; a key it lacks is not compared.
        now: of the later worker.

    Returns:
        One warning for each difference that may change the last bits.

    Raises:
        ConfigError: the data or the model has another fingerprint.
    """
    for key, setting in MUST_MATCH.items():
        if key in then and then[key] != now.get(key):
            what = key.partition("_")[0]
            raise ConfigError(
                setting,
                f"fingerprint {_short(now.get(key))}",
                f"is not the {what} that the run was begun with ({_short(then[key])})",
            )
    pairs = [(key, then[key], now.get(key)) for key in WARN_IF_CHANGED if key in then]
    if isinstance(before := then.get(MLX_VARIABLES), dict):
        after = now.get(MLX_VARIABLES) or {}
        names = sorted({*before, *after})
        pairs += [(name, before.get(name, "unset"), after.get(name, "unset")) for name in names]
    return [
        f"{key} is {is_now}, and was {was} when the run began: its curve may differ"
        for key, was, is_now in pairs
        if was != is_now
    ]


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:12]
