"""The loss of data that nothing is trained on, each sample once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.config.keys import Config
from lab.data.batches import Batch, Batches
from lab.protocol import RecordKind
from lab.train.channel import Channel

TELL_SECONDS = 30.0


@dataclass(frozen=True)
class Evaluation:
    """Attributes:
    loss: mean over the tokens that count; None where there is none.
    tokens: that count in it; None where nothing was evaluated.
    """

    loss: float | None = None
    tokens: int | None = None


def evaluate_all(
    evaluate: Callable[[Sequence[Batch], Callable[[int], None]], float],
    batches: Batches,
    config: Config,
    channel: Channel,
    what: str,
) -> Evaluation | None:
    """Evaluate an epoch of batches.

    Arguments:
        what: is evaluated, to be told where it takes long.

    Returns:
        None where the worker was told to stop meanwhile.
    """
    seen = tuple(batches.batch(index) for index in range(len(batches)))
    tell = telling(channel, config, f"evaluating {what}, {len(seen):,} batches")

    def after_batch(done: int) -> None:
        if channel.stopping and done < len(seen):
            raise _Stopped
        tell(done)

    tokens = sum(batch.num_tokens for batch in seen)
    try:
        loss = evaluate(seen, after_batch)
    except _Stopped:
        return None
    return Evaluation(loss if tokens else None, tokens)


class _Stopped(Exception):  # noqa: N818
    """The worker was told to stop."""


def telling(channel: Channel, config: Config, what: str) -> Callable[[int], None]:
    """A function to be called after each batch, which says now and then how many are done.

    A worker that says nothing for ``worker.timeout_s`` is taken for dead.
    """
    every, told = min(TELL_SECONDS, config.worker.timeout_s / 4), time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > every:
            told = time.monotonic()
            channel.send(RecordKind.PROGRESS, text=f"{what}: {done:,} done")

    return tell
