"""The training process: find everything the run needs, then train, session after session.

Started by the supervisor as ``python -m lab.train.worker``, a fresh interpreter every time, so that
no earlier run's heap is in its memory curve. The first line of its standard input is its config.
It imports neither Hydra nor wandb.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

from lab.machine.blas import BLAS_HINT, preload_blas

BLAS = preload_blas()  # before MLX is imported: afterwards it is too late

import mlx.core as mx  # noqa: E402

from lab.config.keys import Config  # noqa: E402
from lab.config.schema import ConfigError, from_dict  # noqa: E402
from lab.data.dataset import open_data  # noqa: E402
from lab.data.tokenizer import load_tokenizer  # noqa: E402
from lab.protocol import Outcome, RecordKind  # noqa: E402
from lab.train import checkpoint, memory, mlx_lm_trainer, model_files  # noqa: E402
from lab.train.channel import Channel  # noqa: E402
from lab.train.loop import Loop  # noqa: E402
from lab.train.reporter import Reporter  # noqa: E402
from lab.train.session import Progress, Session, Shared  # noqa: E402


def main() -> int:
    """Run one worker process; its exit code is an :class:`Outcome`."""
    arguments = _arguments()
    config = from_dict(Config, json.loads(sys.stdin.readline()))
    channel = Channel(arguments.records)
    try:
        outcome = _work(config, arguments, channel)
    except ConfigError as error:
        channel.send(
            RecordKind.BAD_CONFIG,
            key=error.key,
            value=str(error.value),
            allowed=error.allowed,
        )
        outcome = Outcome.BAD_CONFIG
    except BrokenPipeError:
        outcome = Outcome.STOPPED
    except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor must hear of it
        text = " ".join(f"{type(error).__name__}: {error}".split())
        channel.send(RecordKind.ERROR, text=text, trace=traceback.format_exc())
        outcome = Outcome.FAILED
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
    parser.add_argument("--started", type=float, required=True, help="the run's monotonic start")
    return parser.parse_args()


def _work(config: Config, arguments: argparse.Namespace, channel: Channel) -> Outcome:
    if BLAS is None and sys.platform == "linux" and mx.default_device().type == mx.cpu:
        channel.send(RecordKind.WARNING, text=BLAS_HINT)
    if config.trainer == "mlx_lm":
        mlx_lm_trainer.import_mlx_lm()
    else:
        memory.set_limits(config.memory)
    shared = _open_shared(config, arguments.cache)
    fingerprint = model_files.fingerprint(shared.folder) if shared.folder else None
    reporter = Reporter(
        config,
        channel,
        checkpoints=arguments.checkpoints,
        generation=arguments.generation,
        clock=lambda: time.monotonic() - arguments.started,
    )
    # All is imported and opened: from here on it takes memory, which the one before must have left.
    trainer_of = mlx_lm_trainer.Baseline if config.trainer == "mlx_lm" else Sessions
    trainer = trainer_of(shared, channel, reporter, channel.wait_for_go())
    parameters = sum(array.size for array in trainer.weights().values())
    step = trainer.progress.step
    channel.send(
        RecordKind.READY,
        pid=os.getpid(),
        environment=_environment(config, shared, fingerprint),
        notes=[*shared.data.notes, f"{parameters:,} trained parameters"],
        step=step,
    )
    if config.fault.crash is not None:
        channel.event("fault_armed", step, crash_step=config.fault.crash.step)
    outcome = trainer.run()
    if outcome in (Outcome.FINISHED, Outcome.STOPPED):
        channel.send(
            RecordKind.ENDED,
            weights_sha256=checkpoint.weights_sha256(trainer.weights()),
            truncated=trainer.progress.truncated,
            empty=trainer.progress.empty,
        )
    return outcome


class Sessions:
    """The lab's own trainer: a session, and after each reload in process another."""

    def __init__(
        self, shared: Shared, channel: Channel, reporter: Reporter, go_on_from: int
    ) -> None:
        self._shared, self._channel, self._reporter = shared, channel, reporter
        self._open(go_on_from)

    @property
    def progress(self) -> Progress:
        return self._session.progress

    def weights(self) -> dict[str, mx.array]:
        return self._session.weights()

    def run(self) -> Outcome:
        """Train until the run ends, is stopped, or another process is to go on."""
        loop = Loop(self._shared, self._channel, self._reporter)
        while True:
            outcome, pending = loop.run(self._session), self.progress.pending
            if outcome is not Outcome.RELOAD or not pending or pending.method != "in_process":
                return outcome
            del self._session
            memory.give_back()
            self._open(pending.step)

    def _open(self, resume_at_most: int) -> None:
        checkpoints = self._reporter.checkpoints
        self._session = _open_session(self._shared, checkpoints, resume_at_most, self._channel)


def _open_shared(config: Config, cache: Path) -> Shared:
    folder = model_files.folder_of(config.model)
    tokenizer = load_tokenizer(folder)
    data = open_data(config.data, config.train, config.seed, tokenizer, cache)
    held_out = data.val if config.trainer == "lab" else None
    count = min(config.train.val_batches, len(held_out)) if held_out else 0
    return Shared(
        config=config,
        data=data,
        validation=tuple(held_out.batch(index) for index in range(count)) if held_out else (),
        folder=folder,
        vocab_size=tokenizer.vocab_size,
    )


def _open_session(
    shared: Shared, checkpoints: Path, resume_at_most: int, channel: Channel
) -> Session:
    """A session from the newest good checkpoint, or a new one where there is none."""
    for step in reversed([s for s in checkpoint.steps(checkpoints) if s <= resume_at_most]):
        try:
            return Session(shared, checkpoints / f"step_{step}")
        except checkpoint.CheckpointError as error:
            channel.send(RecordKind.WARNING, text=f"checkpoint skipped: {error}")
    return Session(shared)


def _environment(config: Config, shared: Shared, model: str | None) -> dict[str, object]:
    """What besides the config decides the figures and the bits of a run."""
    # A restart must be quick: importlib.metadata and platform.platform() would take 30 ms.
    from mlx_lm._version import __version__ as mlx_lm_version

    info, system = mx.device_info(), os.uname()
    return {
        "python": platform.python_version(),
        "platform": f"{system.sysname}-{system.release}-{system.machine}",
        "mlx": mx.__version__,  # type: ignore[attr-defined]
        "mlx_lm": mlx_lm_version,
        "device": str(mx.default_device()),
        "device_name": str(info.get("device_name") or info.get("architecture") or ""),
        "blas": BLAS,
        "threads": config.worker.threads,
        "data_fingerprint": shared.data.fingerprint,
        "model_fingerprint": model,
    }


if __name__ == "__main__":
    sys.exit(main())
