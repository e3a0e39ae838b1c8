"""memory.png: a run's memory over its steps with every reload, and its loss below."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.plots.columns import Columns, read_columns, read_reloads
from lab.plots.curves import BINS, Curve, smoothed, thinned
from lab.plots.style import INK, MUTED, plain
from lab.records.replace import MARK, check_replaceable, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = 9  # reload reasons that fit side by side
TITLE, NOTE = 80, 130  # letters
NEAR = 1.6  # a limit this many times above the highest memory still leaves the curves their height

COLOURS = {
    "process": "#0b7285",
    "active": "#e8590c",
    "cache": "#f2b705",
    "peak": "#c92a2a",
    "reload": "#5f3dc4",
    "remedy": "#9775fa",
    "census": "#495057",
    "loss": "#1864ab",
    "val": "#2b8a3e",
}


def plot_run(run_dir: Path, note: str = "") -> Path:
    """Draw ``memory.png`` in a run's folder from its files alone; return its path.

    Memory is in GB of 2^30 bytes. A run without rows gets empty axes.

    Arguments:
        note: one line above the memory: what grows and who holds it.

    Raises:
        ConfigError: the folder is no run's, and its ``memory.png`` is somebody else's.
        OSError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    config, path = _config(run_dir), run_dir / "memory.png"
    if config is None:  # a run has its folder only where the name was free
        check_replaceable(path)
    columns = read_columns(run_dir)
    reloads = [(event["step"], str(event.get("reason"))) for event in read_reloads(run_dir)]
    figure = Figure(figsize=(8, 16 / 3), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
    for axes in (upper, lower):
        plain(axes)
    _draw_memory(upper, columns, config)
    _mark_reloads(upper, reloads)
    remedies = [(e["step"], str(e.get("remedy"))) for e in read_reloads(run_dir, "remedy")]
    counts = ", ".join(f"{n} {rung}" for rung, n in Counter(r for _, r in remedies).items())
    _mark_at_foot(upper, [step for step, _ in remedies], f"remedies: {counts}", "remedy")
    censuses = [event["step"] for event in read_reloads(run_dir, "census")]
    label = f"censuses, which empty the cache: {len(censuses)}"
    _mark_at_foot(upper, censuses, label, "census")
    _legend(upper)
    _draw_loss(lower, columns)
    _upright(lower, reloads, lw=0.5, alpha=0.1)
    name = config.name if config is not None else run_dir.name
    name = _cut(name, TITLE)
    style = {"color": INK, "fontsize": 11, "fontweight": "bold", "parse_math": False}
    upper.set_title(name, loc="left", pad=20, **style)
    if note:
        _note(upper, _cut(note, NOTE), (0, 1.06), upper.transAxes, parse_math=False)
    figure.align_ylabels()
    with replacing(run_dir) as new:
        figure.savefig(new / path.name, metadata={"Software": MARK})
    return path


def _draw_memory(axes: Axes, columns: Columns, config: Config | None) -> None:
    styles: dict[str, dict[str, Any]] = {
        "peak": {"lw": 0.9, "ls": (0, (4, 2)), "label": "MLX peak"},
        "cache": {"lw": 0.9, "label": "MLX cache"},
        "active": {"lw": 1.1, "label": "MLX active"},
        "process": {"lw": 1.7, "label": "process"},
    }
    highest = 0.0
    for name, style in styles.items():
        curve = columns.curve(f"memory/{name}_gb")
        highest = max(highest, curve.y.max(initial=0.0))
        style["lw"] *= 1 if len(curve) < BINS else 0.6
        _line(axes, thinned(curve), color=COLOURS[name], **style)
    axes.set_ylim(0, highest * 1.08 or 1)
    if config is not None:
        limits = {"budget": config.memory.budget_gb}
        if config.reload.policy in ("threshold", "interval_or_threshold"):
            limits["reload threshold"] = config.reload.memory_threshold_gb
        _draw_limits(axes, limits, highest)
    axes.set_ylabel("memory (GB of 2³⁰ bytes)", color=INK, fontsize=9)


def _draw_limits(axes: Axes, limits: Mapping[str, float], highest: float) -> None:
    """Draw horizontal lines; one far above the curves would flatten them, so only its legend."""
    style: dict[str, Any] = {"color": MUTED, "lw": 0.9, "ls": (0, (1, 2))}
    for name, limit in limits.items():
        if limit > highest * NEAR:
            axes.plot([], [], label=f"{name} {limit:.2f} GB, above", **style)
        elif limit > 0:
            axes.axhline(limit, **style)
            axes.set_ylim(top=max(axes.get_ylim()[1], limit * 1.1))
            _note(axes, name, (0.005, limit), axes.get_yaxis_transform(), va="bottom")


def _mark_reloads(axes: Axes, reloads: Sequence[tuple[int, str]]) -> None:
    """Draw a line for each reload, its reason where there is room; the legend counts them all."""
    if not reloads:
        return
    room = reloads[-1][0] / LABELS
    labelled = -math.inf
    _upright(axes, reloads, lw=0.8, alpha=max(0.12, min(0.7, 30 / len(reloads))))
    for step, reason in reloads:
        if step - labelled >= room:
            labelled = step
            _note(
                axes,
                reason,
                (step, 1.005),
                axes.get_xaxis_transform(),
                color=COLOURS["reload"],
                ha="center",
                va="bottom",
            )
    counts = ", ".join(f"{n} {reason}" for reason, n in Counter(r for _, r in reloads).items())
    axes.plot([], [], color=COLOURS["reload"], lw=0.8, label=f"reloads: {counts}")


def _mark_at_foot(axes: Axes, steps: Sequence[int], label: str, colour: str) -> None:
    """Draw a light tick at the foot for each step, as for what is less than a reload."""
    if not steps:
        return
    style: dict[str, Any] = {"color": COLOURS[colour], "alpha": 0.6, "marker": "|", "ms": 9}
    feet = [0.02] * len(steps)
    axes.plot(steps, feet, ls="none", transform=axes.get_xaxis_transform(), **style)
    axes.plot([], [], ls="none", label=label, **style)


def _draw_loss(axes: Axes, columns: Columns) -> None:
    loss, val = columns.curve("loss"), columns.curve("val_loss")
    _line(axes, thinned(loss), color=COLOURS["loss"], lw=0.6, alpha=0.35, label="training loss")
    if len(loss) > 2:
        smooth = Curve(loss.x, smoothed(loss.y))
        _line(axes, thinned(smooth), color=COLOURS["loss"], lw=1.6, label="smoothed")
    if len(val):
        marks = {"marker": "o", "ms": 4, "mec": "white", "mew": 0.7, "lw": 0.8}
        axes.plot(val.x, val.y, color=COLOURS["val"], label="validation loss", **marks)
    axes.set_ylabel("loss (nats a token)", color=INK, fontsize=9)
    axes.set_xlabel("step", color=INK, fontsize=9)
    _legend(axes)


def _upright(axes: Axes, reloads: Sequence[tuple[int, str]], **style: Any) -> None:
    """Draw a vertical line at each reload, in one collection: 300 axvlines take a second."""
    from matplotlib.collections import LineCollection

    lines = [[(step, 0), (step, 1)] for step, _ in reloads]
    transform = axes.get_xaxis_transform()
    collection = LineCollection(
        lines, color=COLOURS["reload"], zorder=0, transform=transform, **style
    )
    axes.add_collection(collection, autolim=False)


def _line(axes: Axes, curve: Curve, **style: Any) -> None:
    if len(curve):
        axes.plot(curve.x, curve.y, marker="o" if len(curve) == 1 else None, ms=4, **style)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles[::-1],
            labels[::-1],
            fontsize=7.5,
            frameon=False,
            labelcolor=INK,
            loc="upper left",
            bbox_to_anchor=(1, 1),
        )


def _note(axes: Axes, text: str, at: tuple[float, float], transform: Any, **style: Any) -> None:
    axes.text(*at, text, transform=transform, **{"color": MUTED, "fontsize": 7} | style)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _config(run_dir: Path) -> Config | None:
    """The run's config, for its name and limits; None if it cannot be read."""
    try:
        return Config.load(run_dir / "config.yaml")
    except ConfigError:
        return None
