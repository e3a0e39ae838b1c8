"""The command that goes on from a run's weights, for a run that can no longer be resumed."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from lab.tracking.closing import relative
from lab.tracking.text import clean


def restart_command(run_dir: Path) -> str:
    """``python train.py`` with the run's own overrides, starting from its newest checkpoint.

    Arguments:
        run_dir: its ``.hydra/overrides.yaml`` has Hydra's record of them; they may come from
            someone else, and are only printed.
    """
    overrides = [o for o in _overrides(run_dir) if not o.startswith("adapter.start_from=")]
    command = ["python", "train.py", *overrides, f"adapter.start_from={relative(run_dir)}"]
    return clean(shlex.join(command))


def _overrides(run_dir: Path) -> list[str]:
    try:
        found = yaml.safe_load((run_dir / ".hydra" / "overrides.yaml").read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return []
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
