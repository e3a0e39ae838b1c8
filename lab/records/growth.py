"""Whether memory grows for certain: a sequential test that may be looked at after every step.

**Method.** Memory in steady state makes steps, teeth and noise of any size, so sizes prove little;
what it does not do is pass its highest level again and again. Readings are cut into blocks of 1, 2,
4, ... 64 steps, and a block counts by its smallest reading: a tooth shorter than a block (a cache
that fills and is cleared, a validation, a long batch) is not seen. A block *passes* when its
minimum is above those of all blocks before it, by half of the usual change from block to block (in
which a single jump counts as four usual ones). A betting martingale is kept on that yes or no [1]:
a stake of 1 - ``repeat`` on 'passes' at the odds of the model. Mixed over the block at which growth
may have begun, with prior weights that sum to 1, it is an e-process, and by Ville's inequality the
chance that it ever reaches 1 / alpha is at most alpha, however often one looks. Channels and block
lengths share ``ALPHA``, which thus bounds the chance of any false alarm in a session.

**Model of steady state.** Given all that went before, a block passes with a chance of at most
``repeat`` if the block before it passed (0.15 for what is the same after every step, MLX's active
memory and the heap in use; 0.2 for the rest, where one event may raise several blocks); otherwise
of at most 2 / k, the k-th block, where that is smaller: records of an exchangeable sequence come
with chance 1 / k [2], the factor allows for steps of the allocator. ``python -m benchmarks
explain`` measures how often blocks of real healthy runs pass.

**Conditions beside it**, which can only make alarms fewer. Growth over the last blocks, each gain
clipped at twice the median (so that single steps add little), must reach ``least`` bytes and
``share`` of the memory; and it must be steady, the gains of the later half ``_STEADY`` of those of
the earlier half: a warm-up saturates, a leak does not. In the first ``_WARM_UP`` steps the cache
and the rest, which warm up, must show both over 12 and 16 steps, and more steadily.

**Channels.** MLX's active memory; its cache, where nothing clears it and its limit is further than
``_HORIZON`` steps away; the native heap in use outside MLX's buffers, where it is read; the rest of
the process. Active memory that grows is growth even while the process, reusing freed memory, does
not yet: what is held cannot be given back.

[1] G. Shafer, Testing by betting, J. R. Stat. Soc. A 184 (2021); A. Ramdas, P. Grünwald, V. Vovk,
    G. Shafer, Game-theoretic statistics and safe anytime-valid inference, Stat. Sci. 38 (2023).
[2] A. Rényi, Théorie des éléments saillants d'une suite d'observations (1962).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from lab.config.units import MB
from lab.records.slope import median

ALPHA = 0.01  # the chance of any false alarm in a session
# Blocks of 1, 2, 4, ... 64 steps, with their shares of alpha: more to the short ones, which decide
# soonest; a long one needs hardly more blocks for it.
_SHARES = (0.25, 0.25, 0.15, 0.12, 0.1, 0.08, 0.05)
_LENGTHS = len(_SHARES)
_SMOOTH = 4  # the rate is taken from blocks of up to 16 steps
_POINTS = 25  # block minima that the conditions look at
_STEADY, _STEADY_IN_WARM_UP = 0.8, 0.9
_WARM_UP = 64
_HORIZON = 100
_ENOUGH = 64  # evidence is kept below this many thresholds, so that an end is seen soon
_SETTLED, _JUMP = 8, 4.0  # blocks after which a change counts at most as so many usual ones
_PATIENCE = 64  # steps that growth may pause before it counts as ended


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth that is certain.

    Attributes:
        bytes_per_step: its present rate, all growing channels together.
        since: the step that growth is counted from.
        outside, cache: whether it is certain of what is outside MLX, and of MLX's cache.
        heap: the rate of the heap in use, where that alone is certain of what is outside MLX: the
            process is too noisy to tell.
    """

    bytes_per_step: float
    since: int
    outside: bool = True
    cache: bool = True
    heap: float | None = None


class GrowthTest:
    """The test over the steps of one session; a reload begins another.

    Arguments:
        cache_clear_interval: steps after which MLX's cache is cleared; 0: it is not.
        cache_limit: bytes that MLX's cache may hold.
        arrays_in_process: the process's memory holds MLX's arrays, as everywhere but on CUDA.
    """

    def __init__(
        self,
        *,
        cache_clear_interval: int = 0,
        cache_limit: float = math.inf,
        arrays_in_process: bool = True,
    ) -> None:
        self._active = _Channel(0.15, 0.3 * ALPHA, least=0.25 * MB)
        self._cache = _Channel(0.2, 0.2 * ALPHA, least=4 * MB, share=0.01, span=12)
        self._heap = _Channel(0.15, 0.2 * ALPHA, least=MB, share=0.002)
        self._rest = _Channel(0.2, 0.3 * ALPHA, least=4 * MB, share=0.01, span=16)
        self._channels = (self._active, self._cache, self._heap, self._rest)
        self._cache_is_cleared = cache_clear_interval > 0
        self._cache_limit, self._arrays_in_process = cache_limit, arrays_in_process

    def add(
        self, step: int, *, active: int, cache: int, process: int | None, heap: int | None = None
    ) -> Trend | None:
        """Add one step's readings, in bytes.

        Arguments:
            process: memory of the process; None where it was not read.
            heap: what the native heap has given out beside MLX's buffers; None where not read.

        Returns:
            The growth where it is certain. Once certain it is given at each step, until no channel
            has grown for 64 steps (and four blocks): then it has ended.
        """
        memory = active + cache if process is None else process
        self._active.add(step, active, memory)
        if not self._cache_is_cleared:
            self._cache.add(step, cache, memory)
        if heap is not None:
            self._heap.add(step, heap, memory)
        if process is not None:
            held = active + cache if self._arrays_in_process else 0
            self._rest.add(step, process - held, memory)
        rates = {c: c.rate for c in self._channels if c.rate is not None}
        return self._trend(rates, cache) if rates else None

    def _trend(self, rates: dict[_Channel, float], cache: int) -> Trend | None:
        room, heap = self._cache_limit - cache, None
        if self._cache in rates and room < _HORIZON * rates[self._cache]:
            del rates[self._cache]
        if self._heap in rates and self._rest in rates:  # the heap is a part of the rest
            del rates[min(self._heap, self._rest, key=rates.__getitem__)]
        else:
            heap = rates.get(self._heap)
        if not rates:
            return None
        since = min(channel.since for channel in rates)
        outside = self._heap in rates or self._rest in rates
        return Trend(sum(rates.values()), since, outside, cache=self._cache in rates, heap=heap)


class _Channel:
    """One figure, at every block length.

    Attributes:
        rate: bytes per step while growth is certain, else None.
        since: the step that it is counted from.
    """

    __slots__ = (
        "_halves",
        "_least",
        "_level",
        "_share",
        "_span",
        "_steps",
        "_streams",
        "_until",
        "rate",
        "since",
    )  # fmt: skip

    def __init__(
        self,
        repeat: float,
        alpha: float,
        *,
        least: float,
        share: float = 0.0,
        span: int = 0,
    ) -> None:
        self._streams = [_Stream(repeat, alpha * share) for share in _SHARES]
        self._halves = [math.inf] * _LENGTHS
        self._least, self._share, self._span = least, share, span
        self._steps, self._until, self._level = 0, 0, 0
        self.rate: float | None = None
        self.since = 0

    def add(self, step: int, value: float, memory: int) -> None:
        """Add a reading.

        Arguments:
            memory: all of it, in bytes, that ``share`` is of.
        """
        self._steps = steps = self._steps + 1
        least = max(self._least, self._share * memory)
        for level, stream in enumerate(self._streams):
            stream.add(step, value)
            longest = _LENGTHS if self.rate is None else max(_SMOOTH, self._level)
            if stream.is_certain and self._level <= level <= longest:
                self._look(level, stream.rise(), least)
            if steps >> level & 1:  # the first of two that make a block of twice this length
                self._halves[level] = value
                break
            if self._halves[level] < value:
                value = self._halves[level]
        if self.rate is not None and steps > self._until:
            self.rate, self._level = None, 0

    def _look(self, level: int, rise: _Rise | None, least: float) -> None:
        """Take the rate from blocks of up to ``_SMOOTH`` where they show one, else from longer."""
        if rise is None or not self._is_growth(rise, least):
            self._level = max(0, level - 1)
            return
        self.since = rise.since if self.rate is None else min(self.since, rise.since)
        self.rate, self._level = rise.rate, level
        self._until = self._steps + max(_PATIENCE, 4 << level)

    def _is_growth(self, rise: _Rise, least: float) -> bool:
        early = self._span > 0 and self._steps < _WARM_UP
        if early and rise.steps < self._span:
            return False
        return rise.clipped >= least and rise.steadiness >= (
            _STEADY_IN_WARM_UP if early else _STEADY
        )


@dataclass(frozen=True, slots=True)
class _Rise:
    """What the last blocks gained.

    Attributes:
        rate: bytes per step.
        clipped: bytes, each gain at most twice the median one.
        steadiness: gains of the later half over those of the earlier one, clipped.
        since, steps: where they begin, and how long they are.
    """

    rate: float
    clipped: float
    steadiness: float
    since: int
    steps: int


class _Stream:
    """The e-process of one channel at one block length."""

    __slots__ = (
        "_change", "_count", "_evidence", "_last", "_lead", "_left", "_passed", "_points",
        "_repeat", "_threshold", "_top", "is_certain",
    )  # fmt: skip

    def __init__(self, repeat: float, alpha: float) -> None:
        self._repeat, self._threshold = repeat, 1 / alpha
        self._evidence = 0.0  # the mixture over all starts so far
        self._left = 1.0  # prior weight of the starts to come
        self._lead = 1.0  # the product since the likeliest start
        self._count, self._passed = 0, False
        self._top = self._last = self._change = 0.0
        self._points: deque[tuple[int, float]] = deque(maxlen=_POINTS)  # since that start
        self.is_certain = False

    def add(self, step: int, value: float) -> None:
        """Add the minimum of the block that ends with ``step``."""
        self._count = count = self._count + 1
        if count == 1:
            self._top = self._last = value
            self._points.append((step, value))
            return
        repeat, top = self._repeat, self._top
        passes = value > top + self._change / 2
        chance = repeat if self._passed or count < 2 / repeat else 2 / count
        bet = (1 - repeat) / chance if passes else repeat / (1 - chance)
        left = 1 / math.log(math.e + count - 1)
        evidence = (self._evidence + self._left - left) * bet
        self._left, self._passed = left, passes
        self.is_certain = evidence >= self._threshold
        self._evidence = min(evidence, _ENOUGH * self._threshold)
        change = abs(value - self._last)
        if count > _SETTLED:  # a single jump says little of the changes that are usual
            change = min(change, _JUMP * self._change)
        self._change += (change - self._change) / min(count, 16)
        self._last = value
        self._lead = lead = min(self._lead * bet, _ENOUGH * self._threshold)
        if lead > 1:
            self._points.append((step, value))
        else:
            self._lead = 1.0
            self._points.clear()
            self._points.append((step, max(value, top)))
        if value > top:
            self._top = value

    def rise(self) -> _Rise | None:
        """What the last blocks gained; None if less than half of them gained anything."""
        values = [value for _, value in self._points]
        gains = [after - before for before, after in pairwise(values)]
        if len(gains) < 2 or (usual := median(gains)) <= 0:
            return None
        clipped = [min(gain, 2 * usual) for gain in gains]
        half = len(clipped) // 2
        early, late = sum(clipped[:half]), sum(clipped[-half:])
        (since, first), (until, last) = self._points[0], self._points[-1]
        return _Rise(
            rate=(last - first) / (until - since),
            clipped=sum(clipped),
            steadiness=late / early if early > 0 else math.inf,
            since=since,
            steps=until - since,
        )
