"""The training process: open the data and the model, train, and exit with an :class:`Outcome`.

Started by the supervisor as ``python -m lab.train.worker``, a fresh interpreter every time, so that
no earlier run's heap is in its memory curve. The first line of its standard input is its config.
It imports neither Hydra nor wandb.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from lab.machine.blas import BLAS_HINT, preload_blas

BLAS = preload_blas()  # before MLX is imported: afterwards it is too late

import mlx.core as mx  # noqa: E402

from lab.config.keys import ALL, Config  # noqa: E402
from lab.config.schema import from_dict  # noqa: E402
from lab.data.dataset import measure_lengths, open_data  # noqa: E402
from lab.data.tokenizer_files import tokenizers_version  # noqa: E402
from lab.protocol import Outcome, RecordKind  # noqa: E402
from lab.records.digest import kept_sha256  # noqa: E402
from lab.records.facts import RunFacts  # noqa: E402
from lab.train import checkpoint, memory, mlx_lm_trainer, model_files, optimizers, stateful  # noqa: E402
from lab.train.channel import Channel, reported  # noqa: E402
from lab.train.deterministic import check_experts  # noqa: E402
from lab.train.evaluation import Evaluation, evaluate_all  # noqa: E402
from lab.train.lab_trainer import LabTrainer  # noqa: E402
from lab.train.mlx_lm_trainer import MlxLmTrainer  # noqa: E402
from lab.train.packing import check_packs  # noqa: E402
from lab.train.reporter import Reporter  # noqa: E402
from lab.train.session import TrainingContext  # noqa: E402
from lab.train.tables import check_tables, measure_tables  # noqa: E402


def main() -> int:
    """Run one worker process.

    Returns:
        The exit code, an :class:`Outcome`.
    """
    # A logout sends it to every process; what is to be done about it the supervisor says.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    arguments = _arguments()
    config = from_dict(Config, json.loads(sys.stdin.readline()))
    channel = Channel(arguments.records)
    outcome = reported(channel, lambda: _work(config, arguments, channel))
    memory.release_wired()
    if outcome is Outcome.RELOAD:
        os._exit(outcome)  # taking the interpreter down would take longer than saving did
    return outcome


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=Path, required=True, help="the run's folder of them")
    parser.add_argument("--records", type=int, required=True, help="descriptor to write records to")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the data index")
    parser.add_argument("--generation", type=int, default=0)
    parser.add_argument("--first", action="store_true", help="tell what data and model are")
    parser.add_argument("--started", type=float, required=True, help="the run's monotonic start")
    return parser.parse_args()


def _work(config: Config, arguments: argparse.Namespace, channel: Channel) -> Outcome:
    if BLAS is None and sys.platform == "linux" and mx.default_device().type == mx.cpu:
        channel.send(RecordKind.WARNING, text=BLAS_HINT)
    if config.trainer == "mlx_lm":
        mlx_lm_trainer.import_mlx_lm()
    else:
        memory.set_limits(config.memory)
    context = _open_context(config, arguments, channel)
    # Of the first worker alone: it takes long, where no cache can be written, and is told once.
    fingerprints = _fingerprints(context, arguments.cache, channel) if arguments.first else {}
    reporter = Reporter(
        config,
        channel,
        checkpoints=arguments.checkpoints,
        generation=arguments.generation,
        clock=context.clock,
    )
    # Building the model takes memory, which the worker before this one must have freed.
    resume_from = channel.wait_for_go()
    trainer_class = MlxLmTrainer if config.trainer == "mlx_lm" else LabTrainer
    trainer = trainer_class(context, channel, reporter, resume_from)
    check_tables(measure_tables(trainer.model), context.data, config)
    if config.train.packing and arguments.first:
        check_packs(trainer.model, config.model.name)
    step = trainer.progress.step
    channel.send(
        RecordKind.READY,
        pid=os.getpid(),
        environment=_environment(context) | fingerprints,
        notes=_notes(context, trainer) if arguments.first else [],
        facts=asdict(_facts(context, trainer)) if arguments.first else {},
        step=step,
    )
    if config.fault.crash is not None:
        channel.event("fault_armed", step, crash_step=config.fault.crash.step)
    outcome, test = trainer.run(), Evaluation()
    if outcome is Outcome.FINISHED and context.data.test is not None:
        batches = context.data.test.batches
        found = evaluate_all(trainer.evaluate, batches, config, channel, "the test data")
        outcome, test = (outcome, found) if found else (Outcome.STOPPED, test)
    if outcome in (Outcome.FINISHED, Outcome.STOPPED):
        channel.send(
            RecordKind.ENDED,
            weights_sha256=checkpoint.weights_sha256(trainer.weights()),
            truncated=trainer.progress.truncated,
            empty=trainer.progress.empty,
            test_loss=test.loss,
            test_tokens=test.tokens,
        )
    return outcome


def _open_context(
    config: Config, arguments: argparse.Namespace, channel: Channel
) -> TrainingContext:
    progress = _progress_to(channel)
    folder = model_files.folder_of(config.model, progress)
    if folder and arguments.first and mx.default_device().type == mx.gpu:
        # Before the data is indexed and the weights are hashed and loaded.
        check_experts(model_files.model_without_weights(folder), config.train, on_gpu=True)
    data = open_data(
        config.data,
        config.train,
        config.seed,
        tokenizer_folder=folder,
        cache_dir=arguments.cache,
        progress=progress,
    )
    held_out = data.val if config.trainer == "lab" else None
    wanted, there = config.train.val_batches, len(held_out) if held_out else 0
    count = there if wanted == ALL else min(wanted, there)
    return TrainingContext(
        config=config,
        data=data,
        validation=tuple(held_out.batch(index) for index in range(count)) if held_out else (),
        folder=folder,
        vocab_size=data.train_samples.tokenizer.vocab_size,
        clock=lambda: time.monotonic() - arguments.started,
    )


def _fingerprints(context: TrainingContext, cache: Path, channel: Channel) -> dict[str, str | None]:
    """What data and model are known by; those of a model are null for one from scratch."""
    found: dict[str, str | None] = {
        "data_fingerprint": context.data.fingerprint,
        "tokenizer_fingerprint": context.data.tokenizer_fingerprint,
        "model_fingerprint": None,
        "weights_fingerprint": None,
    }
    if context.folder is not None:
        digest_of = partial(kept_sha256, cache, _progress_to(channel))
        found["model_fingerprint"] = model_files.fingerprint(context.folder)
        found["weights_fingerprint"] = model_files.weights_fingerprint(context.folder, digest_of)
    return found


def _notes(context: TrainingContext, trainer: LabTrainer | MlxLmTrainer) -> list[str]:
    """Lines on data and optimizer for the user."""
    dtype = stateful.trained_dtype(trainer.model)
    eps = optimizers.eps_note(context.config.optimizer, dtype)
    return [*context.data.notes, *filter(None, [eps])]


def _facts(context: TrainingContext, trainer: LabTrainer | MlxLmTrainer) -> RunFacts:
    data, config = context.data, context.config
    return RunFacts(
        parameters=stateful.count_parameters(trainer.model),
        trained=sum(array.size for array in trainer.weights().values()),
        weights_bytes=stateful.tree_bytes(trainer.model.parameters()),
        optimizer_bytes=trainer.optimizer_bytes,
        train_samples=len(data.train_samples),
        val_samples=len(data.val_samples),
        val_is_held_out=data.val_is_held_out,
        **measure_lengths(data.train_tokens, config.train.max_seq_length),
        **(data.plan.facts() if config.trainer == "lab" else {}),
    )


def _progress_to(channel: Channel) -> Callable[[str], None]:
    return lambda text: channel.send(RecordKind.PROGRESS, text=text)


def _environment(context: TrainingContext) -> dict[str, object]:
    """Versions, device and MLX's variables: on these the last bits of a run depend."""
    # Not importlib.metadata or platform.platform(): they would add 30 ms to each restart.
    from mlx_lm._version import __version__ as mlx_lm_version

    info, system = mx.device_info(), os.uname()
    return {
        "python": platform.python_version(),
        "platform": f"{system.sysname}-{system.release}-{system.machine}",
        "mlx": mx.__version__,  # type: ignore[attr-defined]
        "mlx_lm": mlx_lm_version,
        "tokenizers": tokenizers_version(),
        "device": str(mx.default_device()),
        "architecture": str(info.get("architecture") or ""),
        "mlx_variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith("MLX_")},
        "device_name": str(info.get("device_name") or info.get("architecture") or ""),
        "blas": BLAS,
        "threads": context.config.worker.threads,
    }


if __name__ == "__main__":
    sys.exit(main())
