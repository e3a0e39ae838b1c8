"""The training loop: step, measure, log, save, and leave for a reload where one is due."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from lab.config.units import GB
from lab.data.batches import Batch
from lab.explain.explainer import Explainer
from lab.faults.fault import Moment
from lab.protocol import METHODS, Outcome, RecordKind
from lab.records.growth import Trend
from lab.records.rows import metric_gb
from lab.records.slope import median
from lab.train import adapters, memory, optimizers, reload_policy
from lab.train.channel import Channel
from lab.train.evaluation import telling
from lab.train.progress import PendingReload
from lab.train.remedies import Remedies
from lab.train.reporter import Reporter
from lab.train.session import Session, SessionTimes, TrainingContext

if TYPE_CHECKING:
    from lab.train.profiler import Profiler


class Loop:
    """Trains one session at a time, until the run ends or the session must be replaced."""

    def __init__(
        self,
        context: TrainingContext,
        channel: Channel,
        reporter: Reporter,
        explainer: Explainer | None = None,
        profiler: Profiler | None = None,
    ) -> None:
        self._context, self._channel, self._reporter = context, channel, reporter
        self._explainer, self._profiler = explainer, profiler
        self._config = context.config
        self._triggers = reload_policy.active_triggers(self._config.reload)
        adapts = self._config.reload.policy == "adaptive"
        self._remedies = Remedies(self._config, channel) if adapts else None
        self._armed: set[str] = set()  # names of faults

    def run(self, session: Session) -> Outcome:
        """Step until the run ends, is stopped, or needs a new session."""
        try:
            return self._run(session)
        finally:
            self._channel.flush()

    def _run(self, session: Session) -> Outcome:
        data, progress = self._context.data.train, session.progress
        batches = data.step(progress.step + 1)
        while progress.step < self._config.train.steps:
            began = time.perf_counter()
            progress.step += 1
            if self._profiler is not None:
                self._profiler.begin_step(progress.step)
            self._reporter.crash_on_purpose(progress.step)
            with self._timed("dispatch"):
                update = session.train_step(batches)
            # The step runs asynchronously: the last row is sent and the next batch made meanwhile.
            with self._timed("row"):
                self._channel.flush()
            with self._timed("batch"):
                following = data.step(progress.step + 1)
            with self._timed("evaluate"):
                loss, grad_norm = update.evaluate()
            seconds = time.perf_counter() - began
            outcome = self._finish_step(session, batches, loss, grad_norm, seconds)
            if self._profiler is not None:
                self._profiler.end_step(session, batches, goes_on=outcome is None)
            if outcome is not None:
                return outcome
            batches = following
        return Outcome.FINISHED

    def _finish_step(
        self, session: Session, batches: list[Batch], loss: float, grad_norm: float, seconds: float
    ) -> Outcome | None:
        progress, step = session.progress, session.progress.step
        row = _step_row(session, batches, loss, grad_norm, seconds)
        if validates := self._validates(step):
            seen = self._context.validation
            tell = telling(self._channel, self._config, f"validating, {len(seen):,} batches")
            with self._timed("validation"):
                row["val_loss"] = session.evaluate(seen, tell)
        self._grow_on_purpose(session, batches, validates=validates)
        with self._timed("probe"):
            reading, slope, trend = self._reporter.step_row(
                row, session.slope, session.growth, reloads=progress.reloads
            )
        self._report_reload(session, reading, seconds)
        if self._remedies:
            self._remedies.see_step(session, reading, seconds)
        session.step_seconds.append(seconds)
        if self._explainer is not None:
            remedy = self._explainer.after_step(session, step, reading, trend)
            if remedy is not None and self._remedies:
                self._remedies.foresee(session, remedy)
        self._clear_cache(step, reading)
        if self._reporter.has_diverged(step, loss, grad_norm):
            return Outcome.NONFINITE
        return self._save_or_leave(session, reading, slope, trend)

    def _save_or_leave(
        self, session: Session, reading: memory.Reading, slope: float | None, trend: Trend | None
    ) -> Outcome | None:
        """Save a checkpoint where one is due; the outcome where the session ends with this step."""
        progress, step = session.progress, session.progress.step
        stopping, last = self._channel.stopping, step == self._config.train.steps
        reason, method = None, self._config.reload.method
        if self._channel.over_budget and not (stopping or last):
            reason, method = "budget", "process"
        elif not stopping:
            reason, method = self._due_reload(session, reading, slope, trend)
        if reason is not None:
            if method == "process":
                # The next worker can start while this one saves.
                self._channel.send(RecordKind.LEAVING)
            progress.reloads += 1
            progress.pending = PendingReload(
                step=step,
                reason=reason,
                method=method,
                before=reading.row(),
                decided_at=self._context.clock(),
                median_step_seconds=median(session.step_seconds),
            )
        every = self._config.checkpoint.interval_steps
        wanted = bool(reason) or stopping or last or (every > 0 and step % every == 0)
        saved = wanted and self._config.checkpoint.enabled and self._save(session)
        if reason is not None and not saved:
            progress.reloads, progress.pending = progress.reloads - 1, None
            reason = None
        if last and self._config.checkpoint.enabled and not saved:
            return Outcome.UNSAVED
        if stopping and not last:
            return Outcome.STOPPED
        return Outcome.RELOAD if reason else None

    def _due_reload(
        self, session: Session, reading: memory.Reading, slope: float | None, trend: Trend | None
    ) -> tuple[reload_policy.Reason | None, str]:
        """Why to reload after this step and by which method; a lesser remedy is taken here."""
        step, last = session.progress.step, self._config.train.steps
        method = self._config.reload.method
        reason: reload_policy.Reason | None = reload_policy.reload_reason(
            self._triggers,
            session.progress.policy,
            step=step,
            last_step=last,
            memory=reading.metric(self._config.reload.metric),
            slope=slope,
            grows=reload_policy.growth_counts(self._config, trend),
        )
        if reason is None and self._remedies and step < last:
            rung = self._remedies.after_step(session, reading, trend)
            if rung is not None:
                reason, method = "adaptive", METHODS[rung]
        if reason is None or self._config.checkpoint.enabled:
            return reason, method
        why = "with checkpoint.enabled=false a reload could restore nothing"
        self._reporter.skip_reload(step, reason, why)
        return None, method

    def _save(self, session: Session) -> bool:
        with self._timed("checkpoint"):
            return self._reporter.save(
                session.snapshot(),
                adapters.adapter_config(session.model, self._config.adapter),
                for_reload=session.progress.pending is not None,
            )

    def _timed(self, phase: str) -> AbstractContextManager[None]:
        """Time what is done within, where steps are profiled."""
        return nullcontext() if self._profiler is None else self._profiler.span(phase)

    def _report_reload(self, session: Session, reading: memory.Reading, seconds: float) -> None:
        """Send the ``reload`` event, after the first step that follows the reload.

        Earlier there are no activations yet, and every reload would seem to free memory.
        """
        progress, times = session.progress, session.times
        pending = progress.pending
        if pending is None:
            return
        progress.pending = None
        metric = self._config.reload.metric
        progress.policy, ineffective = reload_policy.update_back_off(
            self._triggers,
            progress.policy,
            reloaded_at=pending.step,
            memory=reading.metric(metric),
        )
        after = reading.row()
        parts = {
            **_save_and_drop(pending, times),
            "load": times.ready - times.build_started,
            "first_step": seconds - pending.median_step_seconds,
        }
        if self._remedies:
            self._remedies.reloaded(pending, sum(parts.values()))
        if self._profiler is not None and times.saved is not None:
            self._profiler.add_reload(pending.decided_at, times.ready)
        self._channel.event(
            "reload",
            pending.step,
            reason=pending.reason,
            method=pending.method,
            before=pending.before,
            after=after,
            freed_gb=_freed_gb(pending.before, after, metric),
            seconds=parts,
        )
        if ineffective:
            self._channel.event(
                "reload_ineffective",
                pending.step,
                memory_gb=metric_gb(after, metric),
                threshold_gb=self._config.reload.memory_threshold_gb,
                next_look=progress.policy.next_look,
            )

    def _grow_on_purpose(self, session: Session, batches: list[Batch], *, validates: bool) -> None:
        """Let the run's growth modes act; an event the first time that one does in this worker."""
        if not session.faults:
            return
        moment = Moment(
            step=session.progress.step,
            model=session.model,
            optimizer=session.optimizer,
            batches=batches,
            validation=self._context.validation if validates else (),
            data=self._context.data.train,
        )
        for fault in session.faults:
            if fault.after_step(moment) and fault.name not in self._armed:
                self._armed.add(fault.name)
                growth = dataclasses.asdict(fault.growth)
                self._channel.event("fault_armed", moment.step, fault=fault.name, **growth)

    def _clear_cache(self, step: int, reading: memory.Reading) -> None:
        every = self._config.memory.cache_clear_interval
        if every and step % every == 0:
            with self._timed("cache clear"):
                mx.clear_cache()
            self._channel.event("cache_clear", step, freed_gb=reading.cache / GB)

    def _validates(self, step: int) -> bool:
        every = self._config.train.val_interval_steps
        return every > 0 and (step % every == 0 or step == self._config.train.steps)


def _save_and_drop(pending: PendingReload, times: SessionTimes) -> dict[str, float]:
    """Seconds of the two parts of a reload that another process may have begun.

    None of them where a run goes on from a checkpoint that has no time by the run's clock; nor
    below 0, where the run's last record is older than its checkpoint.
    """
    if times.saved is None:
        return {"save": 0.0, "drop": 0.0}
    return {
        "save": max(times.saved - pending.decided_at, 0.0),
        "drop": max(times.build_started - times.saved, 0.0),
    }


def _step_row(
    session: Session, batches: list[Batch], loss: float, grad_norm: float, seconds: float
) -> dict[str, Any]:
    """The keys of a row of ``metrics.jsonl`` that do not come from the memory reading."""
    progress = session.progress
    progress.truncated += sum(batch.truncated for batch in batches)
    progress.empty += sum(batch.empty for batch in batches)
    tokens = sum(batch.num_tokens for batch in batches)
    padded = sum(batch.padded_cells for batch in batches)
    return {
        "step": progress.step,
        "loss": loss if tokens else None,
        "tokens": tokens,
        "learning_rate": optimizers.learning_rate(session.optimizer),
        "grad_norm": grad_norm,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "data/padded_fraction": padded / sum(batch.cells for batch in batches),
    }


def _freed_gb(
    before: Mapping[str, object], after: Mapping[str, object], metric: str
) -> float | None:
    """How much less a metric of ``reload.metric`` is; None where either was not read."""
    first, second = metric_gb(before, metric), metric_gb(after, metric)
    return None if first is None or second is None else first - second
