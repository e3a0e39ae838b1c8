"""What a run was begun with is what it goes on with; an update of the lab is told and goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from lab.config.schema import ConfigError
from lab.supervise import experiment
from lab.train.model_files import END_BYTES, fingerprint, model_of_type
from tests.runs import Run, jsonl, start

SIZES = {
    "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 2048, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def cut_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and a run on them that was cut off after a checkpoint."""
    folder = tmp_path_factory.mktemp("changed")
    model, data = folder / "model", folder / "data.jsonl"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(SIZES))
    weights = dict(tree_flatten(model_of_type(SIZES).parameters()))
    mx.save_safetensors(str(model / "model.safetensors"), weights, metadata={"format": "mlx"})
    _save_tokenizer(model)
    data.write_text("".join(json.dumps({"text": f"{i} a b c " * 5}) + "\n" for i in range(40)))
    run = start(
        folder / "run", "model=local", f"model.path={model}", "model.tier=compact", "adapter=lora",
        "adapter.num_layers=1", "data=jsonl", f"data.path={data}", "train.max_seq_length=32",
        "checkpoint.interval_steps=2", "fault=crash", "fault.crash.step=5",
        "worker.max_restarts=0", "reload=none",
    )  # fmt: skip
    assert run.result.exit_code == 1
    assert len(run.rows) == 4
    return folder


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "</s>", *"abc", *map(str, range(40))]
    fast = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))


@pytest.fixture
def begun(cut_once: Path) -> Path:
    """It is changed in place, for a run holds its model by its path."""
    kept = cut_once.with_name("kept")
    if not kept.exists():
        shutil.copytree(cut_once, kept)
    shutil.copytree(kept, cut_once, dirs_exist_ok=True)
    return cut_once


def flip_in_the_middle(model: Path) -> None:
    """Where only the whole of the weights tells it."""
    path, before = model / "model.safetensors", fingerprint(model)
    raw = bytearray(path.read_bytes())
    assert len(raw) > 2 * END_BYTES + 4096
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert fingerprint(model) == before


CHANGES: dict[str, Callable[[Path], object]] = {
    "weights": flip_in_the_middle,
    "tokenizer": lambda model: (model / "chat_template.jinja").write_text("{{ messages }}"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_model_is_refused(begun: Path, what: str) -> None:
    rows = (begun / "run" / "metrics.jsonl").read_bytes()
    CHANGES[what](begun / "model")
    with pytest.raises(ConfigError, match=f"is not the {what} that the run was begun with"):
        experiment.resume(begun / "run")
    (begun / "model" / "chat_template.jinja").unlink(missing_ok=True)
    assert (begun / "run" / "metrics.jsonl").read_bytes() == rows


def forget(environment: dict) -> None:
    """As a lab wrote it that knew of none of these."""
    for key in (
        *("lab", "git_commit", "tokenizers", "architecture", "mlx_variables"),
        *("weights_fingerprint", "tokenizer_fingerprint"),
    ):
        del environment[key]


def update(environment: dict) -> None:
    changed = {"lab": "0.0.9", "git_commit": "f" * 40, "tokenizers": "0.1", "architecture": "m1"}
    environment |= changed
    environment["mlx_variables"]["MLX_METAL_JIT"] = "1"


@pytest.mark.parametrize(("then", "warnings"), [(forget, 0), (update, 5)])
def test_a_run_begun_before_an_update_goes_on(
    begun: Path, caplog: pytest.LogCaptureFixture, then: Callable[[dict], None], warnings: int
) -> None:
    run = Run(begun / "run", experiment.Result(1))
    events = jsonl(run.folder / "events.jsonl")
    for event in events:
        if "environment" in event:
            then(event["environment"])
    text = "".join(json.dumps(event) + "\n" for event in events)
    (run.folder / "events.jsonl").write_text(text)
    assert experiment.resume(run.folder).exit_code == 1  # the fault is still in its config
    told = [r.message for r in caplog.records if "when the run began" in r.message]
    assert len(told) == warnings, told
    assert len(run.events("resumed")) == 1
