"""What a run's first worker knows of model and data before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Counts of model and data; the field ``facts`` of a run's first ``worker_started`` event.

    Attributes:
        parameters: of the whole model; a quantised weight counts as the parameters it stands for.
        trained: those of them that are trained.
        weights_bytes: of all parameters, as they lie in memory.
        optimizer_bytes: of the optimizer's state; None where the trainer makes it later.
        train_samples, val_samples: of each split.
        val_is_held_out: the validation samples come out of the training file.
        file_samples: of the training file.
        measured: how many of those are tokenised beforehand; the rest counts them.
        median_tokens, longest_tokens: of a measured sample, before it is cut.
        cut: measured samples that are longer than ``train.max_seq_length``.
        empty: measured samples without a token that counts in the loss.
        shapes: of all batches: samples, tokens that each is padded to, positions in the loss;
            empty where they are not fixed beforehand.
        padded_fraction, padded_rows_fraction: share of padding that is expected in the inputs and
            in the positions of the loss; None without fixed shapes.
    """

    parameters: int
    trained: int
    weights_bytes: int
    optimizer_bytes: int | None
    train_samples: int
    val_samples: int
    val_is_held_out: bool
    file_samples: int
    measured: int
    median_tokens: int
    longest_tokens: int
    cut: int
    empty: int
    shapes: tuple[tuple[int, int, int], ...] = ()
    padded_fraction: float | None = None
    padded_rows_fraction: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a worker's record."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})
