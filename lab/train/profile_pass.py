"""A profile pass: the parts of a step done again, each waited for; the session stays as it was.

Whole, the step is split into graph, forward, backward and update. By module, the forward pass stops
at each module that is known, and the module's own forward and backward pass are measured apart, on
the inputs that it has in the step.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from lab.data.batches import Batch
from lab.records.profile import BACKWARD, FORWARD, PASS, WHOLE, Span
from lab.train.model_files import layers_of
from lab.train.patch import calls_restored, override_call
from lab.train.session import Session
from lab.train.stateful import RandomState
from lab.train.step import arrays_of, backbone_of, loss_of, total_tokens, update_of

# Of a module's name and its class together, the first that matches: ``post_attention_layernorm`` is
# a norm. What matches none is looked into.
KINDS = {
    "norm": r"norm|\bln_",
    "embedding": r"embed|\bw[tp]e\b",
    "attention": r"attn|attention",
    "mlp": r"mlp|feed_forward|ffn|moe",
    "head, loss": r"head",
}


class Meter:
    """Measures parts of a step: each is waited for, and its memory read before and after.

    Arguments:
        clock: seconds since the run's start.

    Attributes:
        spans: measured so far.
    """

    def __init__(self, step: int, clock: Callable[[], float]) -> None:
        self.spans: list[Span] = []
        self._step, self._clock = step, clock

    @contextmanager
    def span(
        self, track: str, name: str, detail: str = "", *, keeps: bool = True
    ) -> Iterator[None]:
        """Measure what is done within, which must evaluate it.

        Arguments:
            keeps: False where what is alive at the end would be freed in a real step.
        """
        mx.synchronize()  # what was freed is then no longer counted
        active = mx.get_active_memory()
        mx.reset_peak_memory()
        start, began = self._clock(), time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        mx.synchronize()
        self.spans.append(
            Span(
                track=track,
                name=name,
                detail=detail,
                step=self._step,
                start=start,
                seconds=seconds,
                active=active,
                kept=mx.get_active_memory() - active if keeps else 0,
                peak=max(mx.get_peak_memory() - active, 0),
            )
        )


@contextmanager
def unchanged(session: Session) -> Iterator[None]:
    """Put model, optimizer and random numbers back at the end, to the very arrays.

    Meanwhile there are copies in their place, so that an update can reuse their memory as a real
    one does.
    """
    rng = RandomState()
    model, key = session.model, rng.state_dict()
    trained, state = model.trainable_parameters(), list(_leaves(session.optimizer.state))
    model.update(tree_map(_copy, trained))
    for holder, name, array in state:
        holder[name] = _copy(array)
    try:
        mx.eval(model.trainable_parameters(), session.optimizer.state)
        yield
    finally:
        model.update(trained)
        for holder, name, array in state:
            holder[name] = array
        rng.load_state_dict(key)


def _copy(array: mx.array) -> mx.array:
    return array + mx.zeros((), array.dtype)


def _leaves(tree: Any) -> Iterator[tuple[Any, Any, mx.array]]:
    """Each array in a tree of dicts and lists, with what holds it and its name there."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, value in list(items):
        if isinstance(value, mx.array):
            yield tree, name, value
        elif isinstance(value, dict | list):
            yield from _leaves(value)


def measure_step(
    session: Session, batches: Sequence[Batch], meter: Meter, max_grad_norm: float
) -> None:
    """Measure a step whole, as it is trained, and its graph, forward, backward and update.

    Call it within :func:`unchanged`.
    """
    with meter.span(PASS, WHOLE):
        session.train_step(batches).evaluate()
    model, optimizer, total = session.model, session.optimizer, total_tokens(batches)
    with calls_restored(model):
        loss_and_grad = nn.value_and_grad(model, loss_of(model))
        summed: Any = None
        for batch in batches:
            arrays = arrays_of(batch)
            mx.eval(arrays)
            with meter.span(PASS, "graph"):
                loss, grads = loss_and_grad(*arrays, total)
            with meter.span(PASS, "forward, loss"):
                mx.eval(loss)
            with meter.span(PASS, "backward"):
                summed = grads if summed is None else tree_map(mx.add, summed, grads)
                del grads
                mx.eval(summed)
        with meter.span(PASS, "update"):
            norm = update_of(model, optimizer, max_grad_norm)(summed)
            del summed
            mx.eval(norm, model.trainable_parameters(), optimizer.state)


# --- By module ----------------------------------------------------------------------------------


def measure_modules(
    model: nn.Module,
    batches: Sequence[Batch],
    meter: Meter,
    *,
    recomputes: bool,
) -> None:
    """Measure each module's forward and backward pass.

    Arguments:
        recomputes: the layers compute their activations again in the backward pass.
    """
    total = total_tokens(batches)
    for batch in batches:
        arrays = arrays_of(batch)
        mx.eval(arrays)
        with calls_restored(model):
            _ModulePass(model, meter, recomputes=recomputes).run(*arrays, total)


def known_modules(model: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """By path: the kind of each outermost module that is known, and the module.

    A layer is none, nor what holds layers, whatever their class is called (``OlmoeModel``).
    """
    found: dict[str, tuple[str, nn.Module]] = {}
    layers = {id(layer) for layer in layers_of(model)}
    seen: set[int] = set()
    for path, module in sorted(model.named_modules(), key=lambda item: item[0].count(".")):
        *outer, name = path.split(".")
        is_within = any(".".join(outer[: n + 1]) in found for n in range(len(outer)))
        if is_within or id(module) in seen or layers & {id(inner) for inner in module.modules()}:
            continue
        own_class = type(module).__name__.lower().replace("moe", "")  # it may be the model's
        words = f"{name} {own_class}"
        kind = next((kind for kind, known in KINDS.items() if re.search(known, words)), None)
        if kind:
            found[path] = kind, module
            seen.add(id(module))
    return found


class _ModulePass:
    """One forward pass of a model that stops at its modules."""

    def __init__(self, model: nn.Module, meter: Meter, *, recomputes: bool) -> None:
        self._meter, self._recomputes = meter, recomputes
        self._needs_gradient = False  # of what comes next: a trained module came before
        self._hidden: mx.array | None = None
        known, backbone = known_modules(model), backbone_of(model)
        self._heads = [m for kind, m in known.values() if kind == "head, loss"] or [
            m
            for kind, m in known.values()
            if kind == "embedding"  # they are tied
        ]
        for path, (kind, module) in known.items():
            if kind != "head, loss" or backbone is None:
                override_call(module, self._stop_at(kind, path, in_layer="layers." in path))
        if backbone is not None:
            override_call(backbone, self._run_backbone)
        self._loss = loss_of(model)

    def run(self, *arrays: mx.array) -> None:
        loss = self._loss(*arrays)
        if self._hidden is None:
            self._evaluate(loss)
            return
        hidden = self._hidden

        def head(given: mx.array) -> mx.array:
            self._hidden = given
            return self._loss(*arrays)

        del loss
        self._measure("head, loss", "", self._heads, head, hidden)

    def _run_backbone(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        """The backbone's output; the second time, of the head alone, what that is given."""
        if self._hidden is not None:
            return self._hidden
        hidden = call(*args, **kwargs)
        if isinstance(hidden, mx.array):
            self._evaluate(hidden)
            self._hidden = hidden
        return hidden

    def _stop_at(self, kind: str, path: str, *, in_layer: bool) -> Callable:
        def stop(call: Callable, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._evaluate(args, kwargs)
            first = args[0] if args else None
            rest = args[1:]
            keeps = not (self._recomputes and in_layer)
            self._measure(
                kind, path, [module], lambda x: call(module, x, *rest, **kwargs), first, keeps=keeps
            )
            out = call(module, *args, **kwargs)
            mx.eval(_arrays_in(out))
            return out

        return stop

    def _evaluate(self, *trees: Any) -> None:
        """Evaluate what was computed between two modules."""
        with self._meter.span(FORWARD, "other", keeps=False):
            mx.eval(_arrays_in(trees))

    def _measure(
        self,
        kind: str,
        path: str,
        modules: Sequence[nn.Module],
        function: Callable[[Any], Any],
        first: Any,
        *,
        keeps: bool = True,
    ) -> None:
        """Measure a function of a module's first argument, backward for all that is trained."""
        trees = [module.trainable_parameters() for module in modules]
        trained = tree_flatten(trees)
        primals: list[mx.array] = [array for _, array in trained]  # type: ignore[misc]
        self._needs_gradient |= bool(primals)
        by_input = self._needs_gradient and _is_floating(first)
        if by_input:
            primals.append(first)
        if not primals:
            out = function(first)
            with self._meter.span(FORWARD, kind, path, keeps=False):
                mx.eval(_arrays_in(out))
            return

        def pure(*given: mx.array) -> list[mx.array]:
            names = [name for name, _ in trained]
            values = list(zip(names, given, strict=False))
            if values:
                for module, tree in zip(modules, tree_unflatten(values), strict=False):
                    module.update(tree)
            out = function(given[-1] if by_input else first)
            return [array for array in _arrays_in(out) if _is_floating(array)]

        try:
            cotangents = [mx.ones(a.shape, a.dtype) for a in pure(*primals)]
            outs, grads = mx.vjp(pure, primals, cotangents)
        finally:
            for module, tree in zip(modules, trees, strict=True):
                module.update(tree)
        with self._meter.span(FORWARD, kind, path, keeps=keeps):
            mx.eval(outs)
            del outs
        with self._meter.span(BACKWARD, kind, path, keeps=False):
            mx.eval(grads)
            del grads, cotangents


def _arrays_in(tree: Any) -> list[mx.array]:
    return [leaf for _, leaf in tree_flatten(tree) if isinstance(leaf, mx.array)]


def _is_floating(value: Any) -> bool:
    return isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
