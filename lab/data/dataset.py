"""Samples as batches of tokens on the host: no MLX, no transformers, nothing to save.

Training data comes as JSONL (see :mod:`lab.data.sources` for where from), is indexed once, and is
read and turned into tokens one batch at a time.
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
from lab.data.sources import Part, Source, open_source
from lab.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Samples:
    """One side of the split, sample by sample: as JSON objects, and as the tokens they become."""

    part: Part
    tokenizer: Tokenizer
    mask_prompt: bool

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.part.lines[self.part.rows[position]]

    def in_file_order(self) -> list[int]:
        """Every position, in the order in which the samples lie in their file."""
        offsets, rows = self.part.lines.index.offsets, self.part.rows
        return sorted(range(len(self)), key=lambda position: offsets[rows[position]])

    def tokens(self, position: int) -> Sample:
        """The tokens of the sample at a position.

        Raises:
            ConfigError: the chat template refuses it; names its line.
        """
        return self.tokenise(self[position], position)

    def tokenise(self, sample: dict[str, Any], position: int) -> Sample:
        """The same, for a caller that holds the sample already."""
        lines = self.part.lines
        try:
            return samples.tokenise(sample, lines.index.form, self.tokenizer, self.mask_prompt)
        except SampleError as error:
            where = f"line {lines.line_of(self.part.rows[position])}"
            raise ConfigError(lines.key, str(lines.path), f"{where}: {error}") from error


@dataclass(frozen=True)
class OpenData:
    """The data of a run.

    Attributes:
        train: micro-batches to train on, in an order drawn from the seed.
        val: micro-batches to validate on, the same for every seed; ``None`` when validation is off.
        train_samples, val_samples: what these are made of, for a trainer that makes its own.
        fingerprint: a hash of the content of the files, whatever their place.
        notes: lines for the user.
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
    """Open, check and split the data; what is slow is kept in ``cache_dir`` for the next time.

    Without a validation file a fraction of the training file is held out, even when validation is
    off, so that switching it on does not change what is trained on.

    Raises:
        ConfigError: data that is missing, malformed (names file and line) or too little.
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
    given.tokens(0)  # a chat template that refuses such samples does so now
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
    if source.split:
        allowed = f"{lack}; raise it (at most 0.5), lower the batch size, {off}"
        raise ConfigError("data.val_fraction", data.val_fraction, allowed)
    lines = source.val.lines
    raise ConfigError(lines.key, str(lines.path), f"{lack}; lower the batch size, {off}")


def _notes(train: Train, source: Source, tokenizer: Tokenizer) -> tuple[str, ...]:
    held_out = " held out of the same file" if source.split else ""
    notes = [f"{len(source.train)} training samples, {len(source.val)} for validation{held_out}"]
    lines = source.train.lines
    form = lines.index.form
    if form == "text" and train.mask_prompt:
        notes.append("plain text has no prompt: train.mask_prompt has no effect on it")
    if form == "chat" and tokenizer.encode_chat(lines[0]["messages"]) is None:
        notes.append("no chat template: conversations are written as lines of 'role: content'")
    return tuple(notes)
