"""Offset and drift of a sensor's clock against ours, from nothing but stamps and times of arrival.

A sample leaves the sensor at `device_ns` of its clock and arrives at `arrival_ns` of ours. The way takes a time that
varies and is never negative, so the points (device, arrival) lie on or above the line that joins the two clocks. The
line under all points with the smallest sum of distances is an edge of their lower convex hull: the one above the mean
(Moon, Skelly, Towsley, INFOCOM 1999; Zhang, Liu, Xia, INFOCOM 2002). What the line cannot know is the shortest way
itself: it stays in the offset.

Sans-IO, bounded: of every bucket of device time only the quickest sample is kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from edgeguard.clock import NS_PER_S
from edgeguard.types import ClockEstimate

# One point per bucket, as many buckets as the window holds: a crystal's drift changes over minutes, with temperature.
BUCKET_NS = 2 * NS_PER_S
MAX_BUCKETS = 64
# Below this span the jitter of a USB line (10 ms) makes a slope of hundreds of ppm out of nothing.
MIN_DRIFT_SPAN_NS = 20 * NS_PER_S
# A crystal is good to 100 ppm and a bad resonator to 5,000: steeper lines are made by jitter or by jumps.
MAX_DRIFT_PPM = 10_000.0
# Earlier than physically possible by more than this, or by many times the usual jitter, means that a clock jumped.
JUMP_MIN_NS = 5_000_000
JUMP_JITTERS = 20.0
# Two whole buckets in which no sample was quicker than such a limit: the clock was set back, the line is not just busy.
SETBACK_BUCKETS = 2
SETBACK_SAMPLES = 8
# Half of all samples are quicker than the median; eight in a row above three medians come once in 8^8 times.
SETBACK_JITTERS = 3.0
# Smallest step of the running median, so that it also leaves zero.
MEDIAN_STEP_NS = 100.0
# The first sample may have been a slow one: until this many have come, none can be too early.
WARM_UP_SAMPLES = 32
# One odd stamp is an outlier; so many that agree with each other are a clock that was set.
JUMP_SAMPLES = 5


class StreamClock:
    """Feed it every sample's pair of times; ask for the estimate whenever it is needed."""

    def __init__(self) -> None:
        self._jumps = 0
        self._outliers = 0
        self._suspects: list[tuple[int, int]] = []
        self._restart()

    def _restart(self) -> None:
        self._zero: tuple[int, int] | None = None
        self._newest_ns = 0
        self._buckets: deque[tuple[int, float, float]] = deque(maxlen=MAX_BUCKETS)  # number, device, arrival, from zero
        self._slope, self._base_ns = 0.0, 0.0
        self._jitter_ns = 0.0
        self._usual_jitter_ns = 0.0
        self._late_buckets = self._late_samples = 0
        self._least_late_ns = float("inf")
        self._stale = False
        self._seen = 0

    def observe(self, device_ns: int, arrival_ns: int) -> bool:
        """Take one sample; return whether its stamp fits the clock (False: an outlier, or the first after a jump)."""
        if self._zero is None:
            self._begin(device_ns, arrival_ns)
            return True
        x, y = float(device_ns - self._zero[0]), float(arrival_ns - self._zero[1])
        delay_ns = y - x - self._base_ns - self._slope * x
        too_early = delay_ns < -self._jump_ns(self._jitter_ns) and self._seen >= WARM_UP_SAMPLES
        if device_ns < self._newest_ns or too_early:
            return self._suspect(device_ns, arrival_ns)
        self._suspects.clear()
        self._newest_ns = device_ns
        self._seen += 1
        self._follow_median(delay_ns)
        return self._into_bucket(device_ns, arrival_ns, x, y, delay_ns)

    @property
    def estimate(self) -> ClockEstimate | None:
        """What is known now, or None before the first sample."""
        if self._zero is None:
            return None
        if self._stale:
            self._fit()
        x = float(self._newest_ns - self._zero[0])
        span_ns = self._buckets[-1][1] - self._buckets[0][1]
        sigma_ppm = self._jitter_ns / span_ns * 1e6 if span_ns else float("inf")
        return ClockEstimate(
            anchor_device_ns=self._newest_ns,
            anchor_host_ns=self._zero[1] + round(x + self._base_ns + self._slope * x),
            drift_ppm=self._slope * 1e6,
            drift_sigma_ppm=sigma_ppm,
            jitter_ns=round(self._jitter_ns),
            span_ns=round(span_ns),
            jumps=self._jumps,
            outliers=self._outliers,
        )

    def _begin(self, device_ns: int, arrival_ns: int) -> None:
        self._zero = (device_ns, arrival_ns)
        self._newest_ns = device_ns
        self._buckets.append((0, 0.0, 0.0))

    def _follow_median(self, delay_ns: float) -> None:
        """Running median in constant memory: a step up or down, a twentieth of what is known (Robbins, Monro 1951)."""
        if self._jitter_ns == 0.0:
            self._jitter_ns = max(delay_ns, 0.0)
            return
        step_ns = 0.05 * self._jitter_ns + MEDIAN_STEP_NS
        self._jitter_ns = max(0.0, self._jitter_ns + (step_ns if delay_ns > self._jitter_ns else -step_ns))

    def _into_bucket(self, device_ns: int, arrival_ns: int, x: float, y: float, delay_ns: float) -> bool:
        number = int(x) // BUCKET_NS
        last, last_x, last_y = self._buckets[-1]
        if number == last:
            quickest_ns = last_y - last_x - self._base_ns - self._slope * last_x
            if delay_ns < quickest_ns:
                self._buckets[-1] = (number, x, y)
                self._stale = True
                if delay_ns < -JUMP_MIN_NS / 4:
                    self._fit()  # a fast drift, before the slope is known: stay close, or it looks like a jump
            self._least_late_ns = min(self._least_late_ns, delay_ns)
            self._late_samples += 1
            return True
        if self._was_set_back():
            self._set_anew([(device_ns, arrival_ns)])
            return False
        self._least_late_ns = delay_ns
        self._buckets.append((number, x, y))
        self._stale = True
        self._fit()
        return True

    def _was_set_back(self) -> bool:
        """Judge the bucket that is complete by the jitter from before it: a setback drives the jitter up as well."""
        limit_ns = JUMP_MIN_NS + SETBACK_JITTERS * self._usual_jitter_ns
        late = self._seen > WARM_UP_SAMPLES and self._least_late_ns > limit_ns
        if not late:
            self._usual_jitter_ns = self._jitter_ns
            self._late_buckets = self._late_samples = 0
            return False
        self._jitter_ns = self._usual_jitter_ns
        self._late_buckets += 1
        self._late_samples += 1
        return self._late_buckets >= SETBACK_BUCKETS and self._late_samples >= SETBACK_SAMPLES

    @staticmethod
    def _jump_ns(jitter_ns: float) -> float:
        return max(JUMP_MIN_NS, JUMP_JITTERS * jitter_ns)

    def _suspect(self, device_ns: int, arrival_ns: int) -> bool:
        """An impossible stamp: count it, and believe in a jump once several agree."""
        self._outliers += 1
        if self._suspects:
            device, arrival = self._suspects[-1]
            change_ns = (arrival_ns - device_ns) - (arrival - device)
            if device_ns <= device or abs(change_ns) > self._jump_ns(self._jitter_ns):
                self._suspects.clear()
        self._suspects.append((device_ns, arrival_ns))
        if len(self._suspects) >= JUMP_SAMPLES:
            self._outliers -= len(self._suspects)
            self._set_anew(list(self._suspects))
        return False

    def _set_anew(self, pairs: list[tuple[int, int]]) -> None:
        self._jumps += 1
        self._suspects.clear()
        self._restart()
        for device_ns, arrival_ns in pairs:
            self.observe(device_ns, arrival_ns)

    def _fit(self) -> None:
        """Put the line on the hull edge above the mean; without enough span, keep it parallel to our own clock."""
        self._stale = False
        points = [(x, y - x) for _, x, y in self._buckets]
        if points[-1][0] - points[0][0] < MIN_DRIFT_SPAN_NS:
            self._slope = 0.0
            self._base_ns = min(offset for _, offset in points)
            return
        hull = _lower_hull(points)
        mean = sum(x for x, _ in points) / len(points)
        right = min(max(bisect_left([x for x, _ in hull], mean), 1), len(hull) - 1)
        (x0, y0), (x1, y1) = hull[right - 1], hull[right]
        slope = (y1 - y0) / (x1 - x0)
        if abs(slope) * 1e6 > MAX_DRIFT_PPM:
            return  # a jump in the window: the next buckets decide
        self._slope, self._base_ns = slope, y0 - slope * x0


def _lower_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the lower convex hull of points sorted by x (Andrew's monotone chain)."""
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) >= 2:
            (x0, y0), (x1, y1) = hull[-2], hull[-1]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull
