"""Can the device have said this at all? S2.plausible: decoded values against what its protocol and physics allow.

A checksum of eight bits lets one damaged packet in 256 through, and a forger computes his own. Limits are those of
data sheets and protocols, with no margin for driving style; two wrong samples within five seconds are an anomaly.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.clock import NS_PER_S
from edgeguard.types import CheckResult, GnssFix, ImuSample, Level, Scan2d, WheelOdometry

if TYPE_CHECKING:
    from edgeguard.types import Sample, SourceInfo, SyncedSet

WINDOW_S = 5.0
# One wrong sample is a glitch.
MAX_WRONG = 1.5

# Receivers: UTM-grade limits of road use. Export rules stop civil receivers at 18 km and 515 m/s; roads end earlier.
MAX_ALTITUDE_M = 18_000.0
MIN_ALTITUDE_M = -500.0  # the Dead Sea lies at -430 m
MAX_ROAD_SPEED_M_S = 140.0
MIN_DOP = 0.2
MAX_SATELLITES = 72  # four constellations in view of a receiver with 72 channels or more
RECKONED = 6  # quality of a fix that needs no satellites
MAX_CN0_DBHZ = 63.0  # thermal noise floor -174 dBm/Hz, strongest GPS signal at the ground -115 dBm, antenna gain 5 dB
# "Null island": a receiver that has no position and says so with zeros.
NULL_DEG = 1e-6
# Consumer MEMS: 2000 deg/s and 16 g are the widest ranges; three axes at the rail are sqrt(3) of that.
MAX_RATE_RAD_S = 35.0
MAX_FORCE_M_S2 = 160.0
# Wheels of one vehicle differ by its turn: (track x yaw rate) is below 3 m/s, a spinning one below this.
MAX_WHEEL_SPREAD_M_S = 15.0
# Mean of four wheels: with tyres on dry road 12 m/s^2 is the most; one on ice can be faster, four averaged hardly.
MAX_WHEEL_ACCEL_M_S2 = 40.0
MAX_STEERING_RAD = 1.0


@dataclass(frozen=True, slots=True)
class ScanTable:
    """What a planar lidar can say: revolutions per second, points per revolution, metres."""

    min_hz: float
    max_hz: float
    min_points: int
    max_points: int
    min_range_m: float
    max_range_m: float


# By what the source's class says of itself in `SourceInfo.origin` or in the sensor's name; the last holds for others.
# LD06 (LDROBOT, 12 points per packet, 4500 per second): its motor holds 3588..3615 deg/s on a real one, 5..13 Hz by
# the data sheet. RPLIDAR A1..S3: 5..20 Hz, 2000..32000 points per second, 40 m.
SCAN_TABLES: dict[str, ScanTable] = {
    "ld06": ScanTable(5.0, 13.5, 0, 1000, 0.0, 12.5),
    "rplidar": ScanTable(2.0, 21.0, 0, 8192, 0.0, 41.0),
    "": ScanTable(1.0, 60.0, 0, 65_536, 0.0, 120.0),
}
# An honest motor's speed changes by less than this share from one revolution to the next.
MAX_SPIN_CHANGE = 0.25


class PlausibilityCheck:
    """S2 of one sensor: how many of its samples of the last five seconds no such device can have sent."""

    name: str = "S2.plausible"

    def __init__(self, info: SourceInfo) -> None:
        self.sensors: tuple[str, ...] = (info.sensor,)
        self._info = info
        origin = f"{info.origin} {info.sensor}".lower()
        self._table = next(table for name, table in SCAN_TABLES.items() if name in origin)
        self._wrong: deque[tuple[int, str]] = deque()
        self._before: Sample | None = None
        self._spin_s: float | None = None
        self._seen = False

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        sensor, now_ns = self._info.sensor, synced.stamp_ns
        if synced.tick.discontinuity or sensor in synced.tick.recording_gap:
            self._before, self._spin_s = None, None
            self._wrong.clear()
        for sample in synced.series.get(sensor, ()):
            why = self._fault(sample)
            self._before = sample
            if why is not None:
                self._seen = True
                if why:
                    self._wrong.append((now_ns, why))
        while self._wrong and self._wrong[0][0] < now_ns - WINDOW_S * NS_PER_S:
            self._wrong.popleft()
        count = float(len(self._wrong))
        level = Level.OK if self._seen else Level.NOT_OBSERVABLE
        reason = "" if self._seen else "nothing that has limits was received"
        if count > MAX_WRONG:
            level, reason = Level.ANOMALY, f"{sensor} says what it cannot: {self._wrong[-1][1]}"
        return CheckResult(
            check=self.name,
            sensors=self.sensors,
            level=level,
            statistic=count,
            threshold=MAX_WRONG,
            power=math.ceil(MAX_WRONG) if self._seen else math.inf,
            power_unit="samples",
            quantity="plausibility",
            reason=reason,
        )

    def _fault(self, sample: Sample) -> str | None:
        """What is impossible about a sample, "" where nothing is, None for a kind without limits."""
        if isinstance(sample, GnssFix):
            return fix_fault(sample)
        if isinstance(sample, ImuSample):
            return imu_fault(sample)
        if isinstance(sample, WheelOdometry):
            before = self._before if isinstance(self._before, WheelOdometry) else None
            return wheel_fault(sample, before)
        if isinstance(sample, Scan2d):
            return self._scan_fault(sample)
        return None

    def _scan_fault(self, scan: Scan2d) -> str:
        table, count = self._table, len(scan.range_m)
        if not table.min_points <= count <= table.max_points:
            return f"{count} points in a revolution"
        if count:
            nearest, farthest = float(np.min(scan.range_m)), float(np.max(scan.range_m))
            if not (nearest >= table.min_range_m and farthest <= table.max_range_m):
                return f"ranges of {nearest:.2f} to {farthest:.2f} m"
        before = self._before
        if not isinstance(before, Scan2d) or before.device_stamp_ns is None or scan.device_stamp_ns is None:
            return ""
        spin_s = (scan.device_stamp_ns - before.device_stamp_ns) / NS_PER_S
        last, self._spin_s = self._spin_s, spin_s
        if spin_s <= 0.0 or spin_s > 1.5 / table.min_hz:
            return ""  # a repeated, set or interrupted clock: the clock and rate checks say so
        if not 1.0 / table.max_hz <= spin_s:
            return f"a revolution in {1e3 * spin_s:.0f} ms"
        if last is not None and 0.0 < last < 1.5 / table.min_hz and abs(spin_s - last) > MAX_SPIN_CHANGE * last:
            return f"a motor that goes from {1.0 / last:.1f} to {1.0 / spin_s:.1f} turns a second at once"
        return ""


def fix_fault(fix: GnssFix) -> str:
    """What is impossible about a fix on a road, "" where nothing is."""
    if not (abs(fix.latitude_deg) <= 90.0 and abs(fix.longitude_deg) <= 180.0):
        return "a place that is not on the globe"
    if abs(fix.latitude_deg) < NULL_DEG and abs(fix.longitude_deg) < NULL_DEG:
        return "a position of zeros"
    if fix.altitude_m is not None and not MIN_ALTITUDE_M <= fix.altitude_m <= MAX_ALTITUDE_M:
        return f"an altitude of {fix.altitude_m:.0f} m"
    if fix.speed_m_s is not None and not 0.0 <= fix.speed_m_s <= MAX_ROAD_SPEED_M_S:
        return f"a speed of {fix.speed_m_s:.0f} m/s"
    if fix.course_deg is not None and not 0.0 <= fix.course_deg <= 360.0:
        return f"a course of {fix.course_deg:.0f} deg"
    if fix.hdop is not None and fix.fix_quality not in (0, RECKONED) and not fix.hdop >= MIN_DOP and fix.hdop != 0.0:
        return f"a dilution of {fix.hdop:.2f}"
    if fix.satellites is not None and not 0 <= fix.satellites <= MAX_SATELLITES:
        return f"{fix.satellites} satellites"
    if fix.cn0_dbhz and not max(fix.cn0_dbhz) <= MAX_CN0_DBHZ:
        return f"a carrier to noise of {max(fix.cn0_dbhz):.0f} dB-Hz"
    return ""


def imu_fault(sample: ImuSample) -> str:
    """What is impossible about an inertial reading, "" where nothing is."""
    g, a = sample.gyro_rad_s, sample.accel_m_s2
    if not max(abs(g[0]), abs(g[1]), abs(g[2])) <= MAX_RATE_RAD_S or not abs(g[0] + g[1] + g[2]) < math.inf:
        return "a rate beyond every gyro's range"
    if not max(abs(a[0]), abs(a[1]), abs(a[2])) <= MAX_FORCE_M_S2 or not abs(a[0] + a[1] + a[2]) < math.inf:
        return "a force beyond every accelerometer's range"
    return ""


def wheel_fault(sample: WheelOdometry, before: WheelOdometry | None) -> str:
    """What is impossible about wheel speeds, "" where nothing is."""
    if not abs(sample.speed_m_s) <= MAX_ROAD_SPEED_M_S:
        return f"a speed of {sample.speed_m_s:.0f} m/s"
    four = sample.wheel_speeds_m_s
    if four is not None and not max(four) - min(four) <= MAX_WHEEL_SPREAD_M_S:
        return f"wheels {max(four) - min(four):.0f} m/s apart"
    if sample.steering_rad is not None and not abs(sample.steering_rad) <= MAX_STEERING_RAD:
        return f"a steering angle of {math.degrees(sample.steering_rad):.0f} deg"
    if before is None:
        return ""
    dt_s = (sample.stamp_ns - before.stamp_ns) / NS_PER_S
    # A tick of coarse encoders at 100 Hz is a tenth of a metre per second; stamps of one read may lie close together.
    if 0.005 <= dt_s <= 0.2 and abs(sample.speed_m_s - before.speed_m_s) > MAX_WHEEL_ACCEL_M_S2 * dt_s + 1.0:
        return f"a change by {sample.speed_m_s - before.speed_m_s:+.1f} m/s within {1e3 * dt_s:.0f} ms"
    return ""
