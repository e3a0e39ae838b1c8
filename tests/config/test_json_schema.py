"""The schema for editors takes what the lab takes, and refuses what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lab.cli import main
from lab.compose.profiles import CONF
from lab.config.json_schema import composed_schema, saved_schema
from lab.config.keys import dump
from tests.tracked import make_config

jsonschema = pytest.importorskip("jsonschema")

FILES = [CONF / "config.yaml", *sorted((CONF / "experiment").glob("*.yaml"))]
FILES += sorted((CONF / "debug").glob("*.yaml"))


def errors(schema: dict[str, Any], value: object) -> list[str]:
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema)
    found = validator(schema).iter_errors(value)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


def saved() -> dict[str, Any]:
    return yaml.safe_load(dump(make_config()))


def test_a_saved_config_is_valid_and_each_key_of_it_is_known() -> None:
    assert errors(saved_schema(), saved()) == []


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("train", "steps", 0),
        ("train", "steps", 1.5),
        ("train", "stepz", 1),
        ("train", "compile", "auto"),
        ("train", "dtype", "float8"),
        ("memory", "budget_gb", 0),
        ("adapter", "targets", "q_proj"),
        ("optimizer", "final_fraction", 1.1),
        ("train", "val_batches", "some"),
        ("train", "val_batches", None),
    ],
)
def test_what_the_lab_refuses_is_no_saved_config(group: str, key: str, value: object) -> None:
    config = saved()
    config[group][key] = value
    [error] = errors(saved_schema(), config)
    assert error.startswith(group)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_that_hydra_composes_is_valid(path: Any) -> None:
    assert errors(composed_schema(), yaml.safe_load(path.read_text("utf-8"))) == []


def test_a_misspelt_key_of_an_experiment_is_found() -> None:
    assert errors(composed_schema(), {"train": {"steps": "auto"}, "trian": {}}) != []
    assert errors(composed_schema(), {"train": {"batch_size": "auto", "steps": "${seed}"}}) == []


def test_a_word_in_a_numbers_place_is_valid() -> None:
    config = saved()
    config["train"]["val_batches"] = config["adapter"]["num_layers"] = "all"
    assert errors(saved_schema(), config) == []


def test_units_are_told() -> None:
    said = saved_schema()["properties"]["memory"]["properties"]["budget_gb"]
    assert said == {"description": "in GB", "type": "number", "exclusiveMinimum": 0}


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    for words, schema in ((["schema"], composed_schema()), (["schema", "--saved"], saved_schema())):
        assert main(words) == 0
        assert yaml.safe_load(capsys.readouterr().out) == schema
