"""Sliced cross-entropy: the loss of a model's head without all its logits in memory at once.

With a large vocabulary the logits and their copies are most of a step's peak memory. Where the head
is frozen, each slice of rows computes its losses and its gradient at once and frees its logits.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

# Bytes of float32 logits in a slice. Up to ten times as much is alive, since MLX allocates ten
# operations ahead. Each slice reads all of the head's weights, so small slices are slow.
SLICE_BYTES, SLICE_BYTES_ON_GPU = 2**24, 2**28

Head = Callable[[mx.array], mx.array]


def sliced_losses(
    head: Head, hidden: mx.array, targets: mx.array, *, vocabulary: int, needs_gradient: bool
) -> mx.array:
    """``-log softmax(head(hidden))[targets]`` of each row, float32 (N,), a slice at a time.

    A row's gradient is known up to the upstream cotangent, so it is computed in the forward pass
    and the logits are freed.

    Arguments:
        head: maps rows (n, D) to logits (n, V), each row by itself; its parameters get no gradient.
        hidden: (N, D).
        targets: (N,), integers below V.
        vocabulary: V, which sets the number of rows in a slice.
        needs_gradient: whether ``hidden`` gets one.
    """
    on_gpu = mx.default_device().type == mx.gpu
    count = max(1, (SLICE_BYTES_ON_GPU if on_gpu else SLICE_BYTES) // (4 * vocabulary))
    constant = mx.stop_gradient(hidden)
    parts: list[list[mx.array]] = []
    for start in range(0, len(targets), count):
        rows = slice(start, start + count)

        def losses(hidden: mx.array, targets: mx.array = targets[rows]) -> mx.array:
            return cross_entropy(head(hidden), targets)

        # A barrier: MLX would evaluate independent slices at the same time, all logits alive.
        inputs = mx.depends([constant[rows]], parts[-1]) if parts else [constant[rows]]
        if needs_gradient:
            values, grads = mx.vjp(losses, inputs, [mx.ones(targets[rows].shape)])
            parts.append([*values, *grads])
        else:
            parts.append([losses(*inputs)])
    values, *grads = (mx.concatenate(list(part)) for part in zip(*parts, strict=True))
    return _with_gradient(values, hidden, *grads) if grads else values  # type: ignore[return-value]


@mx.custom_function
def _with_gradient(values: mx.array, hidden: mx.array, grad: mx.array) -> mx.array:  # noqa: ARG001
    """``values`` (N,), whose gradient by ``hidden`` (N, D) is known to be ``grad`` (N, D).

    The gradient is only handed on: one that overflows leaves the values beside it as they are.
    """
    return mx.stop_gradient(values)


@_with_gradient.vjp
def _with_gradient_vjp(
    primals: tuple, cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    values, hidden, grad = primals
    upstream = (cotangent[:, None] * grad.astype(mx.float32)).astype(hidden.dtype)
    return mx.zeros_like(values), upstream, mx.zeros_like(grad)


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """``-log softmax(logits)[targets]`` of each row, float32 (N,).

    On a CPU it takes one exponential per logit, not two: the backward pass reuses those of the
    forward pass.

    Arguments:
        logits: (N, V), of any floating type; the computation is in float32.
        targets: (N,), integers below V.
    """
    if mx.default_device().type == mx.gpu:
        # One fused kernel: on an H100 it takes 0.5 to 0.75 of the time of the function below.
        return nn.losses.cross_entropy(logits.astype(mx.float32), targets)
    return _cross_entropy(logits, targets)[0]  # type: ignore[index]


@mx.custom_function
def _cross_entropy(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    logits = logits.astype(mx.float32)
    top = logits.max(axis=-1, keepdims=True)
    exponentials = mx.exp(logits - top)
    totals = exponentials.sum(axis=-1, keepdims=True)
    scores = mx.take_along_axis(logits, targets[:, None], axis=-1)
    losses = (mx.log(totals) + top - scores).squeeze(-1)
    return losses, exponentials, totals


@_cross_entropy.vjp
def _cross_entropy_vjp(
    primals: tuple, cotangents: tuple, outputs: tuple
) -> tuple[mx.array, mx.array]:
    logits, targets = primals
    _, exponentials, totals = outputs
    losses = cotangents[0]
    grad = exponentials * (losses[:, None] / totals)
    grad = grad.at[mx.arange(len(targets)), targets].add(-losses)  # softmax minus one-hot
    return grad.astype(logits.dtype), mx.zeros_like(targets)
