"""When growth is certain: false alarms, delays and cost of the test.

False alarms are counted over 1,000 simulated healthy runs (benchmarks/explain_healthy.py says of
what) and over recorded real ones, of the tiny model and of SmolLM2, with and without what is known
of the heap. Delays are steps from the first that grows, with growth put into each session that
is long enough, from step 25 on, its end repeated where it is too short: 'active' is MLX's, 'heap'
is in use outside MLX, 'process' is seen in the process only; beyond the last step of the search
counts as infinite. The cost is CPU time of ``add`` over noise, all four channels read.
"""

from __future__ import annotations

import lzma
import math
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from benchmarks.explain_healthy import Trace, packed, simulated
from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import ROOT, Options, Workspace, say
from lab.config.units import MB
from lab.records.growth import GrowthTest

RECORDED = ROOT / "tests" / "records" / "healthy_traces.json.xz"
SIMULATED, FIRST_SEED = 1000, 10_000  # the seeds below were tuned on
START = 25
COST_US = 300.0  # 1 % of a step of 30 ms
CASES = (  # channel, MB a step, every so many steps, steps searched, goal
    ("active", 1.0, 1, 60, 12),
    ("heap", 1.0, 1, 60, 12),
    ("process", 1.0, 1, 300, None),
    ("active", 0.05, 1, 600, 500),
    ("heap", 0.05, 1, 600, 500),
    ("process", 0.05, 1, 600, 500),
    ("active", 1.0, 7, 300, None),
    ("heap", 1.0, 7, 300, None),
)


def measure(_: Workspace, options: Options) -> Report:
    """All of it; ``options.rounds`` simulated runs where given."""
    real = recorded_traces()
    return Report([*false_alarms(real, options.rounds or SIMULATED), *delays(real), *cost()])


def recorded_traces(path: Path = RECORDED) -> list[Trace]:
    return packed(lzma.decompress(path.read_bytes()).decode())


def false_alarms(real: Sequence[Trace], runs: int) -> list[Figure]:
    say(f"{runs} simulated runs")
    alarms = sum(bool(simulated(FIRST_SEED + n).certain_at()) for n in range(runs))
    names = {trace.name.partition(".")[0] for trace in real}
    say(f"{len(names)} recorded runs, {len(real)} sessions")
    found = {
        trace.name.partition(".")[0]
        for trace in real
        if trace.certain_at() or trace.without_heap().certain_at()
    }
    return [
        Figure(f"false alarms in {runs} simulated runs", [alarms], "", Goal(0.01 * runs)),
        Figure(f"false alarms in {len(names)} real runs", [len(found)], "", Goal(0)),
    ]


def delays(real: Sequence[Trace]) -> list[Figure]:
    """One line a model and case."""
    figures = []
    for model in ("tiny", "SmolLM2"):
        long_enough = 100 if model == "tiny" else 50
        chosen = [
            trace
            for trace in real
            if trace.name.startswith("lora") == (model == "SmolLM2")
            and len(trace.steps) >= long_enough
            and trace.has_heap
        ]
        say(f"delays on {len(chosen)} runs of {model}")
        for channel, rate, every, searched, goal in CASES:
            values = [delay(trace, channel, rate, every, searched) for trace in chosen]
            what = f"{model}, {channel} {rate:g} MB a step{f' in lumps of {every}' * (every > 1)}"
            # The process of ragged SmolLM2 moves by tens of MB: no goal for 0.05 MB a step in it.
            is_noisy = model == "SmolLM2" and channel == "process"
            limit = None if goal is None or is_noisy else Goal(goal)
            figures.append(Figure(what, values, "steps", limit))
    return figures


def delay(trace: Trace, channel: str, rate: float, every: int, searched: int) -> float:
    longer = trace.repeated(START + searched)
    found = longer.growing(channel, rate, start=START, every=every).certain_at()
    return math.inf if found is None else found - START + 1


def cost() -> list[Figure]:
    noise, test, times = Random(0), GrowthTest(), []
    for turn in range(5):
        readings = [(noise.randrange(9 * MB), noise.randrange(9 * MB)) for _ in range(2000)]
        began = time.process_time()
        for step, (cache, heap) in enumerate(readings, start=2000 * turn + 1):
            test.add(step, active=MB, cache=cache, process=cache + 2 * heap, heap=heap)
        times.append((time.process_time() - began) / len(readings) * 1e6)
    return [Figure("add", times, "us", Goal(COST_US))]
