"""Words of a command line that Hydra's own parser refuses, answered with what to type instead."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Quote, QuotedString

from lab.compose.habits import override_for
from lab.config.schema import ConfigError


def as_sweep(words: Sequence[str]) -> str:
    """The command that runs these words as a sweep, to be pasted into a shell."""
    kept = (word for word in words if word not in ("-m", "--multirun"))
    return shlex.join(["python", "train.py", "-m", *kept])


def quoted_text(key: str, text: str) -> str:
    """An override that sets a key to any text, to be pasted into a shell."""
    return shlex.quote(f"{key}={QuotedString(text, Quote.double).with_quotes()}")


def check_flags(words: Sequence[str]) -> None:
    """Check the flags of a command line, which are Hydra's.

    Raises:
        ConfigError: one is not; what to type instead, where there is such a setting.
    """
    parser = get_args_parser()
    parser.error = _refuse  # it would print a usage of a dozen lines
    known, unknown = parser.parse_known_args(list(words))
    if known.resolve and not (known.cfg or known.help):
        raise ConfigError("--resolve", "", "goes with --cfg: python train.py --cfg job --resolve")
    commands = ("run", "multirun", "cfg", "info", "shell_completion")
    if len(several := [name for name in commands if getattr(known, name)]) > 1:
        raise ConfigError(" ".join(f"--{name}" for name in several), "", "must be one of them")
    for word in unknown:
        if word.startswith("-"):
            raise _no_flag(word, words)
    if unknown:
        raise ConfigError(unknown[0], "", "flags go before or after all overrides, not between")


def _refuse(message: str) -> NoReturn:
    raise ConfigError("flags", "", f"{message}; python train.py --hydra-help lists them")


def _no_flag(word: str, words: Sequence[str]) -> ConfigError:
    flag, equals, value = word.partition("=")
    after = [*words[words.index(word) + 1 :], "-"][0]
    has_value = not equals and not after.startswith("-") and "=" not in after
    typed = shlex.join([word, after]) if has_value else word
    override = override_for(flag.lstrip("-"), value if equals else after if has_value else None)
    if override is None:
        return ConfigError(typed, "", "is no flag; settings are KEY=VALUE, --cfg job lists them")
    return ConfigError(typed, "", f"settings have no dashes here; write {override}")
