"""``lab evaluate``: the loss of test data with the weights that a run has left."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from lab.config.schema import ConfigError

EVALUATION_VERSION = 1


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser, "of a run")
    parser.add_argument("--data", metavar="FILE", help="a JSONL file; default: its test.jsonl")
    parser.add_argument("--valid", action="store_true", help="all of its validation data")
    parser.add_argument("--json", action="store_true", help="for another program")


def run(arguments: Namespace) -> int:
    """Evaluate, and print what was found."""
    from lab.catalog.names import chosen, is_run
    from lab.data.sources import tested_on
    from lab.reproduce.reproduce import load_config
    from lab.supervise.task import run_task

    folder = chosen(arguments.folder, last=arguments.last, may=is_run)
    config = load_config(folder)
    if arguments.data is not None and arguments.valid:
        raise ConfigError("--data", arguments.data, "goes without --valid; give one of them")
    file = tested_on(config.data) if arguments.data is None else Path(arguments.data)
    if arguments.valid:
        file = None
    elif file is None:
        where = "the run has no test.jsonl; give a JSONL file, or --valid for its validation data"
        raise ConfigError("--data", "", f"is missing: {where}")
    key, path = "data.path" if arguments.data is None else "--data", file and str(file)
    found = run_task("evaluate", config, folder, file=path, key=key)
    said = {"run": str(folder), "data": path or "validation data", **found}
    if arguments.json:
        print(json.dumps({"version": EVALUATION_VERSION, **said}))
        return 0
    loss = "-" if found["loss"] is None else f"{found['loss']:.4f}"
    counted = f"over {found['tokens']:,} tokens of {found['samples']:,} samples"
    print(f"{said['data']}: loss {loss} {counted}, weights of step {found['step']}")
    return 0
