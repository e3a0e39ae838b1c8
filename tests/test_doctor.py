"""``lab doctor``: what it finds, what mends it, and that it always ends with a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.cli import main
from lab.commands import doctor
from lab.machine.machine import Machine
from lab.machine.probe import ProbeError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lab.tracking.wandb.has_key", lambda: False)  # asks a process of 2 s


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    capsys.readouterr()
    main(["doctor", "--json"])
    return {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_this_machine_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    names = found(capsys)
    assert {"python", "mlx", "mlx-lm", "device", "memory", "swap", "outputs", "wandb"} <= set(names)
    assert names["mlx"]["state"] == "ok"
    assert "profile " in names["memory"]["text"]
    assert names["wandb"]["remedy"] == "for tracker=wandb_online: wandb login"
    wrong = [name for name, finding in names.items() if finding["state"] == "wrong"]
    assert main(["doctor"]) == int(bool(wrong))
    lines = capsys.readouterr().out.splitlines()
    starts = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert set(starts) <= {"ok", "warning", "wrong"}


def test_another_mlx_than_the_pinned_one_is_a_warning_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "0.1.0")
    finding = found(capsys)["mlx"]
    assert finding["state"] == "warning"
    assert finding["remedy"].startswith("pip install 'mlx==")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [("WANDB_MODE", "turbo", "is no mode"), ("WANDB_MODE", "online", "not logged in")],
)
def test_what_is_wrong_with_wandb_ends_in_1(
    name: str, value: str, line: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(name, value)
    assert main(["doctor"]) == 1
    [told] = [text for text in capsys.readouterr().out.splitlines() if text[9:15] == "wandb "]
    assert told.startswith("wrong")
    assert line in told


def test_an_mlx_that_does_not_load_is_wrong_and_the_rest_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Machine:
        raise ProbeError("MLX does not load in python: no")

    monkeypatch.setattr("lab.machine.probe.probe_machine", broken)
    names = found(capsys)
    assert names["device"]["state"] == "wrong"
    assert names["extras"]["state"] == "ok"


def test_a_check_that_fails_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> tuple[int, int]:
        raise OSError("no such file\nmore")

    monkeypatch.setattr("lab.machine.process.available_and_swap_bytes", broken)
    names = found(capsys)
    assert names["device"]["state"] == "ok"
    assert names["memory"] == {
        "name": "memory",
        "state": "wrong",
        "text": "no such file",
        "remedy": "",
    }


def test_outputs_that_cannot_be_written_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    Path("outputs").write_text("a file")
    assert found(capsys)["outputs"]["state"] == "wrong"


def test_a_slow_blas_names_what_mends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lab.machine.blas.preload_blas", lambda: None)
    monkeypatch.setattr("sys.platform", "linux")
    cpu = Machine(
        system="Linux", architecture="x86_64", backend="cpu", device_name="cpu", cores=2,
        memory_bytes=8 << 30, budget_bytes=6 << 30,
    )  # fmt: skip
    monkeypatch.setattr("lab.machine.probe.probe_machine", lambda: cpu)
    names = found(capsys)
    assert names["blas"]["remedy"] == "python -m lab.machine.openblas"
    assert names["memory"]["state"] == "warning"
