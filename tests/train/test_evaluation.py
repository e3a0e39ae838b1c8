"""Test data: evaluated at the end of a run, and by ``lab evaluate`` to the same bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from lab.cli import main
from lab.config.keys import Config
from lab.data.dataset import open_data
from lab.data.tokenizer import ByteTokenizer
from lab.supervise import experiment
from lab.tracking.closing import format_summary
from lab.train.evaluation import evaluate_all
from lab.train.trained import load_trained
from tests.runs import Run, config_of, start

LENGTH = 32
GIVEN = (
    "train.steps=3", "train.batch_size=4", f"train.max_seq_length={LENGTH}",
    "train.val_interval_steps=3", "train.val_batches=all", "data=jsonl",
)  # fmt: skip
COUNTS = {"train": 20, "valid": 5, "test": 7}  # the last batch of each is short, but for training


def texts_of(name: str) -> list[str]:
    return [f"{name} {n} " + "ab" * (n * 5 % 21) for n in range(COUNTS[name])]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all three files."""
    folder = tmp_path_factory.mktemp("data")
    for name in COUNTS:
        lines = (json.dumps({"text": text}) + "\n" for text in texts_of(name))
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = start(tmp_path_factory.mktemp("runs") / "run", *GIVEN, f"data.path={data}")
    assert run.result.exit_code == 0
    return run


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_ends_with_the_loss_of_its_test_file(run: Run) -> None:
    config = Config.load(run.folder / "config.yaml")
    model, _ = load_trained(config, run.folder, folder=None, vocab_size=288, warn=print)
    losses: list[float] = []
    for text in texts_of("test"):
        ids = mx.array([*text.encode(), ByteTokenizer.eos_id][:LENGTH])
        logits = model(ids[None, :-1])[0]
        losses += nn.losses.cross_entropy(logits, ids[1:]).tolist()  # type: ignore[arg-type]
    assert run.summary["test_tokens"] == len(losses)
    assert run.summary["test_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_end_of_a_run_shows_it(run: Run) -> None:
    loss, tokens = run.summary["test_loss"], run.summary["test_tokens"]
    assert f"  test     {loss:.4f} over {tokens} tokens\n" in format_summary(
        run.summary, run.folder
    )


def test_evaluating_later_gives_the_same_bits(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(capsys, run.folder)
    assert found["loss"] == run.summary["test_loss"]
    assert (found["tokens"], found["samples"]) == (run.summary["test_tokens"], COUNTS["test"])
    assert found["step"] == 3


def test_the_same_file_elsewhere_gives_the_same_bits(
    run: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copy(data / "test.jsonl", tmp_path / "other.jsonl"))
    assert evaluated(capsys, run.folder, "--data", copy)["loss"] == run.summary["test_loss"]


def test_all_of_the_validation_data_is_what_the_last_row_has(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(capsys, run.folder, "--valid")
    assert found["loss"] == run.rows[-1]["val_loss"]
    assert found["samples"] == COUNTS["valid"]


def test_a_run_that_was_cut_off_before_its_summary_is_tested_on_resume(
    run: Run, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    (folder / "summary.json").unlink()
    assert experiment.resume(folder).exit_code == 0
    assert Run(folder, run.result).summary["test_loss"] == run.summary["test_loss"]


@pytest.mark.slow
def test_mlx_lms_own_trainer_is_tested_and_validates_on_all(data: Path, tmp_path: Path) -> None:
    given = (*GIVEN, "trainer=mlx_lm", "train.compile=false", "train.steps=1")
    run = start(tmp_path / "run", *given, "train.val_interval_steps=1", f"data.path={data}")
    assert run.result.exit_code == 0
    assert run.rows[0]["val_loss"] > 4
    assert run.summary["test_tokens"] > 0


def test_without_a_test_file_one_line_says_what_to_give(
    run: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (run.folder / "config.yaml").read_text()
    alone = config.replace(f"path: {data}", f"path: {data / 'train.jsonl'}")
    (tmp_path / "config.yaml").write_text(alone)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("--data: is missing: the run has no test.jsonl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere.jsonl"], "--data=nowhere.jsonl: cannot be read"),
        (["--data", "a.jsonl", "--valid"], "--data=a.jsonl: goes without --valid"),
    ],
)
def test_a_mistake_is_one_line(
    run: Run, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run.folder), *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == 1


def test_a_run_without_a_checkpoint_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    shutil.rmtree(folder / "checkpoints")
    assert main(["evaluate", str(folder)]) == 2
    assert "has no checkpoint, so no weights were kept" in capsys.readouterr().err


def test_a_worker_that_is_told_to_stop_leaves_the_test(data: Path, tmp_path: Path) -> None:
    config = config_of(*GIVEN, f"data.path={data}")
    opened = open_data(config.data, config.train, 0, tokenizer_folder=None, cache_dir=tmp_path)
    assert opened.test is not None
    seen: list[int] = []

    def evaluate(batches: Any, after_batch: Any) -> float:
        for done in range(1, len(batches) + 1):
            seen.append(done)
            after_batch(done)
        return 1.0

    channel: Any = SimpleNamespace(stopping=True)
    assert evaluate_all(evaluate, opened.test.batches, config, channel, "it") is None
    assert seen == [1]
