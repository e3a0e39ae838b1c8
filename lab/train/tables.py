"""Tables that a model looks tokens and positions up in, found by tracing it once.

MLX does not check indices: a token id above an embedding's rows, or a position above a learned
table, reads or writes foreign memory, which is a crash at best and a wrong loss at worst.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.data.dataset import OpenData
from lab.data.held_out import HeldOut
from lab.data.split import IdLimit
from lab.train.patch import override_call

FAR_ID = 2**30  # above any table; never evaluated as an index
WIDTH = 4


@dataclass(frozen=True)
class Table:
    """One bounded table of a model.

    Attributes:
        path: the module, as in ``model.named_modules()``; ``the head`` for the logits.
        rows: indices that it holds.
    """

    path: str
    rows: int


@dataclass(frozen=True)
class Tables:
    """What bounds the ids and the length of a batch.

    Attributes:
        token_ids: the smallest table that token ids index: inputs or, as targets, the logits.
        positions: the smallest learned position table, its rows less those that it skips; None
            where positions are not learned.
    """

    token_ids: Table
    positions: Table | None


def measure_tables(model: nn.Module) -> Tables:
    """Trace ``model`` once with an id that no table has, and see which embeddings get it.

    Nothing of the network is evaluated but the indices themselves, so the id does no harm; a model
    that maps foreign ids to a row of its own (a smaller table for some layers) is not bound by that
    table.

    Arguments:
        model: any of mlx-lm's, with or without adapters; as it was when this returns.
    """
    seen: list[tuple[Table, mx.array]] = []

    def look(path: str, call: Callable, module: nn.Module, ids: mx.array, *rest: object) -> object:
        seen.append((Table(path, _rows(module)), ids))
        return call(module, ids, *rest)

    classes = {}
    for path, module in model.named_modules():
        if _is_embedding(module):
            classes[path] = module, type(module)
            override_call(module, partial(look, path))
    was_training = model.training
    model.eval()  # dropout would draw from the run's random numbers
    try:
        logits = model(mx.array([[FAR_ID, 0] * (WIDTH // 2)]))
    finally:
        model.train(was_training)
        for module, cls in classes.values():
            module.__class__ = cls
    tokens, positions = [], []
    for table, ids in seen:
        highest = int(ids.max())
        if highest == FAR_ID:
            tokens.append(table)
        elif ids.shape[-1] == WIDTH and ids.reshape(-1, WIDTH)[0].tolist() == _run_to(highest):
            skipped = highest - (WIDTH - 1)
            positions.append(Table(table.path, table.rows - skipped))
    tokens.append(Table("the head", logits.shape[-1]))  # as targets
    return Tables(
        min(tokens, key=lambda table: table.rows),
        min(positions, key=lambda table: table.rows, default=None),
    )


def check_tables(tables: Tables, data: OpenData | HeldOut, config: Config) -> None:
    """Hold what the data can ask for against what the model has, before the first step.

    Raises:
        ConfigError: a token id or a position that a table does not have; names it, the table's rows
            and the remedy.
    """
    train, source = config.train, config.model.path or config.model.hub_id or config.model.name
    table = tables.token_ids
    data.check_ids(
        IdLimit(
            rows=table.rows, table=table.path, max_length=train.max_seq_length, folder=str(source)
        )
    )
    # A batch is padded up to the sequence length, and padding takes positions too.
    learned = tables.positions
    width = data.widest
    if learned is not None and width > learned.rows:
        raise ConfigError(
            "train.max_seq_length",
            train.max_seq_length,
            f"batches may be {width} tokens long, and the model has learned {learned.rows} "
            f"positions ({learned.path}): at most {learned.rows}",
        )


def _run_to(last: int) -> list[int]:
    return list(range(last - WIDTH + 1, last + 1))


def _is_embedding(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.QuantizedEmbedding)


def _rows(embedding: nn.Module) -> int:
    return embedding["weight"].shape[0]
