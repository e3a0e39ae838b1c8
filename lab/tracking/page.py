"""The page of a sweep in W&B: an artifact, logged by a run of its own in the sweep's group."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.config.keys import Config
from lab.tracking import service
from lab.tracking.folders import wandb_folder
from lab.tracking.labels import NAME_LETTERS, below_outputs, without_secrets
from lab.tracking.queued import one_line
from lab.tracking.wandb import start_run

JOB_TYPE = "compare"
ARTIFACT_TYPE = "comparison"


class PageError(RuntimeError):
    """The page is not in W&B; the message is one line."""


def log_page(
    config: Config,
    sweep: Path,
    files: Sequence[Path],
    *,
    group: str,
    run_id: str,
    outputs: Path,
    seconds: float,
) -> str:
    """Log the files of a sweep's page; logged again, they are the artifact's next version.

    Offline the run is made again. It lies in ``outputs/wandb/compare``: it has no rows, and
    ``wandb leet outputs/wandb`` opens the newest run.

    Arguments:
        config: of any run of the sweep; its ``tracker.mode`` is ``offline`` or ``online``.
        group: the W&B group of the sweep's runs.
        run_id: the same each time.
        seconds: how long to wait for W&B.

    Returns:
        The address of the run; offline its folder.

    Raises:
        PageError: W&B failed.
    """
    folder = wandb_folder(config, outputs.resolve())
    assert folder is not None
    folder = folder / JOB_TYPE / "wandb"
    try:
        return service.bounded(lambda: _log(config, sweep, files, group, run_id, folder), seconds)
    except TimeoutError as error:
        raise PageError(str(error)) from error
    except Exception as error:  # W&B raises many types; all mean the same here
        service.forget_service()
        raise PageError(one_line(error)) from error


def _log(
    config: Config, sweep: Path, files: Sequence[Path], group: str, run_id: str, folder: Path
) -> str:
    import wandb

    run = start_run(
        config,
        folder,
        run_id,
        name=f"{JOB_TYPE} {group}"[:NAME_LETTERS],
        tags=list(config.tracker.tags),
        job_type=JOB_TYPE,
        group=group,
        config=without_secrets({"run_dir": below_outputs(sweep)}),
    )
    with service.finishing(run):
        name = re.sub(r"[^\w.-]+", "-", f"{JOB_TYPE}-{group}")[:NAME_LETTERS]
        artifact = wandb.Artifact(name, ARTIFACT_TYPE)
        # Copies beside the run's file, or W&B's are in the user's home, where no sync from another
        # machine finds them.
        copies = Path(run.dir).parent / "lab"
        copies.mkdir(exist_ok=True)
        for file in files:
            shutil.copyfile(file, copies / file.name)
            artifact.add_file(str(copies / file.name), policy="immutable", skip_cache=True)
        run.log_artifact(artifact)
        if config.tracker.mode == "online":
            artifact.wait()
        run.finish(exit_code=0)
    return run.url or str(Path(run.dir).parent)
