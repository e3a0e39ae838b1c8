"""Environment for child processes, so that ``python -m lab....`` imports the same package."""

from __future__ import annotations

import os
from pathlib import Path


def environment_with_lab() -> dict[str, str]:
    """This process's environment with the package's parent folder first in ``PYTHONPATH``."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
