"""When samples come and whether they change: T1.rate, T2.stamp, T4.freeze. Self-checks: each blames its own sensor."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from edgeguard.clock import NS_PER_S
from edgeguard.protocols.gnss import NO_FIX, UNCONFIRMED
from edgeguard.types import (
    GNSS,
    IMU,
    WHEELS,
    CheckResult,
    GnssFix,
    ImuSample,
    Level,
    Sample,
    SourceInfo,
    StreamHealth,
    SyncedSet,
    WheelOdometry,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeguard.types import Check

# A stream is silent after this many periods, but never before a quarter second: a USB host can stall that long.
SILENT_PERIODS = 3.5
SILENT_MIN_S = 0.25
# Receivers skip epochs under a bridge or while they re-converge; a second without a fix is no longer that.
GNSS_SILENT_MIN_S = 1.0
# What a receiver says in a tunnel: it answers, and has no place to tell. That is no silence.
ANSWERS = (NO_FIX, UNCONFIRMED)
# A stream that never spoke gets this long after the first tick: drivers and receivers start slowly.
START_GRACE_S = 2.0
# Over a full window, half or nearly twice the nominal rate is a lossy line or a second publisher.
SLOW_RATIO = 2.0
FAST_RATIO = 1.8
RATE_SETTLE_S = 3.0
# One wrong stamp is a glitch: at one per 100 s (generous for a clean line) three within 5 s come once in 5 days.
STAMP_WINDOW_S = 5.0
STAMP_LIMIT = 2
BAD_STAMPS = ("backwards", "zero_stamp", "future", "duplicate")
# A stream that rests for less than this is no frozen one: coarse wheel ticks at a steady speed repeat honestly, and
# repeats of one spell are not independent, so alpha alone is too optimistic.
FREEZE_MIN_S = 0.5
# Chance per run that an honest stream repeats itself this often; runs end about once a second, so one in 11 days.
FREEZE_ALPHA = 1e-6
# Drivers hand the same reading out again now and then: never less likely than this.
REDELIVERY = 0.25
# However smooth a road: vibration and drag change a rolling car's speed by this much per second.
RESTLESS_M_S2 = 0.05
# Speed on a vehicle bus is never coarser than 1 km/h; assumed until a step was seen.
COARSEST_STEP_M_S = 0.28
# Below this a receiver may hold its position and wheels read zero, honestly and for hours.
STANDSTILL_M_S = 0.5


def _self_result(
    name: str, sensor: str, level: Level, statistic: float, threshold: float, quantity: str, reason: str, **more: object
) -> CheckResult:
    power = more.get("power", math.inf)
    return CheckResult(
        check=name,
        sensors=(sensor,),
        level=level,
        statistic=statistic,
        threshold=threshold,
        power=float(power) if isinstance(power, int | float) else math.inf,
        power_unit=str(more.get("power_unit", "")),
        quantity=quantity,
        reason=reason,
    )


class RateCheck:
    """T1: is the stream alive and does it keep its rate? The statistic is the worst share of a limit, threshold 1.

    Counted are messages, not fixes: a receiver that says "no fix" is alive. While it says nothing else the result is
    NOT_OBSERVABLE, since nothing speaks for it either; that it cannot be used is for the guard to see.
    """

    name: str = "T1.rate"

    def __init__(self, info: SourceInfo) -> None:
        self.sensors: tuple[str, ...] = (info.sensor,)
        self._info = info
        minimum_s = GNSS_SILENT_MIN_S if info.kind is GnssFix else SILENT_MIN_S
        self._silent_s = max(minimum_s, SILENT_PERIODS * info.period_ns / NS_PER_S)
        self._since_ns: int | None = None
        self._answers: deque[tuple[int, int]] = deque()  # when their total was last seen to grow, and to what

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        sensor = self._info.sensor
        health = synced.health.get(sensor)
        if health is None or sensor in synced.tick.recording_gap:
            self._since_ns = None
            return self._result(Level.NOT_OBSERVABLE, 0.0, "the recording has nothing of it here")
        if self._since_ns is None or synced.tick.discontinuity:
            self._since_ns = synced.stamp_ns
            self._answers.clear()
        since_s = (synced.stamp_ns - self._since_ns) / NS_PER_S
        sample_s = since_s if health.age_ns is None else min(health.age_ns / NS_PER_S, since_s)
        answer_s, answer_hz = self._answered(synced.stamp_ns, health)
        age_s, rate_hz = min(sample_s, answer_s), health.rate_hz + answer_hz
        heard = health.received > 0 or answer_s < math.inf
        limit_s = self._silent_s + (0.0 if heard else START_GRACE_S)
        shares = {"silent": age_s / limit_s}
        if since_s >= RATE_SETTLE_S and heard:
            nominal_hz = NS_PER_S / self._info.period_ns
            # A window of 3 s holds an integer number of samples: one more or less is no evidence.
            step_hz = 1.0 / RATE_SETTLE_S
            shares["slow"] = nominal_hz / max(rate_hz + step_hz, 1e-9) / SLOW_RATIO
            shares["fast"] = max(0.0, rate_hz - step_hz) / nominal_hz / FAST_RATIO
        worst = max(shares, key=lambda k: shares[k])
        if shares[worst] > 1.0:
            text = {
                "silent": f"{sensor} silent for {age_s:.2f} s",
                "slow": f"{sensor} at {rate_hz:.1f} Hz, less than half its rate",
                "fast": f"{sensor} at {rate_hz:.1f} Hz, as if two published",
            }[worst]
            return self._result(Level.ANOMALY, shares[worst], text)
        if not heard:
            return self._result(Level.NOT_OBSERVABLE, shares[worst], "nothing received yet")
        if health.received == 0 or sample_s > self._silent_s:
            return self._result(Level.NOT_OBSERVABLE, shares[worst], f"{sensor} answers and has no fix")
        return self._result(Level.OK, shares[worst], "")

    def _answered(self, now_ns: int, health: StreamHealth) -> tuple[float, float]:
        """Seconds since the last message without a fix (inf: none yet), and how many of them came a second."""
        if self._info.kind is not GnssFix:
            return math.inf, 0.0
        total = sum(health.dropped.get(reason, 0) for reason in ANSWERS)
        seen = self._answers
        if not seen or total < seen[-1][1]:  # a source that was opened anew counts from zero
            seen.clear()
            seen.append((now_ns, total))
        elif total > seen[-1][1]:
            seen.append((now_ns, total))
        # The last total from before the window is what those in it are counted from.
        while len(seen) > 1 and seen[1][0] <= now_ns - RATE_SETTLE_S * NS_PER_S:
            seen.popleft()
        if total == 0:
            return math.inf, 0.0
        return (now_ns - seen[-1][0]) / NS_PER_S, (total - seen[0][1]) / RATE_SETTLE_S

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = self._silent_s if level is not Level.NOT_OBSERVABLE else math.inf
        return _self_result(
            self.name, self._info.sensor, level, statistic, 1.0, "rate", reason, power=power, power_unit="s"
        )


class StampCheck:
    """T2: stamps that are zero, run backwards, repeat, or lie in the future. Counts drops of the last 5 s."""

    name: str = "T2.stamp"

    def __init__(self, sensor: str) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._sensor = sensor
        self._seen: int | None = None
        self._recent: deque[tuple[int, int]] = deque()

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        health = synced.health.get(self._sensor)
        if health is None or self._sensor in synced.tick.recording_gap:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "the recording has nothing of it here")
        total = sum(health.dropped.get(reason, 0) for reason in BAD_STAMPS)
        new = total - (self._seen or 0)
        self._seen = total
        if synced.tick.discontinuity:
            self._recent.clear()
            new = 0
        if new > 0:
            self._recent.append((synced.stamp_ns, new))
        while self._recent and self._recent[0][0] < synced.stamp_ns - STAMP_WINDOW_S * NS_PER_S:
            self._recent.popleft()
        count = float(sum(n for _, n in self._recent))
        if count > STAMP_LIMIT:
            kinds = [r for r in BAD_STAMPS if health.dropped.get(r, 0)]
            return self._result(Level.ANOMALY, count, f"{self._sensor} stamps are {', '.join(kinds)}")
        if health.received == 0 and not self._recent:
            return self._result(Level.NOT_OBSERVABLE, count, "nothing received yet")
        return self._result(Level.OK, count, "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = STAMP_LIMIT + 1.0 if level is not Level.NOT_OBSERVABLE else math.inf
        return _self_result(
            self.name, self._sensor, level, statistic, STAMP_LIMIT, "stamp", reason, power=power, power_unit="samples"
        )


class FreezeCheck:
    """T4: identical values under fresh stamps (mowglinext #533), knowing quantisation (PX4-ECL #219) and standstill.

    ``N = ln(alpha) / ln P(equal)``: P is the larger of what the stream itself showed (upper estimate) and what its
    quantisation step allows for a vehicle that rolls smoothly. A stream at rest is NOT_OBSERVABLE, not frozen.
    """

    name: str = "T4.freeze"

    def __init__(self, info: SourceInfo) -> None:
        self.sensors: tuple[str, ...] = (info.sensor,)
        self._info = info
        self._step = math.inf
        self._restart()
        # One pretended repeat in two pairs: until the stream has shown otherwise, repeats are common.
        self._equal, self._pairs = 1.0, 2.0

    def _restart(self) -> None:
        self._previous: tuple[float, ...] | None = None
        self._run = 0
        self._at_rest = False

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        sensor = self._info.sensor
        if synced.tick.discontinuity or sensor in synced.tick.recording_gap:
            self._restart()
        for sample in synced.series.get(sensor, ()):
            self._take(sample)
        if self._previous is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, 1.0, "nothing received yet")
        limit = self._limit()
        if self._at_rest:
            return self._result(Level.NOT_OBSERVABLE, 0.0, limit, "at rest: an honest sensor repeats itself")
        if self._run > limit:
            return self._result(
                Level.ANOMALY, self._run, limit, f"{sensor} repeated itself {self._run} times under fresh stamps"
            )
        return self._result(Level.OK, self._run, limit, "")

    def _take(self, sample: Sample) -> None:
        values = values_of(sample)
        if values is None:
            return
        previous, self._previous = self._previous, values
        self._at_rest = at_rest(sample)
        if previous is None or self._at_rest:
            self._run = 0
            return
        if values == previous:
            self._run += 1
            return
        steps = [abs(a - b) for a, b in zip(values[-1:], previous[-1:], strict=True) if a != b]
        # A step below a nano-unit is float rounding of the same reading.
        self._step = min([self._step, *(s for s in steps if s > 1e-9)])
        # A run that ended by itself was honest: it teaches P(equal). One that never ends teaches nothing.
        self._equal += self._run
        self._pairs += self._run + 1
        self._run = 0
        if self._pairs > 2000.0:
            self._equal, self._pairs = self._equal / 2, self._pairs / 2

    def _limit(self) -> float:
        """N: how many repeats in a row an honest stream shows with chance alpha."""
        learned = (self._equal + 1.0) / (self._pairs + 2.0)
        dwell_s = 0.0
        if self._info.kind is WheelOdometry:
            dwell_s = min(self._step, COARSEST_STEP_M_S) / RESTLESS_M_S2
        by_step = math.exp(-self._info.period_ns / NS_PER_S / dwell_s) if dwell_s > 0 else 0.0
        p = min(max(learned, by_step, REDELIVERY), 0.9999)
        shortest = FREEZE_MIN_S * NS_PER_S / self._info.period_ns
        return math.ceil(max(math.log(FREEZE_ALPHA) / math.log(p), shortest))

    def _result(self, level: Level, statistic: float, threshold: float, reason: str) -> CheckResult:
        power = threshold * self._info.period_ns / NS_PER_S if level is not Level.NOT_OBSERVABLE else math.inf
        return _self_result(
            self.name,
            self._info.sensor,
            level,
            statistic,
            threshold,
            "freshness",
            reason,
            power=power,
            power_unit="s",
        )


def values_of(sample: Sample) -> tuple[float, ...] | None:
    """What must change while the vehicle moves; the last one carries the quantisation step."""
    if isinstance(sample, GnssFix):
        return (sample.latitude_deg, sample.longitude_deg)
    if isinstance(sample, ImuSample):
        return (*sample.gyro_rad_s, *sample.accel_m_s2)
    if isinstance(sample, WheelOdometry):
        return (*(sample.wheel_speeds_m_s or ()), sample.speed_m_s)
    return None


def at_rest(sample: Sample) -> bool:
    """Whether the sample says that the vehicle stands; an IMU never does."""
    if isinstance(sample, GnssFix):
        return (sample.speed_m_s or 0.0) < STANDSTILL_M_S
    if isinstance(sample, WheelOdometry):
        return abs(sample.speed_m_s) < STANDSTILL_M_S
    return False


def build_timing_checks(infos: Sequence[SourceInfo]) -> list[Check]:
    """T1 and T2 for every stream, T4 for GNSS, IMU and wheels."""
    checks: list[Check] = []
    for info in infos:
        checks += [RateCheck(info), StampCheck(info.sensor)]
        if info.sensor in (GNSS, IMU, WHEELS):
            checks.append(FreezeCheck(info))
    return checks
