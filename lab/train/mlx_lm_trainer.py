"""``trainer=mlx_lm``: mlx-lm's own ``train()``, unchanged, in the lab's worker as a baseline.

It gets the model, adapter, optimizer and schedule of the lab's own trainer, seeds as mlx-lm's
command sets them, its own ``CacheDataset`` and ``iterate_batches``, and MLX's default limits, since
``mlx_lm.lora`` sets none but the wired one. The lab measures from a callback, once per optimizer
step. The figures include what users of mlx-lm pay for: transformers is imported, all samples are in
memory as JSON objects, and their tokens as Python lists once they were drawn.

mlx-lm saves nothing but the trained weights, so a run cannot be reloaded or resumed: the next
worker begins again at step 1.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import mlx.core as mx

from lab.config.keys import ALL, Config
from lab.config.schema import ConfigError
from lab.data.batches import Batch
from lab.protocol import Outcome, RecordKind
from lab.train import adapters, memory, stateful, step
from lab.train.channel import Channel
from lab.train.checkpoint import Arrays, Snapshot
from lab.train.mlx_lm_callback import NO_STATE, StepCallback, StopTraining
from lab.train.mlx_lm_data import RawSamples
from lab.train.progress import Progress
from lab.train.reporter import Reporter
from lab.train.session import TrainingContext, build


def import_mlx_lm() -> None:
    """Import mlx-lm's trainer without W&B, which it would import where that is installed."""
    for name in ("wandb", "swanlab"):
        # None makes the import fail, as if it were not installed.
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    import mlx_lm.tuner.trainer  # noqa: F401


class MlxLmTrainer:
    """Trains a whole run from step 1.

    Attributes:
        model: the network that is trained.
        progress: steps done, and samples drawn that were cut or had no token in the loss.
        optimizer_bytes: None: mlx-lm makes the optimizer's state at its first update.
    """

    optimizer_bytes: int | None = None

    def __init__(
        self, context: TrainingContext, channel: Channel, reporter: Reporter, resume_from: int
    ) -> None:
        """Build the model as the lab's trainer does.

        Arguments:
            resume_from: the last step with a row on file; the rows stay, and replayed steps are
                compared with them.

        Raises:
            ConfigError: the model cannot be built.
        """
        import numpy as np

        if resume_from:
            text = f"{NO_STATE}: it begins again at step 1; the {resume_from} rows stay"
            channel.send(RecordKind.WARNING, text=text)
        _check_validation(context)
        np.random.seed(context.config.seed)  # mlx-lm draws the order of batches from it
        self.model, self._optimizer = build(context)
        self._config, self._data = context.config, context.data
        self._channel, self._reporter = channel, reporter
        self.progress = Progress()

    def weights(self) -> Arrays:
        """The trained parameters by name."""
        return stateful.trained_weights(self.model)

    def evaluate(self, batches: Sequence[Batch], after_batch: Callable[[int], None]) -> float:
        """The lab's mean loss over tokens, with the weights as they are."""
        return step.build_evaluate(self.model)(batches, after_batch)

    def run(self) -> Outcome:
        """Train; the outcome is never a reload."""
        config, channel, reporter = self._config, self._channel, self._reporter
        if not config.train.compile:
            mx.disable_compile()
        callback = StepCallback(config, channel, reporter, self.progress)
        memory.read()  # so that the first step's peak is its own
        try:
            with self._adapter_file() as file, _silent():
                self._train(callback, _arguments(config, file))
        except StopTraining as stop:
            return stop.outcome
        except (OSError, RuntimeError) as error:
            if not callback.is_saving:
                raise
            reporter.save_failed(self.progress.step, error)
            return Outcome.UNSAVED
        return self._save(began=callback.step_ended)

    def _train(self, callback: StepCallback, arguments: Any) -> None:
        from mlx_lm.tuner.datasets import CacheDataset
        from mlx_lm.tuner.trainer import train

        length, data = self._config.train.max_seq_length, self._data
        train(
            self.model,
            self._optimizer,
            CacheDataset(RawSamples(data.train_samples, length, self.progress)),
            CacheDataset(RawSamples(data.val_samples, length, Progress())) if data.val else None,
            arguments,
            iterate_batches=callback.iterate_batches,
            training_callback=callback,  # type: ignore[arg-type]  # it has both methods of one
        )

    def _save(self, began: float) -> Outcome:
        """Save the run's last checkpoint in the lab's format, beside mlx-lm's own."""
        if not self._config.checkpoint.enabled:
            return Outcome.FINISHED
        parts = stateful.training_state(self.model, self._optimizer, self.progress)
        saved = self._reporter.save(
            Snapshot(self.progress.step, stateful.state_dicts(parts)),
            adapters.adapter_config(self.model, self._config.adapter),
            began=began,
        )
        return Outcome.FINISHED if saved else Outcome.UNSAVED

    @contextmanager
    def _adapter_file(self) -> Iterator[Path]:
        """The file for ``train()``'s final weights: it always writes one, if to a null device."""
        name = "adapters.safetensors"
        if self._config.checkpoint.enabled:
            folder = self._reporter.checkpoints / "mlx_lm"
            folder.mkdir(parents=True, exist_ok=True)
            adapter = adapters.adapter_config(self.model, self._config.adapter)
            (folder / "adapter_config.json").write_text(json.dumps(adapter, indent=1))
            yield folder / name
            return
        with tempfile.TemporaryDirectory() as nowhere:
            link = Path(nowhere, name)
            link.symlink_to(os.devnull)
            yield link


def _check_validation(context: TrainingContext) -> None:
    """mlx-lm validates on whole batches alone."""
    size, found = context.config.train.batch_size, len(context.data.val_samples)
    if context.data.val is not None and found < size:
        lack = f"gives {found} validation samples, and trainer=mlx_lm takes whole batches"
        allowed = f"{lack} of train.batch_size={size}; lower it, or train.val_interval_steps=0"
        raise ConfigError("train.val_batches", context.config.train.val_batches, allowed)


def _arguments(config: Config, adapter_file: Path) -> Any:
    """The config as mlx-lm's arguments; its iterations are micro-batches, not optimizer steps."""
    from mlx_lm.tuner.trainer import TrainingArgs

    train, accumulation = config.train, config.train.grad_accumulation_steps
    iterations = train.steps * accumulation
    saves = config.checkpoint.interval_steps if config.checkpoint.enabled else 0
    never = iterations + 1
    return TrainingArgs(
        batch_size=train.batch_size,
        iters=iterations,
        val_batches=-1 if train.val_batches == ALL else train.val_batches,
        steps_per_report=accumulation,
        steps_per_eval=train.val_interval_steps * accumulation or never,
        steps_per_save=saves * accumulation or never,
        max_seq_length=train.max_seq_length,
        adapter_file=str(adapter_file),
        grad_checkpoint=train.grad_checkpoint,
        grad_accumulation_steps=accumulation,
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Discard standard output: mlx-lm would print over the supervisor's progress line."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield
