"""Data that is only evaluated: batches of a whole file, each sample once, the last one short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.config.keys import Data, Train
from lab.data.batches import Batches
from lab.data.index import Progress
from lab.data.plan import Measured, Plan
from lab.data.split import IdLimit, Samples, Split
from lab.data.token_index import TokenIndex, open_token_index
from lab.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class HeldOut:
    """Samples to evaluate.

    Attributes:
        batches: of one epoch, the same for every seed.
        samples: what they are made of.
        tokens: token index of the file.
        widest: tokens that the widest batch is padded to.
    """

    batches: Batches
    samples: Samples
    tokens: TokenIndex
    widest: int

    def check_ids(self, limit: IdLimit) -> None:
        """Hold every token id against a table of the model, as :func:`check_ids`."""
        check_ids(self.samples, self.tokens, limit)


def open_held_out(
    split: Split,
    data: Data,
    train: Train,
    *,
    tokenizer: Tokenizer,
    tokenizer_folder: Path | None,
    cache_dir: Path,
    progress: Progress,
) -> HeldOut:
    """Open a split as training would, but for its order.

    Raises:
        ConfigError: a sample cannot be tokenised; names file and line.
    """
    samples = Samples(split, tokenizer, train.mask_prompt)
    tokens = open_token_index(
        split.lines,
        tokenizer_folder,
        mask_prompt=train.mask_prompt,
        cache_dir=cache_dir,
        progress=progress,
    )
    measured = Measured.of_split(split, tokens, train.max_seq_length)
    plan = Plan(measured, [], data, train)
    batches = Batches(plan.order(measured, None), samples.tokens, plan.shape)
    return HeldOut(batches, samples, tokens, plan.widest)


def check_ids(samples: Samples, tokens: TokenIndex, limit: IdLimit) -> None:
    """Hold every token id of one split against a table of the model.

    Raises:
        ConfigError: names the first id beyond the table, its token and its line.
    """
    samples.id_limit, rows = limit, samples.split.rows
    if max(tokens.highest) >= limit.rows:
        for at in tokens.within(rows):
            if tokens.highest[at] >= limit.rows:
                samples.tokens(tokens.rows[at] - rows.start)
    if tokens.is_whole or samples.tokenizer.vocab_size <= limit.rows:
        samples.id_limit = None
