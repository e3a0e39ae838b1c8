"""A model that comes from the hub says how far it is; one that is there already says nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from lab.config.keys import Model
from lab.config.schema import ConfigError
from lab.config.units import GB
from lab.train import model_files

MODEL = Model(name="m", tier="small", hub_id="owner/name")


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the hub's client keeps what it downloads."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(model_files, "PROGRESS_SECONDS", 0.01)
    folder = tmp_path / "models--owner--name" / "blobs"
    folder.mkdir(parents=True)
    (folder / "here").write_bytes(b"12345")
    return folder


def test_a_download_says_how_far_it_is(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, told = threading.Event(), []

    def download(*_: object, **__: object) -> str:
        with (blobs / "coming.incomplete").open("wb") as file:
            file.truncate(3 * GB // 2)
        assert heard.wait(60)
        return str(blobs)

    def progress(text: str) -> None:
        told.append(text)
        heard.set()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_files.folder_of(MODEL, progress) == blobs
    assert told == ["downloading owner/name, once: 1.50 GB so far"]


def test_a_model_that_is_there_says_nothing(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(blobs))
    assert model_files.folder_of(MODEL, pytest.fail) == blobs
    assert "download" not in {thread.name for thread in threading.enumerate()}


def test_a_download_that_fails_is_one_line(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError(f"no route to {blobs.name}\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConfigError, match=r"model.hub_id=owner/name: .*: no route to blobs$"):
        model_files.folder_of(MODEL)
    assert "download" not in {thread.name for thread in threading.enumerate()}
