"""Hydra's settings of a sweep that is resumed, out of its index, which may come from somebody else.

They are kept as data and used again where they are harmless: a folder of configs may hold plain
YAML that names no code, sets nothing of Hydra's and reads nothing of the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from lab.compose.overrides import override_key, quoted
from lab.config.schema import ConfigError
from lab.sweep.index import CONFIG_NAME, SweepIndex

MOST_FILES = 1000  # in a folder of configs that is looked through; Hydra would read them anyway
FLAGS = {"-cd": "--config-dir", "-cn": "--config-name"}


def saved_settings(config: DictConfig) -> dict[str, Any]:
    """The fields of a sweep's index that hold Hydra's settings.

    Arguments:
        config: the sweep's, with its ``hydra`` node.
    """
    hydra = config.hydra
    subdir = str(OmegaConf.to_container(hydra.sweep, resolve=False)["subdir"])  # type: ignore[index]
    folder = Path(hydra.sweep.dir).resolve()  # as when it is resumed, whatever links lead there
    sources: dict[str, list[str]] = {}
    for source in hydra.runtime.config_sources:
        path = source.path if source.schema == "file" else f"{source.schema}://{source.path}"
        if source.schema == "file":
            path = os.path.relpath(path, folder)
        sources.setdefault(source.provider, []).append(path)
    return {
        "subdir": subdir.replace("${", "{"),
        "config_name": hydra.job.config_name or CONFIG_NAME,
        "config_dir": next(iter(sources.get("command-line", ())), None),
        "searchpath": tuple(sources.get("hydra.searchpath in command-line", ())),
        "cwd": os.path.relpath(Path.cwd(), folder),
    }


def restored(index: SweepIndex, folder: Path, given: Sequence[str]) -> list[str]:
    """Flags and overrides that set again what the sweep was begun with.

    Arguments:
        folder: the sweep's.
        given: what is typed now; a setting that is in it is neither checked nor set.

    Raises:
        ConfigError: a setting is not taken from a file. The remedy is to type it.
    """
    typed = {FLAGS.get(key, key) for key in map(override_key, given)}
    arguments = []
    if index.config_name != CONFIG_NAME and "--config-name" not in typed:
        _check("--config-name", index.config_name, r"\w[\w-]*(/\w[\w-]*)*")
        arguments.append(f"--config-name={index.config_name}")
    if index.config_dir is not None and "--config-dir" not in typed:
        arguments.append(
            f"--config-dir={_checked_configs('--config-dir', folder, index.config_dir)}"
        )
    if index.subdir is not None and "hydra.sweep.subdir" not in typed:
        _check("hydra.sweep.subdir", index.subdir, r"([\w.,=+/ -]|\{[\w.]+\})+")
        subdir = index.subdir.replace("{", "${")
        arguments.append(f"hydra.sweep.subdir={quoted(subdir)}")
    if index.searchpath and "hydra.searchpath" not in typed:
        key = "hydra.searchpath"
        paths = [quoted(_checked_configs(key, folder, path)) for path in index.searchpath]
        arguments.append(f"{key}=[{','.join(paths)}]")
    return arguments


def _check(key: str, value: str, harmless: str) -> None:
    if re.fullmatch(harmless, value) is None:
        raise _refused(key, value, "is not taken from a file")


def _refused(key: str, value: object, why: str) -> ConfigError:
    return ConfigError(key, value, f"{why}; type it again: lab resume SWEEP {key}=...")


# --- A folder of configs ------------------------------------------------------------------------


def _checked_configs(key: str, sweep: Path, path: str) -> Path:
    """A folder of configs, once every file in it is found to be harmless."""
    if "://" in path:
        raise _refused(key, path, "may name code, and is not taken from a file")
    folder = Path(os.path.normpath(sweep / path))
    if not folder.is_dir():
        raise _refused(key, folder, "is not there any more")
    for file in _yaml_files(key, folder):
        if why := _harm_in(file, file.relative_to(folder)):
            raise _refused(key, folder, f"{file.relative_to(folder)} {why}")
    return folder


def _yaml_files(key: str, folder: Path) -> Iterator[Path]:
    seen = 0
    for where, _, names in os.walk(folder, followlinks=True):  # as Hydra would
        for name in sorted(names):
            seen += 1
            if seen > MOST_FILES:
                raise _refused(key, folder, f"holds more than {MOST_FILES} files")
            if name.endswith(".yaml"):
                yield Path(where, name)


def _harm_in(file: Path, name: Path) -> str:
    """Why a config is not used for somebody else's sweep; empty where nothing speaks against it."""
    try:
        text = file.read_text(encoding="utf-8")
        values = list(_texts(list(yaml.safe_load_all(text))))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return "is no plain YAML"
    if any("hydra" in part for part in (text, str(name), *values)):
        return "sets something of Hydra's"
    for value in values:
        if re.fullmatch(r"_\w+_", value) and value not in ("_self_", "_global_"):
            return f"holds {value}"
        if "${" in re.sub(r"\$\{[\w.]+\}", "", value):
            return f"holds an interpolation: {value}"
        if ".." in value or "//" in value:  # in a list of defaults it leaves the folder
            return f"holds {value}"
    return ""


def _texts(value: object) -> Iterator[str]:
    """Every key and every text in plain YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _texts(item)
