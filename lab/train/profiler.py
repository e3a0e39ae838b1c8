"""The profiler: times the steps of its window as they are trained, then splits them in a pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import mlx.core as mx
import mlx.nn as nn

from lab.data.batches import Batch
from lab.protocol import RecordKind
from lab.records.profile import LOOP, RELOAD, Span
from lab.train import memory
from lab.train.channel import Channel
from lab.train.evaluation import telling
from lab.train.profile_pass import Meter, measure_modules, measure_step, unchanged
from lab.train.session import Session, TrainingContext


class Profiler:
    """Times the loop of the profiled steps and, after the last of them, the parts of a step.

    The steps are trained as ever: only the time is read meanwhile. The pass comes after them, on
    their batches, and leaves the session as it was; what a run learns does not depend on it.
    """

    def __init__(self, context: TrainingContext, channel: Channel) -> None:
        config = context.config
        self._config, self._channel, self._clock = config, channel, context.clock
        last = config.train.steps
        self._first = min(config.profiler.warmup_steps + 1, last)
        self._last = min(self._first + config.profiler.steps - 1, last)
        self._step, self._began = 0, 0.0
        self._spans: list[Span] = []
        self._batches: dict[int, list[Batch]] = {}
        self._tells_modules_apart = True

    def begin_step(self, step: int) -> None:
        self._step, self._began = step, self._clock()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time what is done within, if this step is profiled."""
        start, began = self._clock(), time.perf_counter()
        yield
        self._add(LOOP, name, start, time.perf_counter() - began)

    def add_reload(self, start: float, end: float) -> None:
        """Add the reload before this step, if this step is profiled."""
        self._add(RELOAD, "reload", start, end - start)

    def _add(self, track: str, name: str, start: float, seconds: float) -> None:
        if self._first <= self._step <= self._last:
            self._spans.append(
                Span(track=track, name=name, step=self._step, start=start, seconds=seconds)
            )

    def end_step(self, session: Session, batches: list[Batch], *, goes_on: bool) -> None:
        """Send what was timed; after the last profiled step measure the parts of a step.

        Arguments:
            goes_on: False where the session ends with this step before the run does.
        """
        self._add(LOOP, "step", self._began, self._clock() - self._began)
        if self._first <= self._step <= self._last:
            self._batches[self._step] = batches
        if self._spans and (self._step == self._last or not goes_on):
            # Not at every step: it would send the row too, at another time than it is sent.
            self._send(self._spans)
            self._spans = []
        if goes_on and self._step >= self._last and self._batches:
            self._measure(session)

    def _measure(self, session: Session) -> None:
        config, model = self._config, session.model
        tell = telling(self._channel, config, f"profiling {len(self._batches)} steps")
        with unchanged(session):
            for done, (step, batches) in enumerate(self._with_warm_up()):
                meter = Meter(step, self._clock)
                measure_step(session, batches, meter, config.train.max_grad_norm)
                tell(done)
                spans = meter.spans + self._by_module(model, batches, Meter(step, self._clock))
                if done:
                    self._send(spans)
                tell(done)
                if self._channel.stopping:
                    break
        self._batches.clear()
        memory.release_unused()
        mx.reset_peak_memory()

    def _by_module(self, model: nn.Module, batches: list[Batch], meter: Meter) -> list[Span]:
        """The spans of each module; none where this model's cannot be told apart."""
        if not self._tells_modules_apart:
            return []
        try:
            recomputes = self._config.train.grad_checkpoint
            measure_modules(model, batches, meter, recomputes=recomputes)
        except Exception as error:  # noqa: BLE001 - a model's own modules may take anything
            self._tells_modules_apart = False
            text = f"the model's modules could not be profiled one by one: {error!r}"
            self._channel.send(RecordKind.WARNING, text=text)
            return []
        return meter.spans

    def _with_warm_up(self) -> Iterator[tuple[int, list[Batch]]]:
        """The steps and their batches, before them the first one to be thrown away."""
        steps = list(self._batches.items())
        yield from (*steps[:1], *steps)

    def _send(self, spans: Sequence[Span]) -> None:
        self._channel.send(RecordKind.PROFILE, spans=[asdict(span) for span in spans])
