"""Checkpoints: whole or not at all, and refused when a bit is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.train import checkpoint
from lab.train.checkpoint import CheckpointError, Snapshot
from lab.train.stateful import check_states

ADAPTER = {"fine_tune_type": "full"}


def snapshot(step: int = 7) -> Snapshot:
    return Snapshot(
        step=step,
        states={
            "rng": [1, 2**32 - 1],
            "progress": {"step": step},
            "model": {"a.w": mx.arange(12, dtype=mx.float32).reshape(3, 4), "b": mx.array(2.5)},
            "optimizer": {"step": mx.array(7, mx.uint64), "a.m": mx.ones((2, 2), mx.bfloat16)},
        },
    )


FILES = ("adapters.safetensors", "optimizer.safetensors", "adapter_config.json", "state.json")


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    saved, loaded = snapshot(), checkpoint.load(checkpoint.save(tmp_path, snapshot(), ADAPTER))
    assert loaded.step == 7
    check_states(loaded.states, saved.states)
    for part in ("rng", "progress"):
        assert loaded.states[part] == saved.states[part]
    for part in ("model", "optimizer"):
        for name, array in saved.states[part].items():
            assert mx.array_equal(array, loaded.states[part][name])


def test_the_files_are_those_that_mlx_lm_and_older_runs_have(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, snapshot(), ADAPTER)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["version"], manifest["step"]) == (1, 7)
    assert tuple(manifest["files"]) == FILES
    assert {file.name for file in folder.iterdir()} == {*FILES, "manifest.json"}
    assert mx.load(str(folder / "adapters.safetensors")).keys() == {"a.w", "b"}
    assert mx.load(str(folder / "optimizer.safetensors")).keys() == {"step", "a.m"}
    assert json.loads((folder / "adapter_config.json").read_text()) == ADAPTER
    state = json.loads((folder / "state.json").read_text())
    assert state == {"rng": [1, 2**32 - 1], "progress": {"step": 7}}


def test_a_part_that_no_checkpoint_has_seen_is_kept_too(tmp_path: Path) -> None:
    cursor, average = {"epoch": 2}, {"w": mx.array([0.5, 0.25])}
    states = {**snapshot().states, "cursor": cursor, "average": average}
    loaded = checkpoint.load(checkpoint.save(tmp_path, Snapshot(7, states), ADAPTER)).states
    assert loaded.keys() == states.keys()
    assert loaded["cursor"] == cursor
    assert mx.array_equal(loaded["average"]["w"], average["w"])


@pytest.mark.parametrize("name", [*FILES, checkpoint.MANIFEST])
@settings(max_examples=12)  # it waits for the disk
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, name: str, position: float, bit: int
) -> None:
    folder = checkpoint.save(tmp_path_factory.mktemp("flip"), snapshot(), ADAPTER)
    raw = bytearray((folder / name).read_bytes())
    raw[int(position * len(raw))] ^= 1 << bit
    (folder / name).write_bytes(raw)
    try:
        loaded = checkpoint.load(folder)
    except CheckpointError as error:
        assert folder.name in str(error)
    else:  # in the manifest a bit can change what no one relies on: the time it was written
        assert name == checkpoint.MANIFEST
        check_states(loaded.states, snapshot().states)
        assert loaded.states["progress"] == snapshot().states["progress"]


@pytest.mark.parametrize("name", [*FILES, checkpoint.MANIFEST])
def test_a_truncated_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = checkpoint.save(tmp_path, snapshot(), ADAPTER)
    size = (folder / name).stat().st_size
    os.truncate(folder / name, size // 2)
    cut = f"is cut short: {size // 2:,} bytes, {size:,} were saved"
    said = "cannot be read: it is damaged: no JSON in line" if name == checkpoint.MANIFEST else cut
    with pytest.raises(CheckpointError, match=re.escape(f"step_7/{name}: {said}")):
        checkpoint.load(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(f"step_7/{name}: is missing")):
        checkpoint.load(folder)


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "a bit": ("adapters.safetensors", lambda raw: raw[:-1] + b"!", "its checksum is another"),
    "more": ("state.json", lambda raw: raw + b" " * 1000, "is too long: "),
    "binary": ("manifest.json", lambda raw: b"\x93" * len(raw), "no text from byte 1 on"),
    "a list": ("manifest.json", lambda raw: b"[]", "is no JSON object"),
    "of no length": (
        "manifest.json",
        lambda raw: raw.replace(b'"bytes"', b'"bites"'),
        "does not say how long adapters.safetensors is",
    ),
    "of another step": (
        "manifest.json",
        lambda raw: raw.replace(b'"step": 7', b'"step": 8'),
        "is of another checkpoint, of step 8",
    ),
    "of no time": (
        "manifest.json",
        lambda raw: raw.replace(b'"written_at"', b'"written"'),
        "does not say when it was written",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_said_in_words(tmp_path: Path, damage: str) -> None:
    name, change, said = DAMAGE[damage]
    folder = checkpoint.save(tmp_path, snapshot(), ADAPTER)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(CheckpointError) as raised:
        checkpoint.load(folder)
    assert str(raised.value).startswith(f"step_7/{name}: ")
    assert said in str(raised.value)
    assert not re.search(r"[{}()]|Error|sha256|None|Errno", str(raised.value))


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, snapshot(1), ADAPTER)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, snapshot(2), ADAPTER, before_rename=fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_1"]


def test_it_appears_only_after_its_rows_are_written(tmp_path: Path) -> None:
    seen = []
    checkpoint.save(
        tmp_path, snapshot(), ADAPTER, before_rename=lambda: seen.append(checkpoint.steps(tmp_path))
    )
    assert seen == [[]]
    assert checkpoint.steps(tmp_path) == [7]


def test_what_a_killed_save_left_takes_no_room_from_the_next(tmp_path: Path) -> None:
    """On a full disk no save would come to its end, and so none would make room."""
    left = tmp_path / ".step_7.1.tmp"
    left.mkdir()
    (left / "adapters.safetensors").touch()
    seen = []
    checkpoint.save(tmp_path, snapshot(), ADAPTER, before_rename=lambda: seen.append(left.exists()))
    assert seen == [False]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100, 20):
        checkpoint.save(tmp_path, snapshot(step), ADAPTER)
    (tmp_path / "step_7").mkdir()  # no manifest: not a checkpoint
    checkpoint.prune(tmp_path, keep=2, newest=100)
    assert checkpoint.steps(tmp_path) == [20, 100]


def test_one_that_could_not_be_used_pushes_no_good_one_out(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, snapshot(step), ADAPTER)
    checkpoint.prune(tmp_path, keep=1, newest=10)  # 15 was damaged: the run came to 10 again
    assert checkpoint.steps(tmp_path) == [10]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "is of version 99, this lab reads 1"),
        ({"files": {"../../etc/passwd": {}}}, "must name adapter_config.json"),
        (
            {"files": dict.fromkeys([*FILES, "../secret.safetensors"])},
            "must name adapter_config.json",
        ),
        (
            {"files": dict.fromkeys([*FILES, "secret.pickle"])},
            "must name adapter_config.json",
        ),
        ({"files": dict.fromkeys(FILES[:-1])}, "must name adapter_config.json"),
        ({"files": []}, "must name adapter_config.json"),
    ],
)
def test_a_hostile_or_newer_manifest_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    folder = checkpoint.save(tmp_path, snapshot(), ADAPTER)
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text()) | change
    (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, r"model.a: expected, not found"),
        ({"a": mx.zeros(2), "b": mx.zeros(2)}, r"model.b: found, not expected"),
        ({"a": mx.zeros(3)}, "model.a: expected float32 of shape 2, found float32 of shape 3$"),
        (
            {"a": mx.zeros(2, mx.int32)},
            "model.a: .*float32 of shape 2, found int32 of shape 2$",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(found: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"adapters.safetensors: {message}"):
        check_states({"model": found}, {"model": {"a": mx.zeros(2)}})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"step": 1}, "progress.policy: expected, not found"),
        (
            {"step": True, "policy": {"wait": 2}},
            "expected a whole number, found true or false",
        ),
        ({"step": 1, "policy": None}, "progress.policy: expected an object, found null"),
        ({"step": 1, "policy": {"wait": 2, "x": 1}}, "progress.policy.x: found, not expected"),
        ([1], "progress: expected an object, found a list of 1"),
    ],
)
def test_json_that_does_not_fit_is_named(found: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"state.json: .*{message}"):
        check_states({"progress": found}, {"progress": {"step": 3, "policy": {"wait": 2}}})


def test_a_part_that_is_missing_or_unknown_is_named() -> None:
    with pytest.raises(CheckpointError, match="rng: expected, not found"):
        check_states({}, {"rng": [1, 2]})
    with pytest.raises(CheckpointError, match="rng: found, not expected"):
        check_states({"rng": [1, 2]}, {})


def test_the_digest_of_weights_sees_names_shapes_types_and_bits() -> None:
    base = {"a": mx.zeros((2, 3)), "b": mx.ones(2)}
    others = [
        {"a": mx.zeros((3, 2)), "b": mx.ones(2)},
        {"a": mx.zeros((2, 3)), "c": mx.ones(2)},
        {"a": mx.zeros((2, 3), mx.int32), "b": mx.ones(2)},
        {"a": mx.zeros((2, 3)) * -1, "b": mx.ones(2)},  # -0.0 equals 0.0 but is not the same bits
    ]
    digests = {checkpoint.weights_sha256(weights) for weights in (base, *others)}
    assert len(digests) == 5
    assert checkpoint.weights_sha256(dict(reversed(base.items()))) in digests


def forge(folder: Path, name: str, content: bytes) -> None:
    """Put other content into a checkpoint, its manifest to match: made by hand, by whomever."""
    (folder / name).write_bytes(content)
    path = folder / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    path.write_text(json.dumps(manifest))


def safetensors(header: object, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x95pickle",
        (2**62).to_bytes(8, "little") + b"{}",
        safetensors([]),
        safetensors({"a": {}}),
        safetensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}}, bytes(16)),
        safetensors({"a": {"dtype": "F32", "shape": [-4, -1], "data_offsets": [0, 16]}}, bytes(16)),
        safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, bytes(16)),
        safetensors({"a": {"dtype": "PY", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    ],
)
def test_arrays_made_by_hand_are_refused_before_mlx_reads_them(
    tmp_path: Path, content: bytes
) -> None:
    folder = checkpoint.save(tmp_path, snapshot(), ADAPTER)
    forge(folder, "adapters.safetensors", content)
    with pytest.raises(CheckpointError, match=r"step_7/adapters\.safetensors: ") as raised:
        checkpoint.load(folder)
    assert not re.search(r"[{}()\[]|Error|None|Errno", str(raised.value))
