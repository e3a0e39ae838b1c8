"""How the samples of a run become batches: in which order, and padded to what."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Self

from lab.config.keys import Data, Train
from lab.config.schema import ConfigError
from lab.config.units import MB
from lab.data.batches import Shape, padded_width
from lab.data.equal_tokens import Drawn, SizeOf, equal_tokens, size_of
from lab.data.order import BucketOrder, ChunkedOrder, Line, Order
from lab.data.packed import PackedOrder
from lab.data.shapes import Grid, Need, Signature, choose_signatures, most_rows, round_up
from lab.data.split import Split
from lab.data.token_index import WHOLE_BYTES, TokenIndex

ENOUGH = 512  # batches, to choose their shapes by
PACKED_MULTIPLE = 8  # tokens; lengths that are the same to it may take each other's place in a row

Rows = Sequence[Sequence[int]]  # of a batch: the samples in each


@dataclass(frozen=True)
class Measured:
    """What is known of some samples' lengths before they are read.

    Attributes:
        file: that they are in.
        widths: int32 (n,), tokens of the inputs of each sample that is tokenised, once it is cut.
        rows: int32 (n,), how many of its positions count in the loss.
        is_whole: all samples are tokenised.
        sizes: (n,), bytes of each sample that is tokenised; only needed where some are not.
        all_sizes: of every sample.
    """

    file: Path
    widths: array[int]
    rows: array[int]
    is_whole: bool = True
    sizes: Sequence[int] = ()
    all_sizes: Sequence[int] = ()

    @classmethod
    def of(
        cls, file: Path, lengths: Iterable[int], prompts: Iterable[int], max_length: int
    ) -> Self:
        """Of samples that are all tokenised, by the columns of a token index."""
        pairs = zip(lengths, prompts, strict=True)
        cut = [(min(length, max_length), prompt) for length, prompt in pairs]
        widths = array("i", (max(length - 1, 0) for length, _ in cut))
        return cls(file, widths, array("i", (max(n - max(prompt, 1), 0) for n, prompt in cut)))

    @classmethod
    def of_split(cls, split: Split, tokens: TokenIndex, max_length: int) -> Self:
        """Of a split, as far as its file's token index goes."""
        here = list(tokens.within(split.rows))
        lengths, prompts = (
            [column[at] for at in here] for column in (tokens.lengths, tokens.prompts)
        )
        measured = cls.of(split.lines.path, lengths, prompts, max_length)
        sizes = split.lines.index.sizes
        return replace(
            measured,
            is_whole=tokens.is_whole,
            sizes=() if tokens.is_whole else [sizes[tokens.rows[at]] for at in here],
            all_sizes=split.sizes,
        )

    def together(self, batch: Rows) -> Need:
        """What a batch of these samples needs."""
        width = max(sum(self.widths[i] for i in row) for row in batch)
        return Need(width, sum(self.rows[i] for row in batch for i in row))


class Plan:
    """How a run's samples become batches.

    Without ``data.max_shapes`` each batch is padded to a multiple of its own need, as it was before
    there was such a key.

    Arguments:
        train: the split that is trained on, or the only one.
        others: what comes in batches of the same shapes.

    Raises:
        ConfigError: buckets that do not fit the data, or lengths that would have to be known.
    """

    def __init__(
        self, train: Measured, others: Sequence[Measured], data: Data, settings: Train
    ) -> None:
        self._train, self._splits = train, [train, *others]
        self._data, self._settings = data, settings
        self.shape = Shape(
            batch_size=settings.batch_size,
            accumulation=settings.grad_accumulation_steps,
            max_length=settings.max_seq_length,
            pad_multiple=data.pad_multiple,
            packs=settings.packing,
        )
        if data.max_shapes:
            self._grid = self._make_grid()
            self._check_buckets()
            self.shape = replace(self.shape, signatures=self._signatures())

    @property
    def widest(self) -> int:
        """Tokens that the widest batch is padded to."""
        if self.shape.signatures:
            return max(signature.width for signature in self.shape.signatures)
        return padded_width(self._longest, self.shape.max_length, self.shape.pad_multiple)

    def order(self, measured: Measured, seed: int | None) -> Order:
        """Which samples of a split make which batch."""
        if self.shape.signatures and measured.is_whole:
            return self._known(measured, self._size_of, seed)
        return ChunkedOrder(measured.all_sizes, self.shape.batch_size, seed)

    def facts(self) -> dict[str, Any]:
        """Shapes and padding, by the names of :class:`lab.records.facts.RunFacts`."""
        if not self.shape.signatures:
            return {}
        cells = rows = held = counted = 0
        for size, tokens, need in self._sampled:
            signature = self.shape.signature_of(size, need)
            cells, rows = cells + signature.cells, rows + signature.rows
            held, counted = held + tokens, counted + need.rows
        return {
            "shapes": [(s.batch_size, s.width, s.rows) for s in self.shape.signatures],
            "padded_fraction": 1 - held / cells,
            "padded_rows_fraction": 1 - counted / rows,
        }

    @property
    def _is_whole(self) -> bool:
        return all(split.is_whole for split in self._splits)

    @property
    def _longest(self) -> int:
        """Tokens of the longest input, as far as that is known beforehand."""
        if not self._is_whole:
            return self.shape.max_length - 1
        return max(max(split.widths) for split in self._splits)

    def _make_grid(self) -> Grid:
        size, longest = self.shape.batch_size, self._longest
        # A sequence shorter than the multiple is not padded beyond itself.
        multiple = min(self.shape.pad_multiple, self.shape.max_length)
        if self.shape.packs:
            longest = round_up(self.shape.max_length - 1, multiple)
            return Grid.of(Need(longest, size * longest), multiple, (longest,))
        rows = most_rows(chain(*(split.rows for split in self._splits)), size)
        largest = Need(longest, rows if self._is_whole else size * longest)
        return Grid.of(largest, multiple, self._data.buckets)

    def _signatures(self) -> tuple[Signature, ...]:
        most, size, longest = self._data.max_shapes, self.shape.batch_size, self._longest
        if self.shape.packs:
            self._check_whole("train.packing", "true", "take train.packing=false")
        if self._settings.batch_by == "tokens":
            self._check_whole("train.batch_by", "tokens", "take train.batch_by=samples")
            needs = [Need(*n) for m in self._splits for n in zip(m.widths, m.rows, strict=True)]
            cells = size * self._grid.width_of(longest)
            return equal_tokens(needs, self._grid, self._draw, cells=cells, most=most)
        rows = size * longest
        if self._is_whole:
            rows = max(need.rows for order in self._orders for need in order.at_most())
        needs, largest = (need for _, _, need in self._sampled), Need(longest, rows)
        return choose_signatures(needs, largest, self._grid, batch_size=size, most=most)

    def _check_whole(self, key: str, value: str, remedy: str) -> None:
        files = [m.file.name for m in self._splits if not m.is_whole]
        if files:
            allowed = (
                f"needs the length of every sample, and {files[0]} is above the "
                f"{WHOLE_BYTES // MB} MB of which all are tokenised beforehand; {remedy}"
            )
            raise ConfigError(key, value, allowed)

    def _draw(self, sizes: SizeOf) -> Drawn:
        order = self._known(self._train, sizes, 0)
        drawn = map(self._train.together, map(order.rows, range(min(ENOUGH, len(order)))))
        others = (self._known(split, sizes, 0) for split in self._splits[1:])
        return Drawn(list(drawn), [need for one in (order, *others) for need in one.at_most()])

    @cached_property
    def _orders(self) -> list[BucketOrder | PackedOrder]:
        """Of each split, for one seed: what any batch may need is the same for all."""
        return [self._known(split, self._size_of, 0) for split in self._splits]

    @cached_property
    def _sampled(self) -> list[tuple[int, int, Need]]:
        """Rows, tokens and need of each training batch that is drawn beforehand."""
        train = self._train
        return [
            (len(batch), sum(train.widths[i] for row in batch for i in row), train.together(batch))
            for batch in self._drawn()
        ]

    def _drawn(self) -> Iterator[Rows]:
        """Training batches as they come, whatever the run's seed."""
        train, size = self._train, self.shape.batch_size
        if train.is_whole:
            # Of a small epoch too: all of it may fit signatures that the next one would not.
            yield from map(self._orders[0].rows, range(ENOUGH))
            return
        sizes = train.sizes
        line = [[at] for at in sorted(range(len(sizes)), key=sizes.__getitem__)]
        # Overlapping, since there are few: the neighbours of a sample in a chunk are as near.
        yield from (line[at : at + size] for at in range(max(len(line) - size, 0) + 1))

    def _known(
        self, measured: Measured, sizes: SizeOf, seed: int | None
    ) -> BucketOrder | PackedOrder:
        """An order of samples whose lengths are all known."""
        if not self.shape.packs:
            return BucketOrder(Line(self._widths(measured), measured.rows, sizes, seed))
        width = self._grid.width_of(0)
        widths = array("i", (min(round_up(w, PACKED_MULTIPLE), width) for w in measured.widths))
        line = Line(widths, measured.rows, lambda _: 1, seed)
        return PackedOrder(line, width, self.shape.batch_size)

    def _widths(self, measured: Measured) -> array[int]:
        width_of = {width: self._grid.width_of(width) for width in set(measured.widths)}
        return array("i", map(width_of.__getitem__, measured.widths))

    def _size_of(self, width: int) -> int:
        """Samples in a batch of a width."""
        if self._settings.batch_by == "samples":
            return self.shape.batch_size
        return size_of(self.shape.signatures, width)

    def _check_buckets(self) -> None:
        """Hold the widths that the user chose against the data."""
        buckets, longest = self._data.buckets, self._longest
        if not buckets:
            return
        given = f"[{','.join(map(str, buckets))}]"
        if longest > buckets[-1]:
            allowed = (
                f"no bucket holds the longest sample, {longest} tokens without its last one; add "
                f"one, or cut samples by train.max_seq_length={buckets[-1] + 1}"
            )
            raise ConfigError("data.buckets", given, allowed)
        if not self._is_whole:
            return  # a sample that is not tokenised yet may fit any
        used = {width for measured in self._splits for width in self._widths(measured)}
        for below, bucket in pairwise((0, *buckets)):
            if bucket not in used:
                allowed = (
                    f"no sample fits the bucket {bucket}: none takes {below + 1} to {bucket} "
                    "tokens; leave it out"
                )
                raise ConfigError("data.buckets", given, allowed)
