"""From JSONL to batches of token ids on the host, without MLX and transformers.

The files (see :mod:`lab.data.sources`) are indexed once; samples are read and tokenised one batch
at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.config.keys import ALL, Data, Train
from lab.config.schema import ConfigError
from lab.data.batches import Batches
from lab.data.held_out import HeldOut, check_ids, open_held_out
from lab.data.index import Progress, say_nothing
from lab.data.plan import Measured, Plan
from lab.data.sources import Source, open_source
from lab.data.split import IdLimit, Samples
from lab.data.token_index import TokenIndex, open_token_index
from lab.data.tokenizer import Tokenizer, load_tokenizer
from lab.data.tokenizer_files import tokenizer_fingerprint
from lab.records.digest import kept_sha256


@dataclass(frozen=True)
class OpenData:
    """The data of a run.

    Attributes:
        train: micro-batches for training, in an order given by the seed.
        val: micro-batches for validation, the same for every seed; ``None`` when it is off.
        train_samples, val_samples: their samples, for a trainer with batches of its own.
        train_tokens, val_tokens: token index of the file that each split is of.
        test: what the run is tested on once, at its end; None without ``test.jsonl``.
        fingerprint: hash of the files' content, independent of their paths.
        tokenizer_fingerprint: hash of what decides the tokens of a text.
        plan: how the samples of ``train`` and ``val`` become batches.
        notes: lines to print for the user.
    """

    train: Batches
    val: Batches | None
    train_samples: Samples
    val_samples: Samples
    train_tokens: TokenIndex
    val_tokens: TokenIndex
    fingerprint: str
    tokenizer_fingerprint: str
    plan: Plan
    notes: tuple[str, ...]
    test: HeldOut | None = None

    def check_ids(self, limit: IdLimit) -> None:
        """Hold every token id of all splits against a table of the model.

        Of files that are too large for a whole token index, what it does not hold is checked when
        it is read.

        Raises:
            ConfigError: names the first id beyond the table, its token and its line.
        """
        sides = [(self.train_samples, self.train_tokens)]
        sides += [(self.val_samples, self.val_tokens)] if self.val is not None else []
        for samples, tokens in sides:
            check_ids(samples, tokens, limit)
        if self.test is not None:
            self.test.check_ids(limit)

    @property
    def val_is_held_out(self) -> bool:
        """Whether the validation samples come out of the training file."""
        return self.train_samples.split.lines is self.val_samples.split.lines

    @property
    def widest(self) -> int:
        """Tokens that the widest batch is padded to."""
        return max(self.plan.widest, self.test.widest if self.test else 0)


def open_data(
    data: Data,
    train: Train,
    seed: int,
    *,
    tokenizer_folder: Path | None,
    cache_dir: Path,
    progress: Progress = say_nothing,
) -> OpenData:
    """Open, validate and split the data; indices and made files are cached in ``cache_dir``.

    Without a validation file a fraction of the training file is held out, also when validation is
    off, so that switching it on does not change the training set.

    Arguments:
        tokenizer_folder: the model's; None for bytes.
        progress: gets a line every few seconds while something long is done the first time.

    Raises:
        ConfigError: data that is missing, malformed (names file and line) or too small.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    source = open_source(data, cache_dir, progress)
    _check_counts(data, train, source)
    given = Samples(source.train, tokenizer, train.mask_prompt)
    held_out = Samples(source.val, tokenizer, train.mask_prompt)
    token_indices = {
        lines.path: open_token_index(
            lines,
            tokenizer_folder,
            mask_prompt=train.mask_prompt,
            cache_dir=cache_dir,
            progress=progress,
        )
        for lines in dict.fromkeys((source.train.lines, source.val.lines))
    }
    train_tokens, val_tokens = (
        token_indices[split.lines.path] for split in (source.train, source.val)
    )
    splits = ((source.train, train_tokens), (source.val, val_tokens))
    measured, val_measured = (Measured.of_split(*split, train.max_seq_length) for split in splits)
    plan = Plan(measured, [val_measured] if len(source.val) else [], data, train)
    repeat = data.overfit_batches
    return OpenData(
        train=Batches(plan.order(measured, seed), given.tokens, plan.shape, repeat=repeat),
        val=Batches(plan.order(val_measured, None), held_out.tokens, plan.shape)
        if train.val_interval_steps
        else None,
        train_samples=given,
        val_samples=held_out,
        train_tokens=train_tokens,
        val_tokens=val_tokens,
        fingerprint=source.fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint(
            tokenizer_folder, partial(kept_sha256, cache_dir, progress)
        ),
        plan=plan,
        notes=_notes(train, source, tokenizer),
        test=None
        if source.test is None
        else open_held_out(
            source.test,
            data,
            train,
            tokenizer=tokenizer,
            tokenizer_folder=tokenizer_folder,
            cache_dir=cache_dir,
            progress=progress,
        ),
    )


def measure_lengths(tokens: TokenIndex, max_length: int) -> dict[str, int]:
    """Counts of the training file's samples, by the names of :class:`lab.records.facts.RunFacts`.

    Arguments:
        max_length: to which a sample is cut.
    """
    rows, ordered = zip(tokens.lengths, tokens.prompts, strict=True), sorted(tokens.lengths)
    return {
        "file_samples": tokens.samples,
        "measured": len(ordered),
        "median_tokens": ordered[(len(ordered) - 1) // 2],
        "longest_tokens": ordered[-1],
        "cut": len(ordered) - bisect_right(ordered, max_length),
        "empty": sum(min(length, max_length) <= max(prompt, 1) for length, prompt in rows),
    }


def _check_counts(data: Data, train: Train, source: Source) -> None:
    size, count = train.batch_size, len(source.train)
    if count < size:
        place = source.train.lines.path
        allowed = f"must be at most the number of training samples, {count} in {place}"
        raise ConfigError("train.batch_size", size, allowed)
    count = len(source.val)
    # With `all` a batch may be short.
    if not train.val_interval_steps or count >= (1 if train.val_batches == ALL else size):
        return
    lack = f"gives {count} validation samples for train.batch_size={size}"
    off = "or switch validation off with train.val_interval_steps=0"
    if source.val_is_held_out:
        allowed = f"{lack}; raise it (at most 0.5), lower the batch size, {off}"
        raise ConfigError("data.val_fraction", data.val_fraction, allowed)
    lines = source.val.lines
    raise ConfigError(lines.key, str(lines.path), f"{lack}; lower the batch size, {off}")


def _notes(train: Train, source: Source, tokenizer: Tokenizer) -> tuple[str, ...]:
    notes, lines = list(source.notes), source.train.lines
    if source.test:
        notes.insert(0, f"{len(source.test)} samples of test.jsonl for the test at the end")
    form = lines.index.form
    if form == "text" and train.mask_prompt:
        notes.append("plain text has no prompt: train.mask_prompt has no effect on it")
    if form == "chat" and not tokenizer.has_chat_template:
        notes.append("no chat template: conversations are written as lines of 'role: content'")
    return tuple(notes)
