"""Models: mlx-lm's own classes, from scratch or from a folder, with the adapter that is trained."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path, tree_unflatten

from lab.config.keys import Adapter, Model, Scratch
from lab.config.schema import ConfigError
from lab.config.units import MB

QUANTIZED_GROUP, QUANTIZED_BITS = 64, 4
END_BYTES = MB


@lru_cache
def _light_mlx_lm() -> None:
    """Let ``mlx_lm.models`` and ``mlx_lm.tuner`` be imported without their package modules.

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


def _full_mlx_lm(name: str) -> ModuleType:
    """A module of mlx-lm that needs the real packages."""
    for stub in ("mlx_lm", "mlx_lm.tuner"):
        if stub in sys.modules and sys.modules[stub].__spec__.loader is None:  # type: ignore[union-attr]
            del sys.modules[stub]
    return importlib.import_module(name)


def folder_of(model: Model) -> Path | None:
    """The local folder of a pretrained model, downloaded from the hub if need be.

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
        return Path(snapshot_download(str(model.hub_id), allow_patterns=patterns))
    except Exception as error:  # the hub's client raises many kinds; all mean the same to a user
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            "model.hub_id", model.hub_id, f"cannot be had from the hub: {reason}"
        ) from (error)


def fingerprint(folder: Path) -> str:
    """A hash that tells one pretrained model from another.

    Weights files go in by their size, their header and their ends: all of them would take as long
    as loading the model.
    """
    digest = hashlib.sha256()
    for path in sorted((*folder.glob("*.json"), *folder.glob("model*.safetensors"))):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(END_BYTES))
            file.seek(max(size - END_BYTES, END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def build_model(
    model: Model, adapter: Adapter, *, folder: Path | None, vocab_size: int, dtype: mx.Dtype
) -> nn.Module:
    """The model ready for training: base loaded, frozen where it is, adapter put in.

    Random weights come from ``mx.random``: seed it first.

    Arguments:
        folder: local folder of a pretrained model; None builds ``model.scratch``.
        vocab_size: tokens of a model from scratch.
        dtype: type of all floating parameters that are not quantised.

    Raises:
        ConfigError: the folder is damaged or the adapter does not fit the model.
    """
    _light_mlx_lm()
    if folder is None:
        assert model.scratch is not None
        network = _from_scratch(model.scratch, vocab_size)
    else:
        network = _from_folder(folder)
    _cast(network, dtype)
    if adapter.kind == "qlora":
        _quantize(network)
    if adapter.kind != "full":
        network.freeze()
        _add_adapter(network, adapter)
    elif _is_quantized(network):
        raise ConfigError(
            "adapter", "full", "cannot train a quantised model; choose adapter=qlora or lora"
        )
    network.train()
    mx.eval(network.parameters())
    return network


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks, in order; every model of mlx-lm has them."""
    return cast("list[nn.Module]", network.layers)


def adapter_config(network: nn.Module, adapter: Adapter) -> dict[str, object]:
    """``adapter_config.json`` of a built model, as mlx-lm reads it."""
    if adapter.kind == "full":
        return {"fine_tune_type": "full"}
    layers = layers_of(network)
    return {
        "fine_tune_type": "dora" if adapter.kind == "dora" else "lora",
        "num_layers": min(adapter.num_layers or 0, len(layers)),
        "lora_parameters": {
            "rank": adapter.rank,
            "scale": adapter.scale,
            "dropout": adapter.dropout,
            "keys": sorted(
                path for path, module in layers[-1].named_modules() if "lora_a" in module
            ),
        },
    }


def _from_scratch(sizes: Scratch, vocab_size: int) -> nn.Module:
    return _model_of_type(
        {
            "model_type": "llama",
            "hidden_size": sizes.hidden_size,
            "num_hidden_layers": sizes.num_layers,
            "num_attention_heads": sizes.num_heads,
            "num_key_value_heads": sizes.num_heads,
            "intermediate_size": sizes.intermediate_size,
            "vocab_size": vocab_size,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        }
    )


def _model_of_type(config: dict[str, Any]) -> nn.Module:
    architecture = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    return architecture.Model(architecture.ModelArgs.from_dict(config))


def _from_folder(folder: Path) -> nn.Module:
    """Load as ``mlx_lm.utils.load_model`` does, without importing transformers for plain cases."""
    config = _read_model_config(folder)
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ConfigError("model.path", folder, "holds no model*.safetensors")
    try:
        if not _is_plain(config):
            return _full_mlx_lm("mlx_lm.utils").load_model(folder, lazy=True)[0]
        network = _model_of_type(config)
        weights: dict[str, mx.array] = {}
        for file in files:
            weights.update(mx.load(str(file)))  # type: ignore[arg-type]
        if hasattr(network, "sanitize"):
            weights = network.sanitize(weights)  # type: ignore[operator]
        if quantization := config.get("quantization"):
            _quantize_like(network, quantization, weights)
        network.load_weights(list(weights.items()))
        mx.eval(network.parameters())
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError("model.path", folder, f"is damaged or not supported: {reason}") from error
    return network


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


def _quantize(network: nn.Module) -> None:
    """Quantise what can be, unless the folder was quantised already; each time with one result."""
    if _is_quantized(network):
        return

    def divisible(_: str, module: nn.Module) -> bool:
        return hasattr(module, "to_quantized") and module["weight"].shape[-1] % QUANTIZED_GROUP == 0

    nn.quantize(network, QUANTIZED_GROUP, QUANTIZED_BITS, class_predicate=divisible)


def _is_quantized(network: nn.Module) -> bool:
    kinds = (nn.QuantizedLinear, nn.QuantizedEmbedding)
    return any(isinstance(module, kinds) for module in network.modules())


def _cast(network: nn.Module, dtype: mx.Dtype) -> None:
    """Give floating parameters one type, but for those that their model keeps as they are."""
    may_cast = getattr(network, "cast_predicate", lambda _: True)

    def cast(path: str, array: mx.array) -> mx.array:
        floating = mx.issubdtype(array.dtype, mx.floating)
        return array.astype(dtype) if floating and may_cast(path) else array

    network.update(tree_map_with_path(cast, network.parameters()))


def _add_adapter(network: nn.Module, adapter: Adapter) -> None:
    """Put mlx-lm's own LoRA or DoRA layers on the targets of the last layers.

    They stay in float32 on a base of less precision, as in mlx-lm: small updates would be lost.
    """
    layers = layers_of(network)[-(adapter.num_layers or 0) :]
    for target in adapter.targets:
        if not any(_matches(path, target) for path, _ in layers[-1].named_modules()):
            names = {p.split(".")[-1] for p, m in layers[-1].named_modules() if "weight" in m}
            raise ConfigError("adapter.targets", target, f"must be a layer of it: {sorted(names)}")
    for layer in layers:
        replaced = [
            (path, _adapted(module, adapter))
            for path, module in layer.named_modules()
            if any(_matches(path, target) for target in adapter.targets)
        ]
        layer.update_modules(tree_unflatten(replaced))


def _matches(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _adapted(module: nn.Module, adapter: Adapter) -> nn.Module:
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

    dora = adapter.kind == "dora"
    kinds: list[tuple[tuple[type, ...], type | None]] = [
        ((nn.Linear, nn.QuantizedLinear), DoRALinear if dora else LoRALinear),
        ((nn.Embedding, nn.QuantizedEmbedding), DoRAEmbedding if dora else LoRAEmbedding),
        ((SwitchLinear, QuantizedSwitchLinear), None if dora else LoRASwitchLinear),
    ]
    for bases, adapted in kinds:
        if isinstance(module, bases) and adapted is not None:
            return adapted.from_base(
                module, r=adapter.rank, scale=adapter.scale, dropout=adapter.dropout
            )
    raise ConfigError(
        "adapter.targets", type(module).__name__, f"is not a layer that {adapter.kind} can adapt"
    )
