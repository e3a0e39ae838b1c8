"""State dicts on disk and back: atomic, checksummed, safetensors and JSON only.

A checkpoint is a folder ``step_<t>`` with a ``manifest.json`` that names every other file. The
manifest is written last and the folder renamed into place, so a folder without one, or under
another name, is not a checkpoint. Which parts there are, and what is in them, is the session's
business: a part of arrays gets a safetensors file of its own, the others share ``state.json``. The
weights are named and stored as mlx-lm's own adapter, so ``mlx_lm.generate --adapter-path`` reads
the folder.
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
from reprlib import repr as shorten
from typing import Any

import mlx.core as mx

from lab.machine import process
from lab.records.digest import sha256_of_file

CHECKPOINT_VERSION = 1
ADAPTER_CONFIG, STATE, MANIFEST = "adapter_config.json", "state.json", "manifest.json"
MODEL, WEIGHTS = "model", "adapters.safetensors"  # the name that mlx-lm loads a model's weights by
ARRAYS = re.compile(r"[a-z_]+\.safetensors")
NAME = re.compile(r"step_(\d+)")
ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4}
ITEM_BYTES |= {"I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8}

Arrays = dict[str, mx.array]
State = Any  # of one part: arrays by name, or a JSON value


class CheckpointError(Exception):
    """A checkpoint that cannot be used: says which file, what was expected, what was found."""


@dataclass(frozen=True)
class Snapshot:
    """The training state after a step.

    Attributes:
        step: optimizer updates done.
        states: the state dict of each part, by the part's name.
        saved_at: when its manifest was written, by the run's clock; None if it does not say.
    """

    step: int
    states: Mapping[str, State]
    saved_at: float | None = None


def file_of(name: str, state: State) -> str:
    """The file of a checkpoint that a part's state is in."""
    if not _is_arrays(state):
        return STATE
    return WEIGHTS if name == MODEL else f"{name}.safetensors"


def save(
    folder: Path,
    snapshot: Snapshot,
    adapter_config: Mapping[str, object],
    *,
    before_rename: Callable[[], None] = lambda: None,
    clock: Callable[[], float] | None = None,
) -> Path:
    """Write ``folder/step_<t>`` whole or not at all; what a killed save left behind goes first.

    Arguments:
        adapter_config: what mlx-lm needs to load the weights.
        before_rename: called when everything is on disk; the rename waits for it.
        clock: the run's, in seconds.

    Raises:
        OSError: the disk is full or the folder not writable; what was there stays.
    """
    final = folder / f"step_{snapshot.step}"
    # Not named by the process: in a container each start may have the number of a killed one.
    temporary = folder / f".step_{snapshot.step}.{os.urandom(6).hex()}.tmp"
    for leftover in folder.glob(".step_*.tmp"):  # it may hold the room that this one needs
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        files = _save_files(temporary, snapshot.states, adapter_config)
        manifest = {"version": CHECKPOINT_VERSION, "step": snapshot.step, "written_at": time.time()}
        manifest |= {"saved_at": clock()} if clock else {}
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


def _save_files(
    folder: Path, states: Mapping[str, State], adapter_config: Mapping[str, object]
) -> dict[str, object]:
    """Write everything but the manifest; what the manifest says of each file."""
    arrays = {name: state for name, state in states.items() if _is_arrays(state)}
    for name, state in arrays.items():
        _save_arrays(folder / file_of(name, state), state)
    _save_json(folder / ADAPTER_CONFIG, adapter_config)
    _save_json(folder / STATE, {n: state for n, state in states.items() if n not in arrays})
    names = [*(file_of(*part) for part in arrays.items()), ADAPTER_CONFIG, STATE]
    return {name: _describe(folder / name) for name in names}


def load(folder: Path) -> Snapshot:
    """Read a checkpoint, checksums first.

    Raises:
        CheckpointError: it is damaged, of another version, or not a checkpoint.
    """
    manifest = _load_json(folder / MANIFEST)
    where = f"{folder.name}/{MANIFEST}"
    step, written_at = manifest.get("step"), manifest.get("written_at")
    saved_at = manifest.get("saved_at")
    if manifest.get("version") != CHECKPOINT_VERSION:
        found = manifest.get("version")
        raise CheckpointError(f"{where}: expected version {CHECKPOINT_VERSION}, found {found}")
    if folder.name != f"step_{step}" or not isinstance(written_at, float):
        raise CheckpointError(f"{where}: expected the step of its folder and a time, found {step}")
    files = _files_of(manifest)
    for name, expected in files.items():
        found = _describe(folder / name)
        if found != expected:
            raise CheckpointError(f"{folder.name}/{name}: expected {expected}, found {found}")
    arrays = {_part_of(name): folder / name for name in files if ARRAYS.fullmatch(name)}
    return Snapshot(
        step=int(folder.name.removeprefix("step_")),
        states=_load_json(folder / STATE) | {n: load_arrays(p) for n, p in arrays.items()},
        saved_at=saved_at if isinstance(saved_at, float) else None,
    )


def _files_of(manifest: dict[str, Any]) -> dict[str, object]:
    """What a manifest says of each file. No name may lead out of the checkpoint's folder."""
    files, always = manifest.get("files"), {ADAPTER_CONFIG, STATE}
    names = files.keys() if isinstance(files, dict) else set()
    if always <= names and all(map(ARRAYS.fullmatch, names - always)):
        return files  # type: ignore[return-value]
    expected = f"{ADAPTER_CONFIG}, {STATE} and NAME.safetensors"
    found = f"expected the files {expected}, found {shorten(files)}"
    raise CheckpointError(f"step_{manifest['step']}/{MANIFEST}: {found}")


def _part_of(file: str) -> str:
    return MODEL if file == WEIGHTS else file.removesuffix(".safetensors")


def _is_arrays(state: State) -> bool:
    return isinstance(state, dict) and any(isinstance(v, mx.array) for v in state.values())


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    found = (NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(m[1]) for m in found if m and (folder / m[0] / MANIFEST).is_file())


def prune(folder: Path, keep: int, *, newest: int) -> None:
    """Remove all but the last ``keep`` checkpoints.

    Arguments:
        newest: the step of the one just saved. Newer checkpoints than this one were unusable (the
            run was resumed from an older one); they are removed and must not count toward ``keep``.
    """
    found = steps(folder)
    kept = [step for step in found if step <= newest][-keep:]
    for step in set(found) - set(kept):
        shutil.rmtree(folder / f"step_{step}", ignore_errors=True)


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


def load_arrays(path: Path) -> Arrays:
    """Read a safetensors file.

    Raises:
        CheckpointError: it cannot be read, or its arrays do not lie within it.
    """
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
        return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    except OSError as error:
        raise CheckpointError(f"{path.parent.name}/{path.name}: {error}") from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        process.fsync(descriptor)
    finally:
        os.close(descriptor)
