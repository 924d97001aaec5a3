"""Rates of an IMU over the last seconds, in the form that integration between two moments needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

KEEP_S = 3.0
# Ten samples of a slow unit.
MAX_GAP_S = 0.1
# The newest rate is held for this many periods: the sample that belongs to an exposure arrives just after it.
HOLD_PERIODS = 1.5
_ROWS = 4096


class RateHistory:
    """Samples in rising time; after a gap, or where time runs back, it starts anew.

    Args:
        columns: values per sample. max_gap_s: a silence longer than this is not bridged.
    """

    def __init__(self, columns: int, max_gap_s: float = MAX_GAP_S) -> None:
        self._max_gap_s = max_gap_s
        self._t = np.empty(_ROWS)
        self._values = np.empty((_ROWS, columns))
        self._period_s = 0.0
        self.clear()

    def clear(self) -> None:
        self._start = self._end = 0

    def append(self, t_s: float, values: Sequence[float]) -> None:
        """Take one sample; values that are no numbers are left out."""
        if not np.isfinite(values).all():
            return
        if self._end > self._start:
            dt_s = t_s - float(self._t[self._end - 1])
            if dt_s == 0.0:
                return
            if not 0.0 < dt_s <= self._max_gap_s:
                self.clear()
            else:
                self._period_s += 0.1 * (dt_s - self._period_s) if self._period_s else dt_s
        if self._end == _ROWS:
            half = max(self._start, self._end - _ROWS // 2)
            count = self._end - half
            self._t[:count] = self._t[half : self._end].copy()
            self._values[:count] = self._values[half : self._end].copy()
            self._start, self._end = 0, count
        self._t[self._end] = t_s
        self._values[self._end] = values
        self._end += 1
        while self._t[self._start] < t_s - KEEP_S:
            self._start += 1

    @property
    def hold_s(self) -> float:
        """For how long after the newest sample its values are taken to last."""
        return HOLD_PERIODS * self._period_s

    def covers(self, t_s: float) -> bool:
        """Whether the history begins at or before `t_s`."""
        return self._end - self._start >= 2 and float(self._t[self._start]) <= t_s

    def reaches(self, t_s: float) -> bool:
        """Whether the history ends at `t_s` or not long before it."""
        return self._end - self._start >= 2 and float(self._t[self._end - 1]) + self.hold_s >= t_s

    @property
    def newest_s(self) -> float | None:
        """Time of the newest sample, None before the first."""
        return float(self._t[self._end - 1]) if self._end > self._start else None

    def mean(self, start_s: float, end_s: float) -> NDArray[np.float64]:
        """(columns,) time average over a span, linear between samples; the span must be covered."""
        t, values = self.window(start_s, end_s)
        inside = (t > start_s) & (t < end_s)
        knots = np.concatenate(((start_s,), t[inside], (end_s,)))
        rows = np.vstack((self.at(start_s), values[inside], self.at(end_s)))
        mean: NDArray[np.float64] = np.sum(0.5 * (rows[1:] + rows[:-1]) * np.diff(knots)[:, None], axis=0)
        return mean / (end_s - start_s)

    def window(self, start_s: float, end_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times (N,) and values (N, columns) that enclose the span as far as they reach; N >= 2."""
        t = self._t[self._start : self._end]
        first = max(0, int(np.searchsorted(t, start_s, side="right")) - 1)
        last = min(len(t), int(np.searchsorted(t, end_s)) + 1)
        first = min(first, max(0, last - 2))
        return t[first : max(last, first + 2)], self._values[self._start + first : self._start + max(last, first + 2)]

    def at(self, t_s: float) -> NDArray[np.float64]:
        """(columns,) at `t_s`, interpolated; the nearest sample's beyond the ends."""
        t = self._t[self._start : self._end]
        i = int(np.searchsorted(t, t_s))
        if i == 0:
            return np.array(self._values[self._start])
        if i >= len(t):
            return np.array(self._values[self._end - 1])
        share = (t_s - t[i - 1]) / (t[i] - t[i - 1])
        before = self._values[self._start + i - 1]
        return np.array(before + share * (self._values[self._start + i] - before))
