"""``lab resume``: go on with a run or a sweep that was cut off."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from lab.config.schema import ConfigError

FLAGS = ("--config-dir", "--config-name")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser)
    parser.add_argument(
        "overrides", nargs="*", help="for a sweep: e.g. its launcher's settings, given again"
    )
    for flag in FLAGS:
        parser.add_argument(flag, help="of a sweep, where it is not taken from its index")


def run(arguments: Namespace) -> int:
    """Train on; return the exit code of the run or the sweep."""
    from lab.catalog.names import chosen_first, is_resumable

    folder, overrides = chosen_first(
        arguments.folder, arguments.overrides, last=arguments.last, may=is_resumable
    )
    given = {"--config-dir": arguments.config_dir, "--config-name": arguments.config_name}
    words = [f"{flag}={value}" for flag, value in given.items() if value is not None]
    words += overrides
    if (folder / "sweep.json").is_file():
        from lab.launch import resume_sweep

        return resume_sweep(folder.resolve(), words)
    if words:
        raise ConfigError(words[0], "", "a run is resumed as it was begun, without overrides")
    from lab.supervise import experiment

    return experiment.resume(folder).exit_code
