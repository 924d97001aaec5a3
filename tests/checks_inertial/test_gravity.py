"""X7.gravity: an accelerometer at rest reads the Earth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeguard.checks.imu_gravity import GravityCheck
from edgeguard.checks.inertial_checks import build_inertial_checks
from edgeguard.clock import ManualClock
from edgeguard.sensors.car import CarRecording
from edgeguard.sim.inertial import Imu, ImuModel
from edgeguard.sim.run import run_scenario
from edgeguard.sim.scenario import load_scenario
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World
from edgeguard.types import CheckResult, GnssFix, ImuSample, Level, Sample, SourceInfo, SyncedSet, Tick, WheelOdometry

S = 1_000_000_000
Tamper = Callable[[ImuSample, float], ImuSample]
# Development looked at seeds 1 to 3.
UNSEEN = (41, 42)
CHEAP = ImuModel(
    accel_noise=0.004, gyro_bias_rad_s=0.02, accel_bias_m_s2=0.4, accel_instability=0.003, scale_sigma=0.01,
    misalignment_rad=0.01, accel_step_m_s2=0.0048,
)  # fmt: skip


def queue(
    seed: int, tamper: Tamper | None = None, model: ImuModel | None = None, seconds: float = 18.0
) -> list[tuple[float, CheckResult]]:
    """A street on which the vehicle stands from 11 to 18.5 s; wheels read zero below walking pace."""
    world = World(seed, seconds, WORLD_PRESETS["queue"][0])
    imu, check, sent, out = Imu(world, seed, model), GravityCheck(), 0, []
    for k in range(int(seconds * 10)):
        readings = [imu.sample(n) for n in range(sent, 10 * k + 1)]
        sent = 10 * k + 1
        if tamper is not None:
            readings = [tamper(r, r.stamp_ns / S) for r in readings]
        v = world.ego(k / 10).speed_m_s
        wheels = WheelOdometry(k * S // 10, v if v > 0.4 else 0.0)
        synced = SyncedSet(Tick(k, k * S // 10), {}, {"imu": readings, "wheels": (wheels,)}, {})
        out.append((k / 10, check.evaluate(synced)))
    return out


def still(
    tamper: Tamper | None = None, seconds: float = 40.0, seed: int = 5, witness: object = None, shake: float = 0.02
) -> list[tuple[float, CheckResult]]:
    """A unit of data-sheet errors that stands, leaning by a few degrees."""
    rng = np.random.default_rng(seed)
    up = rng.normal((0.0, 0.0, 1.0), 0.05)
    force = 9.81 * up / np.linalg.norm(up) * (1 + rng.normal(0, 0.01, 3)) + rng.normal(0, 0.2, 3)
    bias = rng.normal(0, 0.01, 3)
    check, out = GravityCheck(), []
    for k in range(int(seconds * 10)):
        readings = []
        for n in range(10):
            t = (10 * k + n) / 100
            gyro, accel = bias + rng.normal(0, 0.001, 3), force + rng.normal(0, shake, 3)
            sample = ImuSample(round(t * S), tuple(gyro.tolist()), tuple(accel.tolist()))
            readings.append(tamper(sample, t) if tamper is not None else sample)
        at = readings[-1].stamp_ns
        series = {"imu": readings} | ({witness.sensor: (replace(witness, stamp_ns=at),)} if witness else {})
        out.append((at / S, check.evaluate(SyncedSet(Tick(k, at), {}, series, {}))))
    return out


def pushed(by: tuple[float, float, float], from_s: float, gain: float = 1.0, to_s: float = math.inf) -> Tamper:
    """The accelerometer reads this much more, times a gain, from then on."""

    def tamper(sample: ImuSample, t: float) -> ImuSample:
        if not from_s <= t < to_s:
            return sample
        x, y, z = (gain * a + b for a, b in zip(sample.accel_m_s2, by, strict=True))
        return replace(sample, accel_m_s2=(x, y, z))

    return tamper


def alarm(found: list[tuple[float, CheckResult]]) -> float | None:
    return next((t for t, r in found if r.level is Level.ANOMALY), None)


@pytest.mark.parametrize("seed", UNSEEN)
@pytest.mark.parametrize("model", [None, CHEAP])
def test_a_stop_in_traffic_is_gravity_and_a_drive_is_not_observable(seed: int, model: ImuModel | None) -> None:
    """Nobody is accused; on the move the check says nothing, at rest it says what it could have seen."""
    found = queue(seed, model=model)
    assert alarm(found) is None
    assert all(r.level is Level.NOT_OBSERVABLE for t, r in found if t < 11.0)
    resting = [r for t, r in found if 15.0 < t < 18.0]
    assert all(r.level is Level.OK and r.power < 0.6 for r in resting)


@pytest.mark.parametrize("seed", UNSEEN)
def test_a_bias_of_a_tenth_of_gravity_that_begins_on_the_way_is_found_at_the_next_stop(seed: int) -> None:
    """The first stop knows no more than the data sheet: 3 m/s^2 stand out of it at once, and are named as such."""
    found = queue(seed, pushed((0.0, 0.0, 3.5), 5.0))
    at = alarm(found)
    assert at is not None
    assert at < 18.0
    result = next(r for t, r in found if t == at)
    assert result.sensors == ("imu",)
    assert result.size == pytest.approx(3.5, abs=0.4)


@pytest.mark.parametrize("seed", [31, 32, 33])
@pytest.mark.parametrize(("by", "gain"), [((0.0, 0.0, 0.6), 1.0), ((0.0, 0.0, -0.6), 1.0), ((0.0, 0.0, 0.0), 1.06)])
def test_a_step_at_rest_is_found_in_five_seconds(seed: int, by: tuple[float, float, float], gain: float) -> None:
    """Bias up, bias down, scale: half a minute of rest has taught what the unit reads."""
    found = still(pushed(by, 30.0, gain), seed=seed, witness=WheelOdometry(0, 0.0))
    at = alarm(found)
    assert at is not None
    assert 30.0 < at <= 35.0


def test_a_lift_that_starts_and_stops_is_no_fault() -> None:
    """One m/s^2 up for two and a half seconds, as much down when it arrives."""

    def lift(sample: ImuSample, t: float) -> ImuSample:
        begun, ended = pushed((0, 0, 1.0), 25.0, to_s=27.5), pushed((0, 0, -1.0), 31.0, to_s=33.5)
        return ended(begun(sample, t), t)

    assert alarm(still(lift, witness=WheelOdometry(0, 0.0))) is None


def test_warming_up_is_learned() -> None:
    """An offset that follows the temperature by 0.0007 m/s^2 a second, as 1.5 mg/K do, accuses nobody."""

    def warm(sample: ImuSample, t: float) -> ImuSample:
        return pushed((0.0, 0.0, 0.0007 * t), 0.0)(sample, t)

    assert alarm(still(warm, 300.0, witness=WheelOdometry(0, 0.0))) is None


def test_sound_that_aliases_into_an_offset_is_found() -> None:
    """WALNUT: a tone at a multiple of the sampling rate reads as a constant push."""

    def tone(sample: ImuSample, t: float) -> ImuSample:
        by = 0.8 * math.sin(2 * math.pi * 2000.0 * t + 1.2)
        return pushed((0.0, 0.0, by), 25.0)(sample, t)

    assert alarm(still(tone, witness=WheelOdometry(0, 0.0))) is not None


@pytest.mark.parametrize(
    ("witness", "seen"),
    [
        (WheelOdometry(0, 0.0), True),
        (WheelOdometry(0, 3.0), False),
        (WheelOdometry(0, 0.0, (0.0, 0.0, 0.0, 2.0)), False),
        (GnssFix(0, 48.0, 11.0, 500.0, 0.1, None), True),
        (GnssFix(0, 48.0, 11.0, 500.0, 4.0, None), False),
        (None, True),
    ],
)
def test_rest_is_what_all_witnesses_say(witness: object, *, seen: bool) -> None:
    """Wheels or a receiver that move make it not observable; without either, a silent unit speaks for itself."""
    last = still(seconds=12.0, witness=witness)[-1][1]
    assert (last.level is Level.OK) == seen


def test_without_a_witness_a_shaking_body_is_not_at_rest() -> None:
    """A drone that hovers shakes: not observable, as only a silent one is known to stand."""
    assert all(r.level is Level.NOT_OBSERVABLE for _, r in still(seconds=12.0, shake=0.3))


def test_every_unit_of_a_rig_is_asked() -> None:
    """Each inertial unit gets a check of its own."""
    infos = [SourceInfo(name, ImuSample, S // 100, "test") for name in ("imu", "imu2")]
    names = [c.sensors for c in build_inertial_checks(infos, None) if c.name == "X7.gravity"]
    assert names == [("imu",), ("imu2",)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["clean_day", "clean_queue", "clean_hills", "clean_ice", "clean_jitter", "clean_bridge"]
)
@pytest.mark.parametrize("seed", UNSEEN)
def test_clean_scenarios_accuse_no_accelerometer(name: str, seed: int) -> None:
    """The whole pipeline, on real lines."""
    loud: list[CheckResult] = []
    run_scenario(load_scenario(name), seed, on_frame=lambda f: loud.extend(
        r for r in f.results if r.check == "X7.gravity" and r.level is Level.ANOMALY))  # fmt: skip
    assert not loud


@pytest.mark.realdata
def test_recordings_accuse_no_accelerometer(realdata: Path, lab: SimpleNamespace) -> None:
    """A drone and a car: nothing is found."""
    car = CarRecording(realdata / "car_60s" / "car.npz")
    clock, series = ManualClock(start_ns=0), list[Sample]()
    clock.wait_until_ns(car.ticks()[-1].stamp_ns)
    for source in car.sources(clock).values():
        source.open()
        while (sample := source.read(0.0)) is not None:
            series.append(sample)
    for samples in (lab.recorded(realdata / "euroc")[1], series):
        assert lab.first_alarm(lab.judge(GravityCheck(), samples)) is None
