"""What is in a JSONL file before anything is trained on it: every line, as training reads it."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lab.config.schema import ConfigError
from lab.data import samples
from lab.data.errors import SampleError
from lab.data.index import PROGRESS_SECONDS, Progress, sample_in, say_nothing
from lab.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Example:
    """One sample as tokens.

    Attributes:
        ids: its tokens, before it is cut.
        prompt: how many of the first do not count in the loss.
    """

    line: int
    ids: tuple[int, ...]
    prompt: int


@dataclass(frozen=True)
class FileReport:
    """What one file holds; samples in file order.

    Attributes:
        form: of its samples, a key of ``samples.FORMATS``.
        lines: line number of each sample, from 1.
        lengths: its tokens, before it is cut.
        prompts: how many of the first of them do not count in the loss.
        bad: what training would refuse, by line number.
        duplicates: lines that hold the same bytes as an earlier one, and which.
        first_lines: the first line of each content, by its digest.
        example: the first sample that teaches something; None without one.
    """

    path: Path
    form: str
    lines: array[int]
    lengths: array[int]
    prompts: array[int]
    bad: Mapping[int, str]
    duplicates: Mapping[int, int]
    first_lines: Mapping[bytes, int]
    example: Example | None

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def counted(self, max_length: int | None) -> list[int]:
        """Tokens of each sample that count in the loss, once it is cut."""
        rows = zip(self.lengths, self.prompts, strict=True)
        return [_counted(length, prompt, max_length) for length, prompt in rows]

    def teaching_nothing(self, max_length: int | None) -> list[int]:
        """Lines of which no token counts."""
        counted = zip(self.lines, self.counted(max_length), strict=True)
        return [line for line, count in counted if not count]

    def longer_than(self, length: int) -> int:
        """How many samples would be cut to that length."""
        return sum(found > length for found in self.lengths)

    def also_in(self, other: FileReport) -> dict[int, int]:
        """Lines whose content another file has too, and where."""
        both = self.first_lines.keys() & other.first_lines.keys()
        return dict(sorted((self.first_lines[k], other.first_lines[k]) for k in both))


def examine(
    path: Path,
    tokenizer: Tokenizer,
    *,
    key: str,
    mask_prompt: bool,
    max_length: int | None = None,
    progress: Progress = say_nothing,
) -> FileReport:
    """Read every line of a file as training would, and go on after a bad one.

    Arguments:
        key: that an error names the file by.
        max_length: tokens that a sample is cut to; None: it is not.

    Raises:
        ConfigError: it cannot be read, or not one of its lines is a sample.
    """
    reading = _Reading(tokenizer, mask_prompt, max_length)
    try:
        with path.open("rb") as file:
            _read(file, path, reading, progress)
    except OSError as error:
        raise ConfigError(key, str(path), f"cannot be read: {error.strerror}") from error
    if not reading.lines:
        line, why = next(iter(reading.bad.items()), (0, ""))
        first = f", line {line} {why}" if line else f"; must have {samples.ALLOWED} on each line"
        raise ConfigError(key, str(path), f"has no sample{first}")
    return reading.report(path)


@dataclass
class _Reading:
    tokenizer: Tokenizer
    mask_prompt: bool
    max_length: int | None
    form: str | None = None
    lines: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    bad: dict[int, str] = field(default_factory=dict)
    duplicates: dict[int, int] = field(default_factory=dict)
    first_lines: dict[bytes, int] = field(default_factory=dict)
    example: Example | None = None

    def add(self, sample: bytes, number: int) -> None:
        try:
            parsed, form = samples.parse(sample, self.form)
            self.form = form
            ids, prompt = samples.tokenise(parsed, form, self.tokenizer, self.mask_prompt)
        except SampleError as error:
            self.bad[number] = str(error)
            return
        self.lines.append(number)
        self.lengths.append(len(ids))
        self.prompts.append(prompt)
        first = self.first_lines.setdefault(_digest(sample), number)
        if first != number:
            self.duplicates[number] = first
        if self.example is None and _counted(len(ids), prompt, self.max_length):
            self.example = Example(number, tuple(ids), prompt)

    def report(self, path: Path) -> FileReport:
        assert self.form is not None
        return FileReport(
            path=path,
            form=self.form,
            lines=self.lines,
            lengths=self.lengths,
            prompts=self.prompts,
            bad=self.bad,
            duplicates=self.duplicates,
            first_lines=self.first_lines,
            example=self.example,
        )


def _read(file: BinaryIO, path: Path, reading: _Reading, progress: Progress) -> None:
    told = time.monotonic()
    for number, line in enumerate(file, 1):
        if sample := sample_in(line, number):
            reading.add(sample, number)
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            progress(f"reading {path.name}: {number:,} lines")


def _digest(sample: bytes) -> bytes:
    return hashlib.blake2b(sample, digest_size=16).digest()


def _counted(length: int, prompt: int, max_length: int | None) -> int:
    """Tokens that count in the loss: the first has nothing that it could be told from."""
    kept = length if max_length is None else min(length, max_length)
    return max(kept - max(prompt, 1), 0)
