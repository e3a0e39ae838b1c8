"""What tells a run in W&B from others, and what leads from there back to its folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.config.keys import Config
from lab.config.schema import to_dict
from lab.records.origin import Origin
from lab.tracking.text import clean, short_names

NAME_LETTERS, TAG_LETTERS = 128, 64  # at most, on W&B's server
SECRET_KEY = re.compile(r"(key|token|secret|passw(or)?d|credentials?)$", re.IGNORECASE)
SECRET_LETTERS = 8  # at least, of a value in the environment that is looked for in other texts


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What W&B shows of a run beside its rows.

    Attributes:
        name: in a sweep ``NAME-3 memory_threshold_gb=0.25``.
        config: the run's, and ``run_dir``, ``job``, ``command``, ``host``, ``reproduces``.
    """

    name: str
    tags: list[str]
    job_type: str
    config: dict[str, Any]


def labels_of(config: Config, run_dir: Path, origin: Origin) -> Labels:
    """Read a run's labels from its folder, whose files may come from somebody else."""
    job = _read_json(run_dir / "job.json")
    overrides = _texts(job.get("overrides")) or _hydra_overrides(run_dir)
    number = job.get("number")
    more = {
        "run_dir": below_outputs(run_dir),
        "job": number if type(number) is int else None,
        "command": _command(overrides, origin),
        "host": socket.gethostname() if config.tracker.log_host else None,
        "reproduces": origin.reproduces,
    }
    more = {key: value for key, value in more.items() if value is not None}
    return Labels(
        name=_name(config, run_dir, more.get("job"), overrides),
        tags=_tags(config, origin),
        job_type=_job_type(config, origin),
        config=without_secrets({**to_dict(config), **more}),
    )


def _name(config: Config, run_dir: Path, job: int | None, overrides: Sequence[str]) -> str:
    if job is None:
        return config.name
    values = {key.lstrip("+~").partition("@")[0]: value for key, value in _pairs(overrides)}
    swept = [key for key in _swept(run_dir) if key in values]
    shown = [
        f"{name}={values[key].rstrip('/').rpartition('/')[2]}"
        for key, name in zip(swept, short_names(swept), strict=True)
    ]
    given = config.name if "name" in values else "job"
    return clean(" ".join([f"{given}-{job}", *shown]))[:NAME_LETTERS]


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    split = (override.partition("=") for override in overrides)
    return [(key, value.strip("'\"")) for key, _, value in split]


def _swept(run_dir: Path) -> list[str]:
    indices = (folder / "sweep.json" for folder in run_dir.resolve().parents)
    index = next((path for path in indices if path.is_file()), None)
    return _texts(_read_json(index).get("swept")) if index else []


def _tags(config: Config, origin: Origin) -> list[str]:
    own = ("mlx", config.reload.policy, config.model.name, origin.group or "")
    return list(dict.fromkeys(tag[:TAG_LETTERS] for tag in (*own, *config.tracker.tags) if tag))


def _job_type(config: Config, origin: Origin) -> str:
    if origin.reproduces is not None:
        return "reproduce"
    return "baseline" if config.trainer == "mlx_lm" else "train"


def _command(overrides: Sequence[str], origin: Origin) -> str | None:
    if origin.reproduces is not None:
        return shlex.join(["lab", "reproduce", origin.reproduces])
    hidden = [
        f"{text.partition('=')[0]}=***" if SECRET_KEY.search(text.partition("=")[0]) else text
        for text in overrides
    ]
    return shlex.join(["python", "train.py", *without_secrets(hidden)]) if overrides else None


def below_outputs(folder: Path) -> str:
    """A run's or a sweep's folder from that of ``outputs`` on, where it lies in one."""
    folder = folder.resolve()
    outputs = next((parent for parent in folder.parents if parent.name == "outputs"), None)
    return str(folder.relative_to(outputs.parent) if outputs else folder)


def without_secrets(value: Any) -> Any:
    """Mask, at any depth, secrets of the environment and passwords in addresses."""
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if len(secret) >= SECRET_LETTERS and SECRET_KEY.search(name):
            value = value.replace(secret, "***")
    return re.sub(r"://[^/@\s]+@", "://***@", value)


def _hydra_overrides(run_dir: Path) -> list[str]:
    with suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
        path = run_dir / ".hydra" / "overrides.yaml"
        return _texts(yaml.safe_load(path.read_text(encoding="utf-8")))
    return []


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
