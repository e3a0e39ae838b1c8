"""Overrides as they were typed, and the run names made of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from omegaconf import ListConfig, OmegaConf

from lab.config.schema import AUTO

NAME_LENGTH = 80


def run_name(name: object, overrides: Iterable[str]) -> str:
    """A run's name, safe as a folder's: the one given or, for ``auto``, its overrides."""
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
    """The overrides that sweep over values, in themselves or through an experiment; else all."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    chosen = [
        text
        for text, override in zip(overrides, parsed, strict=True)
        if override.is_sweep_override() or override.key_or_group == "experiment"
    ]
    return chosen or list(overrides)


def plain_overrides(overrides: ListConfig | Sequence[str]) -> list[str]:
    """Overrides as they were typed: OmegaConf would resolve a ``${`` in them on reading."""
    return [str(o) for o in OmegaConf.to_container(overrides, resolve=False) or ()]


def quoted(value: object) -> str:
    """A value as Hydra's overrides take any text."""
    text = str(value).replace("'", "\\'")
    return f"'{text}'"


def override_key(override: str) -> str:
    """The dotted name that an override sets."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def shown_value(override: str) -> str:
    """The value of an override for display: without quotes, a path shortened to its last part."""
    return override.partition("=")[2].strip("'\"").rstrip("/").rpartition("/")[2]
