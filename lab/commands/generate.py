"""``lab generate``: text from the weights that a run has left."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass

from lab.config.schema import ConfigError, from_words, setting


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; at temperature 0 the likeliest is."""

    max_tokens: int = setting(100, at_least=1, unit="tokens")
    temp: float = setting(0.0, at_least=0)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folder

    add_folder(parser, "of a run")
    parser.add_argument("prompt", nargs="*", help="what the text goes on from")
    parser.add_argument("--max-tokens", metavar="N", help="tokens at most; default: 100")
    parser.add_argument("--temp", metavar="T", help="sampling temperature; default: 0")


def run(arguments: Namespace) -> int:
    """Print the text as it comes; see :func:`lab.supervise.task.run_task` for failures."""
    from lab.catalog.names import chosen_first, is_run
    from lab.reproduce.reproduce import load_config
    from lab.supervise.task import run_task

    folder, words = chosen_first(
        arguments.folder, arguments.prompt, last=arguments.last, may=is_run
    )
    typed = {"max_tokens": arguments.max_tokens, "temp": arguments.temp}
    sampling = from_words(Sampling, typed)
    prompt = " ".join(words)
    if not prompt:
        raise ConfigError("prompt", "", "is missing: give a few words")
    run_task(
        "generate", load_config(folder), folder, on_text=_show, prompt=prompt, **asdict(sampling)
    )
    print()
    return 0


def _show(text: str) -> None:
    """A model may say anything, also what would command the terminal."""
    shown = "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    print(shown, end="", flush=True)
