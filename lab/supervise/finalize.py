"""Finalize a run: summary, trackers closed, last lines on the console, ``memory.png``."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.config.keys import Config
from lab.config.units import GB
from lab.explain.explanation import explain_figures
from lab.explain.report import growth_note
from lab.machine.interpreter import environment_with_lab
from lab.records.profile import PROFILE_FILE, Span, summarise_spans, write_profile
from lab.records.summary import SUMMARY_VERSION, summarise
from lab.supervise.identity import lab_identity
from lab.supervise.recorder import RunRecorder
from lab.tracking.closing import command, relative
from lab.tracking.folders import outputs_of, wandb_folder

log = logging.getLogger("lab")

REBUILD_SECONDS = 60.0


def finalize(
    config: Config,
    run_dir: Path,
    recorder: RunRecorder,
    *,
    exit_code: int,
    state: str,
    environment: Mapping[str, Any],
    ended: Mapping[str, Any],
    error: str,
) -> None:
    """Write ``run_finished``, the summary, W&B's end and ``memory.png``, and print how it went.

    Arguments:
        environment: the first worker's, empty if none was ready.
        ended: the worker's record of kind ``ended``, empty where there is none.
        error: what went wrong, in one line, or empty.

    Raises:
        MetricsLost: a file of the run cannot be written.
    """
    recorder.event("run_finished", recorder.last_step, state=state)
    summary = {
        "version": SUMMARY_VERSION,
        "state": state,
        **summarise(run_dir),
        "test_loss": ended.get("test_loss"),
        "test_tokens": ended.get("test_tokens"),
        "weights_sha256": ended.get("weights_sha256"),
        "environment": {**environment, **_supervisor_environment()},
    }
    if recorder.last_step:
        _draw_memory(run_dir)
    if recorder.spans:
        _write_profile(run_dir, recorder.spans)
    problems = recorder.close_trackers(summary | explain_figures(run_dir), exit_code)
    # The summary comes last: a run cut off before it is resumed, and its W&B run with it.
    recorder.files.write_summary(summary)
    recorder.files.close()
    of_wandb = any(line.startswith("W&B ") for line in problems)
    if of_wandb and config.tracker.mode == "offline":
        problems += [_rebuild_wandb(run_dir)]
    elif of_wandb:
        problems += [f"to send it to W&B later: {command('lab', 'sync', relative(run_dir))}"]
    for line in (*_data_notes(config, ended), *problems):
        log.warning("%s", line)
    view = ""
    # An interrupted run is to end at once; when it goes on, its end saves the view.
    if config.tracker.mode == "online" and not of_wandb and state != "interrupted":
        from lab.tracking.view import run_view

        view = run_view(config, run_dir)
    _print_summary(config, run_dir, summary, error, view)


def _rebuild_wandb(run_dir: Path) -> str:
    """Write the offline W&B run again from the files, in a process where W&B has not failed."""
    sync = [sys.executable, "-m", "lab.cli", "sync", "--offline", str(run_dir)]
    try:
        subprocess.run(
            sync,
            check=True,
            capture_output=True,
            timeout=REBUILD_SECONDS,
            env=environment_with_lab(),
        )
    except (OSError, subprocess.SubprocessError):
        return f"its offline run is not whole; later: {command('lab', 'sync', relative(run_dir))}"
    return "its offline run was made again from the files, and is whole"


def _data_notes(config: Config, ended: Mapping[str, Any]) -> list[str]:
    """How many samples were cut or empty, one line each."""
    length = config.train.max_seq_length
    says = {
        "truncated": f"samples were longer than train.max_seq_length={length} and were cut",
        "empty": "samples had no completion token left and taught nothing",
    }
    return [f"{ended[key]} {text}" for key, text in says.items() if ended.get(key)]


def _print_summary(
    config: Config, run_dir: Path, summary: Mapping[str, Any], error: str, view: str
) -> None:
    from lab.tracking.closing import format_summary
    from lab.tracking.opening import ways_to_open

    wandb_dir = wandb_folder(config, outputs_of(run_dir))
    others = ways_to_open(config, run_dir)
    text = format_summary(
        summary, run_dir, wandb_dir=wandb_dir, view=view, others=others, error=error
    )
    log.info("%s", text)


def _draw_memory(run_dir: Path) -> None:
    from lab.plots.memory_plot import plot_run

    try:
        plot_run(run_dir, growth_note(run_dir))
    except Exception as error:  # noqa: BLE001 - a finished run must not lose its summary for it
        log.warning("memory.png was not drawn: %s", error)


def _write_profile(run_dir: Path, spans: Sequence[Span]) -> None:
    """Print the run's profile, write it and draw it."""
    from lab.plots.profile_plot import plot_profile
    from lab.tracking.profile_table import profile_table

    log.info("%s", profile_table(summarise_spans(spans)))
    try:
        write_profile(run_dir, spans)
        plot_profile(run_dir)
    except Exception as error:  # noqa: BLE001 - a finished run must not lose its summary for it
        log.warning("the profile was not written: %s", error)
        return
    shown = relative(run_dir / PROFILE_FILE)
    log.info("  drawn in profile.png; chrome://tracing and ui.perfetto.dev open %s", shown)


def _supervisor_environment() -> dict[str, object]:
    """What the worker cannot know; null where this machine does not say.

    A finished run must not lose its summary for one of these.
    """
    from importlib.metadata import PackageNotFoundError, version

    from lab.machine.probe import ProbeError, probe_machine

    memory_gb = hydra = None
    with suppress(ProbeError, OSError):
        memory_gb = probe_machine().memory_bytes / GB
    with suppress(PackageNotFoundError):
        hydra = version("hydra-core")
    return {**lab_identity(), "hydra": hydra, "machine_memory_gb": memory_gb}
