"""On an accelerator: reloads are exact there too, and the probe tells the truth about its memory.

``pytest -m gpu``. The sequences are long enough for cuDNN's attention, whose backward pass is not
deterministic by itself: ``train.deterministic`` (the default) must make it so.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from lab.config.units import GB, MB
from lab.faults.truth import TRUTHS
from lab.records.profile import read_profile
from lab.records.rows import metric_gb
from tests.runs import Run, config_of, start
from tests.train.test_exact import METHODS, STRAIGHT, assert_same

pytestmark = pytest.mark.gpu

SIZES = (
    "model.scratch.hidden_size=512", "model.scratch.num_layers=4", "model.scratch.num_heads=8",
    "model.scratch.intermediate_size=1024", "train.batch_size=4", "train.max_seq_length=1024",
    "optimizer.learning_rate=1e-3",
)  # fmt: skip
CASES = {
    "full-adamw-compiled": "adapter=full optimizer=adamw train.compile=true",
    "full-muon": "adapter=full optimizer=muon train.compile=false optimizer.schedule=cosine",
    "lora-adam-compiled": "adapter=lora optimizer=adam adapter.dropout=0.1 train.compile=true "
    "train.grad_accumulation_steps=2 optimizer.schedule=linear",
    "qlora-adamw": "adapter=qlora optimizer=adamw adapter.dropout=0.1 train.compile=true",
    # Heads of 16, whose rotation MLX's CUDA kernel does not take one token at a time.
    "packed": "adapter=full optimizer=adamw train.packing=true model.scratch.num_heads=32",
}


@pytest.mark.parametrize("case", CASES)
def test_reloads_change_nothing(case: str, tmp_path: Path) -> None:
    overrides = (*SIZES, *CASES[case].split())
    straight = start(tmp_path / "straight", *STRAIGHT, *overrides)
    for method, reloads in METHODS.items():
        run = start(tmp_path / method, *reloads, *overrides)
        assert [e["step"] for e in run.events("reload")] == [2, 4]
        assert_same(run, straight, last=6)


def test_four_runs_have_one_curve(tmp_path: Path) -> None:
    curves = [
        start(tmp_path / f"{i}", *STRAIGHT, *SIZES, "train.steps=12").column("loss")
        for i in range(4)
    ]
    assert curves.count(curves[0]) == 4


def test_a_run_that_need_not_be_deterministic_trains(tmp_path: Path) -> None:
    run = start(tmp_path / "run", *STRAIGHT, *SIZES, "train.deterministic=false")
    assert run.result.exit_code == 0


def test_a_profile_tells_modules_apart_and_changes_nothing(tmp_path: Path) -> None:
    overrides = ("debug=profile", *SIZES, *CASES["lora-adam-compiled"].split())
    window = ("profiler.warmup_steps=2", "profiler.steps=2")
    plain = start(tmp_path / "plain", *overrides, "profiler.steps=0")
    run = start(tmp_path / "profiled", *overrides, *window)
    assert run.column("loss") == plain.column("loss")
    assert run.summary["weights_sha256"] == plain.summary["weights_sha256"]
    profile = read_profile(run.folder)
    assert profile is not None
    kinds = {part.name: part for part in profile.modules}
    assert all(kinds[name].seconds > 0 for name in ("attention", "mlp", "norm", "head, loss"))
    assert kinds["attention"].kept


def test_the_probe_sees_the_memory_of_the_device(tmp_path: Path) -> None:
    run = start(tmp_path / "run", *STRAIGHT, *SIZES, "train.steps=12", "memory.cache_limit_gb=0.25")
    active, peak, cache = (run.column(f"memory/{name}_gb") for name in ("active", "peak", "cache"))
    parameters = run.arrays(12, "adapters.safetensors").values()
    weights = sum(len(bits) for _, _, bits in parameters) / GB
    assert min(active) >= 3 * weights  # the weights and Adam's two moments
    assert max(active) < 3 * weights + 0.1
    assert all(p > a for p, a in zip(peak, active, strict=True))
    assert max(cache) <= 0.25 + 0.01


def test_a_reload_above_a_threshold_frees_the_cache(tmp_path: Path) -> None:
    run = start(
        tmp_path / "run", "reload=threshold", "reload.memory_threshold_gb=0.05", *SIZES,
        "memory.cache_clear_interval=0",
    )  # fmt: skip
    assert run.events("reload")
    assert run.result.exit_code == 0


def most(run: Run, metric: str) -> float:
    """The highest that a memory metric was after any step, in GB."""
    return max(metric_gb(row, metric) or 0.0 for row in run.rows)


def test_adaptive_keeps_a_faults_memory_below_the_budget_and_changes_nothing(
    tmp_path: Path,
) -> None:
    common = ("train.steps=48", "train.batch_size=8", "memory.cache_limit_gb=0.02")
    straight = start(tmp_path / "straight", *STRAIGHT, *common)
    metric = config_of().reload.metric
    taken = max(most(straight, metric), *straight.column("memory/peak_gb"))
    budget = taken + 40 * MB / GB
    run = start(
        tmp_path / "run", "reload=adaptive", f"memory.budget_gb={budget}",
        "fault=[lazy_loss,module_list]", *common,
    )  # fmt: skip
    assert {e["reason"] for e in run.events("reload")} == {"adaptive"}
    assert most(run, metric) <= budget
    assert_same(run, straight, last=48)


@pytest.mark.parametrize("fault", ["trainer_list", "lazy_loss"])
def test_a_faults_kind_holder_and_remedy_are_explained(fault: str, tmp_path: Path) -> None:
    run = start(
        tmp_path / "run", *STRAIGHT, "explain.enabled=true", f"fault={fault}",
        "train.steps=24", "train.batch_size=8",
    )  # fmt: skip
    found, truth = json.loads((run.folder / "explain.json").read_text()), TRUTHS[fault]
    assert (found["kind"], found["remedy"]) == (truth.kind, truth.remedy)
    assert found["holder"].startswith("lab.train.session.Session.faults[0].")
    rates = {kind["kind"]: kind["mb_per_step"] for kind in found["kinds"]}
    assert rates[truth.kind] == pytest.approx(1.0, rel=0.1)  # beside it MLX's cache still fills


def test_a_reading_costs_little() -> None:
    import time

    from lab.train import memory

    costs = []
    for _ in range(200):
        began = time.perf_counter()
        memory.read()
        costs.append(time.perf_counter() - began)
    print(f"a reading takes {statistics.median(costs) * 1e6:.0f} us")
    assert statistics.median(costs) < 0.01 * 0.030
