"""What each growth mode is: the kind of memory that grows and the cheapest remedy, as measured.

Pure data, for whoever judges a diagnosis. The measurements are in ``docs/explaining.md``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Truth:
    """The right answer for one growth mode.

    Attributes:
        kind: of memory, as in ``explain.json``.
        remedy: the cheapest that gives at least half of the growth back, as in ``explain.json``.
        holder: what the path or line of the holder has in it; None where Python sees none.
        seen_by: memory metrics (``reload.metric``) that grow with it.
    """

    kind: str
    remedy: str
    holder: str | None
    seen_by: tuple[str, ...] = ("active", "mlx", "process")


OUTSIDE_MLX = ("process",)

TRUTHS = {
    "lazy_loss": Truth("lazy_graph", "reload_in_process", "running"),
    "lazy_metric": Truth("lazy_graph", "reload_in_process", "correct"),
    "trainer_list": Truth("active", "reload_in_process", "history"),
    "module_list": Truth("active", "reload_process", "lab.faults.module_list.HISTORY"),
    "closure": Truth("active", "reload_in_process", "seen"),
    "exceptions": Truth("active", "reload_process", "lab.faults.exceptions.ERRORS"),
    "cycles": Truth("active", "collect", "Record"),
    "ema": Truth("lazy_graph", "reload_in_process", "averages"),
    "prefetch": Truth("active", "reload_in_process", "queue"),
    "ragged_cache": Truth("cache", "clear_cache", None, ("mlx", "process")),
    "compile_shapes": Truth("compile_cache", "reload_in_process", None, OUTSIDE_MLX),
    "compile_constant": Truth("compile_cache", "reload_in_process", None, OUTSIDE_MLX),
    "token_memo": Truth("python", "reload_process", "token_memo.py", OUTSIDE_MLX),
    "streams": Truth("native", "reload_process", None, OUTSIDE_MLX),
    "fragmentation": Truth("native", "reload_in_process", None, OUTSIDE_MLX),
    "validation_graph": Truth("lazy_graph", "reload_in_process", "losses"),
}
