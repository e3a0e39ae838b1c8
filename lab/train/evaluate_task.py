"""``lab evaluate``: the loss of a file with the weights that a run has left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.keys import ALL
from lab.config.schema import ConfigError
from lab.data.dataset import open_data
from lab.data.held_out import HeldOut, open_held_out
from lab.data.index import JsonLinesReader
from lab.data.sources import whole
from lab.data.tokenizer import load_tokenizer
from lab.train import model_files
from lab.train.evaluation import evaluate_all
from lab.train.step import build_evaluate
from lab.train.tables import check_tables, measure_tables
from lab.train.trained import load_trained

if TYPE_CHECKING:
    from lab.train.task import Task


def run(task: Task) -> dict[str, Any]:
    """Evaluate ``given["file"]``, a path whose errors name ``given["key"]``; null: validation data.

    Returns:
        ``step loss tokens samples``: of the weights; the mean loss over the tokens that count, null
        without one.
    """
    folder = model_files.folder_of(task.config.model, task.progress)
    held_out = _file(task, folder) if task.given["file"] else _validation(task, folder)
    vocab_size = held_out.samples.tokenizer.vocab_size
    model, step = load_trained(
        task.config, task.run_dir, folder=folder, vocab_size=vocab_size, warn=task.warn
    )
    check_tables(measure_tables(model), held_out, task.config)
    found = evaluate_all(
        build_evaluate(model), held_out.batches, task.config, task.channel, "the data"
    )
    if found is None:
        raise BrokenPipeError("nobody waits for it")
    samples = len(held_out.samples)
    return {"step": step, "loss": found.loss, "tokens": found.tokens, "samples": samples}


def _file(task: Task, folder: Path | None) -> HeldOut:
    lines = JsonLinesReader(
        Path(task.given["file"]), task.cache, task.given["key"], progress=task.progress
    )
    return open_held_out(
        whole(lines),
        task.config.data,
        task.config.train,
        tokenizer=load_tokenizer(folder),
        tokenizer_folder=folder,
        cache_dir=task.cache,
        progress=task.progress,
    )


def _validation(task: Task, folder: Path | None) -> HeldOut:
    """All validation data of the run, also where it was switched off or only begun."""
    data = open_data(
        task.config.data,
        replace(task.config.train, val_interval_steps=1, val_batches=ALL),
        task.config.seed,
        tokenizer_folder=folder,
        cache_dir=task.cache,
        progress=task.progress,
    )
    if data.val is None:
        raise ConfigError("--valid", "", "the run has no validation data")
    return HeldOut(data.val, data.val_samples, data.val_tokens, data.plan.widest)
