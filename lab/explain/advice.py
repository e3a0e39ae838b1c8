"""One sentence of advice: the setting or the line that ends the growth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def advice_on(found: Mapping[str, Any], root: str | None) -> str:
    """Advice on an explanation whose other keys are known.

    Arguments:
        root: what kind of root the holder has.
    """
    holder, kind = found["holder"], found["kind"]
    where = holder or "what holds it"
    if root == "cycle":
        return f"Break the {holder.removeprefix('unreachable ')}, or call gc.collect() now and then"
    match kind:
        case "cache":
            return (
                "MLX keeps freed buffers of ever new sizes: set memory.cache_clear_interval=10 or "
                "lower memory.cache_limit_gb, or pad batches to fewer lengths (data.pad_multiple)"
            )
        case "lazy_graph":
            return f"Evaluate {where} at each step (mx.eval), so that it does not keep its graph"
        case "compile_cache":
            changed = (found.get("signatures") or {}).get("changed")
            because = f" ({changed})" if changed else ""
            return (
                f"{where} is traced anew at each step{because}: pad to fewer shapes, pass what "
                "changes as an array, or set train.compile=false"
            )
        case "native" if root == "line":
            return f"Make the stream once, not at each step: {where}"
        case "native":
            return f"The heap grows outside MLX and Python; look at {where}, or reload"
        case "other":
            return "Neither MLX nor Python holds it: look at other libraries, or reload by process"
    keep = "keep only the last few of it, or only numbers (x.item())"
    return f"Empty {where}, or {keep}" if holder else f"Find what keeps arrays alive, and {keep}"


def curve_advice(kind: str) -> str:
    """Advice on a run of which only the curve is known."""
    again = "run it again with explain.enabled=true to see who holds it"
    if kind == "cache":
        return f"MLX's cache grows: set memory.cache_clear_interval=10; {again}"
    what = "Arrays that MLX counts grow" if kind == "active" else "Memory outside MLX grows"
    return f"{what}, as the curve alone says: {again}"


def steady_advice(slope_mb: float, steps: int, high_mb: float, confidence: float) -> str:
    """What is said where nothing grows, with the figure."""
    return (
        f"Nothing grows: {slope_mb:.2g} MB a step over {steps:,} steps, at most {high_mb:.2g} with "
        f"{confidence:.1%} confidence"
    )


def too_short_advice(steps: int, needed: int) -> str:
    return (
        f"Too short to tell: {steps} steps after the warm-up and between two reloads, "
        f"{needed} are needed"
    )
