"""profile.png: where a step's time and memory go, by phase and by kind of module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.config.units import MB
from lab.plots.style import GRID, INK, MUTED, plain
from lab.records.profile import Part, Profile, read_profile
from lab.records.replace import MARK, replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

TITLE = 80  # letters
COLOURS = {"time": "#1864ab", "backward": "#74a9d8", "kept": "#e8590c", "peak": "#f6c9a9"}
GAP = 0.9  # rows between the phases and the modules


def plot_profile(run_dir: Path) -> Path | None:
    """Draw ``profile.png`` from a run's ``profile.json``; return its path, None without one.

    Raises:
        ConfigError: ``profile.json`` is damaged.
        OSError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    profile, path = read_profile(run_dir), run_dir / "profile.png"
    if profile is None:
        return None
    rows = [*profile.phases, *profile.modules]
    height = 1.5 + 0.27 * (len(rows) + 2 * GAP)
    figure = Figure(figsize=(9, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    time, memory = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    places = _places(profile)
    _draw_time(time, profile, places)
    _draw_memory(memory, profile, places)
    time.set_yticks(places, [part.name for part in rows], color=INK)
    time.set_ylim(max(places) + 0.6, min(places) - 0.6)
    first, last = profile.steps
    title = f"Where a step goes, steps {first} to {last}: {_name(run_dir)}"
    note = f"{'; '.join(profile.slowness())}\nmemory is above what was alive as the part began"
    if profile.active is not None:
        note += f", {_mb(profile.active):,.1f} MB before a step"
    style: dict[str, Any] = {"ha": "left", "parse_math": False}
    figure.suptitle(_cut(title), x=0.01, fontsize=11, fontweight="bold", color=INK, **style)
    figure.supxlabel(note, x=0.01, fontsize=7.5, color=MUTED, **style)
    with replacing(run_dir) as new:
        figure.savefig(new / path.name, metadata={"Software": MARK})
    return path


def _places(profile: Profile) -> list[float]:
    """Where each row lies, downwards: the phases, a gap for a heading, the kinds of modules."""
    phases, modules = len(profile.phases), len(profile.modules)
    return [*range(phases), *(phases + GAP + row for row in range(modules))]


def _draw_time(axes: Axes, profile: Profile, places: Sequence[float]) -> None:
    phases, modules = len(profile.phases), profile.modules
    forward = [part.seconds * 1e3 for part in (*profile.phases, *modules)]
    backward = [(part.backward or 0.0) * 1e3 for part in modules]
    axes.barh(places, forward, color=COLOURS["time"], height=0.7)
    axes.barh(
        places[phases:], backward, left=forward[phases:], color=COLOURS["backward"], height=0.7
    )
    total = profile.seconds * 1e3
    both = list(zip(forward[phases:], backward, strict=True))
    said = [f"{ms:,.2f} ms, {ms / total:.1%}" for ms in forward[:phases]]
    said += [f"{f:,.2f} + {b:,.2f} ms, {(f + b) / total:.1%}" for f, b in both]
    ends = [*forward[:phases], *map(sum, both)]
    _finish(axes, places, ends, said, "milliseconds a step")
    _heading(axes, -0.5, "time of each part")
    if modules:
        _heading(axes, places[phases] - 0.5, "forward + backward, by kind of module")


def _draw_memory(axes: Axes, profile: Profile, places: Sequence[float]) -> None:
    parts = [*profile.phases, *profile.modules]
    kept, peak = [_mb(part.kept) for part in parts], [_mb(part.peak) for part in parts]
    axes.barh(places, peak, color=COLOURS["peak"], height=0.7, label="peak")
    axes.barh(places, kept, color=COLOURS["kept"], height=0.7, label="kept for the backward pass")
    said = [_sizes(part) for part in parts]
    ends = [max(both) for both in zip(kept, peak, strict=True)]
    _finish(axes, places, ends, said, "MB of 2²⁰ bytes")
    axes.tick_params(labelleft=False)
    _heading(axes, -0.5, "MLX memory kept (dark), and peak")
    if profile.modules:
        _heading(axes, places[len(profile.phases)] - 0.5, "kept by all of a kind, peak of one")


def _mb(size: int | None) -> float:
    return max(size or 0, 0) / MB


def _sizes(part: Part) -> str:
    if part.peak is None:
        return ""
    kept = (part.kept or 0) / MB
    said = f"{-kept:,.1f} freed" if kept < -0.05 else f"{_mb(part.kept):,.1f} kept"
    return f"{said}, peak {_mb(part.peak):,.1f}"


def _finish(
    axes: Axes, places: Sequence[float], ends: Sequence[float], said: Sequence[str], unit: str
) -> None:
    """Write each row's figures behind its bar, with room for the longest."""
    plain(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=GRID, lw=0.7)
    axes.set_xlim(0, (max(ends) or 1) * 1.65)
    axes.set_xlabel(unit, fontsize=8.5, color=INK)
    for place, end, text in zip(places, ends, said, strict=True):
        axes.annotate(
            text, (end, place), (4, 0), textcoords="offset points", va="center",
            fontsize=7.5, color=INK,
        )  # fmt: skip


def _heading(axes: Axes, place: float, text: str) -> None:
    axes.annotate(
        text, (0, place), (0, 4), xycoords=("axes fraction", "data"), textcoords="offset points",
        fontsize=8.5, fontweight="bold", color=INK, va="bottom", annotation_clip=False,
    )  # fmt: skip


def _name(run_dir: Path) -> str:
    try:
        return Config.load(run_dir / "config.yaml").name
    except ConfigError:
        return run_dir.name


def _cut(text: str) -> str:
    return text if len(text) <= TITLE else text[: TITLE - 1] + "…"
