"""A run in one file: what leaves a machine, what may come in, and that it trains the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
import yaml

from lab.cli import main
from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.reproduce.export import export
from lab.reproduce.imported import import_run
from lab.reproduce.portable import FILES, portable
from tests.runs import jsonl, start

SECRET = "sk-0123456789abcdef"


def write_data(folder: Path, first: int = 0) -> None:
    samples = ({"prompt": f"{i} + 1 = ", "completion": str(i + 1)} for i in range(first, 40))
    (folder / "train.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of its own data, and its export."""
    folder = tmp_path_factory.mktemp("there")
    write_data(folder)
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_API_KEY", SECRET)
        data = ("data=jsonl", f"data.path={folder}/train.jsonl", "model.tier=compact")
        told = f"tracker.notes={SECRET}"
        start(Path("outputs/run"), *data, told, "tracker.entity=me", "train.steps=3", "name=mine")
        assert main(["export", "outputs/run", "run.zip"]) == 0
    return folder


def contents(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_an_export_has_the_records_and_nothing_of_this_machine(workdir: Path) -> None:
    found = contents(workdir / "run.zip")
    assert set(found) == set(FILES) - {"explain.json"}
    run = workdir / "outputs" / "run"
    assert found["metrics.jsonl"] == (run / "metrics.jsonl").read_bytes()
    config = yaml.safe_load(found["config.yaml"])
    assert (config["data"]["path"], config["tracker"]["entity"]) == ("train.jsonl", None)
    environment = json.loads((run / "summary.json").read_text())["environment"]
    manifest = json.loads(found["export.json"])
    assert manifest["data_fingerprint"] == environment["data_fingerprint"]
    for name, content in found.items():
        for private in (str(workdir), str(Path.home()) + "/", SECRET):
            assert private.encode() not in content, name


def test_the_same_run_gives_the_same_file(workdir: Path, tmp_path: Path) -> None:
    with chdir(workdir):
        export(Path("outputs/run"), tmp_path / "again.zip")
    assert contents(tmp_path / "again.zip") == contents(workdir / "run.zip")


def test_a_file_that_is_there_stays(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.zip").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        export(workdir / "outputs" / "run", tmp_path / "mine.zip")
    assert (tmp_path / "mine.zip").read_text() == "mine"


def test_an_export_trains_the_same_elsewhere(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    file = str(workdir / "run.zip")
    with pytest.raises(ConfigError, match=r"^data.path=train.jsonl: is not here; say where"):
        import_run(Path(file))
    write_data(tmp_path)
    with caplog.at_level("INFO"):
        assert main(["reproduce", file]) == 0
    assert "identical: 3 steps" in caplog.text
    assert "was changed since" not in caplog.text
    [imported] = Path("outputs/imported").iterdir()
    assert jsonl(imported / "metrics.jsonl") == jsonl(workdir / "outputs/run/metrics.jsonl")


def test_other_data_than_the_exports_is_said(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path, first=1)
    assert main(["reproduce", str(workdir / "run.zip")]) == 2
    assert "is not the data that the run was begun with" in caplog.text


# --- What may come in ---------------------------------------------------------------------------


def add(name: str, content: bytes = b"x", mode: int = 0o644) -> Callable[[zipfile.ZipFile], None]:
    def write(packed: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        packed.writestr(info, content, zipfile.ZIP_DEFLATED)

    return write


HOSTILE = {
    "out of the folder": (add("../evil"), "holds '../evil'"),
    "from the root": (add("/tmp/evil"), "holds '/tmp/evil'"),
    "a file of another name": (add("checkpoints/step_1/model.safetensors"), "holds 'checkpoints"),
    "a link": (add("explain.json", b"/etc/passwd", stat.S_IFLNK | 0o777), "is no plain file"),
    "a bomb": (add("explain.json", bytes(60_000_000)), "would take 60,000,000 bytes"),
    "too large": (add("explain.json", bytes(70_000_000)), "would take 70,000,000 bytes"),
    "an unknown digest": (add("explain.json", b"{}"), "was changed since it was packed"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_export_holds_is_refused_in_one_line_and_nothing_is_left(
    case: str, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    change, said = HOSTILE[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.zip").write_bytes((workdir / "run.zip").read_bytes())
    with zipfile.ZipFile("bad.zip", "a") as packed:
        change(packed)
    assert main(["reproduce", "bad.zip"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("file=bad.zip: is not an export of lab: ")
    assert said in line
    assert not any(tmp_path.glob("outputs/imported/*"))
    assert {path.name for path in tmp_path.iterdir()} == {"bad.zip", "outputs"}


@pytest.mark.parametrize("size", [0, 10, 300, -300, -1])
def test_a_file_that_was_cut_off_is_refused(
    size: int, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.zip").write_bytes((workdir / "run.zip").read_bytes()[:size])
    with pytest.raises(ConfigError, match="is not an export of lab"):
        import_run(Path("bad.zip"))


@pytest.fixture
def bad(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an export in the current folder, to be spoilt."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(workdir / "run.zip", "bad.zip"))


def test_a_name_that_is_no_text_is_refused(bad: Path) -> None:
    with zipfile.ZipFile(bad, "a") as packed:
        add("éé.json")(packed)
    bad.write_bytes(bad.read_bytes().replace("éé".encode(), b"\xff\xfe\xff\xfe"))
    with pytest.raises(ConfigError, match=r"is not an export of lab: .* can't decode"):
        import_run(bad)


def test_outputs_that_cannot_be_written_are_said(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs").write_text("a file")
    with pytest.raises(ConfigError, match=r"^folder=outputs/imported: cannot be written"):
        import_run(workdir / "run.zip")


def test_a_size_that_lies_is_not_believed(bad: Path) -> None:
    """The directory says 10 bytes, the file unpacks to 2 MB."""
    with zipfile.ZipFile(bad, "a") as packed:
        add("explain.json", os.urandom(2_000_000))(packed)
        packed.getinfo("explain.json").file_size = 10
    with pytest.raises(ConfigError, match="is not an export of lab"):
        import_run(bad)


def test_a_config_that_sends_or_reads_elsewhere_is_made_harmless(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data is looked for here, nothing goes to the tracker that it names."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    found = contents(workdir / "run.zip")
    config = yaml.safe_load(found["config.yaml"])
    config["tracker"] |= {"mode": "online", "entity": "other", "uri": "http://other"}
    config["data"]["path"] = "../../somewhere/train.jsonl"
    found["config.yaml"] = yaml.safe_dump(config).encode()
    manifest = json.loads(found["export.json"])
    manifest["sha256"]["config.yaml"] = hashlib.sha256(found["config.yaml"]).hexdigest()
    found["export.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile("made.zip", "w") as packed:
        for name, content in found.items():
            packed.writestr(name, content)
    loaded = Config.load(import_run(Path("made.zip")) / "config.yaml")
    assert (loaded.tracker.mode, loaded.tracker.entity, loaded.tracker.uri) == (
        "offline",
        None,
        None,
    )
    assert loaded.data.path == "train.jsonl"
    assert portable(loaded) == loaded
