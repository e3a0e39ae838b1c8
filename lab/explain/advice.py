"""One sentence of advice: the setting or the line that ends the growth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMALL_MB = 0.05  # MB a step: growth below it takes 20,000 steps to a GB


def advice_on(found: Mapping[str, Any], root: str | None, container: str | None) -> str:
    """Advice on an explanation whose other keys are known.

    Arguments:
        root: what kind of root the holder has.
        container: what takes in more and more, where the holder is one of its items.
    """
    where, _, line = (found["holder"] or "").partition(", allocated at ")
    if root == "cycle":
        cycle = where.removeprefix("unreachable ")
        return f"Break the {cycle} (a weakref one way), or call gc.collect() now and then"
    match found["kind"]:
        case "cache":
            return (
                "MLX keeps freed buffers of ever new sizes: set memory.cache_clear_interval=10 or "
                "lower memory.cache_limit_gb, or pad batches to fewer lengths (data.max_shapes)"
            )
        case "lazy_graph":
            return _evaluate(where, container)
        case "compile_cache":
            return _trace_once(where, (found.get("signatures") or {}).get("changed"))
        case "python" | "native" if root in ("allocation", "line"):
            return _at_line(where, root)
        case "python" if where:
            return (
                f"Empty {_filled(container or where, line)} now and then, or keep less in it: a "
                "number takes some 32 bytes in a list and 4 in an array"
            )
        case "native" if where:
            return (
                f"The C heap grows, with {_filled(container or where, line)} in it: empty it, or "
                "make its items at their final size, since what is cut off leaves holes, or reload"
            )
        case "native":
            return "The C heap grows outside MLX and Python: look at native libraries, or reload"
        case "other":
            return "Neither MLX nor Python holds it: look at other libraries, or reload by process"
    return _let_go(where, container)


def _at_line(where: str, root: str | None) -> str:
    if root == "line":
        return f"Make the stream once, not at each step: {where.removesuffix(' (new streams)')}"
    return f"Look at what keeps what {where} allocates, and let go of it, or reload"


def _filled(container: str, line: str) -> str:
    return f"{container} (filled at {line})" if line else container


def _let_go(where: str, container: str | None) -> str:
    """Of arrays that Python can reach."""
    keep = "keep only the last few of it, or only numbers (x.item())"
    if where.startswith("traceback of ") and container:
        return f"Empty {container}, and keep the text of an error (str(error)), not the error"
    if container and container.endswith(".queue"):  # of queue.Queue, whose deque has that name
        queue = container.removesuffix(".queue")
        return f"Give {queue} a bound (queue.Queue(maxsize=2)), so that who fills it waits"
    if not where:
        return f"Find what keeps arrays alive, and {keep}"
    return f"Empty {container or where}, or {keep}"


def _evaluate(where: str, container: str | None) -> str:
    if not where:
        return "Evaluate at each step (mx.eval) what is computed from it and not read"
    if container and where.startswith(f"{container}[") and where.endswith("]"):
        return f"Evaluate all of {container} at each step (mx.eval), so that none keeps its graph"
    return f"Evaluate {where} at each step (mx.eval), so that it does not keep its graph"


def _trace_once(where: str, changed: str | None) -> str:
    """Of a compiled function, and what changed in its input."""
    because = f" ({changed})" if changed else ""
    if not changed or ": " not in changed:
        remedy = "pad to fewer shapes, pass numbers that change as arrays"
    elif ": [" in changed:
        remedy = "pad to fewer shapes"
    else:
        remedy = "pass the number as an array (mx.array(x))"
    without = "set train.compile=false" if "at lab/train/" in where else "do not compile it"
    function = where or "A compiled function"
    return f"{function} is traced anew at each step{because}: {remedy}, or {without}"


def curve_advice(kind: str) -> str:
    """Advice on a run of which only the curve is known."""
    again = "run it again with explain.enabled=true to see who holds it"
    if kind == "cache":
        return f"MLX's cache grows: set memory.cache_clear_interval=10; {again}"
    what = "Arrays that MLX counts grow" if kind == "active" else "Memory outside MLX grows"
    return f"{what}, as the curve alone says: {again}"


def steady(slope_mb: float, steps: int, high_mb: float, confidence: float) -> tuple[str, str]:
    """What is found where nothing is certain to grow, with the figure; and what to do."""
    figure = f"{slope_mb:.2g} MB a step over {steps:,} steps, at most {high_mb:.2g} with "
    said = f"{figure}{confidence:.1%} confidence"
    if high_mb <= SMALL_MB:
        return f"Nothing grows: {said}", "No remedy and no reload is needed"
    return f"No growth is certain: {said}", "More steps would tell"


def too_short(steps: int, needed: int, warm_up: int) -> tuple[str, str]:
    """What is found in a run of few steps, and what to do."""
    found = (
        f"Too short to tell: {steps} steps after the warm-up and between two reloads, "
        f"{needed} are needed"
    )
    return found, f"Train {needed + warm_up} steps or more, with no reload among them, to see it"
