"""The train step: one optimizer update, its loss and its gradient norm, evaluated once.

Each session builds its own step, since a compiled closure holds the arrays it was made with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from lab.data.batches import Batch
from lab.train.loss import cross_entropy, sliced_losses
from lab.train.model_files import layers_of
from lab.train.packing import PackedRows
from lab.train.patch import override_call


@dataclass(frozen=True)
class Update:
    """Result of one step; lazy until evaluated.

    Attributes:
        loss: mean cross-entropy over the step's completion tokens, float32 scalar.
        grad_norm: norm of the gradient before clipping, scalar.
        state: every array that the step changed; evaluating it is the step's synchronisation.
    """

    loss: mx.array
    grad_norm: mx.array
    state: list

    def evaluate(self) -> tuple[float, float]:
        """Wait for the device; the loss and the gradient norm."""
        mx.eval(self.loss, self.grad_norm, self.state)
        return self.loss.item(), self.grad_norm.item()  # type: ignore[return-value]


TrainStep = Callable[[Sequence[Batch]], Update]


class Evaluate(Protocol):
    """The mean loss over the tokens of some batches that count, without dropout."""

    def __call__(self, batches: Sequence[Batch], after_batch: Callable[[int], None] = ...) -> float:
        """Evaluate.

        Arguments:
            after_batch: gets the number of batches that are done; what it raises ends it.
        """
        ...


class PredictedLosses:
    """A model's cross-entropy, its head run only where the next token counts in the loss.

    Most of a prompt-masked batch has no such position, and the projection to the vocabulary with
    its cross-entropy is the larger part of a small model's step and of its memory. The backbone's
    output is narrowed to the wanted rows before the model's own head, so whatever the head does
    (tied embeddings, scaling, soft caps) stays as the model has it. Where a model has no such
    backbone, all logits are computed and then narrowed: the same loss, slower.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._backbone_override: Callable[[Callable], object] | None = None
        trained = tree_flatten(model.trainable_parameters(), destination={})
        self._head_is_frozen = all("layers." in name for name in trained)
        self._positions: mx.array | None = None
        if (backbone := backbone_of(model)) is not None:
            override_call(backbone, self._run_backbone)

    @cached_property
    def _packed_rows(self) -> PackedRows:
        """Made when the first packed batch comes: other runs do without."""
        return PackedRows(self._model)

    def __call__(
        self,
        inputs: mx.array,
        rows: mx.array,
        targets: mx.array,
        positions: mx.array | None = None,
    ) -> mx.array:
        """Loss of each target, float32 (N,).

        Arguments:
            inputs: (B, L), token ids.
            rows: (N,), flat positions of ``inputs``.
            targets: (N,), the tokens that follow there.
            positions: (B, L), of each token in its sample, where rows are packed.
        """
        self._positions = positions
        kept: list[mx.array] = []

        def narrow(backbone: Callable) -> object:
            hidden = backbone()
            if not isinstance(hidden, mx.array) or hidden.ndim != 3:
                return hidden
            kept.append(hidden.reshape(-1, hidden.shape[-1])[rows])
            return kept[0][None]

        def head(hidden: mx.array) -> mx.array:
            return self._logits(inputs, lambda _: hidden[None])

        logits = self._logits(inputs, narrow)
        if not kept:
            return cross_entropy(logits[rows], targets)
        needs_gradient = self._model.training
        if needs_gradient and not self._head_is_frozen:
            return cross_entropy(logits, targets)
        # Only the shape of ``logits`` is used: MLX is lazy, so they are never computed.
        return sliced_losses(
            head, kept[0], targets, vocabulary=logits.shape[-1], needs_gradient=needs_gradient
        )

    def _logits(self, inputs: mx.array, override: Callable[[Callable], object]) -> mx.array:
        """The model's logits (rows, V), its backbone's call replaced by ``override``."""
        self._backbone_override = override
        try:
            if self._positions is None:
                logits = self._model(inputs)
            else:
                with self._packed_rows.cache(self._model, self._positions) as cache:
                    logits = self._model(inputs, cache=cache)
        finally:
            self._backbone_override = None
        return logits.reshape(-1, logits.shape[-1])

    def _run_backbone(self, call: Callable, *args: object, **kwargs: object) -> object:
        """The backbone's call, or its override with the call as argument."""
        backbone = partial(call, *args, **kwargs)
        return self._backbone_override(backbone) if self._backbone_override else backbone()


def backbone_of(model: nn.Module) -> nn.Module | None:
    """The module that holds the layers and not the head; None where the model has no such one."""
    layers = model.layers
    others = (module for module in model.modules() if module is not model)
    return next((module for module in others if module.get("layers") is layers), None)


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute each layer's activations in the backward pass instead of keeping them.

    Changes this model's layers only, never their class.
    """

    def recompute(call: Callable, layer: nn.Module, *args: object, **kwargs: object) -> object:
        def run(parameters: dict, *args: object, **kwargs: object) -> object:
            layer.update(parameters)
            return call(layer, *args, **kwargs)

        return mx.checkpoint(run)(layer.trainable_parameters(), *args, **kwargs)

    for layer in layers_of(model):
        override_call(layer, recompute)


def build_train_step(
    model: nn.Module, optimizer: optim.Optimizer, *, max_grad_norm: float, compiled: bool
) -> tuple[TrainStep, Evaluate]:
    """The train step and the validation loss of one session.

    The loss of a step is the mean over all its completion tokens, however they are spread over its
    micro-batches, so accumulation gives what one large batch would. A step without a single one
    has loss 0 and changes nothing but the optimizer's own decay.

    Arguments:
        model: with its trainable parameters set; changed in place by each step.
        optimizer: initialised, its state restored; changed in place by each step.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them as they are.
        compiled: fuse the step with ``mx.compile``.
    """
    loss = loss_of(model)
    loss_and_grad = nn.value_and_grad(model, loss)

    update = update_of(model, optimizer, max_grad_norm)
    if compiled:
        # The model's state is an output of both, else tracing would leave its tracers in it.
        changes = [model.state, mx.random.state]
        loss_and_grad = partial(mx.compile, inputs=changes, outputs=changes)(loss_and_grad)
        changes = [model.state, optimizer.state]
        update = partial(mx.compile, inputs=changes, outputs=changes)(update)

    def train_step(batches: Sequence[Batch]) -> Update:
        total = total_tokens(batches)
        loss_sum, grads = loss_and_grad(*arrays_of(batches[0]), total)
        for batch in batches[1:]:
            # A barrier: without it the activations of all micro-batches would be alive at once.
            mx.eval(loss_sum, grads)
            more_loss, more_grads = loss_and_grad(*arrays_of(batch), total)
            loss_sum, grads = loss_sum + more_loss, tree_map(mx.add, grads, more_grads)
        norm = update(grads)
        state = [model.trainable_parameters(), optimizer.state, mx.random.state]
        mx.async_eval(loss_sum, norm, state)
        return Update(loss_sum, norm, state)

    return train_step, _evaluate_by(model, loss)


def update_of(
    model: nn.Module, optimizer: optim.Optimizer, max_grad_norm: float
) -> Callable[[dict], mx.array]:
    """A function that takes gradients, changes model and optimizer, and gives the gradients' norm.

    Arguments:
        max_grad_norm: as of :func:`build_train_step`.
    """

    def update(grads: dict) -> mx.array:
        if max_grad_norm > 0:
            grads, norm = optim.clip_grad_norm(grads, max_grad_norm)
        else:
            _, norm = optim.clip_grad_norm(grads, float("inf"))
        optimizer.update(model, grads)
        return norm

    return update


def build_evaluate(model: nn.Module) -> Evaluate:
    """The loss of a model that is not trained here: to the bit that of its session."""
    return _evaluate_by(model, loss_of(model))


Loss = Callable[..., mx.array]  # of mx.arrays alone


def loss_of(model: nn.Module) -> Loss:
    """A micro-batch's part of the mean loss: :func:`arrays_of` it, then all tokens that count."""
    predicted_losses = PredictedLosses(model)

    def loss(
        inputs: mx.array, rows: mx.array, targets: mx.array, weights: mx.array, *rest: mx.array
    ) -> mx.array:
        *positions, total = rest
        return (predicted_losses(inputs, rows, targets, *positions) * weights).sum() / total

    return loss


def _evaluate_by(model: nn.Module, loss: Loss) -> Evaluate:
    def evaluate(
        batches: Sequence[Batch], after_batch: Callable[[int], None] = lambda _: None
    ) -> float:
        was_training = model.training
        model.eval()
        try:
            total, loss_sum = total_tokens(batches), 0.0
            for done, batch in enumerate(batches, 1):
                loss_sum += float(loss(*arrays_of(batch), total).item())  # type: ignore[arg-type]
                after_batch(done)
        finally:
            model.train(was_training)
        return loss_sum

    return evaluate


def arrays_of(batch: Batch) -> tuple[mx.array, ...]:
    """Inputs, rows, targets and weights; of packed rows positions too."""
    packed = () if batch.positions is None else (batch.positions,)
    host = (batch.inputs, batch.rows, batch.targets, batch.weights, *packed)
    return tuple(mx.array(array) for array in host)  # type: ignore[arg-type]  # any buffer will do


def total_tokens(batches: Sequence[Batch]) -> mx.array:
    return mx.array(max(sum(batch.num_tokens for batch in batches), 1), mx.float32)
