"""Which kind of memory grows, and how fast each: arithmetic on measured rates, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

KINDS: tuple[str, ...] = (
    *("active", "cache", "lazy_graph", "compile_cache"),
    *("python", "native", "other"),
)

TRACES_A_STEP = 0.2  # a compiled function traced anew so often is what its traces cost
STREAMS_A_STEP = 0.2  # so are new streams
UNKNOWN_SHARE = 0.3  # of the growth, from which on Python's part of it is worth tracing
HIDDEN_SHARE = 0.5  # of active memory's growth, that lazy graphs or traces are blamed for


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What grew, each in bytes a step unless said otherwise.

    Attributes:
        process: of the whole process; None where the system does not say.
        active, cache: of MLX's two counters.
        visible: of the arrays that Python sees and that are computed.
        shared: MLX's memory is part of the process's (on CUDA it is not).
        lazy_operations: operations a step by which a lazy graph grew.
        traces: traces a step of compiled functions.
        streams: new streams a step.
        python: of what Python allocated; None where it was not traced.
        heap: of the C heap, in use and free but not given back; None where it is not known.
        arrays: new computed arrays a step that Python sees.
        overhead: bytes that one array takes beside its content.
        outside_is_certain, cache_is_certain: growth of what is outside MLX, and of its cache; what
            is not certain may be a warm-up, or the noise of ragged batches.
    """

    process: float | None
    active: float
    cache: float
    visible: float
    shared: bool = True
    lazy_operations: float = 0.0
    traces: float = 0.0
    streams: float = 0.0
    python: float | None = None
    heap: float | None = None
    arrays: float = 0.0
    overhead: float = 0.0
    outside_is_certain: bool = True
    cache_is_certain: bool = True

    @property
    def certain(self) -> Rates:
        """The rates as far as growth is certain."""
        process = self.process if self.outside_is_certain else None
        if self.cache_is_certain:
            return replace(self, process=process)
        if process is not None and self.shared:
            process -= max(self.cache, 0.0)
        return replace(self, process=process, cache=0.0)

    @property
    def total(self) -> float:
        """Growth of all memory; MLX's alone where the process's is smaller or not known.

        A process that reuses heap which was freed before grows by less than what is held.
        """
        mlx = max(self.active, 0.0) + max(self.cache, 0.0)
        if self.process is None:
            return mlx
        return max(self.process, mlx) if self.shared else max(self.process, 0.0) + mlx

    @property
    def outside(self) -> float:
        """Growth that MLX's counters do not see."""
        return max(self.total - max(self.active, 0.0) - max(self.cache, 0.0), 0.0)

    @property
    def of_arrays(self) -> float:
        """Growth outside MLX's counters by what many arrays need beside their content."""
        return min(max(self.arrays, 0.0) * self.overhead, self.outside)


def split(rates: Rates) -> dict[str, float]:
    """The growth of each kind in bytes a step; together they are ``rates.total``."""
    active = max(rates.active, 0.0)
    found: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    found["cache"] = max(rates.cache, 0.0)
    hidden = active - min(max(rates.visible, 0.0), active)
    if hidden < HIDDEN_SHARE * active:
        found["active"] = active
    else:
        found["active"] = active - hidden
        found[_hidden_kind(rates)] += hidden
    found["active"] += rates.of_arrays
    rest = rates.outside - rates.of_arrays
    if rates.python is not None:
        found["python"] = min(max(rates.python, 0.0), rest)
        rest -= found["python"]
    if rates.traces >= TRACES_A_STEP:
        found["compile_cache"] += rest
    elif rates.streams >= STREAMS_A_STEP:
        found["native"] += rest
    elif rates.heap is None:
        found["other"] += rest
    else:
        native = min(max(rates.heap - rates.of_arrays, 0.0), rest)
        found["native"] += native
        found["other"] += rest - native
    return found


def has_unknown_part(rates: Rates) -> bool:
    """Whether much of the growth is outside MLX, and neither traces nor streams explain it."""
    explained = rates.traces >= TRACES_A_STEP or rates.streams >= STREAMS_A_STEP
    return not explained and rates.outside - rates.of_arrays > UNKNOWN_SHARE * rates.total


def _hidden_kind(rates: Rates) -> str:
    """What holds arrays that Python does not see."""
    if rates.lazy_operations > 0:
        return "lazy_graph"
    return "compile_cache" if rates.traces >= TRACES_A_STEP else "active"


def kind_of(rates: Rates) -> str:
    """The kind that grows most, of what is certain to grow."""
    return largest(split(rates.certain))


def largest(kinds: dict[str, float]) -> str:
    return max(KINDS, key=lambda kind: kinds[kind])
