"""Another Python of this environment, which finds the package where this one did."""

from __future__ import annotations

import os
from pathlib import Path


def environment_with_lab() -> dict[str, str]:
    """This process's environment, for ``python -m lab....`` from any working directory."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
