"""The same in LoRA on SmolLM2 with ragged data, at 1 MB a step."""

from __future__ import annotations

from benchmarks.diagnose import Shape, diagnoses
from benchmarks.report import Report
from benchmarks.workspace import Options, Workspace, smollm2


def measure(workspace: Workspace, options: Options) -> Report:
    """All growth modes."""
    overrides = (*smollm2(layers=2, length=192), "train.val_batches=1")
    shape = Shape(1.0, start=20, within=50, searched=80, seeds=2, overrides=overrides)
    return diagnoses(workspace, options, shape)
