"""Real runs whose memory grows by a known cause: kind, holder and remedy, and the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lab.config.units import GB, MB
from lab.explain.command import explain_one
from lab.faults.truth import TRUTHS
from tests.runs import Run, start

SHORT = ("train.steps=24", "reload=none", "checkpoint.interval_steps=0", "data=stdlib_docs")
NAMED = ("trainer_list", "exceptions", "cycles", "lazy_loss", "token_memo", "streams")


@pytest.fixture(scope="module")
def run_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """The run with a fault of this name; it is the same for all who ask."""
    return cache(lambda name: start(tmp_path_factory.mktemp(name) / "run", f"fault={name}", *SHORT))


def explained(run: Run) -> dict[str, Any]:
    return json.loads((run.folder / "explain.json").read_text())


@pytest.mark.parametrize("name", NAMED)
def test_a_faults_kind_holder_and_remedy(run_with: Callable[[str], Run], name: str) -> None:
    found, truth = explained(run_with(name)), TRUTHS[name]
    assert (found["kind"], found["remedy"]) == (truth.kind, truth.remedy)
    assert truth.holder is None or truth.holder in found["holder"]
    # Outside MLX the alarm itself comes later: the heap is read as often as its cost allows.
    assert found["step"] <= (15 if "active" in truth.seen_by else 24)
    assert sum(kind["mb_per_step"] for kind in found["kinds"]) == pytest.approx(
        found["mb_per_step"]
    )
    assert 0.8 < found["mb_per_step"] < 1.3
    tried = {r["remedy"] for r in found["remedies"] if r["freed_gb"] is not None}
    assert tried == {"clear_cache", "collect"}  # what drops no state


def test_adaptive_takes_the_remedy_that_was_found_and_tries_nothing_cheaper(
    run_with: Callable[[str], Run], tmp_path: Path
) -> None:
    room = min(run_with("trainer_list").column("memory/process_gb")) + 40 * MB / GB
    run = start(
        tmp_path / "run",
        *("fault=trainer_list", "fault.trainer_list.mb_per_step=2", "reload=adaptive"),
        *(f"memory.budget_gb={room}", *SHORT[2:], "train.steps=32"),
    )
    assert explained(run)["remedy"] == "reload_in_process"
    assert run.events("remedy") == []
    assert {(e["reason"], e["method"]) for e in run.events("reload")} == {
        ("adaptive", "in_process")
    }


def test_the_loss_is_the_same_with_and_without(
    run_with: Callable[[str], Run], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one = run_with("trainer_list")
    two = start(tmp_path / "two", "fault=trainer_list", "explain.enabled=false", *SHORT)
    assert one.column("loss") == two.column("loss")
    assert one.summary["weights_sha256"] == two.summary["weights_sha256"]
    assert not (two.folder / "explain.json").exists()
    capsys.readouterr()
    assert explain_one(one.folder, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == explained(one)
    assert explain_one(one.folder, as_json=False) == 0
    said = capsys.readouterr().out
    assert "arrays in lab.train.session.Session.faults[0].history[" in said
