"""A sweep on a terminal while it runs: a line for each job, drawn by the command that leads it.

The jobs themselves are processes, in other launchers' processes: there they write into their own
``train.log`` only, so that nothing is printed over the lines.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.sweep.look import JobProgress, SweepLook, seconds_left
from lab.sweep.plan import launches_here, sweeps_a_grid
from lab.sweep.quiet import be_quiet
from lab.tracking.console import log_above, restore
from lab.tracking.text import duration, number, size

LOOKS_PER_SECOND = 2
LOOK_SHARE = 0.03  # of the time, which is the most that looking may take: a sweep can be large
BAR_WIDTH = 14  # columns
FIGURES_WIDTH = 68  # of a line without the job's name; wider ones take it from the name
OTHER_LINES = 4  # of the terminal's, for the heading and what is printed above


def open_view(config: DictConfig, folder: Path) -> SweepView | None:
    """Show a sweep that has begun, where the standard output is a terminal that can redraw."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_interactive:
        return None
    trials = None if sweeps_a_grid(config) else OmegaConf.select(config, "hydra.sweeper.n_trials")
    be_quiet()
    look = SweepLook(folder, since=time.time(), trials=trials)
    # A launcher's own processes write nothing here; in this one a job says itself how it failed.
    return SweepView(look, console, tells_failures=not launches_here(config))


class SweepView:
    """Lines of a sweep's jobs, redrawn by a thread until :meth:`close`.

    Arguments:
        tells_failures: whether a job that fails is told above the lines, at once.
    """

    def __init__(self, look: SweepLook, console: Any, *, tells_failures: bool) -> None:
        from rich.live import Live

        self._look, self._console = look, console
        self._tells_failures, self._told = tells_failures, set[int]()
        self._jobs: list[JobProgress] = []
        self._not_before = 0.0
        self._handlers = log_above(console)
        self._live = Live(
            console=console,
            get_renderable=self._drawn,
            refresh_per_second=LOOKS_PER_SECOND,
            transient=True,
        )
        atexit.register(self.close)
        self._live.start()

    def close(self) -> None:
        """Remove the lines; may be called again."""
        if self._live.is_started:  # for what has failed since the last look
            self._not_before = 0.0
        self._live.stop()
        restore(self._handlers)
        self._handlers = []

    def _drawn(self) -> Any:
        began = time.monotonic()
        if began >= self._not_before:
            with suppress(OSError):  # a folder was renamed meanwhile: the next look sees it
                self._jobs = self._look.jobs()
                self._tell_failures()
            self._not_before = began + (time.monotonic() - began) / LOOK_SHARE
        room = max(self._console.height - OTHER_LINES, 1)
        side_by_side, width = self._look.index.side_by_side, self._console.width
        return sweep_lines(self._jobs, side_by_side, room=room, width=width)

    def _tell_failures(self) -> None:
        from rich.text import Text

        ended = [job for job in self._jobs if not job.is_open and job.number not in self._told]
        for job in ended if self._tells_failures else ():
            self._told.add(job.number)
            if said := self._look.failure(job):
                self._console.print(Text(said), soft_wrap=True)


def sweep_lines(jobs: Sequence[JobProgress], side_by_side: int, *, room: int, width: int) -> Any:
    """The heading and a line for each job, for rich.

    Arguments:
        room: how many jobs may have a line.
        width: of the terminal.
    """
    from rich.cells import cell_len
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = nearest_running(jobs, room)
    table = Table.grid(padding=(0, 1), expand=True)
    table.width = min(width, FIGURES_WIDTH + max((cell_len(job.name) for job in shown), default=0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, width=BAR_WIDTH)
    for _ in range(4):
        table.add_column(justify="right", no_wrap=True)
    for job in shown:
        table.add_row(*_cells(job))
    heading = Text(headline(jobs, side_by_side), no_wrap=True, overflow="ellipsis")
    hidden = len(jobs) - len(shown)
    return Group(heading, table, *([Text(f"and {hidden} more")] if hidden else []))


def headline(jobs: Sequence[JobProgress], side_by_side: int) -> str:
    """How far a sweep is: ``3/12 done, 2 running, 1:40 left``."""
    done = [job for job in jobs if not job.is_open]
    failed = sum(job.state != "completed" for job in done)
    parts = [f"{len(done)}/{len(jobs)} done" + (f" ({failed} not completed)" if failed else "")]
    parts.append(f"{sum(job.state == 'running' for job in jobs)} running")
    return ", ".join([*parts, f"{duration(seconds_left(jobs, side_by_side))} left"])


def nearest_running(jobs: Sequence[JobProgress], room: int) -> list[JobProgress]:
    """Those jobs that have a line where not all can: the running ones and their neighbours."""
    running = [job.number for job in jobs if job.state == "running"]
    if not running:
        running = [next((job.number for job in jobs if job.is_open), len(jobs))]

    def distance(job: JobProgress) -> int:
        return min(abs(job.number - number) for number in running)

    return sorted(sorted(jobs, key=distance)[:room], key=lambda job: job.number)


def _cells(job: JobProgress) -> list[Any]:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    told = [f"loss {number(job.loss, '.4f')}", size(job.memory_gb), duration(job.seconds)]
    if job.state == "running":
        left = seconds_left([job], 1)
        bar = ProgressBar(total=max(job.steps, 1), completed=job.step, width=BAR_WIDTH)
        told = [f"{job.step}/{job.steps or '-'}", *told[:2], f"{duration(left)} left"]
        told = told if job.step else ["starting", "", "", ""]
        return [str(job.number), Text(job.name), bar, *told]
    told = [""] * 4 if job.state == "waiting" else ["", *told]
    style = {"completed": "green", "waiting": "dim"}.get(job.state, "red")
    return [str(job.number), Text(job.name), Text(job.state, style=style), *told]
