"""Strict parsing of plain values into frozen dataclasses: types, ranges, unknown keys, errors.

:func:`setting` declares a field with its range, :func:`from_dict` builds the class from what YAML
or JSON gave. Which settings a run has is in :mod:`lab.config.keys`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

AUTO = "auto"
EXACT = 2**53  # up to which a float holds every whole number

T = TypeVar("T")


class ConfigError(ValueError):
    """A value that the run cannot work with.

    Attributes:
        key: dotted name of the setting, e.g. ``train.batch_size``.
        value: what was given.
        allowed: what would be accepted, and the remedy where there is one.
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        given = key if value == "" else f"{key}={_shown(value)}"
        super().__init__(f"{given}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    @property
    def plain_value(self) -> object:
        """The value as JSON can hold it, for another process to make the same error of."""
        plain = isinstance(self.value, bool | int | float | NoneType)
        return self.value if plain else str(self.value)


def why_unreadable(error: Exception) -> str:
    """Why a text file of ours could not be read, on one line and in words.

    Arguments:
        error: of opening, decoding or parsing it.
    """
    match error:
        case OSError():
            return error.strerror or str(error)
        case UnicodeDecodeError():
            return f"it is damaged: no text from byte {error.start + 1} on"
        case json.JSONDecodeError():
            return f"it is damaged: no JSON in line {error.lineno}, column {error.colno}"
        case RecursionError():
            return "it is nested too deeply"
    return " ".join(str(error).split())


def _shown(value: object) -> str:
    """A value as it would be typed, cut off: aliases in a hostile YAML can expand to any size."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value) if isinstance(value, str | PurePath) else reprlib.repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def setting(
    default: Any = MISSING,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    auto: bool = False,
    words: tuple[str, ...] = (),
) -> Any:
    """Declare a field with its range.

    Arguments:
        at_least, above, at_most: bounds of a number; ``above`` is exclusive.
        choices: all values that the field takes.
        unit: of a number, for error messages.
        auto: whether :func:`draft` also takes the word ``auto``, to be replaced before the run.
        words: that a number's field takes in its place.
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return field(default=default, metadata={**limits, "unit": unit, "auto": auto, "words": words})


def _allowed(metadata: Any) -> str:
    """The range of a field in words: ``at least 1, at most 64 sequences``."""
    if metadata.get("choices"):
        return "one of " + ", ".join(metadata["choices"])
    words = [
        f"{name.replace('_', ' ')} {metadata[name]:.15g}"
        for name in ("at_least", "above", "at_most")
        if metadata.get(name) is not None
    ]
    return " and ".join(words) + (f" {metadata['unit']}" if metadata.get("unit") else "")


def _words(metadata: Any) -> str:
    """What a number's field takes in its place, to be put before its range."""
    return "".join(f"{word} or " for word in metadata.get("words", ()))


def _check_range(key: str, value: object, metadata: Any) -> None:
    allowed = f"must be {_words(metadata)}{_allowed(metadata)}"
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(key, value, f"{allowed}, and finite")
    if metadata.get("choices") and value not in metadata["choices"]:
        raise ConfigError(key, value, allowed)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, above, high = metadata.get("at_least"), metadata.get("above"), metadata.get("at_most")
    below = (low is not None and value < low) or (above is not None and value <= above)
    if below or (high is not None and value > high):
        raise ConfigError(key, value, allowed)


def from_dict(cls: type[T], raw: object) -> T:
    """Build a frozen config class from plain values, strictly.

    Raises:
        ConfigError: a key that does not exist or is missing, a value of another type or out of
            its range, or any text that holds an interpolation.
    """
    return cls(**_values(cls, raw, "", undecided=False))


def from_words(cls: type[T], words: Mapping[str, str | None]) -> T:
    """Build a frozen class of settings from words as they were typed; None is the default.

    Raises:
        ConfigError: as :func:`from_dict`.
    """
    return from_dict(cls, {key: _typed(word) for key, word in words.items() if word is not None})


def _typed(word: str) -> object:
    try:
        return whole(json.loads(word))
    except (ValueError, RecursionError):
        return word


def draft(cls: type[Any], raw: object) -> dict[str, Any]:
    """Check values like :func:`from_dict`, but let ``auto`` and null pass in ``auto`` fields.

    Where an int is wanted ``1e2`` will do, which Hydra reads as 100.0.

    Returns:
        Plain nested mappings with every key; rules between keys are not checked.

    Raises:
        ConfigError: as :func:`from_dict`.
    """
    return _values(cls, raw, "", undecided=True)


def _values(cls: type[Any], raw: object, prefix: str, *, undecided: bool) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(
            prefix.rstrip(".") or "config", raw, "must be a mapping of keys to values"
        )
    known = {f.name: f for f in fields(cls)}
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"{prefix}{key}", raw[key], unknown_key(str(key), prefix, list(known))
            )
    hints = get_type_hints(cls)
    values = {}
    for name, spec in known.items():
        key = f"{prefix}{name}"
        if name in raw:
            values[name] = _convert(key, raw[name], hints[name], spec.metadata, undecided=undecided)
        elif spec.default is MISSING:
            raise ConfigError(key, "", "is missing")
        else:
            values[name] = spec.default
    return values


def unknown_key(name: str, prefix: str, known: list[str]) -> str:
    """The error text for a key that does not exist: the nearest one, or all that there are."""
    if not known:
        return f"is not a key; {prefix.rstrip('.')} is a single value"
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"is not a key; did you mean {prefix}{near[0]}?"
    return f"is not a key; {prefix.rstrip('.') or 'a config'} has {', '.join(known)}"


def _convert(key: str, value: Any, hint: Any, metadata: Any, *, undecided: bool) -> Any:
    if undecided and metadata.get("auto") and (value is None or value == AUTO):
        return AUTO
    if isinstance(value, str) and value in metadata.get("words", ()):
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        inner = next(a for a in arguments if a is not NoneType)
        return _convert(key, value, inner, metadata, undecided=undecided)
    if isinstance(hint, type) and is_dataclass(hint):
        values = _values(hint, value, f"{key}.", undecided=undecided)
        return values if undecided else hint(**values)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(key, value, "must be a mapping of keys to values")
        return {
            str(k): _convert(f"{key}.{k}", v, arguments[1], {}, undecided=undecided)
            for k, v in value.items()
        }
    if origin is tuple:
        if not isinstance(value, list | tuple):
            shown = value if isinstance(value, str) and value.isprintable() else "a,b"
            raise ConfigError(key, value, f"must be a list: '{key}=[{shown}]'")
        each = {"choices": metadata.get("choices")}
        return tuple(
            _convert(f"{key}[{i}]", v, arguments[0], each, undecided=undecided)
            for i, v in enumerate(value)
        )
    value = _scalar(key, whole(value) if undecided and hint is int else value, hint, metadata)
    _check_range(key, value, metadata)
    return value


def whole(value: Any) -> Any:
    """An int for a float that is one, as ``1e2`` is; anything else as it is."""
    is_whole = type(value) is float and value.is_integer() and abs(value) <= EXACT
    return int(value) if is_whole else value


def _scalar(key: str, value: Any, hint: type, metadata: Any) -> Any:
    if hint is float and type(value) is int:
        # An int that no float can hold becomes one that no range allows.
        value = float(value) if abs(value) < 2**1023 else math.inf
    if type(value) is not hint:
        kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        allowed = _allowed(metadata)
        word = f"{AUTO} or " if metadata.get("auto") else _words(metadata)
        kind = "" if metadata.get("choices") else kinds[hint] + ", " * bool(allowed)
        meant = _meant_number(value, metadata.get("unit", ""))
        remedy = f"; write {key}={meant}" if meant else ""
        raise ConfigError(key, value, f"must be {word}{kind}{allowed}{remedy}")
    if hint is str and "${" in value:
        raise ConfigError(key, value, "must be plain text; a saved config holds no interpolation")
    return value


def _meant_number(value: object, unit: str) -> str:
    """The number that a text is but for its quotes or its unit, ``512MB`` in GB; empty for none."""
    if not isinstance(value, str):
        return ""
    if type(_typed(value)) in (int, float):
        return f"{value}, without quotes"
    sized = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([mg])i?b?", value.lower())
    own = unit[:2].lower()
    if sized is None or own not in ("mb", "gb"):
        return ""
    powers = "mg".index(sized[2]) - "mg".index(own[0])
    return f"{float(sized[1]) * 1024.0**powers:.6g}"


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a config, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(config)
