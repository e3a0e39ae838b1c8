"""A resumed run has the data, the model and the environment that it started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.config.schema import ConfigError
from lab.data.tokenizer_files import tokenizer_fingerprint
from lab.records.origin import check_environment
from lab.train import model_files

THEN = {"data_fingerprint": "a" * 64, "model_fingerprint": "b" * 64, "mlx": "0.32.4", "threads": 2}


def test_the_same_environment_is_no_news() -> None:
    assert check_environment(THEN, dict(THEN)) == []
    assert check_environment({}, THEN) == []  # a run that was cut off before its first worker


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("data_fingerprint", "data=fingerprint cccccccccccc: is not the data"),
        ("model_fingerprint", "model.path=fingerprint cccccccccccc: is not the model"),
        ("weights_fingerprint", "model.path=fingerprint cccccccccccc: is not the weights"),
        ("tokenizer_fingerprint", "model.path=fingerprint cccccccccccc: is not the tokenizer"),
    ],
)
def test_other_data_or_another_model_is_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_environment({key: "a" * 64} | THEN, THEN | {key: "c" * 64})


def test_another_version_is_told() -> None:
    [line] = check_environment(THEN, THEN | {"mlx": "0.33.0"})
    assert line == "mlx is 0.33.0, and was 0.32.4 when the run began: its curve may differ"


@pytest.mark.parametrize(
    "key",
    ["lab", "git_commit", "tokenizers", "platform", "architecture", "mlx", "blas", "device_name"],
)
def test_an_update_is_told_and_not_refused(key: str) -> None:
    assert check_environment(THEN | {key: "then"}, THEN | {key: "now"}) == [
        f"{key} is now, and was then when the run began: its curve may differ"
    ]


def test_mlxs_variables_are_compared_one_by_one() -> None:
    then = THEN | {"mlx_variables": {"MLX_BFS_MAX_WIDTH": "20", "MLX_METAL_JIT": "1"}}
    now = THEN | {"mlx_variables": {"MLX_BFS_MAX_WIDTH": "20", "MLX_MAX_OPS_PER_BUFFER": "4"}}
    assert check_environment(then, now) == [
        "MLX_MAX_OPS_PER_BUFFER is 4, and was unset when the run began: its curve may differ",
        "MLX_METAL_JIT is unset, and was 1 when the run began: its curve may differ",
    ]
    assert check_environment(THEN, now) == []  # begun before they were recorded


def test_the_weights_fingerprint_sees_every_bit_and_every_name(tmp_path: Path) -> None:
    """Also in the middle of a file, where the older one is blind."""
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tmp_path / name).write_bytes(bytes(5 * model_files.END_BYTES))
    old, found = model_files.fingerprint(tmp_path), {model_files.weights_fingerprint(tmp_path)}
    with (tmp_path / "model-00002-of-00002.safetensors").open("r+b") as file:
        file.seek(2 * model_files.END_BYTES + 17)
        file.write(b"\1")
    assert model_files.fingerprint(tmp_path) == old
    found.add(model_files.weights_fingerprint(tmp_path))
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "model.safetensors")
    found.add(model_files.weights_fingerprint(tmp_path))
    assert len(found) == 3


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
        *("added_tokens.json", "tokenizer.model", "merges.txt", "chat_template.jinja"),
        *("additional_chat_templates/tool_use.jinja", "tekken.json", "config.json"),
    ],
)
def test_the_tokenizer_fingerprint_sees_every_file_it_reads(tmp_path: Path, name: str) -> None:
    before = tokenizer_fingerprint(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    first = tokenizer_fingerprint(tmp_path)
    (tmp_path / name).write_text("{ }")
    assert len({before, first, tokenizer_fingerprint(tmp_path)}) == 3


def test_a_models_fingerprint_sees_every_small_file_and_both_ends_of_large_ones(
    tmp_path: Path,
) -> None:
    large = bytearray(3 * model_files.END_BYTES)
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(large)
    found = {model_files.fingerprint(tmp_path)}
    for position in (0, len(large) - 1):
        changed = large.copy()
        changed[position] = 1
        weights.write_bytes(changed)
        found.add(model_files.fingerprint(tmp_path))
    weights.write_bytes(large + b"\0")
    found.add(model_files.fingerprint(tmp_path))
    weights.write_bytes(large)
    (tmp_path / "config.json").write_text("{ }")
    found.add(model_files.fingerprint(tmp_path))
    assert len(found) == 5
