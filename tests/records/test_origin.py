"""A resumed run has the data, the model and the environment that it started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.config.schema import ConfigError
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
    ],
)
def test_other_data_or_another_model_is_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_environment(THEN, THEN | {key: "c" * 64})


def test_another_version_is_told() -> None:
    [line] = check_environment(THEN, THEN | {"mlx": "0.33.0"})
    assert line == "mlx is 0.33.0, and was 0.32.4 when the run began: its curve may differ"


@pytest.mark.parametrize(
    ("key", "then", "now"),
    [
        ("platform", "Darwin-25.1.0-arm64", "Darwin-26.0.0-arm64"),
        ("architecture", "applegpu_g15s", "applegpu_g16s"),
    ],
)
def test_another_system_or_another_gpu_is_told(key: str, then: str, now: str) -> None:
    [line] = check_environment(THEN | {key: then}, THEN | {key: now})
    assert line == f"{key} is {now}, and was {then} when the run began: its curve may differ"


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
