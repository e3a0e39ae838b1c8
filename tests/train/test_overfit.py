"""One batch is learned by heart: model, loss and optimizer work together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import start


@pytest.mark.slow
def test_the_loss_of_one_batch_falls_to_nearly_nothing(tmp_path: Path) -> None:
    run = start(tmp_path / "run", "debug=overfit", "train.steps=200")
    loss = run.column("loss")
    assert loss[0] > 5
    assert loss[-1] < 0.1
    assert len(set(run.column("tokens"))) == 1
