"""Put what makes a run reproducible into one file, for somebody else's ``lab reproduce``."""

from __future__ import annotations

import hashlib
import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.config.keys import Config, dump
from lab.config.schema import ConfigError
from lab.records.digest import sha256_of_file
from lab.records.files import check_idle
from lab.records.rows import encode, read_jsonl
from lab.reproduce.compare_records import Records
from lab.reproduce.portable import FILES, MANIFEST, MANIFEST_VERSION, anonymous, portable
from lab.reproduce.reproduce import load_config

SAME_DATE = (1980, 1, 1, 0, 0, 0)  # so that the same run gives the same file


def export(run_dir: Path, target: Path) -> list[str]:
    """Write config, environment, records and picture of a run into a new zip; no weights.

    Returns:
        The names of its files.

    Raises:
        ConfigError: the folder is not a run's, its process goes on, or the file cannot be new.
    """
    config = load_config(run_dir)
    check_idle(run_dir)
    if target.suffix != ".zip":
        raise ConfigError("file", target, "must end in .zip")
    contents = _contents(run_dir, config)
    try:
        _write(target, contents)
    except FileExistsError as error:
        raise ConfigError("file", target, "is there already") from error
    except OSError as error:
        raise ConfigError("file", target, f"cannot be written: {error.strerror}") from error
    return list(contents)


def _contents(run_dir: Path, config: Config) -> dict[str, bytes]:
    """The content of each file, the manifest first."""
    text = dump(portable(config)).encode()
    found = {"config.yaml": text, "events.jsonl": _events(run_dir, text)}
    for name in ("summary.json", "explain.json"):
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads((run_dir / name).read_text(encoding="utf-8"))
            found[name] = json.dumps(anonymous(content), indent=1).encode()
    for name in ("metrics.jsonl", "memory.png"):
        with suppress(OSError):
            found[name] = (run_dir / name).read_bytes()
    for name, content in found.items():
        if len(content) > FILES[name]:
            raise ConfigError("run", run_dir / name, f"has more than {FILES[name]} bytes")
    manifest = _manifest(run_dir, config, found)
    return {MANIFEST: json.dumps(manifest, indent=1).encode(), **found}


def _events(run_dir: Path, config: bytes) -> bytes:
    """The events, of which the first names the config as it is in the file."""
    as_begun = sha256_of_file(run_dir / "config.yaml")
    lines = []
    for event in read_jsonl(run_dir / "events.jsonl"):
        if event.get("config_sha256") == as_begun:
            event["config_sha256"] = hashlib.sha256(config).hexdigest()
        lines.append(f"{encode(anonymous(event))}\n")
    return "".join(lines).encode()


def _manifest(run_dir: Path, config: Config, found: dict[str, bytes]) -> dict[str, Any]:
    environment = Records.read(run_dir).environment
    prints = {key: value for key, value in environment.items() if key.endswith("_fingerprint")}
    return {
        "version": MANIFEST_VERSION,
        "name": config.name,
        **prints,
        "environment": anonymous(dict(environment)),
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in found.items()},
    }


def _write(target: Path, contents: dict[str, bytes]) -> None:
    """Write a new file; what cannot be written in full is removed again.

    Raises:
        FileExistsError: it is there.
    """
    with target.open("xb") as file:
        try:
            with zipfile.ZipFile(file, "w") as out:
                for name, content in contents.items():
                    info = zipfile.ZipInfo(name, SAME_DATE)
                    info.external_attr = 0o644 << 16
                    out.writestr(info, content, zipfile.ZIP_DEFLATED)
        except BaseException:
            target.unlink()
            raise
