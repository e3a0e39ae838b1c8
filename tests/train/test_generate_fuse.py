"""``lab generate`` and ``lab fuse``: what a run has trained, through mlx-lm's own functions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from lab.cli import main
from lab.config.keys import Config
from lab.train.model_files import load_model, stub_mlx_lm_packages
from lab.train.trained import load_trained
from tests.architectures import make_folder
from tests.runs import Run, start

TRAINED = (
    "model=local", "adapter=lora", "adapter.rank=4", "adapter.num_layers=all", "train.steps=4",
    "train.max_seq_length=32", "optimizer.learning_rate=0.05", "data=jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has trained an adapter on a Llama of random weights."""
    workdir = tmp_path_factory.mktemp("adapted")
    base = make_folder("llama", workdir / "base")
    data = workdir / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"{n}-" * 20}) + "\n" for n in range(20)))
    run = start(workdir / "run", *TRAINED, f"model.path={base}", f"data.path={data}")
    assert run.result.exit_code == 0
    return run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("tiny") / "run", "train.steps=2")


def generated(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["generate", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_every_layer_is_adapted(adapted: Run) -> None:
    config = json.loads((adapted.checkpoint(4) / "adapter_config.json").read_text())
    assert config["num_layers"] == 3


def test_the_fused_folder_says_what_base_and_adapter_say(
    adapted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "fused"
    assert main(["fuse", str(adapted.folder), str(out)]) == 0
    assert f"mlx_lm.generate --model {out}" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["fused"]  # nothing half-written
    stub_mlx_lm_packages()
    config = Config.load(adapted.folder / "config.yaml")
    folder = Path(str(config.model.path))
    ids = mx.array([[10, 20, 30, 40, 50]])
    trained, step = load_trained(config, adapted.folder, folder=folder, vocab_size=0, warn=print)
    fused, base = load_model(out), load_model(folder)
    assert step == 4
    assert mx.allclose(fused(ids), trained(ids), rtol=1e-4, atol=1e-4)
    assert not mx.allclose(base(ids), trained(ids), rtol=1e-2, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"), [("qlora", ["--dequantize"]), ("dora", []), ("full", [])]
)
def test_every_kind_of_training_is_fused(
    adapted: Run, kind: str, words: list[str], tmp_path: Path
) -> None:
    before = Config.load(adapted.folder / "config.yaml")
    sizes = () if kind == "full" else ("adapter.rank=4", "adapter.num_layers=2")
    run = start(
        tmp_path / "run", *TRAINED[:1], *TRAINED[4:], f"model.path={before.model.path}",
        f"data.path={before.data.path}", f"adapter={kind}", *sizes,
    )  # fmt: skip
    assert main(["fuse", str(run.folder), str(tmp_path / "out"), *words]) == 0
    stub_mlx_lm_packages()
    config, ids = Config.load(run.folder / "config.yaml"), mx.array([[10, 20, 30]])
    folder = Path(str(config.model.path))
    trained, _ = load_trained(config, run.folder, folder=folder, vocab_size=0, warn=print)
    fused = load_model(tmp_path / "out")
    assert mx.allclose(fused(ids), trained(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_mlx_lm_reads_the_fused_folder_and_says_the_same(
    adapted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fused"
    assert main(["fuse", str(adapted.folder), str(out)]) == 0
    capsys.readouterr()
    words = ("--prompt", "7-", "--max-tokens", "8", "--verbose", "False")
    theirs = subprocess.run(
        [sys.executable, "-m", "mlx_lm", "generate", "--model", str(out), *words],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    ours = generated(capsys, adapted.folder, "7-", "--max-tokens", 8)
    assert ours.strip()
    assert ours == theirs


def test_a_model_of_bytes_generates(tiny: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = (tiny.folder, "def f(", "--max-tokens", 12, "--temp", 1)
    assert 1 < len(generated(capsys, *words)) <= 12 + 1


def test_a_run_without_a_test_file_has_no_test_loss(tiny: Run) -> None:
    assert tiny.summary["test_loss"] is tiny.summary["test_tokens"] is None


def test_a_model_of_bytes_is_not_fused(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fuse", str(tiny.folder), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("model=tiny: reads bytes")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(
    adapted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("")
    assert main(["fuse", str(adapted.folder), str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_fusion_that_fails_leaves_nothing(
    adapted: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes((adapted.folder / "config.yaml").read_bytes())
    assert main(["fuse", str(run), str(tmp_path / "out")]) == 2
    assert "has no checkpoint" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "prompt: is missing"),
        (["hi", "--max-tokens", "0"], "max_tokens=0: must be at least 1 tokens"),
        (["hi", "--max-tokens", "few"], "max_tokens=few: must be a whole number"),
        (["hi", "--temp", "-1"], "temp=-1.0: must be at least 0"),
        (["hi", "--temp", "NaN"], "temp=nan: must be at least 0, and finite"),
    ],
)
def test_a_mistake_is_one_line(
    tiny: Run, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(tiny.folder), *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == 1
