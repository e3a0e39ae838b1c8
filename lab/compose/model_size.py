"""A model's size in memory, estimated from its config; no weights are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.config.keys import TIERS
from lab.config.schema import ConfigError

# Parameters from which a tier begins: models with 6.5e9 are already called 7 B, and so on.
TIER_FROM = {"compact": 0.0, "small": 6.5e9, "medium": 12e9, "large": 24e9, "xlarge": 50e9}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
BYTES_VOCABULARY = 256  # of a model from scratch
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def estimate_parameters(config: Mapping[str, Any]) -> float:
    """Parameters of a transformer from its ``config.json``, within some percent.

    Raises:
        KeyError, TypeError, ValueError: a size is missing or not a number.
    """
    text = config.get("text_config") or config  # vision-language models keep their sizes there
    hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
    heads = int(text.get("num_attention_heads") or 1)
    head = int(text.get("head_dim") or hidden // heads)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    attention = hidden * head * (2 * heads + 2 * kv_heads)
    experts = next((int(text[key]) for key in EXPERTS if text.get(key)), 1)
    width = int((experts > 1 and text.get("moe_intermediate_size")) or text["intermediate_size"])
    tables = 1 if text.get("tie_word_embeddings", config.get("tie_word_embeddings")) else 2
    embedding = tables * int(text["vocab_size"]) * hidden
    return float(layers * (attention + 3 * hidden * width * experts) + embedding)


def activation_cells(config: Mapping[str, Any]) -> int:
    """Layers times hidden size: what a token's activations grow with.

    Raises:
        KeyError, TypeError, ValueError: a size is missing or not a number.
    """
    text = config.get("text_config") or config
    return int(text["num_hidden_layers"]) * int(text["hidden_size"])


def tier_of(parameters: float) -> str:
    """The hardware profiles' size class of a model."""
    return max((t for t in TIERS if TIER_FROM[t] <= parameters), key=TIERS.index)


def tier_of_folder(path: object) -> str:
    """The tier of a local model; the smallest where its config is unreadable (reported later)."""
    try:
        return tier_of(estimate_parameters(read_config(Path(str(path)).expanduser())))
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError):
        return TIERS[0]


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder.

    Raises:
        ConfigError: there is no such folder, or no readable config in it.
    """
    if not folder.is_dir():
        raise ConfigError("model.path", str(folder), "must be a folder with a model; there is none")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        allowed = f"must be a folder with a model's config.json, which cannot be read: {error}"
        raise ConfigError("model.path", str(folder), allowed) from error
    if not isinstance(config, dict):
        raise ConfigError("model.path", str(folder), "its config.json must be a mapping")
    return config


def parameters_of(model: Mapping[str, Any]) -> float:
    """A lower bound of the parameters of a run's model: on the hub by its name, or its tier."""
    scratch, path = model["scratch"], model["path"]
    if scratch is not None:
        hidden = scratch["hidden_size"]
        layer = 4 * hidden * hidden + 3 * hidden * scratch["intermediate_size"]
        return float(scratch["num_layers"] * layer + 2 * BYTES_VOCABULARY * hidden)
    if path is not None:
        try:
            return estimate_parameters(read_config(Path(path)))
        except (KeyError, TypeError, ValueError, AttributeError):
            return 0.0
    return _named_parameters(model) or TIER_FROM[model["tier"]]


def _named_parameters(model: Mapping[str, Any]) -> float | None:
    """Parameters by the name on the hub (``Qwen3-0.6B``); None where it says none of its tier."""
    found = re.findall(r"(\d+(?:\.\d+)?)([BM])(?![A-Z0-9])", (model["hub_id"] or "").upper())
    sizes = [float(number) * (1e9 if unit == "B" else 1e6) for number, unit in found]
    return max((size for size in sizes if tier_of(size) == model["tier"]), default=None)


QUANTIZED = 4.5 / 8  # bytes a parameter of MLX's 4 bits, with a scale and a bias for each 64
CELLS_POWER = 0.58  # of a model's parameters: from SmolLM2-135M to Llama-70B, and never too few
PER_CELL = 17  # activations of a layer that are kept, for each token and unit of the hidden size


def weights_bytes(model: Mapping[str, Any], adapter: str, dtype: str) -> float:
    """A lower bound of the bytes that a run's frozen or trained weights take.

    Arguments:
        adapter: its kind; ``qlora`` quantises what is not quantised yet.
        dtype: of the parameters that are not quantised.
    """
    quantized = adapter == "qlora" or _is_quantized(model)
    return parameters_of(model) * (QUANTIZED if quantized else ITEM_BYTES[dtype])


def _is_quantized(model: Mapping[str, Any]) -> bool:
    """Whether a pretrained model comes quantised; by its name on the hub, where only that is known.

    One of 8 bits counts as one of 4: a lower bound is wanted.
    """
    if model["path"] is not None:
        return bool(read_config(Path(model["path"])).get("quantization"))
    return re.search(r"\d-?bit", model["hub_id"] or "", re.IGNORECASE) is not None


def activation_bytes(model: Mapping[str, Any], tokens: int, dtype: str) -> float | None:
    """Bytes that a forward pass keeps for the backward pass; None where the sizes are not known.

    17 values for each token, layer and unit of the hidden size, without the matrix of attention
    scores, which MLX does not keep (Korthikanti et al. 2022, "Reducing Activation Recomputation").

    Arguments:
        tokens: of one batch.
    """
    scratch, path = model["scratch"], model["path"]
    try:
        if scratch is not None:
            cells = scratch["num_layers"] * scratch["hidden_size"]
        elif path is not None:
            cells = activation_cells(read_config(Path(path)))
        else:
            named = _named_parameters(model)
            if named is None:
                return None
            cells = named**CELLS_POWER / 3
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return float(tokens * cells * PER_CELL * ITEM_BYTES[dtype])
