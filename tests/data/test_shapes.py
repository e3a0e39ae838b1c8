"""Few shapes: chosen from the lengths, at most so many, with little lost to padding."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config.keys import Data
from lab.config.schema import ConfigError
from lab.data import token_index
from lab.data.dataset import OpenData
from lab.data.equal_tokens import Drawn, equal_tokens, size_of
from lab.data.order import BucketOrder, Line
from lab.data.shapes import Grid, Need, Signature, choose_signatures
from tests.data.test_data import data_of, opened, write


def rows_of(widths: list[int]) -> list[int]:
    """Some rows in the loss for samples of these widths."""
    return [position * 7 % width for position, width in enumerate(widths)]


WIDTHS = st.lists(st.sampled_from((32, 64, 96, 256)), min_size=1, max_size=60)


@given(
    widths=WIDTHS,
    sizes=st.tuples(*[st.integers(1, 7)] * 4),
    seed=st.none() | st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 3),
)
@settings(max_examples=100)
def test_every_sample_comes_once_an_epoch_in_batches_of_its_width(widths, sizes, seed, epoch):
    size_of = dict[int, int](zip((32, 64, 96, 256), sizes, strict=True)).__getitem__
    order = BucketOrder(Line(widths, rows_of(widths), size_of, seed))
    indices = range(epoch * len(order), (epoch + 1) * len(order))
    batches = [list(order.members(index)) for index in indices]
    assert sorted(itertools.chain(*batches)) == list(range(len(widths)))
    for batch in batches:
        assert len(batch) <= size_of(max(widths[m] for m in batch))
    # Of batches that are cut off a line one after the other at most one a width is mixed.
    assert sum(len({widths[m] for m in batch}) > 1 for batch in batches) < len(set(widths))
    if len(set(sizes)) == 1:
        assert len(batches) == -(-len(widths) // sizes[0])


@given(widths=WIDTHS, seed=st.integers(0, 2**32 - 1), before=st.lists(st.integers(0, 99)))
@settings(max_examples=60)
def test_a_batch_depends_only_on_seed_and_index(widths, seed, before):
    used = BucketOrder(Line(widths, rows_of(widths), lambda _: 3, seed))
    for index in before:
        used.members(index)
    assert list(used.members(41)) == list(
        BucketOrder(Line(widths, rows_of(widths), lambda _: 3, seed)).members(41)
    )


def test_epochs_and_seeds_differ_and_validation_does_not():
    widths = [32, 64, 96, 256] * 16

    def epochs(seed: int | None) -> list:
        order = BucketOrder(Line(widths, rows_of(widths), lambda _: 4, seed))
        drawn = [tuple(order.members(i)) for i in range(32)]
        return [drawn[:16], drawn[16:]]

    (first, second), other = epochs(1), epochs(2)
    assert {frozenset(m) for m in first} != {frozenset(m) for m in second}
    assert first != other[0]
    fixed = epochs(None)
    assert fixed[0] == fixed[1]
    assert len({widths[m[0]] for m in fixed[0][:6]}) > 1  # the first few of validation are mixed


def test_the_order_is_the_same_on_every_machine_and_version():
    widths = [64, 32, 96, 32, 64, 32, 96]
    order = BucketOrder(Line(widths, rows_of(widths), lambda _: 3, seed=7))
    expected = [[4, 2, 6], [5], [1, 3, 0], [1, 3, 0], [5], [4, 2, 6]]
    assert [list(order.members(i)) for i in range(6)] == expected


@pytest.mark.parametrize("seed", range(8))
def test_the_first_batch_is_a_widest_one(seed):
    widths = [32] * 50 + [64] * 50 + [96] * 5
    assert all(
        widths[m] == 96
        for m in BucketOrder(Line(widths, rows_of(widths), lambda _: 4, seed)).members(0)
    )


@given(widths=WIDTHS, size=st.integers(1, 7), data=st.data())
@settings(max_examples=60)
def test_no_batch_needs_more_than_was_said_beforehand(widths, size, data):
    rows = data.draw(st.lists(st.integers(0, 99), min_size=len(widths), max_size=len(widths)))
    order = BucketOrder(Line(widths, rows, lambda _: size, 1))
    needs = list(map(Need, widths, rows))
    said = sorted(order.at_most())
    for epoch in range(3):
        drawn = [together(needs, order.members(epoch * len(order) + i)) for i in range(len(order))]
        assert all(most.holds(need) for most, need in zip(said, sorted(drawn), strict=True))


# --- Which shapes --------------------------------------------------------------------------------


def together(needs: list[Need], batch) -> Need:
    return Need(max(needs[i].width for i in batch), sum(needs[i].rows for i in batch))


NEEDS = st.lists(st.builds(Need, st.integers(0, 60), st.integers(0, 99)), min_size=1, max_size=20)


def price(needs: list[Need], signatures: tuple[Signature, ...]) -> int:
    return sum(next(s for s in signatures if s.fits(1, need)).price for need in needs)


@given(needs=NEEDS, most=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_the_shapes_are_few_and_hold_all_and_no_chain_is_cheaper(needs, most):
    largest, grid = Need(60, 99), Grid(width=16, rows=20)
    chosen = choose_signatures(needs, largest, grid, batch_size=1, most=most)
    assert len(chosen) <= most
    assert all(s.width % 16 == 0 == s.rows % 20 for s in chosen)
    assert chosen[-1].fits(1, largest)
    candidates = sorted({grid.rounded(need) for need in (*needs, largest)})
    top = grid.rounded(largest)
    cheapest = min(
        price(needs, tuple(Signature(1, *need) for need in (*chain, top)))
        for count in range(most)
        for chain in itertools.combinations(candidates, count)
        if all(later.holds(need) for need, later in itertools.pairwise(chain))
    )
    assert price(needs, chosen) <= cheapest


@given(needs=NEEDS, most=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_equal_tokens_give_short_samples_larger_batches(needs, most):
    grid = Grid(16, 20)

    def draw(sizes) -> Drawn:
        widths = [grid.width_of(need.width) for need in needs]
        order = BucketOrder(Line(widths, [need.rows for need in needs], sizes, 0))
        drawn = [together(needs, order.members(index)) for index in range(len(order))]
        return Drawn(drawn, list(order.at_most()))

    found = equal_tokens(needs, grid, draw, cells=256, most=most)
    assert len(found) <= most
    assert [s.price for s in found] == sorted(s.price for s in found)
    assert all(256 - s.width < s.cells <= 256 for s in found)
    widths = [grid.width_of(need.width) for need in needs]
    order = BucketOrder(Line(widths, [n.rows for n in needs], lambda w: size_of(found, w), 1))
    for index in range(2 * len(order)):
        batch = order.members(index)
        assert any(s.fits(len(batch), together(needs, batch)) for s in found)


def test_of_long_lengths_only_so_many_are_tried():
    grid = Grid.of(Need(30_000, 8 * 30_000), 32)
    assert (grid.width, grid.rows) == (480, 3776)
    assert grid.rounded(Need(481, 1)) == Need(960, 3776)


# --- Of data -------------------------------------------------------------------------------------

DRAW = random.Random(0)
EVEN = [{"text": "x" * DRAW.randint(32, 992)} for _ in range(1000)]
ANSWERED = [
    {"prompt": "p" * (len(sample["text"]) - answer), "completion": "c" * answer}
    for sample in EVEN
    for answer in [DRAW.randint(1, len(sample["text"]) - 1)]
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("even")
    write(folder / "text.jsonl", *EVEN)
    write(folder / "answered.jsonl", *ANSWERED)
    return folder


def few(path, most: int = 8, **keys) -> Data:
    return data_of(path, **({"pad_multiple": 128, "max_shapes": most, "val_fraction": 0.1} | keys))


def open_even(folder, name: str, data: dict | None = None, **train) -> OpenData:
    settings = {"batch_size": 4, "max_seq_length": 1024} | train
    return opened(few(folder / f"{name}.jsonl", **(data or {})), folder / "cache", **settings)


def epoch_of(data: OpenData) -> list:
    return [data.train.batch(index) for index in range(len(data.train))]


def padded_share(batches) -> float:
    return sum(b.padded_cells for b in batches) / sum(b.cells for b in batches)


def signatures_of(batches) -> set:
    return {(*batch.inputs.shape, len(batch.rows)) for batch in batches}


@pytest.mark.parametrize("name", ["text", "answered"])
@pytest.mark.parametrize("batch_size", [2, 4])
def test_few_shapes_lose_little_to_padding(folder, name, batch_size):
    """The optimum of 8 widths of a multiple of 128 is 11.0 % on these lengths."""
    data = open_even(folder, name, batch_size=batch_size, val_interval_steps=1)
    batches = epoch_of(data)
    assert data.val is not None
    validation = [data.val.batch(index) for index in range(len(data.val))]
    shapes = {(s.batch_size, s.width, s.rows) for s in data.plan.shape.signatures}
    assert len(shapes) <= 8
    assert signatures_of(batches) | signatures_of(validation) <= shapes
    assert padded_share(batches) <= 0.125
    facts = data.plan.facts()
    assert facts["padded_fraction"] == pytest.approx(padded_share(batches), abs=0.01)
    assert set(facts["shapes"]) == shapes
    rows = 1 - sum(b.num_tokens for b in batches) / sum(len(b.rows) for b in batches)
    assert facts["padded_rows_fraction"] == pytest.approx(rows, abs=0.02)


def test_batches_of_equal_tokens_are_all_about_as_large(folder):
    data = open_even(folder, "answered", batch_by="tokens", val_interval_steps=1)
    batches = epoch_of(data)
    assert len(signatures_of(batches)) <= 8
    assert padded_share(batches) <= 0.125
    assert {batch.cells for batch in batches} <= set(range(4096 - 1023, 4097))
    assert sum(batch.num_tokens for batch in batches) == sum(
        length - max(prompt, 1)
        for length, prompt in (data.train_samples.tokens(i) for i in range(len(data.train_samples)))
        for length in [len(length)]
    )
    fixed = len(epoch_of(open_even(folder, "answered")))
    assert len(batches) < 0.75 * fixed


def test_without_fixed_shapes_batches_are_what_they_were(folder):
    """A run that was saved before there was the key is trained on the same batches."""
    saved = Data(name="jsonl", path=str(folder / "text.jsonl"), val_fraction=0.1, pad_multiple=128)
    data = opened(saved, folder / "cache", batch_size=4, max_seq_length=1024)
    expected = [[582, 580, 741, 742], [313, 167, 31, 467], [60, 570, 719, 332]]
    assert [list(data.train.members(index)) for index in (0, 1, 225)] == expected
    assert len(signatures_of(epoch_of(data))) == 34
    assert data.plan.facts() == {}


def test_lengths_that_are_not_known_beforehand_still_fit(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(token_index, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(token_index, "SAMPLED", 100)
    made = opened(few(folder / "answered.jsonl"), tmp_path, batch_size=4, max_seq_length=1024)
    assert made.train_tokens.is_whole  # a child made it; this one is of a part
    rows = range(0, 1000, 2)
    columns = (made.train_tokens.lengths, made.train_tokens.prompts, made.train_tokens.highest)
    part = token_index.TokenIndex(rows, 1000, *(column[::2] for column in columns))
    monkeypatch.setattr("lab.data.dataset.open_token_index", lambda *_, **__: part)
    data = opened(few(folder / "answered.jsonl"), tmp_path, batch_size=4, max_seq_length=1024)
    batches = epoch_of(data)
    assert sum(b.inputs.shape[0] for b in batches) == 4 * len(data.train)
    assert len(signatures_of(batches)) <= 8
    assert padded_share(batches) <= 0.14
    with pytest.raises(ConfigError, match=r"train\.batch_by=tokens: needs the length of every"):
        opened(few(folder / "answered.jsonl"), tmp_path, batch_by="tokens")


@pytest.mark.parametrize(
    ("buckets", "said"),
    [
        ((256, 512), r"data\.buckets=\[256,512\]: no bucket holds the longest sample, 99\d tokens"),
        (
            (256, 512, 1024, 2048),
            "no sample fits the bucket 2048: none takes 1025 to 2048 tokens; leave it out",
        ),
    ],
)
def test_a_bucket_that_does_not_fit_the_data_is_named(folder, buckets, said):
    with pytest.raises(ConfigError, match=said):
        open_even(folder, "text", {"buckets": buckets}, max_seq_length=4096)


def test_chosen_buckets_are_the_widths(folder):
    data = open_even(folder, "text", {"buckets": (256, 640, 1024)})
    assert {width for _, width, _ in signatures_of(epoch_of(data))} == {256, 640, 1024}
