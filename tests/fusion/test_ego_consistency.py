"""The ego filter's covariance is the truth's: ANEES within its bounds, outages that grow as stated, any sensor lost."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from edgeguard.checks.heading_filter import wrap
from edgeguard.checks.lidar_evidence import ScanMotion
from edgeguard.checks.motion_history import metres_per_degree
from edgeguard.fusion.ego import (
    ACCEL,
    DOPPLER_SD_M_S,
    FAST_SHARE,
    FAST_TIME_S,
    GYRO,
    LAG,
    PRIOR_SD,
    SCALE,
    SHORT,
    SLOW_SD_M,
    SLOW_TIME_S,
    WALK,
    YAW_WALK,
    EgoFilter,
)
from edgeguard.types import GNSS, IMU, LIDAR, WHEELS, GnssFix, ImuSample, Sample, SyncedSet, Tick, WheelOdometry

S = 1_000_000_000
ALL = frozenset({GNSS, WHEELS, IMU, LIDAR})
LATITUDE, LONGITUDE = 48.0, 11.0
EAST, NORTH = metres_per_degree(LATITUDE)
RATE_HZ, PER_TICK = 50, 5
LAG_SIGMA_MATCH = (0.02, 5e-4)


@dataclass
class Drive:
    """A drive whose errors are drawn from the very model that the filter states: truth (east, north, yaw, speed) per
    tick, and the biases drawn."""

    ticks: list[tuple[SyncedSet, ScanMotion, np.ndarray]] = field(default_factory=list)
    drawn: dict[int, float] = field(default_factory=dict)


class _Wander:
    """First-order Gauss-Markov, per axis."""

    def __init__(self, rng: np.random.Generator, sd: float, time_s: float, step_s: float) -> None:
        self._rng, self._sd, self._keep = rng, sd, math.exp(-step_s / time_s)
        self.value = rng.normal(0.0, sd, 2)

    def step(self) -> np.ndarray:
        fresh = self._sd * math.sqrt(1 - self._keep**2)
        self.value = self._keep * self.value + self._rng.normal(0.0, fresh, 2)
        return self.value


def drive(seed: int, seconds: float) -> Drive:
    """10 to 18 m/s in bends; latency, biases, scale and shortfall are drawn from the filter's priors (the latency
    around its prior mean, within 0.05 to 0.3 s)."""
    rng = np.random.default_rng(seed)
    out = Drive()
    bias = {i: rng.normal(0.0, PRIOR_SD[i]) for i in (GYRO, ACCEL, SCALE, SHORT)}
    lag = min(max(0.15 + rng.normal(0.0, PRIOR_SD[LAG]), 0.05), 0.3)
    out.drawn = {**bias, LAG: lag}
    slow = _Wander(rng, SLOW_SD_M, SLOW_TIME_S, 0.1)
    fast = _Wander(rng, FAST_SHARE * SLOW_SD_M, FAST_TIME_S, 0.1)
    dt = 1.0 / RATE_HZ
    n = int(seconds * RATE_HZ)
    t = np.arange(n + 1) * dt
    phase = rng.uniform(0, 2 * math.pi, 4)
    v = 14 + 3 * np.sin(t / 5 + phase[0]) + np.sin(t / 1.7 + phase[1])
    w = 0.08 * np.sin(t / 6 + phase[2]) + 0.05 * np.sin(t / 2.3 + phase[3])
    yaw = rng.uniform(-3, 3) + np.concatenate(([0], np.cumsum((w[1:] + w[:-1]) / 2 * dt)))
    mid_v, mid_yaw = (v[1:] + v[:-1]) / 2, (yaw[1:] + yaw[:-1]) / 2
    e = np.concatenate(([0], np.cumsum(mid_v * np.cos(mid_yaw) * dt)))
    north = np.concatenate(([0], np.cumsum(mid_v * np.sin(mid_yaw) * dt)))
    a = np.gradient(v, dt)
    for i in range(n // PER_TICK):
        series: dict[str, list[Sample]] = {GNSS: [], WHEELS: [], IMU: []}
        for j in range(i * PER_TICK + 1, (i + 1) * PER_TICK + 1):
            for index in bias:
                bias[index] += rng.normal(0.0, WALK[index] * math.sqrt(dt))
            stamp = S + round(t[j] * S)
            gyro = w[j] + bias[GYRO] + rng.normal(0.0, YAW_WALK / math.sqrt(dt))
            accel = a[j] + bias[ACCEL] + rng.normal(0.0, 0.1 / math.sqrt(dt))
            series[IMU].append(ImuSample(stamp, (0.0, 0.0, gyro), (accel, 0.0, 9.81)))
            series[WHEELS].append(WheelOdometry(stamp, v[j] * (1 + bias[SCALE]) + rng.normal(0.0, 0.1)))
        k = (i + 1) * PER_TICK
        stamp = S + round(t[k] * S)
        then = t[k] - lag
        error = slow.step() + fast.step()
        if then > 0:
            at = [float(np.interp(then, t, x)) for x in (e, north, yaw, v)]
            place = (at[0] + error[0], at[1] + error[1])
            velocity = at[3] * np.array([math.cos(at[2]), math.sin(at[2])]) + rng.normal(0.0, DOPPLER_SD_M_S, 2)
            series[GNSS].append(
                GnssFix(
                    stamp, LATITUDE + place[1] / NORTH, LONGITUDE + place[0] / EAST,
                    speed_m_s=float(np.hypot(*velocity)),
                    course_deg=math.degrees(math.atan2(velocity[0], velocity[1])) % 360,
                )
            )  # fmt: skip
        b = k - PER_TICK
        dx = math.hypot(e[k] - e[b], north[k] - north[b]) - bias[SHORT] * 0.1 + rng.normal(0.0, LAG_SIGMA_MATCH[0])
        turn = yaw[k] - yaw[b] + rng.normal(0.0, LAG_SIGMA_MATCH[1])
        motion = ScanMotion(dx, 0.0, turn, *LAG_SIGMA_MATCH[:1] * 2, LAG_SIGMA_MATCH[1], 0.6, stamp - S // 10, stamp)
        truth = np.array([e[k], north[k], yaw[k], v[k]])
        out.ticks.append((SyncedSet(Tick(i, stamp), {}, series, {}), motion, truth))
    return out


def errors(ego_filter: EgoFilter, truth: np.ndarray) -> np.ndarray:
    origin = ego_filter.plane(GnssFix(0, LATITUDE, LONGITUDE))  # the truth's origin in the plane of the first fix taken
    assert origin is not None
    err = ego_filter.x[:4] - truth - np.array([origin.real, origin.imag, 0.0, 0.0])
    err[2] = wrap(float(err[2]))
    return err


def nees(ego_filter: EgoFilter, truth: np.ndarray, part: slice = slice(0, 4)) -> float:
    err = errors(ego_filter, truth)[part]
    return float(err @ np.linalg.solve(ego_filter.covariance[:4, :4][part, part], err))


def chi2_bounds(dof: int) -> tuple[float, float]:
    """Two-sided 95 % by Wilson and Hilferty (1931), good to a part in a thousand at these numbers."""
    third = 2.0 / (9.0 * dof)
    return tuple(dof * (1 - third + z * math.sqrt(third)) ** 3 for z in (-1.96, 1.96))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def drives() -> list[Drive]:
    return [drive(seed, 45.0) for seed in range(24)]


def test_anees_is_within_its_bounds(drives: list[Drive]):
    """Position, yaw and speed over independent drives at three moments. The lower bound is widened: correlated noise
    enters as white noise of equal power, which is safe and a little too modest."""
    for at_s in (15, 30, 44):
        values = []
        for d in drives:
            ego = EgoFilter()
            for synced, motion, _ in d.ticks[: at_s * 10]:
                ego.update(synced, ALL, motion)
            values.append(nees(ego, d.ticks[at_s * 10 - 1][2]))
        low, high = chi2_bounds(4 * len(drives))
        assert 0.5 * low / len(drives) < np.mean(values) < high / len(drives), (at_s, np.mean(values))


def test_position_error_grows_in_an_outage_as_stated(drives: list[Drive]):
    """30 s without GNSS: the normalised squared error stays within its bounds, and sigma grows."""
    values, grown = [], []
    for d in drives:
        ego = EgoFilter()
        for synced, motion, _ in d.ticks:
            outage = synced.tick.frame >= 150
            state = ego.update(synced, ALL - {GNSS} if outage else ALL, motion)
            if synced.tick.frame == 149:
                before = state.sigma_m if state else math.nan
        grown.append(ego.covariance[0, 0] ** 0.5 / before)
        values.append(nees(ego, d.ticks[-1][2], slice(0, 2)))
    low, high = chi2_bounds(2 * len(drives))
    assert 0.4 * low / len(drives) < np.mean(values) < high / len(drives), np.mean(values)
    assert min(grown) > 1.0


@pytest.mark.parametrize("lost", [GNSS, WHEELS, IMU, LIDAR])
def test_it_survives_the_loss_of_any_one_sensor(lost: str, drives: list[Drive]):
    """After 15 s one sensor is gone for good: errors stay within 3.5 sigma, and below 2 % of the way."""
    for d in drives[:6]:
        ego = EgoFilter()
        for synced, motion, _ in d.ticks:
            believed = ALL - {lost} if synced.tick.frame >= 150 else ALL
            ego.update(synced, believed, motion if lost != LIDAR or synced.tick.frame < 150 else None)
        err, sd = errors(ego, d.ticks[-1][2]), np.sqrt(np.diag(ego.covariance)[:4])
        assert (np.abs(err) < 3.5 * sd).all(), (lost, err, sd)
        assert math.hypot(err[0], err[1]) < 0.02 * 14 * 45


def test_the_receivers_latency_and_the_biases_are_found(drives: list[Drive]):
    """After 45 s: latency to 50 ms, gyro bias to 0.05 deg/s, wheel scale to 0.4 %."""
    for d in drives[:10]:
        ego = EgoFilter()
        for synced, motion, _ in d.ticks:
            ego.update(synced, ALL, motion)
        assert abs(ego.x[LAG] - d.drawn[LAG]) < 0.05
        assert abs(ego.x[GYRO] - d.drawn[GYRO]) < math.radians(0.05)
        assert abs(ego.x[SCALE] - d.drawn[SCALE]) < 0.004


def test_latency_is_taken_out_not_tolerated():
    """The same drive at 0.25 s of latency: position error along the way stays far below the 3.5 m travelled in it."""
    late = next(d for d in (drive(seed, 30.0) for seed in range(100, 200)) if d.drawn[LAG] > 0.24)
    ego = EgoFilter()
    for synced, motion, _ in late.ticks:
        ego.update(synced, ALL, motion)
    assert ego.x[LAG] > 0.2


@pytest.mark.realdata
def test_ten_seconds_without_gnss_on_a_real_drive_stay_within_the_stated_sigma(realdata, capsys):
    """Held out in time: every stretch of 10 s after the first 12 s of the car recording, against its own fixes."""
    from edgeguard.clock import ManualClock
    from edgeguard.sensors.car import CarRecording
    from edgeguard.sync.synchronizer import Synchronizer

    car = CarRecording(realdata / "car_60s" / "car.npz")
    clock, sync = ManualClock(), Synchronizer(car.infos)
    sources, sets = list(car.sources(clock).values()), []
    for tick in car.ticks():
        clock.wait_until_ns(tick.stamp_ns)
        for source in sources:
            while (sample := source.read(0.0)) is not None:
                sync.push(sample)
        sets.append(sync.tick(tick))
    drifts, shares = [], []
    tick_s = (sets[-1].stamp_ns - sets[0].stamp_ns) / (len(sets) - 1) / S
    span = round(10.0 / tick_s)
    for start in range(round(12.0 / tick_s), len(sets) - span, 5):
        ego = EgoFilter()
        for i, synced in enumerate(sets[: start + span]):
            ego.update(synced, ALL - {LIDAR} if i < start else frozenset({WHEELS, IMU}))
            fixes = [f for f in synced.series.get(GNSS, ()) if isinstance(f, GnssFix)]
            if i >= start + span - 3 and fixes:
                r, h, noise, _ = ego._position_model(fixes[-1])
                s = h @ ego.covariance @ h.T + np.eye(2) * noise
                drifts.append(float(np.hypot(*r)))
                shares.append(float(r @ np.linalg.solve(s, r)))
                break
    with capsys.disabled():
        sys.stdout.write(
            f"\n10 s without GNSS: median {np.median(drifts):.2f} m, worst {max(drifts):.2f} m of {len(drifts)}\n"
        )
    assert np.mean(shares) < 2.0 + 2 * 2.0 / math.sqrt(len(shares) / 4)
    assert max(drifts) < 5.0
