"""The model to train: one of mlx-lm's, from scratch or pretrained, with its adapter."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from lab.config.keys import Adapter, Model, Scratch
from lab.config.schema import ConfigError
from lab.train.adapters import add_adapter
from lab.train.model_files import load_model, model_of_type, stub_mlx_lm_packages

QUANTIZED_GROUP, QUANTIZED_BITS = 64, 4


def build_model(
    model: Model, adapter: Adapter, *, folder: Path | None, vocab_size: int, dtype: mx.Dtype
) -> nn.Module:
    """Build the model for training: load or initialise, cast, quantise, freeze, add the adapter.

    Random weights come from ``mx.random``: seed it first.

    Arguments:
        folder: local folder of a pretrained model; None builds ``model.scratch``.
        vocab_size: tokens of a model from scratch.
        dtype: type of all floating parameters that are not quantised.

    Raises:
        ConfigError: the folder is damaged or the adapter does not fit the model.
    """
    stub_mlx_lm_packages()
    if folder is None:
        assert model.scratch is not None
        network = _from_scratch(model.scratch, vocab_size)
    else:
        network = load_model(folder)
    _cast(network, dtype)
    if adapter.kind == "qlora":
        _quantize(network)
    if adapter.kind != "full":
        network.freeze()
        add_adapter(network, adapter)
    elif _is_quantized(network):
        raise ConfigError(
            "adapter", "full", "cannot train a quantised model; choose adapter=qlora or lora"
        )
    network.train()
    mx.eval(network.parameters())
    return network


def _from_scratch(sizes: Scratch, vocab_size: int) -> nn.Module:
    return model_of_type(
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


def _quantize(network: nn.Module) -> None:
    """Quantise every layer whose width allows it, unless the model is quantised already."""
    if _is_quantized(network):
        return

    def divisible(_: str, module: nn.Module) -> bool:
        return hasattr(module, "to_quantized") and module["weight"].shape[-1] % QUANTIZED_GROUP == 0

    nn.quantize(network, QUANTIZED_GROUP, QUANTIZED_BITS, class_predicate=divisible)


def _is_quantized(network: nn.Module) -> bool:
    kinds = (nn.QuantizedLinear, nn.QuantizedEmbedding)
    return any(isinstance(module, kinds) for module in network.modules())


def _cast(network: nn.Module, dtype: mx.Dtype) -> None:
    """Cast floating parameters, but for those that the model's ``cast_predicate`` excludes."""
    may_cast = getattr(network, "cast_predicate", lambda _: True)

    def cast(path: str, array: mx.array) -> mx.array:
        floating = mx.issubdtype(array.dtype, mx.floating)
        return array.astype(dtype) if floating and may_cast(path) else array

    network.update(tree_map_with_path(cast, network.parameters()))
