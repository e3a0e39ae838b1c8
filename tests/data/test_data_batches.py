"""Batches: a pure function of seed and index, every sample once, the right tokens counted."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.data.batches import Batches, Shape, collate
from lab.data.order import CHUNK, ChunkedOrder
from lab.data.permutation import Permutation


def batches_of(
    sizes: list[int], batch_size: int, seed: int | None = 0, multiple: int = 4, repeat: int = 0
) -> Batches:
    shape = Shape(batch_size=batch_size, accumulation=2, max_length=512, pad_multiple=multiple)
    # Each sample is its own position, repeated: a batch tells which samples are in it.
    order = ChunkedOrder(sizes, batch_size, seed)
    return Batches(order, lambda i: ([i + 1] * sizes[i], 0), shape, repeat=repeat)


SIZES = st.lists(st.integers(2, 40), min_size=1, max_size=60)


@given(sizes=SIZES, batch_size=st.integers(1, 7), seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=60)
def test_a_batch_depends_only_on_seed_and_index(sizes, batch_size, seed, data):
    used = batches_of(sizes, batch_size, seed)
    for index in data.draw(st.lists(st.integers(0, 200), max_size=4)):
        used.batch(index)
    index = data.draw(st.integers(0, 200))
    assert used.batch(index) == batches_of(sizes, batch_size, seed).batch(index)


@given(sizes=SIZES, batch_size=st.integers(1, 7), epoch=st.integers(0, 5))
@settings(max_examples=60)
def test_every_sample_comes_once_an_epoch(sizes, batch_size, epoch):
    batches = batches_of(sizes, batch_size)
    indices = range(epoch * len(batches), (epoch + 1) * len(batches))
    members = [m for index in indices for m in batches.members(index)]
    assert sorted(members) == list(range(len(sizes)))
    assert sum(batches.batch(i).num_tokens for i in indices) == sum(sizes) - len(sizes)


def test_epochs_and_seeds_differ_and_validation_does_not():
    sizes = list(range(2, 66))
    orders = [[tuple(batches_of(sizes, 4, seed).members(i)) for i in range(32)] for seed in (1, 2)]
    assert orders[0] != orders[1]
    assert orders[0][:16] != orders[0][16:]
    assert {frozenset(m) for m in orders[0][:16]} != {frozenset(m) for m in orders[0][16:]}
    fixed = batches_of(sizes, 4, None)
    assert [fixed.members(i) for i in range(16)] == [fixed.members(i) for i in range(16, 32)]


def test_the_order_is_the_same_on_every_machine_and_version():
    expected = [[3, 1, 5], [0, 6, 2], [4], [4, 6, 2], [3, 5, 0], [1]]
    batches = batches_of([5, 3, 9, 2, 7, 4, 8], 3, seed=7)
    assert [list(batches.members(i)) for i in range(6)] == expected


def test_a_billion_samples_are_ordered_a_chunk_at_a_time():
    order = ChunkedOrder(range(10**9), 2, 0)
    members = [m for i in range(CHUNK) for m in order.members(10**6 * CHUNK + i)]
    assert len(set(members)) == 2 * CHUNK
    assert max(members) > 9 * 10**8


@given(count=st.integers(0, 3000), key=st.tuples(st.integers(0, 2**32), st.integers(0, 9)))
def test_a_permutation_has_every_position_once(count, key):
    assert sorted(Permutation(count, key)) == list(range(count))


@pytest.mark.parametrize("count", [2, 7, 30])
def test_every_sample_may_come_anywhere(count):
    """Chi-squared over (position, sample) pairs, within 5 standard deviations."""
    draws = 2000
    seen = Counter(p for seed in range(draws) for p in enumerate(Permutation(count, (seed, 0))))
    mean, freedom = draws / count, (count - 1) ** 2
    pairs = itertools.product(range(count), repeat=2)
    chi_squared = sum((seen[pair] - mean) ** 2 / mean for pair in pairs)
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5


def test_a_step_is_its_micro_batches():
    batches = batches_of(list(range(2, 20)), 3)
    step = batches.step(4)
    assert len(step) == 2
    assert step == [batches.batch(6), batches.batch(7)]


def test_the_first_batches_are_repeated_and_the_same_at_any_step():
    sizes = list(range(2, 20))
    plain = batches_of(sizes, 3)
    for step in range(1, 8):  # of two micro-batches
        assert batches_of(sizes, 3, repeat=1).step(step) == [plain.batch(0)] * 2
        assert batches_of(sizes, 3, repeat=2).step(step) == plain.step(1)
    thirds = batches_of(sizes, 3, repeat=3)
    assert thirds.step(2) == [plain.batch(2), plain.batch(0)]
    assert thirds.step(4) == plain.step(1)


def test_sorting_pads_clearly_less_than_random_batches():
    draw = random.Random(0)
    sizes = [draw.randrange(2, 200) for _ in range(2000)]
    batches = batches_of(sizes, 8, multiple=8)
    made = [batches.batch(i) for i in range(len(batches))]
    cells = sum(b.cells for b in made)
    unsorted = sum(-(-(max(sizes[i : i + 8]) - 1) // 8) * 64 for i in range(0, 2000, 8))
    assert cells < 0.65 * unsorted
    assert sum(b.padded_cells for b in made) == cells - (sum(sizes) - len(sizes))


def test_validation_takes_long_and_short_samples_from_the_first_batches_on():
    sizes = list(range(2, 402))
    first = [m for i in range(10) for m in batches_of(sizes, 4, None).members(i)]
    assert 100 < sum(sizes[m] for m in first) / len(first) < 300


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 99), max_size=30), st.integers(0, 35)), max_size=4),
    st.sampled_from((1, 4, 32)),
)
def test_rows_point_at_the_token_before_each_counted_target(samples, multiple):
    shape = Shape(batch_size=4, accumulation=1, max_length=20, pad_multiple=multiple)
    batch = collate([[sample] for sample in samples], shape)
    rows, width = batch.inputs.shape
    assert rows == 4
    assert width == 20 or width % multiple == 0
    assert [v.format for v in (batch.inputs, batch.rows, batch.targets)] == ["i"] * 3
    assert batch.weights.format == "f"
    assert len(batch.rows) == len(batch.targets) == len(batch.weights) > 0
    assert len(batch.rows) % multiple == 0
    expected = [
        (b * width + t - 1, ids[t - 1], ids[t])
        for b, (ids, prompt) in enumerate(samples)
        for t in range(max(prompt, 1), min(len(ids), 20))
    ]
    flat = [token for row in batch.inputs.tolist() for token in row]
    counted = zip(batch.rows, batch.targets, batch.weights, strict=True)
    assert [(row, flat[row], target) for row, target, weight in counted if weight] == expected
    assert batch.num_tokens == len(expected) == sum(batch.weights)
    assert batch.padded_cells == 4 * width - sum(max(min(len(i), 20) - 1, 0) for i, _ in samples)
    assert batch.truncated == sum(len(ids) > 20 for ids, _ in samples)
    assert batch.empty == sum(max(p, 1) >= min(len(i), 20) for i, p in samples)
