"""Unpack an export, which may be hostile, into a run's folder under ``outputs/imported``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from lab.config.keys import Config, dump
from lab.config.schema import ConfigError
from lab.config.units import MB
from lab.records.digest import sha256_of_file
from lab.records.rows import encode, read_jsonl
from lab.reproduce.portable import FILES, MANIFEST, MANIFEST_VERSION, paths_of, portable

IMPORTED = Path("outputs/imported")
MOST_PACKED = 200  # times: rows of numbers are packed to a tenth, a bomb to a thousandth
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, NotImplementedError, RuntimeError, OSError, ValueError),
)


def import_run(file: Path) -> Path:
    """Unpack an export; one that was unpacked before is taken as it is there.

    Returns:
        The folder, for ``reproduce``.

    Raises:
        ConfigError: it is no export, or a file or folder that its config names is not here.
    """
    try:
        digest = sha256_of_file(file)
    except OSError as error:
        raise ConfigError("file", file, f"cannot be read: {error.strerror}") from error
    name = re.sub(r"[^\w.=,+-]", "-", file.stem).lstrip(".")[:80]
    folder = IMPORTED / f"{name}-{digest[:8]}"
    if not folder.is_dir():
        try:
            _unpack(file, folder)
        except OSError as error:
            raise ConfigError("folder", IMPORTED, f"cannot be written: {error.strerror}") from error
    for key, path in paths_of(Config.load(folder / "config.yaml")).items():
        if not Path(path).exists():
            where = f"is not here; say where it is in {folder}/config.yaml, then"
            raise ConfigError(key, path, f"{where} lab reproduce {folder}")
    return folder


def _unpack(file: Path, folder: Path) -> None:
    IMPORTED.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=IMPORTED, prefix=".new-"))
    try:
        try:
            with zipfile.ZipFile(file) as packed:
                entries = _checked(file, packed)
                for entry in entries:
                    _copy(file, packed, entry, place)
        except ConfigError:
            raise
        except BROKEN as error:
            raise _refusal(file, str(error) or type(error).__name__) from error
        _check_manifest(file, place)
        _make_portable(place)
        place.chmod(0o755)
        place.rename(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _checked(file: Path, packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The entries, where each is one of an export's, a plain file, and as small as it may be."""
    entries = packed.infolist()
    names = [entry.filename for entry in entries]
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        if name not in FILES or names.count(name) > 1:
            raise _refusal(file, f"holds {name[:60]!r}, which no export does")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _refusal(file, f"its {name} is no plain file")
        if entry.file_size > min(FILES[name], MOST_PACKED * entry.compress_size + MB):
            raise _refusal(file, f"its {name} would take {entry.file_size:,} bytes")
    if missing := {MANIFEST, "config.yaml"} - set(names):
        raise _refusal(file, f"holds no {min(missing)}")
    return entries


def _copy(file: Path, packed: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> None:
    """Copy as much as the entry said that it has, whatever it has."""
    left = entry.file_size
    with packed.open(entry) as source, (place / entry.filename).open("xb") as target:
        while block := source.read(MB):
            left -= len(block)
            if left < 0:
                raise _refusal(file, f"its {entry.filename} is larger than it says")
            target.write(block)


def _check_manifest(file: Path, place: Path) -> None:
    """Every file is as it was packed."""
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        version, digests = manifest["version"], dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refusal(file, f"its {MANIFEST} cannot be read") from error
    if version != MANIFEST_VERSION:
        raise _refusal(file, f"its version is {version!r:.20}, this lab reads {MANIFEST_VERSION}")
    for path in place.iterdir():
        if path.name != MANIFEST and digests.get(path.name) != sha256_of_file(path):
            raise _refusal(file, f"its {path.name} was changed since it was packed")


def _make_portable(place: Path) -> None:
    """An export is portable already; of another the config is made so, and its events say so."""
    path, events = place / "config.yaml", place / "events.jsonl"
    before, text = path.read_bytes(), dump(portable(Config.load(path))).encode()
    if text == before:
        return
    path.write_bytes(text)
    was, now = (hashlib.sha256(t).hexdigest() for t in (before, text))
    rows: list[dict[str, Any]] = list(read_jsonl(events))
    for row in rows:
        if row.get("config_sha256") == was:
            row["config_sha256"] = now
    events.write_text("".join(f"{encode(row)}\n" for row in rows), encoding="utf-8")


def _refusal(file: Path, reason: str) -> ConfigError:
    return ConfigError(
        "file", os.fspath(file), f"is not an export of lab: {' '.join(reason.split())}"
    )
