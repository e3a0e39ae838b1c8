"""A reload changes nothing: every run with reloads equals the run without, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import Run, start

STRAIGHT = ("reload=none",)
METHODS = {
    "in_process": ("reload=interval", "reload.interval_steps=2", "reload.method=in_process"),
    "process": ("reload=interval", "reload.interval_steps=2", "reload.method=process"),
}
LAST = 6

# Pairwise over adapter, optimizer, schedule, accumulation, dropout, gradient checkpointing, how
# batches are made and compilation; a cold compile takes the better part of a minute on a CPU, so it
# is in one case only.
CASES = {
    "full-adamw": "adapter=full optimizer=adamw optimizer.schedule=cosine "
    "train.grad_accumulation_steps=2",
    "full-muon": "adapter=full optimizer=muon optimizer.schedule=linear train.grad_checkpoint=true",
    "full-adafactor": "adapter=full optimizer=adafactor optimizer.schedule=constant",
    "lora-adamw": "adapter=lora optimizer=adamw optimizer.schedule=linear adapter.dropout=0.1 "
    "train.grad_accumulation_steps=2 optimizer.warmup_steps=3 train.batch_by=tokens",
    "lora-muon": "adapter=lora optimizer=muon optimizer.schedule=cosine adapter.dropout=0.1 "
    "train.packing=true",
    "dora-adam": "adapter=dora optimizer=adam optimizer.schedule=constant adapter.dropout=0.2 "
    "data.max_shapes=0",
    "qlora-sgd": "adapter=qlora optimizer=sgd optimizer.schedule=cosine adapter.dropout=0.1 "
    "train.max_grad_norm=0",
    "lora-adam-compiled": "adapter=lora optimizer=adam adapter.dropout=0.1 "
    "optimizer.schedule=cosine train.grad_accumulation_steps=2 train.compile=true",
}


def assert_same(one: Run, other: Run, last: int) -> None:
    """Losses, gradients and batches of every step; weights, optimizer and RNG at the end."""
    assert one.result.exit_code == other.result.exit_code == 0
    for key in ("loss", "grad_norm", "learning_rate", "tokens", "data/padded_fraction"):
        assert one.column(key) == other.column(key), key
    assert one.summary["weights_sha256"] == other.summary["weights_sha256"]
    for name in ("adapters.safetensors", "optimizer.safetensors"):
        assert one.arrays(last, name) == other.arrays(last, name), name
    assert one.state(last)["rng"] == other.state(last)["rng"]


@pytest.fixture(scope="module")
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    overrides = [*CASES[request.param].split(), "worker.threads=auto"]
    return overrides, start(tmp_path_factory.mktemp("straight") / "run", *STRAIGHT, *overrides)


# By process it is the same state that is saved and restored: one case of each adapter is enough,
# the others are slow.
BY_PROCESS = ("full-adamw", "lora-adamw", "lora-muon", "dora-adam", "qlora-sgd")
PAIRS = [
    pytest.param(
        case, method, id=f"{case}-{method}",
        marks=[pytest.mark.slow] * (method == "process" and case not in BY_PROCESS),
    )
    for case in CASES
    for method in METHODS
]  # fmt: skip


@pytest.mark.parametrize(("straight", "method"), PAIRS, indirect=["straight"])
def test_reloads_change_nothing(straight, method: str, tmp_path: Path) -> None:
    overrides, expected = straight
    reloaded = start(tmp_path / "run", *METHODS[method], *overrides)
    assert [e["step"] for e in reloaded.events("reload")] == [2, 4]
    assert_same(reloaded, expected, LAST)


def test_another_seed_gives_another_curve(tmp_path: Path) -> None:
    """So the comparison above can fail. That each part of the state matters: test_session."""
    runs = [start(tmp_path / f"seed{seed}", *STRAIGHT, f"seed={seed}") for seed in (0, 1)]
    assert runs[0].column("loss")[0] != runs[1].column("loss")[0]
