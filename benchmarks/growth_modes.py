"""Each growth mode of ``lab/faults`` measured: what grows, and what gives it back.

``python -m benchmarks.growth_modes [NAME ...]`` prints the table of ``docs/explaining.md``. Each
mode trains the tiny model in a process of its own, some steps without the fault, then ``--steps``
with it; then the remedies are tried one after the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.config.keys import Config

WARM_UP = 12  # steps; the fault starts after them
RUNGS = ("clear_cache", "collect", "reload_in_process")


@dataclass(frozen=True)
class Measured:
    """One growth mode; memory in MB.

    Attributes:
        rates: growth a step of ``active``, ``cache`` and ``process``.
        grown: growth over all steps, of the same.
        freed: by remedy, what it and those before it gave back, of the same.
        seconds: by remedy.
        losses: of every step.
    """

    rates: dict[str, float]
    grown: dict[str, float]
    freed: dict[str, dict[str, float]]
    seconds: dict[str, float]
    losses: list[float]

    def share(self, rung: str) -> float:
        """The part of the growth that a remedy, and those before it, gave back.

        Of MLX's memory where that is what grows, else of the process.
        """
        mlx = self.grown["active"] + self.grown["cache"]
        if mlx > 0.5 * self.grown["process"]:
            return (self.freed[rung]["active"] + self.freed[rung]["cache"]) / mlx
        return self.freed[rung]["process"] / self.grown["process"]

    @property
    def remedy(self) -> str:
        """The cheapest that gives at least half of the growth back."""
        return next((rung for rung in RUNGS if self.share(rung) > 0.5), "reload_process")


def measure(name: str, *, mb: float, steps: int, overrides: tuple[str, ...] = ()) -> Measured:
    """Measure one growth mode in a new process; ``none`` measures a run without one."""
    from lab.config.schema import to_dict

    start = (f"fault.{name}.mb_per_step={mb}", f"fault.{name}.start_step={WARM_UP + 1}")
    config = _config(
        f"fault={name}",
        *(start if name != "none" else ()),
        "reload=none",
        f"train.steps={WARM_UP + steps + 10}",
        *overrides,
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth_modes", "--inside", str(steps)],
        input=json.dumps(to_dict(config)), stdout=subprocess.PIPE, text=True, check=True,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    return Measured(**json.loads(done.stdout))


def _config(*overrides: str) -> Config:
    from hydra import compose, initialize_config_dir

    from lab.compose.config import compose_config
    from lab.compose.profiles import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose_config(compose("config", list(overrides)), overrides)[0]


def _inside(raw: object, steps: int, folder: Path) -> Measured:
    """The child: train, then try the remedies; each is judged two steps later, as a reload is.

    Right after it there would be neither activations nor the cache that every step needs.
    """
    run = _Run(raw)
    readings = [run.step(faults=True) for _ in range(WARM_UP + steps)]
    first, last = readings[WARM_UP - 1], readings[-1]
    freed, seconds = {}, {}
    for rung, act in (
        ("clear_cache", run.clear_cache),
        ("collect", run.collect),
        ("reload_in_process", lambda: run.reload(folder)),
    ):
        began = time.perf_counter()
        act()
        seconds[rung] = time.perf_counter() - began
        run.step(faults=False)
        freed[rung] = _difference(last, run.step(faults=False))
    growing = readings[WARM_UP + 2 :]
    rates = {name: _slope([reading[name] for reading in growing]) for name in first}
    return Measured(rates, _difference(last, first), freed, seconds, run.losses)


class _Run:
    """A run in this process, without a supervisor."""

    def __init__(self, raw: object) -> None:
        from lab.machine.blas import preload_blas

        preload_blas()  # before MLX
        from lab.config.keys import Config
        from lab.config.schema import from_dict
        from lab.data.dataset import open_data
        from lab.train import memory
        from lab.train.session import Session, TrainingContext

        config = from_dict(Config, raw)
        memory.set_limits(config.memory)
        cache = Path("outputs", "cache")
        data = open_data(
            config.data, config.train, config.seed, tokenizer_folder=None, cache_dir=cache
        )
        validation = (data.val.batch(0),) if data.val else ()
        vocab_size = data.train_samples.tokenizer.vocab_size
        self._context = TrainingContext(config, data, validation, None, vocab_size)
        self._session = Session(self._context)
        self.losses: list[float] = []

    def step(self, *, faults: bool) -> dict[str, float]:
        """Memory after one more step, in MB, as a run's rows have it."""
        from lab.faults.fault import Moment
        from lab.train import memory

        session, data = self._session, self._context.data.train
        session.progress.step += 1
        step = session.progress.step
        batches = data.step(step)
        self.losses.append(session.train_step(batches).evaluate()[0])
        every = self._context.config.train.val_interval_steps
        seen = self._context.validation if every and step % every == 0 else ()
        moment = Moment(step, session.model, session.optimizer, batches, seen, data)
        for fault in session.faults if faults else ():
            fault.after_step(moment)
        return _figures(memory.read())

    def clear_cache(self) -> None:
        import mlx.core as mx

        mx.clear_cache()

    def collect(self) -> None:
        from lab.train import memory

        memory.release_unused()  # the cache too, where the arrays of what was collected go

    def reload(self, folder: Path) -> None:
        """As the lab's trainer does it in process."""
        from lab.train import checkpoint, memory
        from lab.train.session import Session

        saved = checkpoint.save(folder, self._session.snapshot(), {})
        del self._session
        memory.release_unused()
        self._session = Session(self._context, saved)


def _figures(reading: Any) -> dict[str, float]:
    return {name: getattr(reading, name) / 2**20 for name in ("active", "cache", "process")}


def _difference(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: one[name] - other[name] for name in one}


def _slope(values: list[float]) -> float:
    """Least squares, per step."""
    mean_step, mean = (len(values) - 1) / 2, sum(values) / len(values)
    above = sum((i - mean_step) * (value - mean) for i, value in enumerate(values))
    return above / sum((i - mean_step) ** 2 for i in range(len(values)))


def main() -> int:
    """Print the table, or measure inside the child."""
    from lab.faults.truth import TRUTHS

    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_modes", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; by default all")
    parser.add_argument("--mb", type=float, default=1.0, help="MB a step (1)")
    parser.add_argument("--steps", type=int, default=60, help="steps with the fault (60)")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        with tempfile.TemporaryDirectory() as folder:
            found = _inside(json.loads(sys.stdin.read()), arguments.inside, Path(folder))
        print(json.dumps(asdict(found)))
        return 0
    titles = (
        "fault | active | cache | process | clear cache | collect | reload | kind | cheapest remedy"
    )
    print(f"| {titles} |\n|{'---|' * 9}")
    losses: dict[str, list[float]] = {}
    for name in arguments.names or ("none", *TRUTHS):
        found = measure(name, mb=arguments.mb, steps=arguments.steps)
        rates = " | ".join(f"{found.rates[key]:.2f}" for key in found.rates)
        shares = " | ".join(f"{100 * found.share(rung):.0f} %" for rung in RUNGS)
        kind = TRUTHS[name].kind if name in TRUTHS else ""
        print(f"| `{name}` | {rates} | {shares} | {kind} | {found.remedy} |", flush=True)
        losses[name] = found.losses
    return 0 if len({tuple(values) for values in losses.values()}) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
