"""One question to recorded runs: what would each of these settings do, and which one to take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.config.schema import ConfigError, to_dict
from lab.protocol import METHODS, Rung
from lab.records.rows import plausible
from lab.sweep.index import INDEX_FILE, jobs_of
from lab.whatif.costs import Costs
from lab.whatif.cures import Cure
from lab.whatif.growth import MemoryModel
from lab.whatif.predict import Prediction, Predictor
from lab.whatif.recommend import Advice, Outcome, advise
from lab.whatif.recorded import Kind, Recording, read_recording
from lab.whatif.settings import (
    KEYS,
    Setting,
    names_reloads,
    setting_of,
    settings_of,
    thresholds_of,
)

# Keys that change nothing of a run's memory and time: runs that differ in them are one.
INDIFFERENT = ("name", "objective.", "tracker.", "sweep.", "hardware.", "worker.", "reload.")

BY: Mapping[str, str] = {"in_process": "in process", "process": "by process"}


@dataclass(frozen=True)
class Check:
    """A run that was trained, beside what the other runs predict of it.

    Attributes:
        predicted: from the other runs alone.
    """

    run: str
    setting: Setting
    peak_gb: float
    mean_gb: float
    reloads: Mapping[str, int]
    remedies: Mapping[str, int]
    overhead_fraction: float
    predicted: Prediction


@dataclass(frozen=True)
class Study:
    """What was predicted, from what.

    Attributes:
        reference: the recorded run whose curve is known for the most steps.
        checks: for each run of a sweep that is complete.
        notes: one line for each thing that was assumed, or left out.
    """

    reference: Recording
    model: MemoryModel
    costs: Costs
    outcomes: tuple[Outcome, ...]
    advice: tuple[Advice, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]


def study_of(folder: Path, words: Sequence[str]) -> Study:
    """Predict every setting that the words make, from a run or from all runs of a sweep.

    Raises:
        ConfigError: the folder, a word or a value is of no use; or the runs are too short.
    """
    recordings, notes = _recordings(folder)
    reference = max(recordings, key=lambda run: run.first_steps)
    _check_alike(reference, recordings)
    settings = settings_of(reference.config, words)
    longest = max(setting.config.train.steps for setting in settings)
    predictor = Predictor(recordings, longest)
    model, costs = predictor.model, predictor.costs
    is_usual = not names_reloads(words)
    if is_usual:
        own = [] if words else [setting_of(run.config) for run in recordings]
        settings = _unlike([*settings, *_thresholds(settings, predictor), *own])
        runs = list(dict.fromkeys(map(_run_of, settings)))  # those of one run beside one another
        settings.sort(key=lambda setting: runs.index(_run_of(setting)))
    outcomes = tuple(Outcome(s, predictor.predict(s.config)) for s in settings)
    outcomes = _distinct(outcomes) if is_usual else outcomes
    return Study(
        reference=reference,
        model=model,
        costs=costs,
        outcomes=outcomes,
        advice=tuple(advise(outcomes)),
        checks=tuple(_checks(recordings)),
        notes=(*notes, *_assumptions(reference, model, costs, outcomes)),
    )


def _thresholds(settings: Sequence[Setting], predictor: Predictor) -> Iterator[Setting]:
    """Thresholds within what memory does in each of these runs that has no reload."""
    for setting in settings:
        if setting.config.reload.policy == "none":
            curve = predictor.unreloaded(setting.config)
            yield from thresholds_of(setting, float(curve.min()), float(curve.max()))


def _unlike(settings: Sequence[Setting]) -> list[Setting]:
    """Each effect once, the first setting that has it."""
    found: dict[object, Setting] = {}
    for setting in settings:
        found.setdefault(setting.effect, setting)
    return list(found.values())


def _distinct(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Of settings that nobody named those that do something else than an earlier one."""
    found: dict[object, Outcome] = {}
    for outcome in outcomes:
        done = tuple((leave.step, leave.rung) for leave in outcome.predicted.leaves)
        found.setdefault((_run_of(outcome.setting), done), outcome)
    return tuple(found.values())


def _run_of(setting: Setting) -> tuple[float, int]:
    """What is beside reloads: budget and steps."""
    return setting.config.memory.budget_gb, setting.config.train.steps


def _recordings(folder: Path) -> tuple[list[Recording], list[str]]:
    """The run in a folder, or those of a sweep's jobs that can be used, and why others cannot."""
    if not folder.is_dir():
        raise ConfigError("folder", folder, "there is no such folder")
    if not (folder / INDEX_FILE).is_file():
        if not (folder / "config.yaml").is_file():
            raise ConfigError("folder", folder, "is neither a run's nor a sweep's")
        return [read_recording(folder)], []
    found, notes = [], []
    for job, path in jobs_of(folder):
        try:
            found.append(read_recording(path))
        except ConfigError as error:
            notes.append(f"job {job.number} is left out: {error}")
    if not found:
        raise ConfigError("sweep", folder, notes[0] if notes else "none of its jobs has begun")
    return found, notes


def _check_alike(reference: Recording, recordings: Sequence[Recording]) -> None:
    mine = dict(_settings(to_dict(reference.config)))
    for run in recordings:
        for key, value in _settings(to_dict(run.config)):
            if value != mine.get(key):
                said = f"and {mine.get(key)} in others of this sweep; give the folder of one run"
                raise ConfigError(key, value, said)


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Settings that make two runs different runs, by dotted key."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _settings(value, f"{key}.")
        elif not key.startswith(INDIFFERENT) and key not in KEYS:
            yield key, value


def _checks(recordings: Sequence[Recording]) -> Iterator[Check]:
    """Each complete run, predicted from the others."""
    for run in recordings:
        others = [other for other in recordings if other is not run]
        steps = run.config.train.steps
        if not others or run.steps < steps:
            continue
        memory = np.concatenate([session.memory(run.held) for session in run.sessions])
        yield Check(
            run=run.folder.name,
            setting=setting_of(run.config),
            peak_gb=float(memory.max()),
            mean_gb=float(memory.mean()),
            reloads=run.figures.get("reloads") or {},
            remedies=run.figures.get("remedies") or {},
            overhead_fraction=plausible(run.figures.get("overhead_fraction")) or 0.0,
            predicted=Predictor(others, steps).predict(run.config),
        )


def _assumptions(
    reference: Recording, model: MemoryModel, costs: Costs, outcomes: Sequence[Outcome]
) -> Iterator[str]:
    leaves = [leave for outcome in outcomes for leave in outcome.predicted.leaves]
    reloads = {METHODS[leave.rung] for leave in leaves if leave.rung in METHODS}
    for method in sorted(reloads):
        if method in model.assumed:
            yield _given_back(method, model.cure)
        if costs.reload[method].estimated:
            yield (
                f"seconds of a reload {BY[method]} are estimated, a checkpoint and a "
                f"startup: at most {costs.reload[method].seconds:.2f} s"
            )
    lesser: list[Rung] = [leave.rung for leave in leaves if leave.rung not in METHODS]
    if lesser:
        yield _given_back_by_lesser(lesser, model.cure)
    if any(costs.remedy[rung].estimated for rung in lesser):
        yield "seconds of clear_cache and collect are those that the policy begins with"
    if not reference.config.checkpoint.enabled:
        yield "no reload is predicted: with checkpoint.enabled=false it could restore nothing"
    if reference.cures.censuses:
        steps = ", ".join(f"{step:,}" for step in reference.cures.censuses)
        yield (
            f"a census of lab explain gave memory back after step {steps}; after a reload it is "
            "taken to come as soon as growth is certain again, three times a run"
        )
    if reference.held == "mlx":
        yield "memory is that of the GPU: MLX's arrays and its cache"
    longest = max(len(outcome.predicted.curve) for outcome in outcomes)
    if longest > reference.steps:
        yield f"{reference.steps:,} steps are recorded; to {longest:,} growth goes on as at the end"


def _given_back(method: Kind, cure: Cure | None) -> str:
    """What a reload gives back by assumption: no recorded run has one by this method."""
    words = f"a reload {BY[method]}"
    if method == "in_process" and cure is not None:
        gives = "give back nothing but the cache" if cure.rung == "reload_process" else "help"
        return f"{words} is taken to {gives}: {_told(cure)}"
    kept = "; a list in a module or a memo, which it would keep, it could not show"
    return (
        f"{words} is taken to come back to the run's own start: no recorded run has one"
        f"{kept if method == 'in_process' else ''}"
    )


def _given_back_by_lesser(lesser: Sequence[Rung], cure: Cure | None) -> str:
    does = "clear_cache is taken to give back the cache and collect no more"
    if cure is None:
        return f"{does}: no recorded run tells"
    if cure.rung in lesser:
        return f"{cure.rung} is taken to give all growth back: {_told(cure)}"
    return f"{does}: {_told(cure)}"


def _told(cure: Cure) -> str:
    return f"the recorded run has {cure.rung} as the least that does, {cure.source}"
