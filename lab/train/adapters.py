"""mlx-lm's LoRA and DoRA layers on a model, and the config that mlx-lm loads them with."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn
from mlx.utils import tree_unflatten

from lab.config.keys import ALL, Adapter
from lab.config.schema import ConfigError
from lab.train.model_files import layers_of


def adapter_config(network: nn.Module, adapter: Adapter) -> dict[str, object]:
    """``adapter_config.json`` of a built model, as mlx-lm reads it.

    mlx-lm looks each of ``keys`` up in every adapted block, so they are the union over all of them:
    the blocks of a model may differ (dense layers before experts, attention between convolutions).
    """
    if adapter.kind == "full":
        return {"fine_tune_type": "full"}
    blocks = _adapted_blocks(network, adapter)
    adapted = {p for block in blocks for p, module in block.named_modules() if "lora_a" in module}
    return {
        "fine_tune_type": "dora" if adapter.kind == "dora" else "lora",
        "num_layers": len(blocks),
        "lora_parameters": {
            "rank": adapter.rank,
            "scale": adapter.scale,
            "dropout": adapter.dropout,
            "keys": sorted(adapted),
        },
    }


def add_adapter(network: nn.Module, adapter: Adapter) -> None:
    """Replace the targets in the last ``num_layers`` blocks by mlx-lm's LoRA or DoRA layers.

    A target need not be in every block. Their parameters stay in float32 on a base of lower
    precision, as in mlx-lm: in bfloat16 small updates would round to nothing.

    Raises:
        ConfigError: a target that no adapted block has, or that cannot be adapted.
    """
    blocks = _adapted_blocks(network, adapter)
    modules = [list(block.named_modules()) for block in blocks]
    for target in adapter.targets:
        if not any(_matches(path, target) for block in modules for path, _ in block):
            names = {
                path.rpartition(".")[2]
                for block in modules
                for path, module in block
                if _layer_class(module, adapter) is not None
            }
            where = f"the last {len(blocks)} blocks" if len(blocks) > 1 else "the last block"
            allowed = f"must be a layer of {where}: {', '.join(sorted(names)) or 'there is none'}"
            raise ConfigError("adapter.targets", target, allowed)
    for block, found in zip(blocks, modules, strict=True):
        replaced = [
            (path, _adapted(path, module, adapter))
            for path, module in found
            if any(_matches(path, target) for target in adapter.targets)
        ]
        if replaced:
            block.update_modules(tree_unflatten(replaced))


def _adapted_blocks(network: nn.Module, adapter: Adapter) -> list[nn.Module]:
    count = adapter.num_layers
    return layers_of(network)[0 if count is None or count == ALL else -count :]


def _matches(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _adapted(path: str, module: nn.Module, adapter: Adapter) -> nn.Module:
    size = {"r": adapter.rank, "scale": adapter.scale, "dropout": adapter.dropout}
    to_lora = getattr(module, "to_lora", None)  # some models bring layers of their own
    if to_lora is not None and adapter.kind != "dora":
        return to_lora(**size)
    layer_class = _layer_class(module, adapter)
    if layer_class is None:
        raise ConfigError(
            "adapter.targets",
            path.rpartition(".")[2],
            f"is a {type(module).__name__}, which {adapter.kind} cannot adapt",
        )
    return layer_class.from_base(module, **size)


def _layer_class(module: nn.Module, adapter: Adapter) -> Any:
    """The class of mlx-lm that adapts a module; None where there is none."""
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

    dora = adapter.kind == "dora"
    classes: list[tuple[tuple[type, ...], Any]] = [
        ((nn.Linear, nn.QuantizedLinear), DoRALinear if dora else LoRALinear),
        ((nn.Embedding, nn.QuantizedEmbedding), DoRAEmbedding if dora else LoRAEmbedding),
        ((SwitchLinear, QuantizedSwitchLinear), None if dora else LoRASwitchLinear),
    ]
    return next((adapted for bases, adapted in classes if isinstance(module, bases)), None)
