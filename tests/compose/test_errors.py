"""Hydra's and OmegaConf's own errors, raised for real, become one line with key, value and remedy.

The line is made from the text of their messages. A version that words them differently fails here:
the line would then be only the message itself, to which `explain` falls back.
"""

from __future__ import annotations

import re

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from lab.compose.config import compose_config
from lab.compose.errors import explain

pytestmark = pytest.mark.usefixtures("hydra_here")


def raised(*overrides: str) -> Exception:
    """The error that the installed Hydra or OmegaConf raises for a command line."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    with pytest.raises(
        (HydraException, OmegaConfBaseException, AssertionError, ValueError)
    ) as caught:
        compose_config(
            hydra.compose_config("config", list(overrides), RunMode.RUN, from_shell=False),
            overrides,
        )
    return caught.value


def line_of(*overrides: str) -> str:
    code, line = explain(raised(*overrides), overrides)
    assert code == 2
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        # "Could not override 'train.stepz'", and "full_key: train.stepz" below it
        ("train.stepz=1", "train.stepz=1: is not a key; did you mean train.steps?"),
        ("seeds=1", "seeds=1: is not a key; did you mean seed?"),
        ("train.steps.x=1", "train.steps.x=1: is not a key; train.steps is a single value"),
        # "full_key: train"
        ("train=1", "train=1: must be a mapping; set its keys one by one"),
        # "Unexpected type for root: NoneType", an AssertionError
        (
            "fault.crash.step=2",
            "fault.crash.step=2: fault.crash is null; it needs fault=crash",
        ),
        # "Config group override must be a string or a list", a ValueError
        ("adapter=null", "adapter=null: must be one of dora, full, lora, qlora"),
        # "Could not load 'adapter/other'", without the options
        ("adapter=[lora,other]", "adapter=[lora,other]: must be one of dora, full, lora, qlora"),
        # "Could not override 'model@x'", without a full_key
        ("model@x=tiny", "model@x: is not a key; did you mean model?"),
        # "Could not find 'adapter/other'", "Available options in 'adapter':"
        ("adapter=other", "adapter=other: must be one of dora, full, lora, qlora"),
        # "full_key: train.steps" of a message that is repeated
        ("train.steps=???", "train.steps=???: Missing mandatory value: steps"),
        # An OverrideParseException of each kind
        ("seed", "seed: has no value; write seed=VALUE"),
        ("seed=[1", "seed=[1: cannot be read: no viable alternative at input '[1'"),
        ("a b=1", "a b=1: 'a b' is no name of a key"),
        ("name=${nothing}", "name=${nothing}: Interpolation key 'nothing' not found"),
    ],
)
def test_a_message_of_hydras_is_understood(override: str, line: str) -> None:
    assert line_of(override) == line


def test_an_option_of_hydras_own_groups_is_understood() -> None:
    assert re.fullmatch(
        r"hydra/launcher=other: must be one of basic(, \w+)*", line_of("hydra/launcher=other")
    )


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("+train.steps=1", "++train.steps=1"),
        ("model=???", "qwen3_8b"),
    ],
)
def test_a_message_that_is_clear_already_is_repeated_in_one_line(override: str, names: str) -> None:
    line = line_of(override)
    assert names in line
    assert line == " ".join(str(raised(override)).split())


def test_a_key_that_is_appended_with_a_plus_is_refused_all_the_same() -> None:
    """Hydra appends it; the strict schema does not know it."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    for plus in ("+", "++"):
        override = f"{plus}train.stepz=1"
        config = hydra.compose_config("config", [override], RunMode.RUN, from_shell=False)
        with pytest.raises(ValueError, match=r"train\.stepz=1: is not a key") as caught:
            compose_config(config, [override])
        assert explain(caught.value, [override]) == (2, str(caught.value))
