"""I1, I2 and I3: one inertial unit against itself, and two against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeguard.checks.imu_pair import ImuPairCheck
from edgeguard.checks.imu_self import NoiseCheck, RailsCheck
from edgeguard.types import Check, ImuSample, Level

S = 1_000_000_000
Tamper = Callable[[float, np.ndarray, np.random.Generator], np.ndarray]


def unit(
    seconds: float, tamper: Tamper | None = None, *, seed: int = 5, sensor: str = "imu", step: float = 0.0, own: int = 0
) -> list[ImuSample]:
    """A body on a rough road at 100 Hz: honest turns, noise that differs per axis; `step` quantises every value."""
    body, noise = np.random.default_rng(seed), np.random.default_rng([seed, own])
    rng, out = np.random.default_rng([seed, own, 1]), []
    rough = 1.0
    for i in range(round(seconds * 100)):
        t = i / 100
        rough = 1.0 if i % 700 < 500 else 4.0  # cobbles
        turn = (0.02 * np.sin(3 * t), 0.03 * np.sin(2 * t), 0.4 * np.sin(0.7 * t))
        push = (1.5 * np.sin(0.5 * t), 2.0 * np.sin(0.7 * t), 9.81)
        row = np.array((*turn, *push)) + rough * body.normal(0, (0.004,) * 3 + (0.2,) * 3)
        row = row + noise.normal(0, (0.001,) * 3 + (0.02,) * 3)
        row = row if tamper is None else tamper(t, row, rng)
        row = np.round(row / step) * step if step else row
        out.append(ImuSample(S + i * S // 100, tuple(row[:3].tolist()), tuple(row[3:].tolist()), sensor))
    return out


def clipped(t: float, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shaken beyond the accelerometer's range from 6 s on."""
    return row if t < 6.0 else np.clip(row + np.repeat((0.0, 40.0), 3) * rng.normal(size=6), -19.6, 19.6)


def one_axis_stuck(t: float, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The forward accelerometer holds one value from 6 s on."""
    del rng
    return np.where((np.arange(6) == 3) & (t >= 6.0), 0.123, row)


def sung_to(t: float, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tone at the pitch gyro's resonance, aliased near half the sampling rate, from 6 s on."""
    del rng
    return row + (t >= 6.0) * np.eye(6)[1] * 3.0 * np.sin(2 * np.pi * 2043.0 * t)


def bits_lost(t: float, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The accelerometers lose their three lowest bits from 6 s on."""
    del rng
    return np.where((np.arange(6) >= 3) & (t >= 6.0), np.round(row / 0.08) * 0.08, row)


@pytest.mark.parametrize("step", [0.0, 0.002, 0.01], ids=["fine", "12 bit", "coarse"])
@pytest.mark.parametrize("make", [NoiseCheck, RailsCheck])
def test_an_honest_unit_is_clean_on_cobbles_at_any_resolution(lab: Any, make: type[Check], step: float) -> None:
    """Half a minute: the road is four times louder at times, and coarse units repeat themselves."""
    found = lab.judge(make(), unit(30.0, step=step), 10)
    assert lab.first_alarm(found) is None
    assert any(r.level is Level.OK for _, r in found)


@pytest.mark.parametrize(
    ("make", "tamper", "within_s"),
    [(RailsCheck, clipped, 0.3), (RailsCheck, one_axis_stuck, 0.4), (NoiseCheck, sung_to, 0.4)],
)
def test_a_fault_of_one_unit_is_found_without_another_sensor(
    lab: Any, make: type[Check], tamper: Tamper, within_s: float
) -> None:
    """Clipping, a dead axis, a resonance: within some tenths of a second, and not before."""
    delay = lab.first_alarm(lab.judge(make(), unit(9.0, tamper), 10), 6.0)
    assert delay is not None
    assert 0.0 <= delay <= within_s + 0.1


def test_lost_low_bits_are_found(lab: Any) -> None:
    """A quantised unit whose accelerometers fall on a grid eight times coarser."""
    delay = lab.first_alarm(lab.judge(RailsCheck(), unit(12.0, bits_lost, step=0.01), 10), 6.0)
    assert delay is not None
    assert 0.0 < delay <= 4.0


def test_a_whole_reading_that_repeats_is_found_at_once(lab: Any) -> None:
    """A bus that hangs: a tenth of a second of equal readings, where the unit never repeated itself."""
    samples = unit(8.0)
    held = samples[600]
    frozen = [replace(s, gyro_rad_s=held.gyro_rad_s, accel_m_s2=held.accel_m_s2) for s in samples[600:]]
    delay = lab.first_alarm(lab.judge(RailsCheck(), [*samples[:600], *frozen], 10), 6.0)
    assert delay is not None
    assert delay <= 0.3


def test_a_driver_that_delivers_twice_is_no_stuck_sensor(lab: Any) -> None:
    """Each reading four times under fresh stamps from the start on: learned, not accused."""
    samples = unit(20.0)
    repeated = [
        replace(s, gyro_rad_s=samples[i - i % 4].gyro_rad_s, accel_m_s2=samples[i - i % 4].accel_m_s2)
        for i, s in enumerate(samples)
    ]
    assert lab.first_alarm(lab.judge(RailsCheck(), repeated, 10), 2.0) is None


def test_two_units_agree_and_a_step_of_one_is_found(lab: Any) -> None:
    """Different noise and biases are learned; 2 deg/s on the second unit's yaw is found within a second and a half."""

    def offset(t: float, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        del rng
        return row + np.array((0.01, -0.02, 0.03, 0.2, -0.1, 0.1))

    def stepped(t: float, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return offset(t, row, rng) + (t >= 12.0) * np.eye(6)[2] * np.radians(2.0)

    one = unit(18.0, own=1)
    honest = [*one, *unit(18.0, offset, sensor="imu2", own=2)]
    found = lab.judge(ImuPairCheck("imu", "imu2"), honest, 10)
    assert lab.first_alarm(found) is None
    assert found[-1][1].level is Level.OK
    found = lab.judge(ImuPairCheck("imu", "imu2"), [*one, *unit(18.0, stepped, sensor="imu2", own=2)], 10)
    delay = lab.first_alarm(found, 12.0)
    assert delay is not None
    assert 0.0 < delay <= 1.5
    assert next(r for _, r in found if r.level is Level.ANOMALY).quantity == "yaw_rate"


def test_no_readings_are_no_evidence(lab: Any) -> None:
    """NOT_OBSERVABLE with infinite power, for one unit and for two of which one is silent."""
    samples = unit(1.0)
    for check in (NoiseCheck(sensor="imu2"), RailsCheck("imu2"), ImuPairCheck("imu", "imu2")):
        found = lab.judge(check, samples, 10)
        assert {r.level for _, r in found} == {Level.NOT_OBSERVABLE}
        assert {r.power for _, r in found} == {float("inf")}
