"""Packed rows: filled well, never too long, each sample once an epoch."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config.schema import ConfigError
from lab.data import token_index
from lab.data.batches import Shape, collate
from lab.data.dataset import OpenData
from lab.data.order import Line
from lab.data.packed import PackedOrder
from tests.data.test_data import data_of, opened, write

WIDTHS = st.lists(st.sampled_from((8, 16, 24, 40, 64)), min_size=1, max_size=60)


def packed(widths: list[int], batch_size: int, seed: int | None) -> PackedOrder:
    return PackedOrder(Line(widths, [w // 2 for w in widths], lambda _: 1, seed), 64, batch_size)


@given(
    widths=WIDTHS,
    batch_size=st.integers(1, 5),
    seed=st.none() | st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 3),
)
@settings(max_examples=100)
def test_every_sample_comes_once_an_epoch_in_rows_that_hold_it(widths, batch_size, seed, epoch):
    order = packed(widths, batch_size, seed)
    indices = range(epoch * len(order), (epoch + 1) * len(order))
    batches = [order.rows(index) for index in indices]
    rows = list(itertools.chain(*batches))
    assert sorted(itertools.chain(*rows)) == list(range(len(widths)))
    assert all(sum(widths[m] for m in row) <= 64 for row in rows)
    assert all(len(batch) <= batch_size for batch in batches)
    (most,) = order.at_most()
    assert max(sum(widths[m] // 2 for row in batch for m in row) for batch in batches) <= most.rows
    # No two rows would fit into one, else the best fit had put them there.
    lengths = sorted(sum(widths[m] for m in row) for row in rows)
    assert len(lengths) < 2 or sum(lengths[:2]) > 64


@given(widths=WIDTHS, seed=st.integers(0, 2**32 - 1), before=st.lists(st.integers(0, 99)))
@settings(max_examples=60)
def test_a_batch_depends_only_on_seed_and_index(widths, seed, before):
    used = packed(widths, 2, seed)
    for index in before:
        used.rows(index)
    assert used.rows(41) == packed(widths, 2, seed).rows(41)


def test_epochs_differ_and_validation_does_not():
    widths = [8, 16, 24, 40] * 20
    for seed, differ in ((1, True), (None, False)):
        order = packed(widths, 2, seed)
        first, second = (
            [order.rows(n * len(order) + i) for i in range(len(order))] for n in (0, 1)
        )
        assert (first != second) is differ


def test_positions_begin_anew_with_each_sample_and_the_right_tokens_count():
    shape = Shape(batch_size=2, accumulation=1, max_length=8, pad_multiple=8, packs=True)
    batch = collate([[([1, 2, 3], 0), ([4, 5, 6, 7], 2)], [([8, 9], 1)]], shape)
    assert batch.positions is not None
    assert batch.inputs.tolist() == [[1, 2, 4, 5, 6, 0, 0, 0], [8, 0, 0, 0, 0, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2, 0, 0, 0], [0] * 8]
    counted = [n for n, weight in enumerate(batch.weights) if weight]
    assert [(batch.rows[n], batch.targets[n]) for n in counted] == [
        *((0, 2), (1, 3)),
        *((3, 6), (4, 7)),
        (8, 9),
    ]
    assert batch.padded_cells == 10


# --- Of data -------------------------------------------------------------------------------------

DRAW = random.Random(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory):
    lengths = [(DRAW.randint(32, 500), DRAW.randint(1, 400)) for _ in range(1000)]
    samples = [{"prompt": "p" * p, "completion": "c" * c} for p, c in lengths]
    return write(tmp_path_factory.mktemp("packed") / "train.jsonl", *samples)


def open_packed(file, **train) -> OpenData:
    data = data_of(file, pad_multiple=128, max_shapes=8, val_fraction=0.1)
    settings = {"batch_size": 4, "max_seq_length": 1024, "packing": True} | train
    return opened(data, file.parent / "cache", **settings)


def test_hardly_anything_is_padding(file):
    data = open_packed(file, val_interval_steps=1)
    assert data.val is not None
    batches = [data.train.batch(index) for index in range(len(data.train))]
    validation = [data.val.batch(index) for index in range(len(data.val))]
    shapes = {(s.batch_size, s.width, s.rows) for s in data.plan.shape.signatures}
    made = {(*batch.inputs.shape, len(batch.rows)) for batch in (*batches, *validation)}
    assert made <= shapes
    assert len(shapes) <= 8
    assert {width for _, width, _ in shapes} == {1024}
    whole = [b for b in batches if b.padded_cells < 1024]
    assert len(whole) >= len(batches) - 2
    assert sum(b.padded_cells for b in whole) / sum(b.cells for b in whole) < 0.02
    tokens = [data.train_samples.tokens(at) for at in range(len(data.train_samples))]
    counted = sum(max(min(len(ids), 1024) - max(prompt, 1), 0) for ids, prompt in tokens)
    assert sum(batch.num_tokens for batch in batches) == counted


def test_lengths_that_are_not_known_cannot_be_packed(file, monkeypatch):
    known = open_packed(file).train_tokens
    columns = (known.lengths, known.prompts, known.highest)
    part = token_index.TokenIndex(range(0, 1000, 2), 1000, *(column[::2] for column in columns))
    monkeypatch.setattr("lab.data.dataset.open_token_index", lambda *_, **__: part)
    with pytest.raises(ConfigError, match=r"train\.packing=true: needs the length of every"):
        open_packed(file)
