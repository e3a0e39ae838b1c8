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

from lab.config.schema import why_unreadable
from lab.machine import process
from lab.records.digest import sha256_of_file
from lab.train.safetensors import OutOfPlaceError, check_safetensors

CHECKPOINT_VERSION = 1
ADAPTER_CONFIG, STATE, MANIFEST = "adapter_config.json", "state.json", "manifest.json"
MODEL, WEIGHTS = "model", "adapters.safetensors"  # the name that mlx-lm loads a model's weights by
ARRAYS = re.compile(r"[a-z_]+\.safetensors")
NAME = re.compile(r"step_(\d+)")

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
        found = shorten(manifest.get("version"))
        raise CheckpointError(
            f"{where}: is of version {found}, this lab reads {CHECKPOINT_VERSION}"
        )
    if folder.name != f"step_{step}":
        raise CheckpointError(f"{where}: is of another checkpoint, of step {shorten(step)}")
    if not isinstance(written_at, float):
        raise CheckpointError(f"{where}: does not say when it was written")
    files = _files_of(manifest)
    for name, saved in files.items():
        _check_unchanged(folder / name, saved)
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
    named = shorten(", ".join(sorted(map(str, names))) or "none")
    wanted = f"must name {ADAPTER_CONFIG}, {STATE} and files like {WEIGHTS}, names {named}"
    raise CheckpointError(f"step_{manifest['step']}/{MANIFEST}: {wanted}")


def _check_unchanged(path: Path, saved: object) -> None:
    """Hold a file against what its manifest says of it."""
    found, said = _describe(path), saved if isinstance(saved, dict) else {}
    if found == saved:
        return
    where, size, expected = f"{path.parent.name}/{path.name}", found["bytes"], said.get("bytes")
    if type(expected) is not int:
        where = f"{path.parent.name}/{MANIFEST}"
        raise CheckpointError(f"{where}: does not say how long {path.name} is")
    if size != expected:
        how = "cut short" if size < expected else "too long"
        raise CheckpointError(f"{where}: is {how}: {size:,} bytes, {expected:,} were saved")
    raise CheckpointError(f"{where}: was changed after it was saved: its checksum is another")


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
        check_safetensors(path)
        arrays = mx.load(str(path))
    except OSError as error:
        raise _unreadable(path, error) from error
    except OutOfPlaceError as error:
        raise CheckpointError(f"{path.parent.name}/{path.name}: {error}") from error
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = "is no safetensors file that can be read"
        raise CheckpointError(f"{path.parent.name}/{path.name}: {said}") from error
    assert isinstance(arrays, dict)
    return arrays


def _save_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))
    _fsync(path)


def _load_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name}: is no JSON object")
    return value


def _describe(path: Path) -> dict[str, Any]:
    try:
        return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    is_missing = isinstance(error, FileNotFoundError)
    said = "is missing" if is_missing else f"cannot be read: {why_unreadable(error)}"
    return CheckpointError(f"{path.parent.name}/{path.name}: {said}")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        process.fsync(descriptor)
    finally:
        os.close(descriptor)
