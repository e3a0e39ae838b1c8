"""One line for a user's mistake: the key, its value and what is allowed; and the exit code.

Hydra's and OmegaConf's messages are parsed for it; tests/compose/test_errors.py raises each of them
with the installed versions.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from lab.compose.flags import as_sweep, quoted_text
from lab.compose.habits import all_keys, group_options, meant_by, meant_option
from lab.compose.overrides import override_key
from lab.config.keys import Config
from lab.config.schema import ConfigError, unknown_key
from lab.machine.probe import ProbeError


class SweepError(ValueError):
    """One job of a sweep is impossible; the text says which and why."""


# Hydra's plugins that are installed as needed, and the extra of this package that installs each.
EXTRAS = {
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/launcher=ray": "ray",
    "hydra/sweeper=optuna": "optuna",
}

# Caused by a user's input; anything else is a fault of this program.
USER_ERRORS = (ConfigError, SweepError, ProbeError, HydraException, OmegaConfBaseException)


def explain(error: BaseException, overrides: Sequence[str]) -> tuple[int, str]:
    """The exit code of an error and one line that names key, value and what is allowed.

    Arguments:
        overrides: as typed; the line repeats the one that is wrong.
    """
    if isinstance(error, ProbeError):
        return 1, f"error: {error}"
    for override in overrides:
        if re.match("~(?!hydra|experiment|debug)", override):
            return 2, f"{override}: cannot be left out"
    if isinstance(error, ConfigError | SweepError):
        return 2, _elsewhere(error, overrides) or str(error)
    if isinstance(error, OverrideParseException):
        return 2, _unreadable(error, overrides)
    if line := _no_option(str(error), overrides) or _key_of_nothing(str(error), overrides):
        return 2, line
    if not isinstance(error, HydraException | OmegaConfBaseException):
        head = str(error).partition("\n---")[0]  # a launcher's error carries its job's log below
        return 1, f"error: {type(error).__name__}: {' '.join(head.split())}"
    texts = [str(error)]
    if error.__cause__ is not None and str(error.__cause__) not in texts[0]:
        texts.append(str(error.__cause__))
    text = "\n".join(texts)
    given = {override_key(o): o.partition("=")[2] for o in overrides}
    found = _a_sweep(text, overrides) or _needless_plus(text, overrides) or _unknown_option(text)
    return 2, found or _wrong_key(text, given) or _one_line(text, given)


def _elsewhere(error: Exception, overrides: Sequence[str]) -> str | None:
    """A line for a key that Hydra appended, ``+lr=1``, and that has another name here."""
    if not isinstance(error, ConfigError) or not error.allowed.startswith("is not a key"):
        return None
    appended = [o for o in overrides if o.startswith("+") and override_key(o) == error.key]
    meant = meant_by(error.key)
    return (
        f"{appended[0].lstrip('+')}: is not a key; did you mean {meant}?"
        if appended and meant
        else None
    )


def _unreadable(error: OverrideParseException, overrides: Sequence[str]) -> str:
    """A line for a word that is no override; with the quotes around its value that would do."""
    word = error.override
    key, equals, value = word.partition("=")
    if not equals:
        after = [*overrides[overrides.index(word) + 1 :], ""][0] if word in overrides else ""
        shown = after if after and "=" not in after else "VALUE"
        return f"{word}: has no value; write {shlex.quote(f'{word}={shown}')}"
    if not re.fullmatch(r"[+~]{0,2}[\w./@-]+", key):
        return f"{word}: {shlex.quote(key)} is no name of a key"
    if all_keys().get(override_key(word), str) in (str, str | None):
        return f"{word}: needs quotes for Hydra and for the shell: {quoted_text(key, value)}"
    said = str(error).partition("\nSee https")[0]
    return f"{word}: cannot be read: {' '.join(said.split())}"


def _a_sweep(text: str, overrides: Sequence[str]) -> str | None:
    """A line for several values without ``-m``: the list or the sweep that they may be."""
    match = re.search(r"Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires", text)
    if match is None:
        return None
    word = match[1] or match[2]
    key, _, value = word.partition("=")
    if get_origin(all_keys().get(override_key(word))) is tuple:
        return f"{word}: a list needs brackets: {shlex.quote(f'{key}=[{value}]')}"
    together = f"; all in one run: {shlex.quote(f'{key}=[{value}]')}" if key == "fault" else ""
    return f"{word}: several values are a sweep: {as_sweep(overrides)}{together}"


def _needless_plus(text: str, overrides: Sequence[str]) -> str | None:
    """A line for ``+group=option`` where the group is one of the config's own."""
    for override in overrides if "Multiple values for " in text else ():
        if override.startswith("+") and f"Multiple values for {override_key(override)}." in text:
            return f"{override}: the + is for what the config lacks; write {override.lstrip('+')}"
    return None


def _unknown_option(text: str) -> str | None:
    """A line for an option that a group does not have; None if the text is about something else."""
    pattern = r"Could not find '([^']+)'\s+Available options in '([^']+)':\n((?:\t\S+\n?)+)"
    match = re.search(pattern, text)
    if match is None:
        return None
    group, options = match[2], match[3].split()
    choice = f"{group}={match[1].removeprefix(f'{group}/')}"
    if extra := EXTRAS.get(choice):
        return f"{choice}: is not installed: pip install 'mlx-memory-lab[{extra}]'"
    return f"{choice}: {meant_option(choice.partition('=')[2], options)}"


def _no_option(text: str, overrides: Sequence[str]) -> str | None:
    """A line for a group that was given nothing, or a list with an unknown option in it."""
    unknown = re.search(r"Could not load '(\w+)/([^']+)'", text)
    for override in overrides:
        group = override_key(override)
        options = group_options(group)
        nothing = override == f"{group}=null" and text.startswith("Config group override must be")
        if options and (nothing or (unknown and unknown[1] == group and unknown[2] in override)):
            return f"{override}: must be one of {', '.join(options)}"
    return None


def _key_of_nothing(text: str, overrides: Sequence[str]) -> str | None:
    """A line for a key of a group's option that was not chosen; None if that is not it."""
    for override in overrides if text == "Unexpected type for root: NoneType" else ():
        group, _, rest = override_key(override).partition(".")
        option = rest.partition(".")[0]
        hint = get_type_hints(Config).get(group)
        if "." in rest and is_dataclass(hint) and option in get_type_hints(hint):
            return f"{override}: {group}.{option} is null; it needs {group}={option}"
    return None


def _one_line(text: str, given: Mapping[str, str]) -> str:
    """Hydra's or OmegaConf's own message in one line, with its override where it names the key."""
    key = re.search(r"full_key: (\S+)", text)
    known = key is not None and key[1] in given
    said = re.sub(r"\s*(full_key|reference_type|object_type)[:=].*", "", text)
    line = " ".join(said.split())
    return f"{key[1]}={given[key[1]]}: {line}" if key is not None and known else line


def _wrong_key(text: str, given: Mapping[str, str]) -> str | None:
    """A line for a key that does not exist or takes no single value; None if that is not it."""
    full = re.search(r"full_key: (\S+)", text)
    match = full or re.search(r"Could not override '([^']+)'", text)
    if match is None or match[1].startswith("hydra"):
        return None
    key = match[1]
    typed = next((k for k in given if k == key or k.startswith(f"{key}.")), None)
    wrong = _why_no_key(key, typed or key, given)
    shown = f"{typed}={given[typed]}" if typed is not None else key
    return f"{shown}: {wrong}" if wrong else None


def _why_no_key(key: str, typed: str, given: Mapping[str, str]) -> str | None:
    """What is wrong with a dotted key that OmegaConf refused; None if nothing is.

    Arguments:
        typed: the key that was typed, of which OmegaConf may name only the beginning.
    """
    cls: Any = Config
    prefix = ""
    for name in key.split("."):
        if prefix == "hardware.tiers.":
            return None  # a mapping with any keys: OmegaConf's own message will do
        hints = get_type_hints(cls) if cls is not None else {}
        if name not in hints or f"{prefix}{name}" == "version":
            if meant := meant_by(typed, given.get(typed, "")):
                return f"is not a key; did you mean {meant}?"
            return unknown_key(name, prefix, [n for n in hints if prefix or n != "version"])
        hint = hints[name]
        cls = next((h for h in (hint, *get_args(hint)) if is_dataclass(h)), None)
        prefix += f"{name}."
    is_group = cls is not None and key in given
    return "must be a mapping; set its keys one by one" if is_group else None
