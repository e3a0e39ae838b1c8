"""One split of the data: which samples of a file it has, as JSON objects and as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.config.schema import ConfigError
from lab.data import samples
from lab.data.batches import Sample
from lab.data.errors import SampleError
from lab.data.index import JsonLinesReader
from lab.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Split:
    """One split, train or validation: a range of rows of a file's index."""

    lines: JsonLinesReader
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> memoryview[int]:
        """Bytes of each sample, int32 (n,)."""
        return self.lines.index.sizes[self.rows.start : self.rows.stop]


@dataclass(frozen=True)
class IdLimit:
    """A table that token ids must lie within, for MLX does not check indices.

    Attributes:
        rows: ids from 0 to ``rows - 1`` are fine.
        table: what the model calls it.
        max_length: tokens of a sample that are trained on; what is cut off may be any.
        folder: of the model whose tokenizer it is.
    """

    rows: int
    table: str
    max_length: int
    folder: str


class Samples:
    """The samples of one split, as JSON objects and as token ids.

    Attributes:
        id_limit: where it is set, a sample with an id beyond it is refused as it is read.
    """

    def __init__(self, split: Split, tokenizer: Tokenizer, mask_prompt: bool) -> None:
        self.split, self.tokenizer, self.mask_prompt = split, tokenizer, mask_prompt
        self.id_limit: IdLimit | None = None

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
            found = samples.tokenise(sample, lines.index.form, self.tokenizer, self.mask_prompt)
        except SampleError as error:
            where = f"line {self.line_of(position)}"
            raise ConfigError(lines.key, str(lines.path), f"{where}: {error}") from error
        if self.id_limit is not None:
            self._check_ids(found[0], position, self.id_limit)
        return found

    def line_of(self, position: int) -> int:
        """Line number in the file, from 1."""
        return self.split.lines.line_of(self.split.rows[position])

    def _check_ids(self, ids: Sequence[int], position: int, limit: IdLimit) -> None:
        foreign = next((i for i in ids[: limit.max_length] if i >= limit.rows), None)
        if foreign is None:
            return
        token, name = self.tokenizer.token_of(foreign), self.split.lines.path.name
        raise ConfigError(
            "model.path",
            limit.folder,
            f"its tokenizer gives token id {foreign} ({token!r}) for line {self.line_of(position)} "
            f"of {name}, and {limit.table} has {limit.rows} rows (ids 0 to {limit.rows - 1}): "
            "take the tokenizer that the model was trained with, or a model resized for this one",
        )
