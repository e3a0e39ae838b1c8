"""The reports of ``trainer=mlx_lm``: a callback that mlx-lm calls at each step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from lab.config.keys import Config
from lab.protocol import Outcome
from lab.records.growth import Trend
from lab.records.slope import SlopeWindow
from lab.train import memory, reload_policy
from lab.train.channel import Channel
from lab.train.mlx_lm_data import num_loss_tokens
from lab.train.progress import Progress
from lab.train.reload_policy import PolicyState
from lab.train.reporter import Reporter

MlxLmBatch = tuple[mx.array, mx.array]  # token ids (B, L); offset and length of each (B, 2)
NO_STATE = "trainer=mlx_lm keeps no state to go on from"


class StepCallback:
    """Observes each batch and the end of each optimizer step, and reports them; changes neither.

    Arguments:
        progress: its step is incremented.

    Attributes:
        step_ended: when the last step was reported, by ``time.perf_counter``.
        is_saving: ``train()`` is between two steps, so it can only be writing a file.
    """

    def __init__(
        self, config: Config, channel: Channel, reporter: Reporter, progress: Progress
    ) -> None:
        self._config, self._channel, self._reporter = config, channel, reporter
        self._progress = progress
        self._triggers = reload_policy.active_triggers(config.reload)
        self._slope = SlopeWindow(config.reload.window_steps)
        self._growth = memory.growth_test(config.memory)
        self.step_ended, self.is_saving = 0.0, False
        self._begin_step()

    def iterate_batches(self, *, loop: bool = False, **how: Any) -> Iterator[MlxLmBatch]:
        """mlx-lm's own batches; the training ones, which come with ``loop``, are observed."""
        from mlx_lm.tuner.trainer import iterate_batches

        batches = iterate_batches(loop=loop, **how)
        return self._observed(batches) if loop else batches

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        """Called before the update of the step that it belongs to."""
        self._val_loss, self._val_seconds = info["val_loss"], info["val_time"]

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        """Called after each optimizer step, which is evaluated.

        Raises:
            StopTraining: the loss is not finite, or the run was told to stop.
        """
        seconds = time.perf_counter() - self._began - self._val_seconds
        self._progress.step += 1
        step = self._progress.step
        row = {
            "step": step,
            "loss": info["train_loss"],
            "tokens": self._tokens,
            "learning_rate": info["learning_rate"],
            "grad_norm": None,  # mlx-lm does not know it
            "step_seconds": seconds,
            "tokens_per_second": self._tokens / seconds,
            "data/padded_fraction": self._padded / self._cells,
        }
        if self._val_loss is not None:
            row["val_loss"] = self._val_loss
        reading, slope, trend = self._reporter.step_row(row, self._slope, self._growth, reloads=0)
        self._channel.flush()
        if self._reporter.has_diverged(step, info["train_loss"], None):
            raise StopTraining(Outcome.NONFINITE)
        self._skip_reload(step, reading.metric(self._config.reload.metric), slope, trend)
        if self._channel.stopping and step < self._config.train.steps:
            text = f"{NO_STATE}: a resumed run begins again at step 1"
            self._reporter.warn_once("resume", text)
            raise StopTraining(Outcome.STOPPED)
        self.step_ended, self.is_saving = time.perf_counter(), True

    def _observed(self, batches: Iterator[MlxLmBatch]) -> Iterator[MlxLmBatch]:
        every = self._config.train.grad_accumulation_steps
        number = 0
        while True:
            if number % every == 0:
                self.is_saving = False
                self._report_save()
                self._reporter.crash_on_purpose(self._progress.step + 1)
                self._begin_step()
            batch, lengths = next(batches)
            self._count(batch.shape[1], lengths.tolist())  # type: ignore[arg-type]
            number += 1
            yield batch, lengths

    def _begin_step(self) -> None:
        self._val_loss, self._val_seconds = None, 0.0
        self._tokens = self._padded = self._cells = 0
        self._began = time.perf_counter()

    def _count(self, width: int, lengths: list[tuple[int, int]]) -> None:
        """Count loss tokens and padding as the lab does; mlx-lm's loss has a padding token more."""
        for prompt, length in lengths:
            self._tokens += num_loss_tokens(prompt, length)
            self._padded += width - 1 - min(length, width - 1)
            self._cells += width - 1

    def _report_save(self) -> None:
        """Send the ``checkpoint`` event of a file that ``train()`` saved after the last step."""
        every, step = self._config.checkpoint.interval_steps, self._progress.step
        if not (self._config.checkpoint.enabled and every and step and step % every == 0):
            return
        iteration = step * self._config.train.grad_accumulation_steps
        file = self._reporter.checkpoints / "mlx_lm" / f"{iteration:07d}_adapters.safetensors"
        self._channel.event(
            "checkpoint",
            step,
            seconds=time.perf_counter() - self.step_ended,
            bytes=2 * file.stat().st_size,  # mlx-lm writes it under two names
            for_reload=False,
        )

    def _skip_reload(
        self, step: int, metric: int | None, slope: float | None, trend: Trend | None
    ) -> None:
        reason = reload_policy.reload_reason(
            self._triggers,
            PolicyState(),
            step=step,
            last_step=self._config.train.steps,
            memory=metric,
            slope=slope,
            grows=reload_policy.growth_counts(self._config, trend),
        )
        if reason is not None:
            self._reporter.skip_reload(step, reason, NO_STATE)


class StopTraining(Exception):  # noqa: N818
    """Raised by the callback to leave ``train()`` between two steps."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome
