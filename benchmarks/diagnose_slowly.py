"""The same at 0.05 MB a step, where growth must rise out of the noise.

The goal is 500 steps where memory's noise is below 0.3 MB, above it in proportion to its square.
"""

from __future__ import annotations

from benchmarks.diagnose import Shape, diagnoses
from benchmarks.report import Report
from benchmarks.workspace import Options, Workspace

SLOW = Shape(0.05, start=30, within=500, searched=700, seeds=3, quiet_mb=0.3)


def measure(workspace: Workspace, options: Options) -> Report:
    """All growth modes."""
    return diagnoses(workspace, options, SLOW)
