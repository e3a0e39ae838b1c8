"""Real runs of experiment=remedies: each growth mode without a reload, and what policies then did.

``growth_modes.json.xz`` has of each mode the curve of the run with ``reload=none`` (KB after each
step, by figure), certain growth in MB a step, cells of each batch and its ``explain.json``; and of
the runs with an interval of 31 steps, a threshold of 0.1 GB and ``adaptive`` the peak and counts.
"""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

from lab.explain.explanation import EXPLAIN_FILE, EXPLAIN_VERSION
from lab.records.rows import METRIC_KEYS
from tests.compared import write_config

KB_A_GB = 2**20
SETTINGS = {
    "train.steps": 160,
    "train.batch_size": 2,
    "train.max_seq_length": 64,
    "checkpoint.interval_steps": 0,
    "memory.budget_gb": 1.0,
    "reload.policy": "none",
    "reload.metric": "process",
    "reload.method": "process",
    "reload.interval_steps": 31,
    "reload.memory_threshold_gb": 0.1,
    "explain.enabled": True,
}
RAGGED = {"memory.cache_limit_gb": 4.0, "memory.cache_clear_interval": 0}


@cache
def growth_modes() -> dict[str, Any]:
    packed = Path(__file__).with_name("growth_modes.json.xz").read_bytes()
    return json.loads(lzma.decompress(packed))


def write_recorded(folder: Path, fault: str, *, explained: bool = True, sole: bool = True) -> None:
    """Write the run without a reload as a run's folder.

    Arguments:
        explained: with its explanation.
        sole: which says of what kind the growth is, so that nothing cheaper is tried.
    """
    found = growth_modes()[fault]
    write_config(folder, SETTINGS | (RAGGED if fault == "ragged_cache" else {}))
    with (folder / "metrics.jsonl").open("w") as file:
        for at, (trend, cells) in enumerate(zip(found["trend"], found["cells"], strict=True)):
            row = dict.fromkeys(METRIC_KEYS, 1.0) | {"step": at + 1, "time": 1.0 + 0.02 * (at + 1)}
            for figure in ("active", "cache", "process", "peak"):
                row[f"memory/{figure}_gb"] = found[figure][at] / KB_A_GB
            row |= {"tokens": cells, "data/padded_fraction": 0.0, "step_seconds": 0.02}
            row |= {"memory/trend_mb_per_step": trend}
            row |= {"reload/count": 0, "reload/generation": 0}
            file.write(json.dumps(row) + "\n")
    (folder / "events.jsonl").write_text("")
    if explained and found["explain"]:
        said = {"version": EXPLAIN_VERSION, "grows": True, **found["explain"]}
        said = said if sole else {key: said[key] for key in said.keys() - {"kinds"}}
        (folder / EXPLAIN_FILE).write_text(json.dumps(said))
