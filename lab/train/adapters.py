"""mlx-lm's LoRA and DoRA layers on a model, and the config that mlx-lm loads them with."""

from __future__ import annotations

import mlx.nn as nn
from mlx.utils import tree_unflatten

from lab.config.keys import Adapter
from lab.config.schema import ConfigError
from lab.train.model_files import layers_of


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


def add_adapter(network: nn.Module, adapter: Adapter) -> None:
    """Replace the targets in the last ``num_layers`` layers by mlx-lm's LoRA or DoRA layers.

    Their parameters stay in float32 on a base of lower precision, as in mlx-lm: in bfloat16 small
    updates would round to nothing.

    Raises:
        ConfigError: a target that the model does not have or that cannot be adapted.
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
