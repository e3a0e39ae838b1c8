"""A pretrained model's folder: found or downloaded, fingerprinted, loaded with mlx-lm's classes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from lab.config.keys import Model
from lab.config.schema import ConfigError
from lab.config.units import GB, MB
from lab.data.index import PROGRESS_SECONDS, Progress, say_nothing
from lab.records.digest import sha256_of_file

END_BYTES = MB
WEIGHTS = "model*.safetensors"


@lru_cache
def stub_mlx_lm_packages() -> None:
    """Put empty ``mlx_lm`` and ``mlx_lm.tuner`` packages in place, so no ``__init__`` of them runs.

    ``mlx_lm/__init__`` imports transformers: a second of start-up at every reload by process, and
    70 MB in the process whose memory is measured. Models and adapter layers need none of it.
    """
    for name in ("mlx_lm", "mlx_lm.tuner"):
        if name in sys.modules:
            return
        root = importlib.util.find_spec("mlx_lm") if name == "mlx_lm" else None
        if root is not None:
            locations = list(root.submodule_search_locations or [])
        else:
            locations = [f"{path}/tuner" for path in sys.modules["mlx_lm"].__path__]
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = locations
        module = ModuleType(name)
        module.__spec__, module.__path__ = spec, locations
        sys.modules[name] = module


def _import_without_stubs(name: str) -> ModuleType:
    """Import a module of mlx-lm that needs the real packages."""
    for stub in ("mlx_lm", "mlx_lm.tuner"):
        if stub in sys.modules and sys.modules[stub].__spec__.loader is None:  # type: ignore[union-attr]
            del sys.modules[stub]
    return importlib.import_module(name)


def folder_of(model: Model, progress: Progress = say_nothing) -> Path | None:
    """The local folder of a pretrained model, downloaded from the hub if need be.

    Arguments:
        progress: gets a line every few seconds in which something was downloaded.

    Raises:
        ConfigError: the hub cannot be reached or does not have it, or there is no such folder.
    """
    if model.scratch is not None:
        return None
    if model.path is not None:
        folder = Path(model.path)
        if not (folder / "config.json").is_file():
            raise ConfigError("model.path", folder, "must be a folder with a config.json")
        return folder
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "model*.safetensors", "*.jinja", "tokenizer*", "*.txt", "*.model"]
    try:
        with _told_downloads(str(model.hub_id), progress):
            return Path(snapshot_download(str(model.hub_id), allow_patterns=patterns))
    except Exception as error:  # the hub's client raises many kinds; all mean the same to a user
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            "model.hub_id", model.hub_id, f"cannot be had from the hub: {reason}"
        ) from (error)


@contextmanager
def _told_downloads(hub_id: str, progress: Progress) -> Iterator[None]:
    """Tell from a thread how many bytes of a model have come; silent where none do.

    Seen in the hub's cache, where a file grows while it comes: its client's own progress bars are
    for a terminal.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type="model") / "blobs"
    ended, at_first = threading.Event(), bytes_in(blobs)

    def tell() -> None:
        told = at_first
        while not ended.wait(PROGRESS_SECONDS):
            if (now := bytes_in(blobs)) != told:
                told = now
                with suppress(BrokenPipeError):  # the main thread finds out by itself
                    progress(f"downloading {hub_id}, once: {(now - at_first) / GB:.2f} GB so far")

    thread = threading.Thread(target=tell, name="download", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder, which may change meanwhile; 0 where there is none."""
    total = 0
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                total += path.stat().st_size
    return total


def fingerprint(folder: Path) -> str:
    """SHA-256 over a model's files, in hex: names, sizes, and the first and last ``END_BYTES``.

    Runs begun before :func:`weights_fingerprint` are known by it alone.
    """
    digest = hashlib.sha256()
    for path in sorted((*folder.glob("*.json"), *folder.glob(WEIGHTS))):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(END_BYTES))
            file.seek(max(size - END_BYTES, END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def weights_fingerprint(folder: Path, digest_of: Callable[[Path], str] = sha256_of_file) -> str:
    """SHA-256 over the whole of a model's weights, in hex: the name and content of each file.

    Arguments:
        digest_of: SHA-256 of one file's content, in hex.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob(WEIGHTS)):
        digest.update(f"{path.name} {digest_of(path)}\n".encode())
    return digest.hexdigest()


def model_of_type(config: dict[str, Any]) -> nn.Module:
    """A model of mlx-lm with random weights, from the values of its ``config.json``."""
    architecture = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    return architecture.Model(architecture.ModelArgs.from_dict(config))


def load_model(folder: Path) -> nn.Module:
    """Load as ``mlx_lm.utils.load_model`` does, without importing transformers for plain cases."""
    network, config = model_without_weights(folder), _read_model_config(folder)
    if not _is_plain(config):
        return network  # mlx-lm has opened its weights; they are read once they are needed
    with _refusing_damage(folder):
        weights: dict[str, mx.array] = {}
        for file in sorted(folder.glob(WEIGHTS)):
            weights.update(mx.load(str(file)))  # type: ignore[arg-type]
        if hasattr(network, "sanitize"):
            weights = network.sanitize(weights)  # type: ignore[operator]
        if quantization := config.get("quantization"):
            _quantize_like(network, quantization, weights)
        network.load_weights(list(weights.items()))
        mx.eval(network.parameters())
    return network


def model_without_weights(folder: Path) -> nn.Module:
    """A model's modules, none of whose weights is read or takes memory yet.

    Raises:
        ConfigError: the folder is no model's, or not supported.
    """
    config = _read_model_config(folder)
    if not any(folder.glob(WEIGHTS)):
        raise ConfigError("model.path", folder, f"holds no {WEIGHTS}")
    with _refusing_damage(folder):
        if _is_plain(config):
            return model_of_type(config)
        return _import_without_stubs("mlx_lm.utils").load_model(folder, lazy=True)[0]


@contextmanager
def _refusing_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError("model.path", folder, f"is damaged or not supported: {reason}") from error


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks, in order; every model of mlx-lm has them."""
    return cast("list[nn.Module]", network.layers)


def _read_model_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
        if not isinstance(config["model_type"], str) or not config["model_type"].isidentifier():
            raise ValueError("model_type is not a name")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("model.path", folder, f"config.json cannot be used: {error!r}") from error
    if "model_file" in config:  # code of the model's author: never run
        raise ConfigError("model.path", folder, "config.json names code to run (model_file)")
    return config


def _is_plain(config: dict[str, Any]) -> bool:
    known = importlib.util.find_spec(f"mlx_lm.models.{config['model_type']}") is not None
    return known and ("quantization" in config or "quantization_config" not in config)


def _quantize_like(network: nn.Module, quantization: dict[str, Any], weights: dict) -> None:
    def predicate(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if path in quantization:
            return quantization[path]
        return hasattr(module, "to_quantized") and f"{path}.scales" in weights

    nn.quantize(
        network,
        group_size=quantization["group_size"],
        bits=quantization["bits"],
        mode=quantization.get("mode", "affine"),
        class_predicate=predicate,
    )
