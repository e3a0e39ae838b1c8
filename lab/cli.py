"""``lab``: commands on existing runs and sweeps. ``python train.py`` starts new ones."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from lab.config.schema import ConfigError
from lab.machine.probe import ProbeError
from lab.protocol import TaskFailed
from lab.tracking.terminal import outlive_terminal, write_nowhere

# Each is a module of lab/commands/, with `add_arguments` and `run`; only the one typed is imported.
COMMANDS = {
    "ls": "the runs and sweeps that are there, the newest last",
    "compare": "runs side by side: a page, a picture, a table",
    "explain": "what grows, who holds it, what gives it back",
    "whatif": "what other reloads would do, without training",
    "reproduce": "run again from config.yaml, and compare",
    "export": "a run in one file, for `lab reproduce` elsewhere",
    "data": "what is in a JSONL file, as training would read it",
    "evaluate": "the loss of test data with what a run has trained",
    "generate": "text from what a run has trained",
    "fuse": "a run's adapter in its base model, a folder for mlx-lm",
    "resume": "go on with a run or a sweep that was cut off",
    "clean": "free what old checkpoints and killed processes take",
    "plot": "draw memory.png again, of a live run too",
    "doctor": "what this machine and this installation lack",
    "schema": "the config as JSON Schema, for an editor",
    "sync": "make W&B runs again from the files, and send them",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Arguments:
        words: as typed; by default those of this process.

    Returns:
        The exit code: that of the run where the command trains; 2 for a user's mistake, 130 after
        Ctrl-C.
    """
    try:
        name, arguments = _parsed(sys.argv[1:] if words is None else words)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    outlive_terminal()
    out = sys.stderr if getattr(arguments, "json", False) else sys.stdout
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=out)
    logging.raiseExceptions = False  # `lab reproduce | head` closes stdout: no tracebacks
    try:
        code = import_module(f"lab.commands.{name}").run(arguments)
        sys.stdout.flush()  # at exit Python would tell of a reader that has left
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (ProbeError, TaskFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `lab compare SWEEP | head`: the files are written already
        write_nowhere()
        return 0
    return code


def _parsed(words: Sequence[str]) -> tuple[str, Namespace]:
    """The command's name, and what was typed after it."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    parser = ArgumentParser(
        prog="lab",
        usage="%(prog)s [-h] [--version] command ...",
        description=f"{__doc__}\n\n{listed}\n\n`lab COMMAND --help` says what each takes.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("mlx-memory-lab"))
    parser.add_argument("command")
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    name = _command(parser.parse_args(words[: _up_to_command(words)]).command)
    own = ArgumentParser(prog=f"lab {name}", description=COMMANDS[name])
    import_module(f"lab.commands.{name}").add_arguments(own)
    return name, own.parse_intermixed_args(words[_up_to_command(words) :])


def _up_to_command(words: Sequence[str]) -> int:
    """How many words come up to the command, itself included."""
    return next((n for n, word in enumerate(words, 1) if not word.startswith("-")), len(words))


def _command(word: str) -> str:
    if word in COMMANDS:
        return word
    near = get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(COMMANDS)}"
    raise ConfigError("lab", "", f"there is no command {word!r}, {hint}")


if __name__ == "__main__":
    sys.exit(main())
