"""mlx-lm's own ``train()``, unchanged, in the lab's worker: what users would otherwise run.

It gets the model, adapter, optimizer and schedule that the lab's own loop would get, seeds as
``mlx_lm.lora`` sets them, its own ``CacheDataset`` and ``iterate_batches``, and MLX's default
limits, for ``mlx_lm.lora`` sets none but the wired one. The lab measures from its callback, once an
optimizer step. What users of mlx-lm pay for is in the figures: transformers is imported, all
samples are in memory as JSON objects, and their tokens as Python lists once they were drawn.

mlx-lm saves nothing to go on from but the trained weights, so nothing here can be reloaded or
resumed: a worker that follows another begins again at step 1.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import mlx.core as mx

from lab.config.keys import Config
from lab.data.dataset import Samples
from lab.protocol import Outcome, RecordKind
from lab.records.slope import SlopeWindow
from lab.train import adapters, memory, reload_policy
from lab.train.channel import Channel
from lab.train.reload_policy import PolicyState
from lab.train.reporter import Reporter
from lab.train.session import Progress, Shared, build, snapshot_of, trained_weights

POSITION = "_position"  # added to each sample, as mlx-lm itself does with "_dataset"
MlxLmBatch = tuple[mx.array, mx.array]  # token ids (B, L); offset and length of each (B, 2)
NO_STATE = "trainer=mlx_lm keeps no state to go on from"


def import_mlx_lm() -> None:
    """Import what trains. mlx-lm would bring W&B in where it is installed; the worker must not."""
    for name in ("wandb", "swanlab"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # makes its import fail
    import mlx_lm.tuner.trainer  # noqa: F401


class Baseline:
    """One go at a whole run, from step 1.

    Attributes:
        progress: steps done, and samples drawn that were cut or taught nothing.
    """

    def __init__(
        self, shared: Shared, channel: Channel, reporter: Reporter, go_on_from: int
    ) -> None:
        """Build the model as the lab's trainer does.

        Arguments:
            go_on_from: the step that the run has come to; its rows stay, and are compared.

        Raises:
            ConfigError: the model cannot be built.
        """
        import numpy as np

        if go_on_from:
            text = f"{NO_STATE}: it begins again at step 1; the {go_on_from} rows stay"
            channel.send(RecordKind.WARNING, text=text)
        np.random.seed(shared.config.seed)  # mlx-lm draws the order of batches from it
        self._model, self._optimizer = build(shared)
        self._config, self._data = shared.config, shared.data
        self._channel, self._reporter = channel, reporter
        self.progress = Progress()

    def weights(self) -> dict[str, mx.array]:
        return trained_weights(self._model)

    def run(self) -> Outcome:
        """Train; the outcome is never a reload."""
        config, channel, reporter = self._config, self._channel, self._reporter
        if not config.train.compile:
            mx.disable_compile()
        watch = Watch(config, channel, reporter, self.progress)
        memory.read()  # so that the first step's peak is its own
        try:
            with self._adapter_file() as file, _silent():
                self._train(watch, _arguments(config, file))
        except _Left as left:
            return left.outcome
        except (OSError, RuntimeError) as error:
            if not watch.is_saving:
                raise
            reporter.save_failed(self.progress.step, error)
            return Outcome.UNSAVED
        return self._save(began=watch.step_ended)

    def _train(self, watch: Watch, arguments: Any) -> None:
        from mlx_lm.tuner.datasets import CacheDataset
        from mlx_lm.tuner.trainer import train

        length, data = self._config.train.max_seq_length, self._data
        train(
            self._model,
            self._optimizer,
            CacheDataset(RawSamples(data.train_samples, length, self.progress)),
            CacheDataset(RawSamples(data.val_samples, length, Progress())) if data.val else None,
            arguments,
            iterate_batches=watch.iterate_batches,
            training_callback=watch,  # type: ignore[arg-type]  # all that is asked of one
        )

    def _save(self, began: float) -> Outcome:
        """The run's last checkpoint, in the lab's form beside mlx-lm's own."""
        if not self._config.checkpoint.enabled:
            return Outcome.FINISHED
        saved = self._reporter.save(
            snapshot_of(self._model, self._optimizer, self.progress),
            adapters.adapter_config(self._model, self._config.adapter),
            began=began,
        )
        return Outcome.FINISHED if saved else Outcome.UNSAVED

    @contextmanager
    def _adapter_file(self) -> Iterator[Path]:
        """The file that ``train()`` writes at its end, whatever it is told."""
        name = "adapters.safetensors"
        if self._config.checkpoint.enabled:
            folder = self._reporter.checkpoints / "mlx_lm"
            folder.mkdir(parents=True, exist_ok=True)
            adapter = adapters.adapter_config(self._model, self._config.adapter)
            (folder / "adapter_config.json").write_text(json.dumps(adapter, indent=1))
            yield folder / name
            return
        with tempfile.TemporaryDirectory() as nowhere:
            link = Path(nowhere, name)
            link.symlink_to(os.devnull)
            yield link


class RawSamples:
    """Samples as ``mlx_lm.lora`` hands them to ``CacheDataset``: in the order of their file.

    Arguments:
        progress: gets the samples drawn that are cut or have no token that counts, each once.
    """

    def __init__(self, samples: Samples, max_length: int, progress: Progress) -> None:
        self._samples, self._max_length, self._progress = samples, max_length, progress
        self._raw = [{**samples[at], POSITION: at} for at in samples.in_file_order()]

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._raw[index]

    def process(self, raw: dict[str, Any]) -> tuple[list[int], int]:
        """Token ids, and how many of the first are a masked prompt; asked for once a sample."""
        ids, prompt = self._samples.tokenise(raw, raw[POSITION])
        self._progress.truncated += len(ids) > self._max_length
        self._progress.empty += _counted(prompt, min(len(ids), self._max_length)) == 0
        return list(ids), prompt


class Watch:
    """Sees each batch go in and each step end, and reports them; changes nothing of either.

    Arguments:
        progress: its step is counted up.

    Attributes:
        step_ended: when the last step was reported, by ``time.perf_counter``.
        is_saving: ``train()`` is not in a step, so it can only be writing a file.
    """

    def __init__(
        self, config: Config, channel: Channel, reporter: Reporter, progress: Progress
    ) -> None:
        self._config, self._channel, self._reporter = config, channel, reporter
        self._progress = progress
        self._triggers = reload_policy.triggers(config.reload)
        self._slope = SlopeWindow(config.reload.window_steps)
        self.step_ended, self.is_saving = 0.0, False
        self._begin_step()

    def iterate_batches(self, *, loop: bool = False, **how: Any) -> Iterator[MlxLmBatch]:
        """mlx-lm's own batches; those that are trained on, in a loop, are seen on their way."""
        from mlx_lm.tuner.trainer import iterate_batches

        batches = iterate_batches(loop=loop, **how)
        return self._seen(batches) if loop else batches

    def on_val_loss_report(self, info: dict[str, Any]) -> None:
        """Comes in the middle of the step that it belongs to, before its last update."""
        self._val_loss, self._val_seconds = info["val_loss"], info["val_time"]

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        """Comes after each optimizer step, evaluated.

        Raises:
            _Left: the run is not to go on.
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
        reading, slope = self._reporter.row(row, self._slope, reloads=0)
        self._channel.flush()
        if self._reporter.has_diverged(step, info["train_loss"], None):
            raise _Left(Outcome.NONFINITE)
        self._skip_reload(step, reading.metric(self._config.reload.metric), slope)
        if self._channel.stopping and step < self._config.train.steps:
            self._reporter.say_once(f"{NO_STATE}: a resumed run begins again at step 1")
            raise _Left(Outcome.STOPPED)
        self.step_ended, self.is_saving = time.perf_counter(), True

    def _seen(self, batches: Iterator[MlxLmBatch]) -> Iterator[MlxLmBatch]:
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
        """What the lab counts of a batch; mlx-lm trains on a padding token of each sample too."""
        for prompt, length in lengths:
            self._tokens += _counted(prompt, length)
            self._padded += width - 1 - min(length, width - 1)
            self._cells += width - 1

    def _report_save(self) -> None:
        """Tell what ``train()`` may have saved since the last step ended."""
        every, step = self._config.checkpoint.interval_steps, self._progress.step
        if not (self._config.checkpoint.enabled and every and step and step % every == 0):
            return
        iteration = step * self._config.train.grad_accumulation_steps
        file = self._reporter.checkpoints / "mlx_lm" / f"{iteration:07d}_adapters.safetensors"
        self._channel.event(
            "checkpoint",
            step,
            seconds=time.perf_counter() - self.step_ended,
            bytes=2 * file.stat().st_size,  # it writes everything twice
            for_reload=False,
        )

    def _skip_reload(self, step: int, metric: int, slope: float | None) -> None:
        reason = reload_policy.decide(
            self._triggers,
            PolicyState(),
            step=step,
            last_step=self._config.train.steps,
            memory=metric,
            slope=slope,
        )
        if reason is not None:
            self._reporter.skip_reload(step, reason, NO_STATE)


class _Left(Exception):  # noqa: N818
    """The way out of ``train()`` between two steps."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def _arguments(config: Config, adapter_file: Path) -> Any:
    """The lab's steps as mlx-lm's iterations, each of one batch."""
    from mlx_lm.tuner.trainer import TrainingArgs

    train, accumulation = config.train, config.train.grad_accumulation_steps
    iterations = train.steps * accumulation
    saves = config.checkpoint.interval_steps if config.checkpoint.enabled else 0
    never = iterations + 1
    return TrainingArgs(
        batch_size=train.batch_size,
        iters=iterations,
        val_batches=train.val_batches,
        steps_per_report=accumulation,
        steps_per_eval=train.val_interval_steps * accumulation or never,
        steps_per_save=saves * accumulation or never,
        max_seq_length=train.max_seq_length,
        adapter_file=str(adapter_file),
        grad_checkpoint=train.grad_checkpoint,
        grad_accumulation_steps=accumulation,
    )


def _counted(prompt: int, length: int) -> int:
    """Tokens of a sample that count in the loss: all but the first and the prompt."""
    return max(length - max(prompt, 1), 0)


@contextmanager
def _silent() -> Iterator[None]:
    """mlx-lm prints what the rows say, and would draw over the supervisor's line on a terminal."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield
