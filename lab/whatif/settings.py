"""Settings to predict: every combination of words like ``reload.interval_steps=25,50``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from typing import Any

import yaml

from lab.compose.auto import THRESHOLD_SHARE
from lab.compose.habits import all_keys
from lab.config.keys import Config
from lab.config.schema import AUTO, ConfigError, from_dict, to_dict, whole
from lab.train.reload_policy import active_triggers

KEYS = (
    "reload",
    "reload.policy",
    "reload.interval_steps",
    "reload.memory_threshold_gb",
    "reload.leak_threshold_mb",
    "reload.window_steps",
    "reload.metric",
    "reload.method",
    "memory.budget_gb",
    "train.steps",
)
ALWAYS_TYPED = ("reload.metric", "reload.method", "memory.budget_gb", "train.steps")
MOST = 10_000  # combinations
MOST_STEPS = 1_000_000
LEAK_MB = 1.0  # what conf/reload/leak.yaml sets
INTERVALS = (5, 10, 15, 25, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)
SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9)  # of what memory grows by, tried as thresholds
LEAST_GROWTH = 0.02  # of the highest: in less no threshold makes a difference


@dataclass(frozen=True)
class Setting:
    """One run to predict.

    Attributes:
        given: the overrides that make it, as they would be typed.
    """

    given: tuple[str, ...]
    config: Config

    @property
    def effect(self) -> tuple[object, ...]:
        """What it does: two settings with the same effect give the same run."""
        reload, triggers = self.config.reload, active_triggers(self.config.reload)
        adapts = reload.policy == "adaptive"
        looks = (reload.metric,) if triggers.threshold or triggers.leak or adapts else ()
        acts = triggers.interval or looks
        return (
            *(adapts, triggers, looks, reload.window_steps if triggers.leak else 0),
            *(reload.method if acts else "", self.config.memory.budget_gb, self.config.train.steps),
        )

    @property
    def label(self) -> str:
        """The policy in words, e.g. ``interval 50 or threshold 2 GB``."""
        triggers, reload = active_triggers(self.config.reload), self.config.reload
        words = [
            "adaptive" if reload.policy == "adaptive" else "",
            f"interval {triggers.interval}" if triggers.interval else "",
            f"threshold {reload.memory_threshold_gb:g} GB" if triggers.threshold else "",
            f"leak {reload.leak_threshold_mb:g} MB" if triggers.leak else "",
        ]
        return " or ".join(word for word in words if word) or "none"


def settings_of(base: Config, words: Sequence[str]) -> list[Setting]:
    """Every combination of the given values on top of a recorded run's config, each effect once.

    Without a word on reloads: no reload, and some intervals.

    Raises:
        ConfigError: a key that cannot be varied without training, or a value that no run takes.
    """
    values = _values(words)
    lists = _combinations(values)
    if not names_reloads(words):
        lists = (policy | rest for rest in lists for policy in _usual(base, rest))
    found: dict[tuple[object, ...], Setting] = {}
    for chosen in lists:
        setting = _setting(base, chosen)
        found.setdefault(setting.effect, setting)
    return list(found.values())


def names_reloads(words: Sequence[str]) -> bool:
    """Whether the words say which reloads to predict."""
    return any(word.startswith("reload") for word in words)


def thresholds_of(setting: Setting, lowest: float, highest: float) -> Iterator[Setting]:
    """The same run above some thresholds between the least and the most that memory comes to.

    Arguments:
        lowest, highest: GB of its ``reload.metric`` without reloads.
    """
    config = setting.config
    top = min(highest, config.memory.budget_gb)
    if top - lowest < LEAST_GROWTH * highest:
        return
    more = [word.partition("=")[0] for word in setting.given]
    digits = 3 if top - lowest < 1 else 2
    for share in SHARES:
        threshold = round(lowest + share * (top - lowest), digits)
        reload = replace(config.reload, policy="threshold", memory_threshold_gb=threshold)
        yield setting_of(replace(config, reload=reload), [k for k in more if k in ALWAYS_TYPED])


def _values(words: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if key not in KEYS:
            allowed = f"lab whatif varies {', '.join(KEYS)}; anything else needs a run"
            raise ConfigError(key, text if equals else "", allowed + _hint(key))
        if not equals or key in found:
            raise ConfigError(key, text, "is given twice" if equals else f"write {key}=V1,V2,...")
        found[key] = [_plain(key, part.strip()) for part in text.split(",")]
    if "reload" in found and "reload.policy" in found:
        raise ConfigError("reload.policy", "", "is what reload= sets; give one of them")
    policies = found.pop("reload", None)
    return {"reload.policy": policies, **found} if policies else found


def _hint(key: str) -> str:
    """What was meant by a key that no config has; empty where nothing is like it."""
    if key in all_keys():
        return ""
    near = [known for known in KEYS if key in known] or get_close_matches(key, KEYS, n=1)
    return f"; did you mean {near[0]}?" if near and key else ""


def _plain(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str | float):  # YAML has no 1e2
        with suppress(ValueError):
            value = whole(float(value))
    if value is None or isinstance(value, list | dict):
        raise ConfigError(key, text, "must be one value, or several with commas: 25,50,100")
    return value


def _combinations(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    count = 1
    for key, several in values.items():
        count *= len(several)
        if count > MOST:
            raise ConfigError(key, len(several), f"makes more than {MOST:,} combinations")
    return (dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))


def _usual(base: Config, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    steps = given.get("train.steps", base.train.steps)
    yield {"reload.policy": "none"}
    for every in INTERVALS:
        if isinstance(steps, int) and every < steps:
            yield {"reload.policy": "interval", "reload.interval_steps": every}


def _is_budget(value: Any) -> bool:
    """Whether thresholds follow from it; else the error is to name it, not one of them."""
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _setting(base: Config, chosen: Mapping[str, Any]) -> Setting:
    values = dict(chosen)
    policy = values.get("reload.policy", base.reload.policy)
    if values.get("memory.budget_gb") == AUTO:
        values["memory.budget_gb"] = base.memory.budget_gb
    budget = values.get("memory.budget_gb", base.memory.budget_gb)
    # As lab.compose.auto has it; the saved config no longer says whether it was given or auto.
    is_new = "memory.budget_gb" in values
    threshold = values.get("reload.memory_threshold_gb", AUTO if is_new else None)
    steps = values.get("train.steps", base.train.steps)
    if isinstance(steps, int | float) and steps > MOST_STEPS:
        said = f"lab whatif predicts at most {MOST_STEPS:,} steps; give fewer"
        raise ConfigError("train.steps", steps, said)
    if threshold == AUTO and _is_budget(budget):
        values["reload.memory_threshold_gb"] = round(THRESHOLD_SHARE * budget, 2)
    if policy == "leak" and "reload.leak_threshold_mb" not in values:
        values["reload.leak_threshold_mb"] = base.reload.leak_threshold_mb or LEAK_MB
    raw = to_dict(base)
    for key, value in values.items():
        group, _, name = key.partition(".")
        raw[group][name] = value
    return setting_of(from_dict(Config, raw), [key for key in chosen if key in ALWAYS_TYPED])


def setting_of(config: Config, more: Sequence[str] = ()) -> Setting:
    """A config as a setting: its policy, the keys that this policy reads, and some more."""
    own = {"interval": "interval_steps", "threshold": "memory_threshold_gb"}
    policy, values = config.reload.policy, to_dict(config)
    keys = [f"reload.{key}" for trigger, key in own.items() if trigger in policy]
    keys += ["reload.leak_threshold_mb"] if active_triggers(config.reload).leak else []
    typed = []
    for key in (*keys, *more):
        group, _, name = key.partition(".")
        typed.append(f"{key}={values[group][name]}")
    return Setting((f"reload={policy}", *typed), config)
