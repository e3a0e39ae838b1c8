"""A session on disk and back: atomic, checksummed, safetensors and JSON only.

A checkpoint is a folder ``step_<t>`` that holds a ``manifest.json`` and exactly the files that it
names. The manifest is written last and the folder renamed into place, so a folder without one, or
under another name, is not a checkpoint. The weights are named and stored as mlx-lm's own adapter,
so ``mlx_lm.generate --adapter-path`` reads the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

VERSION = 1
WEIGHTS, OPTIMIZER = "adapters.safetensors", "optimizer.safetensors"
ADAPTER_CONFIG, STATE, MANIFEST = "adapter_config.json", "state.json", "manifest.json"
FILES = (WEIGHTS, OPTIMIZER, ADAPTER_CONFIG, STATE)
NAME = re.compile(r"step_(\d+)")
ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4}
ITEM_BYTES |= {"I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8}

Arrays = dict[str, mx.array]


class CheckpointError(Exception):
    """A checkpoint that cannot be used: says which file, what was expected, what was found."""


@dataclass(frozen=True)
class Snapshot:
    """Everything of a session that a step changes.

    Attributes:
        step: optimizer updates done.
        weights: the trained parameters by name; the frozen base is not here, it never changes.
        optimizer: the optimizer's state by path.
        state: the rest as JSON: RNG, counters, policy state.
        written_at: when its manifest was written, in seconds since the epoch.
    """

    step: int
    weights: Arrays
    optimizer: Arrays
    state: dict[str, Any]
    written_at: float = 0.0


def save(
    folder: Path,
    snapshot: Snapshot,
    adapter_config: Mapping[str, object],
    *,
    before_rename: Callable[[], None] = lambda: None,
) -> Path:
    """Write ``folder/step_<t>`` whole or not at all.

    Arguments:
        adapter_config: what mlx-lm needs to load the weights.
        before_rename: called when everything is on disk; the rename waits for it.

    Raises:
        OSError: the disk is full or the folder not writable; what was there stays.
    """
    final = folder / f"step_{snapshot.step}"
    temporary = folder / f".step_{snapshot.step}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        _save_arrays(temporary / WEIGHTS, snapshot.weights)
        _save_arrays(temporary / OPTIMIZER, snapshot.optimizer)
        _save_json(temporary / ADAPTER_CONFIG, adapter_config)
        _save_json(temporary / STATE, snapshot.state)
        files = {name: _describe(temporary / name) for name in FILES}
        manifest = {"version": VERSION, "step": snapshot.step, "written_at": time.time()}
        _save_json(temporary / MANIFEST, {**manifest, "files": files})
        _fsync(temporary)
        before_rename()
        if final.exists():  # a step that was replayed after a death: same content, written again
            shutil.rmtree(final)
        temporary.rename(final)
        _fsync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def load(folder: Path) -> Snapshot:
    """Read a checkpoint, checksums first.

    Raises:
        CheckpointError: it is damaged, of another version, or not a checkpoint.
    """
    manifest = _load_json(folder / MANIFEST)
    where = f"{folder.name}/{MANIFEST}"
    step, written_at, files = (manifest.get(key) for key in ("step", "written_at", "files"))
    if manifest.get("version") != VERSION:
        found = manifest.get("version")
        raise CheckpointError(f"{where}: expected version {VERSION}, found {found}")
    if folder.name != f"step_{step}" or not isinstance(written_at, float):
        raise CheckpointError(f"{where}: expected the step of its folder and a time, found {step}")
    if not isinstance(files, dict) or set(files) != set(FILES):
        raise CheckpointError(f"{where}: expected exactly the files {FILES}")
    for name in FILES:
        found = _describe(folder / name)
        if found != files[name]:
            raise CheckpointError(f"{folder.name}/{name}: expected {files[name]}, found {found}")
    return Snapshot(
        step=int(folder.name.removeprefix("step_")),
        weights=_load_arrays(folder / WEIGHTS),
        optimizer=_load_arrays(folder / OPTIMIZER),
        state=_load_json(folder / STATE),
        written_at=written_at,
    )


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    found = (NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(m[1]) for m in found if m and (folder / m[0] / MANIFEST).is_file())


def prune(folder: Path, keep: int, *, newest: int) -> None:
    """Remove all but ``keep`` checkpoints, and what a killed save left behind.

    Arguments:
        newest: the step of the one just saved, which is good. Later ones could not be used, or the
            run would not have come to this step again; they must not push good ones out.
    """
    found = steps(folder)
    kept = [step for step in found if step <= newest][-keep:]
    for step in set(found) - set(kept):
        shutil.rmtree(folder / f"step_{step}", ignore_errors=True)
    for leftover in folder.glob(".step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def check_same(what: str, found: Arrays, expected: Arrays) -> None:
    """Refuse arrays that do not fit, before anything is changed.

    Raises:
        CheckpointError: names the first array that is missing, unknown, or of another form.
    """
    for name in sorted(found.keys() ^ expected.keys()):
        side = "is missing" if name in expected else "is unknown to this session"
        raise CheckpointError(f"{what}: {name} {side}")
    for name, array in found.items():
        want = expected[name]
        if array.shape != want.shape or array.dtype != want.dtype:
            raise CheckpointError(
                f"{what}: {name}: expected {want.shape} {want.dtype}, "
                f"found {array.shape} {array.dtype}"
            )


def weights_sha256(weights: Arrays) -> str:
    """A digest of names, shapes, types and bits, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name]
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(memoryview(array.reshape(-1).view(mx.uint8)))  # type: ignore[arg-type]
    return digest.hexdigest()


def _save_arrays(path: Path, arrays: Arrays) -> None:
    mx.save_safetensors(str(path), arrays, metadata={"format": "mlx"})
    _fsync(path)


def _load_arrays(path: Path) -> Arrays:
    try:
        _check_safetensors(path)
        arrays = mx.load(str(path))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.parent.name}/{path.name}: {error!r}") from error
    assert isinstance(arrays, dict)
    return arrays


def _check_safetensors(path: Path) -> None:
    """Refuse a file whose arrays do not lie within it: MLX trusts what the header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError(f"its header of {length} bytes does not fit into {size}")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, array in header.items():
        start, end = array["data_offsets"]
        expected = math.prod(array["shape"]) * ITEM_BYTES[array["dtype"]]
        if min(array["shape"], default=0) < 0 or end - start != expected:
            raise ValueError(f"{name}: expected {expected} bytes, found {end - start}")
        if not 0 <= start <= end <= size - 8 - length:
            raise ValueError(f"{name}: lies outside of the file")


def _save_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))
    _fsync(path)


def _load_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.parent.name}/{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name}: expected an object")
    return value


def _describe(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": file.tell(), "sha256": digest}
    except OSError as error:
        raise CheckpointError(f"{path.parent.name}/{path.name}: {error}") from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
