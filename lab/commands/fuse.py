"""``lab fuse``: a run's adapter put into its base model, as a folder that mlx-lm reads."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lab.config.schema import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser, "of a run")
    parser.add_argument("out", nargs="*", help="a new folder, or an empty one")
    parser.add_argument(
        "--dequantize", action="store_true", help="a base of 4 bits is not rounded to them again"
    )


def run(arguments: Namespace) -> int:
    """Fuse; return 1 where the folder cannot be written."""
    from lab.catalog.names import chosen_first, is_run
    from lab.reproduce.reproduce import load_config
    from lab.supervise.task import run_task
    from lab.tracking.closing import command

    folder, out = chosen_first(arguments.folder, arguments.out, last=arguments.last, may=is_run)
    config = load_config(folder)
    if config.model.scratch is not None:
        lack = "reads bytes: it has no tokenizer, without which mlx-lm reads no folder"
        raise ConfigError("model", config.model.name, lack)
    target = _free(out)
    beside = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        beside.mkdir(parents=True)
        found = run_task("fuse", config, folder, out=str(beside), dequantize=arguments.dequantize)
        beside.rename(target)
    except OSError as error:
        print(f"{target}: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"{target}: the model with the weights of step {found['step']}")
    print(f"  {command('mlx_lm.generate', '--model', str(target), '--prompt', '...')}")
    return 0


def _free(out: Sequence[str]) -> Path:
    """The folder to be made.

    Raises:
        ConfigError: it is not named, or something is there.
    """
    if len(out) != 1:
        given = " ".join(out)
        raise ConfigError(
            "out", given, "is one folder" if out else "is missing: give the folder to write"
        )
    target = Path(out[0])
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError("out", out[0], "is there already; give a new folder, or an empty one")
    return target
