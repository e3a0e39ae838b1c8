"""Per-step reporting shared by both trainers: metrics row, leak warning, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.config.keys import Config
from lab.config.units import MB
from lab.protocol import RecordKind
from lab.records.growth import GrowthTest, Trend
from lab.records.slope import SlopeWindow
from lab.train import checkpoint, memory, reload_policy
from lab.train.channel import Channel
from lab.train.checkpoint import Snapshot


class Reporter:
    """Reports the steps of one worker process to its supervisor.

    Arguments:
        checkpoints: the run's folder of checkpoints.
        generation: worker processes of this run before this one.
        clock: seconds since the run's start, restarts included.
    """

    def __init__(
        self,
        config: Config,
        channel: Channel,
        *,
        checkpoints: Path,
        generation: int,
        clock: Callable[[], float],
    ) -> None:
        self.checkpoints = checkpoints
        self._config, self._channel = config, channel
        self._generation, self._clock = generation, clock
        self._warned_of: set[str] = set()
        self._heap = memory.HeapReader()

    def step_row(
        self, row: Mapping[str, Any], window: SlopeWindow, growth: GrowthTest, *, reloads: int
    ) -> tuple[memory.Reading, float | None, Trend | None]:
        """Read memory and hold the row of a step, which is sent with the next record.

        Arguments:
            row: the step's own keys: step, loss, tokens, seconds.
            window, growth: the reading is added to them.
            reloads: number of reloads before this step.

        Returns:
            The reading; the slope of the chosen metric in bytes per step, None if not yet known;
            and growth, None if it is not certain.
        """
        reading = memory.read()
        slope = window.add(reading.metric(self._config.reload.metric))
        trend = growth.add(
            row["step"],
            active=reading.active,
            cache=reading.cache,
            process=reading.process,
            heap=self._heap.read(reading),
        )
        self._channel.hold(
            RecordKind.ROW,
            **row,
            **reading.row(),
            **{
                "time": self._clock(),
                "memory/slope_mb_per_step": None if slope is None else slope / MB,
                "memory/trend_mb_per_step": None if trend is None else trend.bytes_per_step / MB,
                "reload/count": reloads,
                "reload/generation": self._generation,
            },
        )
        if reload_policy.growth_counts(self._config, trend):
            self._warn_of_leak(slope)
        return reading, slope, trend

    def has_diverged(self, step: int, loss: float, grad_norm: float | None) -> bool:
        """Send a ``nonfinite`` event where it applies; whether the run must stop for it."""
        if all(math.isfinite(value) for value in (loss, grad_norm) if value is not None):
            return False
        what = "gradient" if math.isfinite(loss) else "loss"
        norm = None if grad_norm is None else repr(grad_norm)
        self._channel.event("nonfinite", step, what=what, loss=repr(loss), grad_norm=norm)
        if self._config.train.on_nonfinite == "continue":
            return False
        text = f"the {what} is no longer finite at step {step}"
        self._channel.send(RecordKind.ERROR, text=text, trace="")
        return True

    def skip_reload(self, step: int, reason: reload_policy.Reason, why: str) -> None:
        """Report a reload that is due and cannot be done."""
        self._channel.event("reload_skipped", step, reason=reason)
        self.warn_once("reloads", f"reloads are skipped: {why}")

    def save(
        self,
        snapshot: Snapshot,
        adapter_config: Mapping[str, object],
        *,
        for_reload: bool = False,
        began: float | None = None,
    ) -> bool:
        """Write a checkpoint; a full disk or an unwritable folder does not end the run.

        Arguments:
            for_reload: the checkpoint's time counts as the reload's.
            began: when saving began, by ``time.perf_counter``; by default now.

        Returns:
            Whether it was written.

        Raises:
            BrokenPipeError: the supervisor is gone.
        """
        step, began = snapshot.step, time.perf_counter() if began is None else began
        try:
            folder = checkpoint.save(
                self.checkpoints,
                snapshot,
                adapter_config,
                before_rename=lambda: self._channel.wait_until_written(step),
                clock=self._clock,
            )
        except BrokenPipeError:
            raise
        except (OSError, RuntimeError) as error:  # MLX's writer raises RuntimeError
            self.save_failed(step, error)
            return False
        self._channel.event(
            "checkpoint",
            step,
            seconds=time.perf_counter() - began,
            bytes=sum(file.stat().st_size for file in folder.iterdir()),
            for_reload=for_reload,
        )
        checkpoint.prune(self.checkpoints, self._config.checkpoint.keep, newest=step)
        return True

    def save_failed(self, step: int, error: Exception) -> None:
        self._channel.event("checkpoint", step, error=str(error))
        self._channel.send(RecordKind.WARNING, text=f"checkpoint of step {step} failed: {error}")

    def warn_once(self, subject: str, text: str) -> None:
        """Send a warning, unless one on this subject was sent."""
        if subject not in self._warned_of:
            self._warned_of.add(subject)
            self._channel.send(RecordKind.WARNING, text=text)

    def crash_on_purpose(self, step: int) -> None:
        """Raise at the step of ``fault.crash.step``."""
        crash = self._config.fault.crash
        if crash is not None and step == crash.step:
            raise RuntimeError(f"fault.crash: step {step} was reached")

    def _warn_of_leak(self, slope: float | None) -> None:
        limit = self._config.memory.leak_warning_mb
        if limit and slope is not None and slope > limit * MB:
            text = f"memory grows by {slope / MB:.2f} MB a step (memory.leak_warning_mb={limit:g})"
            self.warn_once("leak", text)
