"""The lab's own trainer: one session after another in a worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from lab.data.batches import Batch
from lab.explain import watch_calls
from lab.explain.explainer import Explainer
from lab.protocol import Outcome, RecordKind
from lab.train import checkpoint, memory, stateful
from lab.train.channel import Channel
from lab.train.checkpoint import Arrays, CheckpointError
from lab.train.loop import Loop
from lab.train.progress import Progress
from lab.train.reporter import Reporter
from lab.train.session import Session, TrainingContext

if TYPE_CHECKING:
    from lab.train.profiler import Profiler


class LabTrainer:
    """Trains a session, and after each reload in process a new one."""

    def __init__(
        self, context: TrainingContext, channel: Channel, reporter: Reporter, resume_from: int
    ) -> None:
        """Open a session from the newest good checkpoint.

        Arguments:
            resume_from: the newest step whose checkpoint may be used.

        Raises:
            ConfigError: the model cannot be built.
        """
        self._context, self._channel, self._reporter = context, channel, reporter
        self._explainer = _explainer(context, channel)
        self._profiler = _profiler(context, channel)
        self._session = self._open(resume_from)

    @property
    def progress(self) -> Progress:
        return self._session.progress

    @property
    def model(self) -> nn.Module:
        return self._session.model

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state."""
        return stateful.tree_bytes(self._session.optimizer.state)

    def weights(self) -> Arrays:
        """The trained parameters by name."""
        return self._session.weights()

    def evaluate(self, batches: Sequence[Batch], after_batch: Callable[[int], None]) -> float:
        """The mean loss over tokens, with the weights as they are."""
        return self._session.evaluate(batches, after_batch)

    def run(self) -> Outcome:
        """Train until the run ends, is stopped, or another process is to take over."""
        loop = Loop(self._context, self._channel, self._reporter, self._explainer, self._profiler)
        while True:
            outcome, pending = loop.run(self._session), self.progress.pending
            if outcome is not Outcome.RELOAD or not pending or pending.method != "in_process":
                return outcome
            del self._session  # before the next is built: two would not fit into memory
            memory.release_unused()
            self._session = self._open(pending.step)

    def _open(self, resume_from: int) -> Session:
        """A session from the newest good checkpoint, or a new one where there is none."""
        folder = self._reporter.checkpoints
        for step in reversed([s for s in checkpoint.steps(folder) if s <= resume_from]):
            try:
                return Session(self._context, folder / f"step_{step}")
            except CheckpointError as error:
                self._channel.send(RecordKind.WARNING, text=f"checkpoint skipped: {error}")
        return Session(self._context)


def _profiler(context: TrainingContext, channel: Channel) -> Profiler | None:
    if not context.config.profiler.steps:
        return None
    from lab.train.profiler import Profiler  # here: a run that is not profiled does without

    return Profiler(context, channel)


def _explainer(context: TrainingContext, channel: Channel) -> Explainer | None:
    """The explainer, watching what is compiled from now on."""
    if not context.config.explain.enabled:
        return None

    def send(explanation: dict[str, object]) -> None:
        channel.send(RecordKind.EXPLAIN, explanation=explanation)

    def warn(text: str) -> None:
        channel.send(RecordKind.WARNING, text=text)

    return Explainer(
        watch_calls.watch(),
        send,
        shared=not mx.cuda.is_available(),
        cache_is_cleared=context.config.memory.cache_clear_interval > 0,
        warn=warn,
    )
