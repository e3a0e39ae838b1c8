"""``lab schema``: the config as JSON Schema, for an editor that checks YAML while it is typed."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument(
        "--saved", action="store_true", help="of a run's config.yaml; else of files in conf/"
    )


def run(arguments: Namespace) -> int:
    """Print it."""
    from lab.config.json_schema import composed_schema, saved_schema

    print(json.dumps(saved_schema() if arguments.saved else composed_schema(), indent=2))
    return 0
