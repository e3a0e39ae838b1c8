"""``lab generate``: text from the weights that a run has left, by mlx-lm's own generation."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from lab.config.schema import ConfigError
from lab.data.tokenizer import ByteTokenizer, load_tokenizer
from lab.protocol import RecordKind
from lab.train import model_files
from lab.train.tables import measure_tables
from lab.train.trained import load_trained

if TYPE_CHECKING:
    from lab.train.task import Task


def run(task: Task) -> dict[str, Any]:
    """Go on from ``given["prompt"]`` for ``given["max_tokens"]``; sends each piece of text.

    Returns:
        ``step``: of the weights.
    """
    import mlx_lm.generate  # noqa: F401  before a model is built, which would stub its package

    folder = model_files.folder_of(task.config.model, task.progress)
    vocab_size = load_tokenizer(folder).vocab_size
    model, step = load_trained(
        task.config, task.run_dir, folder=folder, vocab_size=vocab_size, warn=task.warn
    )
    pieces = _text(model, folder, task) if folder else _bytes(model, task)
    for piece in pieces:
        if task.channel.stopping:
            raise BrokenPipeError("nobody waits for it")
        task.channel.send(RecordKind.TEXT, text=piece)
    return {"step": step}


def _text(model: nn.Module, folder: Path, task: Task) -> Iterator[str]:
    from mlx_lm.generate import stream_generate
    from mlx_lm.sample_utils import make_sampler
    from mlx_lm.utils import load_config, load_tokenizer

    ends = load_config(folder).get("eos_token_id")
    tokenizer, prompt = load_tokenizer(folder, eos_token_ids=ends), task.given["prompt"]
    if tokenizer.has_chat_template:
        talk = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(prompt, add_special_tokens=False)
    else:
        ids = tokenizer.encode(prompt)
    _check_prompt(model, ids, task)
    sampler = make_sampler(temp=task.given["temp"])
    for found in stream_generate(
        model, tokenizer, ids, max_tokens=task.given["max_tokens"], sampler=sampler
    ):
        yield found.text


def _bytes(model: nn.Module, task: Task) -> Iterator[str]:
    """Of a model that reads bytes; those that are no text yet wait for the next."""
    from mlx_lm.generate import generate_step
    from mlx_lm.sample_utils import make_sampler

    ids = ByteTokenizer().encode(task.given["prompt"])
    _check_prompt(model, ids, task)
    sampler, decoder = make_sampler(temp=task.given["temp"]), codecs.getincrementaldecoder("utf-8")
    text, count = decoder("replace"), task.given["max_tokens"]
    for token, _ in generate_step(mx.array(ids), model, max_tokens=count, sampler=sampler):
        if int(token) >= ByteTokenizer.eos_id:  # above it there are no bytes either
            break
        yield text.decode(bytes([int(token)]))
    yield text.decode(b"", final=True)


def _check_prompt(model: nn.Module, ids: list[int], task: Task) -> None:
    """Hold the prompt against the model's tables, for MLX checks no index."""
    if not ids:
        raise ConfigError("prompt", "", "is empty; give a few words")
    tables, count = measure_tables(model), len(ids) + task.given["max_tokens"]
    if max(ids) >= tables.token_ids.rows:
        rows = f"{tables.token_ids.path} has {tables.token_ids.rows} rows"
        raise ConfigError("prompt", task.given["prompt"], f"has token id {max(ids)}, and {rows}")
    learned = tables.positions
    if learned is not None and count > learned.rows:
        most = f"{learned.rows} positions are learned ({learned.path})"
        raise ConfigError("max_tokens", task.given["max_tokens"], f"{most}, this takes {count}")
