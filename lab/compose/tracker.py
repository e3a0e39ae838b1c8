"""What trackers are asked to do: W&B's variables applied, what it would refuse refused first.

W&B says so only while a run trains already, and then the run has no W&B.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lab.config.keys import Config, Tracker
from lab.config.schema import ConfigError
from lab.tracking.labels import NAME_LETTERS, TAG_LETTERS
from lab.tracking.opening import not_installed

NOT_IN_A_PROJECT = r"/\#?%:"


def apply_wandb_environment(
    tracker: dict[str, Any], given: Mapping[str, str], environ: Mapping[str, str]
) -> None:
    """Apply W&B's own variables in place: over the configs' values, under the user's overrides."""
    modes = {m: m for m in ("offline", "online")} | {"dryrun": "offline", "disabled": "none"}
    mode = environ.get("WANDB_MODE", "").lower()
    if mode and not {"tracker", "tracker.mode"} & given.keys():
        if mode not in modes:
            raise ConfigError("WANDB_MODE", mode, f"must be one of {', '.join(modes)}")
        tracker["mode"] = modes[mode]
    for key in ("project", "entity"):
        value = environ.get(f"WANDB_{key.upper()}")
        if value and f"tracker.{key}" not in given:
            tracker[key] = value
    tags = environ.get("WANDB_TAGS")
    if tags and "tracker.tags" not in given:
        tracker["tags"] = tuple(tag.strip() for tag in tags.split(",") if tag.strip())


def check_tracker(tracker: Tracker, environ: Mapping[str, str]) -> None:
    """Check the values that W&B's server would refuse.

    Raises:
        ConfigError: names the key or W&B's variable, and what is allowed; or a tracker that is
            not installed.
    """
    for name in tracker.beside_wandb:
        if find_spec(name) is None:
            raise ConfigError("tracker", name, not_installed(name))
    if tracker.mode == "none":
        return
    project = tracker.project or environ.get("WANDB_PROJECT") or ""
    if found := sorted(set(project) & set(NOT_IN_A_PROJECT)):
        team = "; a team goes into tracker.entity" if "/" in found else ""
        letters = " ".join(NOT_IN_A_PROJECT)
        raise ConfigError("tracker.project", project, f"must have none of {letters}{team}")
    names = {"tracker.project": project, "tracker.entity": tracker.entity or ""}
    names |= {key: environ.get(key, "") for key in ("WANDB_NAME", "WANDB_RUN_GROUP")}
    for key, name in names.items():
        if len(name) > NAME_LETTERS:
            allowed = f"must have at most {NAME_LETTERS} characters, it has {len(name)}"
            raise ConfigError(key, name, allowed)
    for tag in tracker.tags:
        if not 1 <= len(tag) <= TAG_LETTERS:
            allowed = f"each tag must have 1 to {TAG_LETTERS} characters, one has {len(tag)}"
            raise ConfigError("tracker.tags", list(tracker.tags), allowed)


def check_wandb(config: Config, environ: Mapping[str, str], *, group: str = "") -> None:
    """Check that W&B has a key if it is online, and a folder that it can write to.

    Arguments:
        group: the sweep's name there, which is its folder's.

    Raises:
        ConfigError: ``tracker.mode``, ``WANDB_DIR`` or ``hydra.sweep.dir``, with the remedy.
    """
    if config.tracker.mode == "none":
        return
    if len(group) > NAME_LETTERS and not environ.get("WANDB_RUN_GROUP"):
        allowed = f"its last folder must have at most {NAME_LETTERS} characters, or set "
        raise ConfigError("hydra.sweep.dir", group, f"{allowed}WANDB_RUN_GROUP")
    if folder := environ.get("WANDB_DIR"):
        _check_writable(Path(folder))
    if config.tracker.mode == "online" and not environ.get("WANDB_API_KEY"):
        from lab.tracking.wandb import has_key

        if not has_key():
            remedy = "set WANDB_API_KEY, run `wandb login`, or take tracker=wandb_offline"
            raise ConfigError("tracker.mode", "online", f"needs an API key: {remedy}")


def _check_writable(folder: Path) -> None:
    """W&B would make the folder; where it cannot, it writes to the system's temporary one."""
    nearest = next((f for f in (folder, *folder.absolute().parents) if f.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return
    except OSError as error:
        allowed = f"cannot be written ({error.strerror}); name another folder, or unset it"
        raise ConfigError("WANDB_DIR", folder, allowed) from error
