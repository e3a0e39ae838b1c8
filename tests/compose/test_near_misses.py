"""What users type by habit: one line that names what was meant, exit 2, nothing left behind."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lab import cli, launch
from lab.compose.flags import quoted_text
from lab.compose.habits import HABITS, all_keys, group_options, meant_by
from lab.machine.probe import start_probe

NEAR_MISSES = yaml.safe_load(Path(__file__).with_name("near_misses.yaml").read_text("utf-8"))
PARSER = OverridesParser.create()

Answer = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Answer:
    """Give a command as a shell would, in this process: exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it
    monkeypatch.setattr(Hydra, "get_mode", Hydra.get_mode)  # so it does this

    def give(command: str) -> tuple[int, str, str]:
        words = shlex.split(command)
        if words[0] == "lab":
            code = cli.main(words[1:])
        else:
            assert words[:2] == ["python", "train.py"]
            monkeypatch.setattr(launch, "_state", launch.CommandState())
            monkeypatch.setattr(sys, "argv", words[1:])
            start_probe()
            try:
                code = launch.app()
            except SystemExit as left:
                assert isinstance(left.code, int)
                code = left.code
        assert list(tmp_path.iterdir()) == []
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return give


@pytest.mark.parametrize("miss", NEAR_MISSES, ids=lambda miss: miss["typed"])
def test_a_habit_is_answered_with_what_was_meant(miss: dict[str, str], answer: Answer) -> None:
    code, out, said = answer(miss["typed"])
    assert (code, out, said.count("\n")) == (2, "", 1)
    assert miss["names"] in said


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--resolve", "--resolve: goes with --cfg: python train.py --cfg job --resolve"),
        ("--cfg job -m", "--multirun --cfg: must be one of them"),
        (
            "--grad-checkpoint",
            "--grad-checkpoint: settings have no dashes here; write train.grad_checkpoint=true",
        ),
        ("--foo", "--foo: is no flag; settings are KEY=VALUE, --cfg job lists them"),
        ("+lr=1", "lr=1: is not a key; did you mean optimizer.learning_rate?"),
        (
            "adapter.targets=a,b",
            "adapter.targets=a,b: a list needs brackets: 'adapter.targets=[a,b]'",
        ),
        ("train.steps 100", "train.steps: has no value; write train.steps=100"),
        ("-m seed=1,1", "seed=1: job 0 and job 1 are the same; list each value once"),
        (
            "hydra.run.dir=/dev/null",
            "hydra.run.dir=/dev/null: is a file; choose another folder",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(typed: str, line: str, answer: Answer) -> None:
    assert answer(f"python train.py {typed}") == (2, "", f"{line}\n")


def test_every_habit_leads_to_a_key_or_a_group() -> None:
    for name, meant in HABITS.items():
        key = meant.partition(" ")[0].partition("=")[0]
        assert key in all_keys() or group_options(key) or key == "hydra.run.dir", name
        assert name not in all_keys(), name


def test_a_key_under_a_wrong_group_is_found_by_its_last_part() -> None:
    for key in (key for key in all_keys() if key.count(".") == 1):
        last = key.rpartition(".")[2]
        assert key in (meant_by(f"nowhere.{last}") or "") or last in all_keys(), key


# --- The quotes that would do -------------------------------------------------------------------


def read(word: str) -> tuple[str, object]:
    """The key and the value that Hydra reads in an override."""
    [override] = PARSER.parse_overrides([word])
    return override.key_or_group, override.value()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])))
def test_any_text_that_is_quoted_reaches_the_key_as_it_is(text: str) -> None:
    [word] = shlex.split(quoted_text("name", text))
    assert read(word) == ("name", text)


@pytest.mark.parametrize("text", ["my run (a)", "a=b", "it's", 'say "a"', "a\\", "$HOME `id`"])
def test_the_quotes_hold_in_a_real_shell(text: str) -> None:
    script = f"printf %s {quoted_text('name', text)}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert read(done.stdout) == ("name", text)
