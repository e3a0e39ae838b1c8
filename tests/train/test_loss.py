"""Our cross-entropy against MLX's own: value and gradient."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.train import loss
from lab.train.loss import cross_entropy, sliced_losses


@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_are_those_of_mlx(
    rows: int, vocabulary: int, scale: float, seed: int
) -> None:
    mx.random.seed(seed)
    logits = mx.random.normal((rows, vocabulary)) * scale
    targets = mx.random.randint(0, vocabulary, (rows,))
    weights = mx.random.uniform(shape=(rows,))

    def plain(logits: mx.array) -> mx.array:
        return (nn.losses.cross_entropy(logits, targets) * weights).sum()

    def ours(logits: mx.array) -> mx.array:
        return (cross_entropy(logits, targets) * weights).sum()

    for found, expected in zip(
        mx.value_and_grad(ours)(logits), mx.value_and_grad(plain)(logits), strict=True
    ):
        assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5 * max(scale, 1))


def test_low_precision_logits_lose_nothing_more() -> None:
    logits = (mx.random.normal((64, 500)) * 4).astype(mx.bfloat16)
    targets = mx.random.randint(0, 500, (64,))
    exact = nn.losses.cross_entropy(logits.astype(mx.float32), targets)
    assert mx.allclose(cross_entropy(logits, targets), exact, rtol=1e-6, atol=1e-6)
    grad = mx.grad(lambda x: cross_entropy(x, targets).sum())(logits)
    assert grad.dtype == mx.bfloat16


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    assert not mx.isfinite(cross_entropy(mx.array([[value, 0.0]]), mx.array([1]))).item()


def test_a_sliced_head_is_the_whole_head_in_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    mx.random.seed(0)
    hidden, head = mx.random.normal((500, 16)), mx.random.normal((16, 4000))
    targets, weights = mx.random.randint(0, 4000, (500,)), mx.random.uniform(shape=(500,))

    def whole(hidden: mx.array) -> mx.array:
        return (cross_entropy(hidden @ head, targets) * weights).sum()

    def sliced(hidden: mx.array) -> mx.array:
        losses = sliced_losses(
            lambda rows: rows @ head, hidden, targets, vocabulary=4000, needs_gradient=True
        )
        return (losses * weights).sum()

    monkeypatch.setattr(loss, "SLICE_BYTES", 16 * 4 * 4000)
    found, peaks = [], []
    for function in (whole, sliced):
        mx.eval(hidden, head, targets, weights)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        found.append(mx.value_and_grad(function)(hidden))
        mx.eval(found[-1])
        peaks.append(mx.get_peak_memory() - before)
    for a, b in zip(*found, strict=True):
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-5)
    assert peaks[1] < 0.25 * peaks[0]


def test_a_gradient_that_overflows_leaves_the_loss_as_it_is() -> None:
    """float16 ends at 65,504: the gradient 2 x 60,000 does not fit, the loss of 48 does."""
    hidden = mx.full((2, 4), 1e-4, mx.float16)
    head = mx.array([[6e4, -6e4]] * 4, mx.float16)
    targets = mx.array([0, 1])

    def losses(hidden: mx.array) -> mx.array:
        return sliced_losses(
            lambda rows: rows @ head, hidden, targets, vocabulary=2, needs_gradient=True
        )

    def total(hidden: mx.array) -> mx.array:
        return losses(hidden).sum()

    value, grad = mx.value_and_grad(total)(hidden)
    assert mx.isfinite(value).item()
    assert not mx.isfinite(grad).all().item()
