"""``lab fuse``: a run's adapter in its base model, written by mlx-lm as a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.nn as nn
from mlx.utils import tree_unflatten

from lab.config.schema import ConfigError
from lab.train import model_files
from lab.train.model import QUANTIZED_BITS, QUANTIZED_GROUP
from lab.train.trained import load_trained

if TYPE_CHECKING:
    from lab.train.task import Task


def run(task: Task) -> dict[str, Any]:
    """Write the fused model into ``given["out"]``, an empty folder; ``given["dequantize"]`` it.

    Returns:
        ``step``: of the weights.
    """
    # Before a model is built, which stubs the package.
    from mlx_lm.utils import dequantize_model, load_config, load_tokenizer, save

    folder = model_files.folder_of(task.config.model, task.progress)
    assert folder is not None  # the command refuses a model of bytes
    model, step = load_trained(
        task.config, task.run_dir, folder=folder, vocab_size=0, warn=task.warn
    )
    dequantize = task.given["dequantize"]
    _fuse(model, dequantize=dequantize)
    config = load_config(folder)
    if dequantize:
        model = dequantize_model(model)
        for key in ("quantization", "quantization_config"):
            config.pop(key, None)
    elif task.config.adapter.kind == "qlora":
        quantization = {"group_size": QUANTIZED_GROUP, "bits": QUANTIZED_BITS}
        config.setdefault("quantization", quantization)
    tokenizer = load_tokenizer(folder, eos_token_ids=config.get("eos_token_id"))
    save(Path(task.given["out"]), folder, model, tokenizer, config, donate_model=False)
    return {"step": step}


def _fuse(model: nn.Module, *, dequantize: bool) -> None:
    """Replace each adapted layer by one that has the adapter in its weights, as mlx-lm does."""
    adapted = [(path, m) for path, m in model.named_modules() if hasattr(m, "fuse")]
    fused = [(path, module.fuse(dequantize=dequantize)) for path, module in adapted]
    if fused:
        model.update_modules(tree_unflatten(fused))
    left = [path for path, module in model.named_modules() if "lora_a" in module]
    if left:
        raise ConfigError("adapter", left[0], "is a layer that mlx-lm cannot fuse")
