"""The stealthy adversary: sees every statistic of the tick before, and pushes as hard as none of them crosses.

He is stronger than a real one, who must guess the statistics: what he reaches in a minute bounds what a patient
attacker can do unseen (the metric of Urbina et al., CCS 2016, and of Murguia and Ruths, arXiv 1710.04407).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import atan2, cos, hypot, radians, sin
from typing import Literal

from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.config import Config
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sim.attacks.base import Moment
from edgeguard.sim.attacks.gnss import moved
from edgeguard.sim.rig import ALL_SENSORS, SimRig
from edgeguard.sim.world import World
from edgeguard.types import (
    GNSS,
    IMU,
    WHEELS,
    FrameResult,
    GnssFix,
    ImuSample,
    Level,
    Sample,
    TrustState,
    WheelOdometry,
)

Goal = Literal["gnss_cross_track", "gnss_along_track", "gnss_position", "wheel_scale", "gyro_bias"]
GOALS: tuple[Goal, ...] = ("gnss_cross_track", "gnss_along_track", "gnss_position", "wheel_scale", "gyro_bias")
ONSET_S, ATTACK_S = 10.0, 60.0
# How near to the thresholds he dares to go, and how briskly he speeds up; each pair is one attempt.
DARINGS = (0.7, 0.85, 0.95)
BRISKNESS = (0.06, 0.2)
_SENSOR = {"wheel_scale": WHEELS, "gyro_bias": IMU}
# Largest and first rate of each goal, and how much of a GNSS rate's step it takes: m/s, share of the speed, rad/s.
_MAX_RATE = dict.fromkeys(GOALS, 20.0) | {"wheel_scale": 0.5, "gyro_bias": 0.5}
_START_RATE = dict.fromkeys(GOALS, 0.02) | {"wheel_scale": 0.002, "gyro_bias": 0.0005}
_STEP = dict.fromkeys(GOALS, 1.0) | {"wheel_scale": 0.05, "gyro_bias": 0.02}


class StealthyAttack:
    """An attack with eyes: feed it every tick's result with `observe`.

    For GNSS the rate is that of the offset in m/s, across or along the course, with a velocity that belongs to it, or
    (`gnss_position`) across it with the true velocity; for wheels it is the excess of the scale (0.01: one percent too
    fast), for the gyro the bias in rad/s. `deviation_m` is what the victim would be off by, were it to trust the sensor
    alone.
    """

    unplugs = False

    def __init__(self, goal: Goal, daring: float, briskness: float, onset_s: float = ONSET_S) -> None:
        self._goal, self._daring, self._briskness = goal, daring, briskness
        self.start_s, self.end_s = onset_s, onset_s + ATTACK_S
        self.name = f"stealthy_{goal}"
        self.sensor = _SENSOR.get(goal, GNSS)
        self.size = f"daring {daring:g}, briskness {briskness:g}"
        self.rate = 0.0
        self.peak_rate = 0.0
        self.caught_s: float | None = None
        self._east_m = self._north_m = self._along_m = 0.0
        self._turned_rad = 0.0
        self.speed_m_s = 0.0
        self._last_ns: int | None = None

    @property
    def deviation_m(self) -> float:
        """How far the reported place is from the true one."""
        return abs(self._along_m) if self.sensor != GNSS else hypot(self._east_m, self._north_m)

    def observe(self, frame: FrameResult, elapsed_s: float) -> None:
        """Take in the statistics that the attacked sensor can be judged by, and adapt the rate.

        The rate rises in proportion to the room that is left, and is halved as soon as there is none.
        """
        if elapsed_s < 0.0 or self.caught_s is not None:
            return
        if frame.fused.trust[self.sensor].state is not TrustState.TRUSTED:
            self.caught_s = elapsed_s
            return
        room = self._daring - worst_ratio(frame, self.sensor)
        if room < 0.0:
            self.rate *= 0.5
        else:
            most = _MAX_RATE[self._goal]
            step = self._briskness * room * _STEP[self._goal] * 0.1
            self.rate = min(max(self.rate, _START_RATE[self._goal]) + step, most)
        self.peak_rate = max(self.peak_rate, self.rate)
        if frame.fused.ego is not None:
            self.speed_m_s = frame.fused.ego.speed_m_s

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Say what serves the goal."""
        del moment
        past_s = 0.0 if self._last_ns is None else (sample.stamp_ns - self._last_ns) / NS_PER_S
        self._last_ns = sample.stamp_ns
        if isinstance(sample, WheelOdometry):
            self._along_m += self.rate * sample.speed_m_s * past_s
            wheels = sample.wheel_speeds_m_s
            factor = 1.0 + self.rate
            four = None if wheels is None else (
                wheels[0] * factor, wheels[1] * factor, wheels[2] * factor, wheels[3] * factor,
            )  # fmt: skip
            return replace(sample, speed_m_s=sample.speed_m_s * factor, wheel_speeds_m_s=four)
        if isinstance(sample, ImuSample):
            self._turned_rad += self.rate * past_s
            self._along_m += self.speed_m_s * self._turned_rad * past_s
            x, y, z = sample.gyro_rad_s
            return replace(sample, gyro_rad_s=(x, y, z + self.rate))
        if isinstance(sample, GnssFix):
            course = radians(sample.course_deg or 0.0)
            turn = 0.0 if self._goal == "gnss_along_track" else atan2(1.0, 0.0)
            east, north = self.rate * sin(course - turn), self.rate * cos(course - turn)
            self._east_m += east * past_s
            self._north_m += north * past_s
            if self._goal == "gnss_position":
                east = north = 0.0
            return moved(sample, self._east_m, self._north_m, east, north)
        return sample


@dataclass(frozen=True, slots=True)
class StealthResult:
    """One attempt: the deviation he reached when the minute was over or he was caught, and when that was."""

    goal: Goal
    seed: int
    daring: float
    briskness: float
    deviation_m: float
    peak_rate: float
    caught_s: float | None


def worst_ratio(frame: FrameResult, sensor: str) -> float:
    """Return the largest statistic over threshold among the checks that could blame a sensor now."""
    ratios = [
        r.statistic / r.threshold
        for r in frame.results
        if sensor in r.sensors and r.level is not Level.NOT_OBSERVABLE and r.threshold > 0
    ]
    return max(ratios, default=0.0)


def attempt(
    goal: Goal,
    seed: int,
    daring: float,
    briskness: float,
    *,
    sensors: Sequence[str] = ALL_SENSORS,
    config: Config | None = None,
    attack_s: float = ATTACK_S,
    onset_s: float = ONSET_S,
) -> StealthResult:
    """Drive once with an adversary who watches; he stops counting when he is caught.

    onset_s: how long the drive was clean before: the long tracks know bias and heading better after a minute.
    """
    config = config or Config()
    clock = ManualClock()
    attack = StealthyAttack(goal, daring, briskness, onset_s)
    period_ns = config.pipeline.tick_ms * 1_000_000
    count = round((onset_s + attack_s) * NS_PER_S) // period_ns
    world = World(seed, onset_s + attack_s + 1.0)
    reached = 0.0
    with SimRig(world, clock, seed, [attack], sensors=sensors) as rig:
        pipeline = Pipeline(config, rig.sources, clock, calibration=rig.calibration)
        with pipeline:
            for frame in pipeline.run(periodic_ticks(clock.now_ns(), period_ns, count)):
                attack.observe(frame, frame.synced.stamp_ns / NS_PER_S - onset_s)
                if attack.caught_s is not None:
                    break
                reached = attack.deviation_m
    return StealthResult(goal, seed, daring, briskness, reached, attack.peak_rate, attack.caught_s)


def best_attempt(results: Sequence[StealthResult]) -> StealthResult | None:
    """Return the furthest of those that were never caught; None when all were."""
    unseen = [r for r in results if r.caught_s is None]
    return max(unseen, key=lambda r: r.deviation_m, default=None)
