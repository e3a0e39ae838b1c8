"""From JSONL to batches of token ids on the host, without MLX and transformers.

The files (see :mod:`lab.data.sources`) are indexed once; samples are read and tokenised one batch
at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config.keys import Data, Train
from lab.config.schema import ConfigError
from lab.data import samples
from lab.data.batches import Batches, Sample, Shape
from lab.data.errors import SampleError
from lab.data.sources import Source, Split, open_source
from lab.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Samples:
    """The samples of one split, as JSON objects and as token ids."""

    split: Split
    tokenizer: Tokenizer
    mask_prompt: bool

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.split.lines[self.split.rows[position]]

    def in_file_order(self) -> list[int]:
        """All positions, in file order."""
        offsets, rows = self.split.lines.index.offsets, self.split.rows
        return sorted(range(len(self)), key=lambda position: offsets[rows[position]])

    def tokens(self, position: int) -> Sample:
        """Token ids and prompt length of the sample at a position.

        Raises:
            ConfigError: the sample cannot be tokenised; names file and line.
        """
        return self.tokenise(self[position], position)

    def tokenise(self, sample: dict[str, Any], position: int) -> Sample:
        """Like :meth:`tokens`, for a caller that has read the sample already."""
        lines = self.split.lines
        try:
            return samples.tokenise(sample, lines.index.form, self.tokenizer, self.mask_prompt)
        except SampleError as error:
            where = f"line {lines.line_of(self.split.rows[position])}"
            raise ConfigError(lines.key, str(lines.path), f"{where}: {error}") from error


@dataclass(frozen=True)
class OpenData:
    """The data of a run.

    Attributes:
        train: micro-batches for training, in an order given by the seed.
        val: micro-batches for validation, the same for every seed; ``None`` when it is off.
        train_samples, val_samples: their samples, for a trainer with batches of its own.
        fingerprint: hash of the files' content, independent of their paths.
        notes: lines to print for the user.
    """

    train: Batches
    val: Batches | None
    train_samples: Samples
    val_samples: Samples
    fingerprint: str
    notes: tuple[str, ...]


def open_data(
    data: Data, train: Train, seed: int, tokenizer: Tokenizer, cache_dir: Path
) -> OpenData:
    """Open, validate and split the data; indices and made files are cached in ``cache_dir``.

    Without a validation file a fraction of the training file is held out, also when validation is
    off, so that switching it on does not change the training set.

    Raises:
        ConfigError: data that is missing, malformed (names file and line) or too small.
    """
    source = open_source(data, cache_dir)
    _check_counts(data, train, source)
    shape = Shape(
        batch_size=train.batch_size,
        accumulation=train.grad_accumulation_steps,
        max_length=train.max_seq_length,
        pad_multiple=data.pad_multiple,
    )
    given = Samples(source.train, tokenizer, train.mask_prompt)
    held_out = Samples(source.val, tokenizer, train.mask_prompt)
    given.tokens(0)  # a template that refuses the format fails here, before the model is loaded
    val = Batches(source.val.sizes, held_out.tokens, shape, None)
    return OpenData(
        train=Batches(source.train.sizes, given.tokens, shape, seed),
        val=val if train.val_interval_steps else None,
        train_samples=given,
        val_samples=held_out,
        fingerprint=source.fingerprint,
        notes=_notes(train, source, tokenizer),
    )


def _check_counts(data: Data, train: Train, source: Source) -> None:
    size, count = train.batch_size, len(source.train)
    if count < size:
        place = source.train.lines.path
        allowed = f"must be at most the number of training samples, {count} in {place}"
        raise ConfigError("train.batch_size", size, allowed)
    count = len(source.val)
    if not train.val_interval_steps or count >= size:
        return
    lack = f"gives {count} validation samples for train.batch_size={size}"
    off = "or switch validation off with train.val_interval_steps=0"
    if source.val_is_held_out:
        allowed = f"{lack}; raise it (at most 0.5), lower the batch size, {off}"
        raise ConfigError("data.val_fraction", data.val_fraction, allowed)
    lines = source.val.lines
    raise ConfigError(lines.key, str(lines.path), f"{lack}; lower the batch size, {off}")


def _notes(train: Train, source: Source, tokenizer: Tokenizer) -> tuple[str, ...]:
    held_out = " held out of the same file" if source.val_is_held_out else ""
    notes = [f"{len(source.train)} training samples, {len(source.val)} for validation{held_out}"]
    notes += source.notes
    lines = source.train.lines
    form = lines.index.form
    if form == "text" and train.mask_prompt:
        notes.append("plain text has no prompt: train.mask_prompt has no effect on it")
    if form == "chat" and not tokenizer.has_chat_template:
        notes.append("no chat template: conversations are written as lines of 'role: content'")
    return tuple(notes)
