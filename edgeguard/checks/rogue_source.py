"""Does one source speak, and does it speak for the first time? T5.source and T4.replay. Self-checks.

A second publisher on a stream looks like healthy data (MOLAorg/mola_state_estimation 69: near-collision, nothing
logged), and so does a loop of what was recorded. Three things tell: more samples than the sensor can give, two clocks
or two values that take turns, and a sequence that was there before.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from edgeguard.checks.timing import at_rest, values_of
from edgeguard.clock import NS_PER_S
from edgeguard.types import CheckResult, GnssFix, ImuSample, Level, WheelOdometry

if TYPE_CHECKING:
    from edgeguard.types import Sample, SourceInfo, SyncedSet

# Samples a sensor may be ahead of its nominal rate: what a stalled host hands over at once, and a few.
BURST_S = 0.4
BURST_SAMPLES = 3.0
# Sensors run up to a tenth faster than they say, before a calibration.
RATE_TOLERANCE = 1.15
# So many samples of the newest must take turns, or repeat or precede a device time, before it is no glitch.
TURNS = 3
TURNS_AMONG = 8
# Steps that no vehicle makes between two samples, beyond what its own speed explains.
POSITION_STEP_M = 3.0
SPEED_STEP_M_S = 1.5
# How late a line may bring a fix that carries no time of its own.
STALL_S = 0.3
# How far apart two publishers that take turns may be inconsistent with themselves, as a share of what parts them.
OWN_SHARE = 0.35
# A device time that repeats within this is the same moment said twice.
SAME_MOMENT_NS = 1_000_000
HOLD_S = 1.0
# Memory of the replay check, and the chance per sample that an honest stream matches its own past so long.
LOOP_MEMORY_S = 30.0
LOOP_ALPHA = 1e-7
LOOP_MIN_S = 0.5
LOOP_MIN_SAMPLES = 4
# A sample that matches nothing says less than a run that ended: so much of a look.
NO_MATCH = 0.05
LOOKS = 4000.0
# A match at a lag shorter than this is the freeze check's business.
LOOP_MIN_LAG = 2
# Who plays a recording by the clock leaves a sample out now and then, or says one twice: on a line with jitter, a run
# goes on where the next match is no further than this from its lag. Such a sample does not count.
LOOP_SLIP = 2


class SourceCheck:
    """T5: more than one source in one stream. The statistic is the worst share of a limit, threshold 1."""

    name: str = "T5.source"

    def __init__(self, info: SourceInfo) -> None:
        self.sensors: tuple[str, ...] = (info.sensor,)
        self._info = info
        self._rate_hz = NS_PER_S / info.period_ns * RATE_TOLERANCE
        self._room = max(BURST_SAMPLES, BURST_S * self._rate_hz + BURST_SAMPLES)
        self._restart()

    def _restart(self) -> None:
        self._credit = self._room
        self._since_ns: int | None = None
        self._device_ns: int | None = None
        self._clocks: deque[bool] = deque(maxlen=TURNS_AMONG)
        self._values: deque[tuple[complex, complex, float]] = deque(maxlen=3)
        self._turns: deque[bool] = deque(maxlen=TURNS_AMONG)
        self._alarm_ns: int | None = None
        self._alarm = (0.0, "")

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        sensor, now_ns = self._info.sensor, synced.stamp_ns
        if synced.tick.discontinuity or sensor in synced.tick.recording_gap:
            self._restart()
        if self._since_ns is not None:
            gained = (now_ns - self._since_ns) / NS_PER_S * self._rate_hz
            self._credit = min(self._credit + gained, self._room)
        self._since_ns = now_ns
        series = synced.series.get(sensor, ())
        self._credit -= len(series)
        for sample in series:
            self._take(sample)
        shares = (
            -self._credit / BURST_SAMPLES,
            sum(self._clocks) / (TURNS - 0.5),
            sum(self._turns) / (TURNS - 0.5),
        )
        self._credit = max(self._credit, -2.0 * BURST_SAMPLES)
        worst = max(range(3), key=shares.__getitem__)
        share, why = max(0.0, shares[worst]), _WHY[worst]
        if share > 1.0:
            self._alarm_ns, self._alarm = now_ns, (share, why)
        elif self._alarm_ns is not None and now_ns - self._alarm_ns <= HOLD_S * NS_PER_S:
            share, why = self._alarm
        if share > 1.0:
            return self._result(Level.ANOMALY, share, f"two sources seem to speak as {sensor}: {why}")
        if not self._values and not series and self._device_ns is None:
            return self._result(Level.NOT_OBSERVABLE, share, "nothing received yet")
        return self._result(Level.OK, share, "")

    def _take(self, sample: Sample) -> None:
        device_ns = sample.device_stamp_ns
        if device_ns is not None:
            if self._device_ns is not None:
                self._clocks.append(device_ns <= self._device_ns + SAME_MOMENT_NS)
            self._device_ns = max(device_ns, self._device_ns or device_ns)
            if device_ns < self._device_ns - 10 * self._info.period_ns:
                self._device_ns = device_ns  # the clock was set; the clock check says so
        here = _place(sample)
        if here is None:
            return
        # The sensor's own time where it has one: a fix that a busy line brought late is out of place by what it drove.
        self._values.append((*here, (sample.stamp_ns if device_ns is None else device_ns) / NS_PER_S))
        if len(self._values) == 3:
            limit = SPEED_STEP_M_S
            if isinstance(sample, GnssFix):
                limit = POSITION_STEP_M + (STALL_S * abs(here[1]) if device_ns is None else 0.0)
            self._turns.append(self._takes_turns(limit))

    def _takes_turns(self, limit: float) -> bool:
        """Whether the newest value contradicts the one before, as that did its own, but agrees with the second last."""
        (p0, v0, t0), (p1, v1, t1), (p2, v2, t2) = self._values
        out = p1 - p0 - (v0 + v1) / 2 * (t1 - t0)
        back = p2 - p1 - (v1 + v2) / 2 * (t2 - t1)
        if min(abs(out), abs(back)) < limit:
            return False
        own = p2 - p0 - (v0 + v2) / 2 * (t2 - t0)
        return abs(own) < OWN_SHARE * min(abs(out), abs(back))

    def _result(self, level: Level, share: float, reason: str) -> CheckResult:
        return CheckResult(
            check=self.name,
            sensors=self.sensors,
            level=level,
            statistic=share,
            threshold=1.0,
            power=TURNS if level is not Level.NOT_OBSERVABLE else math.inf,
            power_unit="samples",
            quantity="source",
            reason=reason,
        )


_WHY = (
    "more samples than it can give",
    "device times that repeat or run backwards",
    "two values take turns",
)


def _place(sample: Sample) -> tuple[complex, complex] | None:
    """Where a sample is and how fast that changes: metres on a plane and m/s for a fix, speed alone for wheels."""
    if isinstance(sample, GnssFix):
        if not (math.isfinite(sample.latitude_deg) and math.isfinite(sample.longitude_deg)):
            return None
        north = sample.latitude_deg * 111_132.0
        east = sample.longitude_deg * 111_320.0 * math.cos(math.radians(round(sample.latitude_deg, 1)))
        speed, course = sample.speed_m_s or 0.0, math.radians(90.0 - (sample.course_deg or 0.0))
        return complex(east, north), complex(speed * math.cos(course), speed * math.sin(course))
    if isinstance(sample, WheelOdometry) and math.isfinite(sample.speed_m_s):
        return complex(sample.speed_m_s, 0.0), 0j
    return None


class ReplayCheck:
    """T4.replay: a sequence of values that was there before, under fresh stamps; knows quantisation like T4.freeze.

    Every sample is looked up among those of the last 30 s. A run of matches at one and the same lag is a replay once
    an honest stream would show it with chance `LOOP_ALPHA`, judged by how often this one matches its past by accident.
    """

    name: str = "T4.replay"

    def __init__(self, info: SourceInfo) -> None:
        self.sensors: tuple[str, ...] = (info.sensor,)
        self._info = info
        self._capacity = max(LOOP_MIN_SAMPLES, min(4096, int(LOOP_MEMORY_S * NS_PER_S / info.period_ns)))
        self._shortest = max(LOOP_MIN_SAMPLES, math.ceil(LOOP_MIN_S * NS_PER_S / info.period_ns))
        # One pretended match in two: until the stream has shown otherwise, accidents are common.
        self._matches, self._looks = 1.0, 2.0
        self._restart()

    def _restart(self) -> None:
        self._where: dict[tuple[float, ...], int] = {}
        self._order: deque[tuple[float, ...]] = deque()
        self._index = 0
        self._lag = 0
        self._run = 0
        self._rest = False

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        sensor = self._info.sensor
        if synced.tick.discontinuity or sensor in synced.tick.recording_gap:
            self._restart()
        for sample in synced.series.get(sensor, ()):
            self._take(sample)
        limit = self._limit()
        if self._index == 0:
            return self._result(Level.NOT_OBSERVABLE, 0.0, limit, "nothing received yet")
        if self._rest:
            return self._result(Level.NOT_OBSERVABLE, 0.0, limit, "at rest: an honest sensor repeats itself")
        if self._run > limit:
            lag_s = self._lag * self._info.period_ns / NS_PER_S
            return self._result(
                Level.ANOMALY, self._run, limit, f"{sensor} repeats what it said {lag_s:.1f} s before, sample by sample"
            )
        return self._result(Level.OK, self._run, limit, "")

    def _take(self, sample: Sample) -> None:
        values = values_of(sample)
        if values is None:
            return
        self._rest = at_rest(sample)
        index, self._index = self._index, self._index + 1
        before = self._where.get(values)
        if self._run and not self._rest and self._in_step(values):
            self._run += 1
        elif not (self._run and not self._rest and self._slips(values)):
            if self._run:
                # A run that ended by itself was an accident: it teaches how often those come.
                self._matches += self._run - 1
                self._looks += self._run
                self._run = 0
            if before is not None and index - before >= LOOP_MIN_LAG and not self._rest:
                self._lag, self._run = index - before, 1
            else:
                self._looks += NO_MATCH
            if self._looks > LOOKS:
                self._matches, self._looks = self._matches / 2, self._looks / 2
        self._where[values] = index
        self._order.append(values)
        if len(self._order) > self._capacity:
            old = self._order.popleft()
            if self._where.get(old) == index - self._capacity:
                del self._where[old]

    def _in_step(self, values: tuple[float, ...]) -> bool:
        """Whether the sample `lag` ago said the same."""
        place = len(self._order) - self._lag
        return place >= 0 and self._order[place] == values

    def _slips(self, values: tuple[float, ...]) -> bool:
        """Whether a sample beside the one `lag` ago said the same; the run goes on from there."""
        for slip in range(-LOOP_SLIP, LOOP_SLIP + 1):
            place = len(self._order) - self._lag - slip
            if slip and 0 <= place < len(self._order) and self._order[place] == values:
                self._lag += slip
                return self._lag >= LOOP_MIN_LAG
        return False

    def _limit(self) -> float:
        p = min(max(self._matches / self._looks, 1e-3), 0.9999)
        return max(math.ceil(math.log(LOOP_ALPHA) / math.log(p)), self._shortest)

    def _result(self, level: Level, run: float, limit: float, reason: str) -> CheckResult:
        return CheckResult(
            check=self.name,
            sensors=self.sensors,
            level=level,
            statistic=float(run),
            threshold=limit,
            power=limit * self._info.period_ns / NS_PER_S if level is not Level.NOT_OBSERVABLE else math.inf,
            power_unit="s",
            quantity="freshness",
            reason=reason,
        )


def repeats(info: SourceInfo) -> bool:
    """Whether a stream's values tell a replay: those of GNSS, IMU and wheels do."""
    return info.kind in (GnssFix, ImuSample, WheelOdometry)
