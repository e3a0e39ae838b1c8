"""Growth of memory told apart from steady state: a stand-in until the sequential test is there."""

from __future__ import annotations

from dataclasses import dataclass

from lab.records.slope import theil_sen


@dataclass(frozen=True, slots=True)
class Trend:
    """Certain growth: bytes a step, sigma in bytes of a reading about it, the step counted from."""

    bytes_per_step: float
    noise: float
    since: int


class GrowthTest:
    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []

    def add(self, step: int, *, active: int, cache: int, process: int | None) -> Trend | None:  # noqa: ARG002
        if process is not None:
            self._points = [*self._points[-31:], (step, float(process))]
        if len(self._points) < 12:
            return None
        slope = theil_sen(self._points)
        first = self._points[0]
        residuals = sorted(abs(y - first[1] - slope * (x - first[0])) for x, y in self._points)
        noise = 1.4826 * residuals[len(residuals) // 2]
        rises = sum(b[1] > a[1] for a, b in zip(self._points, self._points[1:], strict=False))
        certain = slope * len(self._points) > 6 * noise and rises > 0.8 * (len(self._points) - 1)
        return Trend(slope, noise, first[0]) if certain and slope > 0 else None
