"""Chains for IMU, GNSS and wheels: spikes go, honest motion stays, and every change is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.restore.series_chain import MAX_CHANGES, Declip, Hampel, RunningMedian, SeriesChain, SeriesRestorer
from edgeguard.restore.series_channels import channels_of
from edgeguard.restore.series_filters import declip, hampel, line_around, running_median
from edgeguard.types import GnssFix, Image, ImuSample, Restoration, Sample, WheelOdometry

HAMPEL = SeriesChain("spikes", "imu", (Hampel(),))


def imu(k: int, gyro_y: float = 0.0, accel_x: float = 0.0) -> ImuSample:
    return ImuSample(k * 10_000_000, (0.0, gyro_y, 0.0), (accel_x, 0.0, 9.81))


def fix(k: int, north_m: float, east_m: float = 0.0) -> GnssFix:
    return GnssFix(k * 100_000_000, 48.0 + north_m / 111_320.0, 11.0 + east_m / 74_500.0, 500.0, 10.0)


def in_ticks(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    return [samples[k : k + size] for k in range(0, len(samples), size)]


def run(chain: SeriesChain, samples: Sequence[Sample], size: int = 10) -> tuple[list[Sample], list[Restoration]]:
    """All ticks, one after the other."""
    restorer, out, done = SeriesRestorer(chain), [], []
    for part in in_ticks(samples, size):
        got, restoration = restorer.apply_series(part)
        out += list(got)
        done.append(restoration)
    return out, done


def moving(rng: np.random.Generator, count: int) -> list[ImuSample]:
    """A body that turns and brakes, with white noise on all axes."""
    t = 0.01 * np.arange(count)
    rate, force = 0.4 * np.sin(2.0 * t), 3.0 * np.sin(1.3 * t)
    noise = rng.standard_normal((2, count)) * ((0.01,), (0.2,))
    return [imu(k, float(rate[k] + noise[0, k]), float(force[k] + noise[1, k])) for k in range(count)]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_honest_motion_stays_to_the_last_object(seed: int) -> None:
    """Turns, braking and noise of a hundred hertz IMU: the same objects come back."""
    samples = moving(np.random.default_rng(seed), 150)

    out, done = run(HAMPEL, samples)

    assert all(a is b for a, b in zip(out, samples, strict=True))
    assert all(restoration.changed_share == 0.0 for restoration in done)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 25))
def test_spikes_are_replaced_and_told_with_time_and_both_values(seed: int, size: int) -> None:
    """However readings fall into ticks: each spike, and nothing else, becomes what its neighbours say."""
    rng = np.random.default_rng(seed)
    clean = moving(rng, 200)
    hit = np.sort(rng.choice(np.arange(20, 200, 12), 6, replace=False))
    samples = [replace(s, gyro_rad_s=(0.0, s.gyro_rad_s[1] + 3.0, 0.0)) if k in hit else s for k, s in enumerate(clean)]

    out, done = run(HAMPEL, samples, size)

    assert [k for k in range(200) if out[k] is not samples[k]] == hit.tolist()
    told = [change for restoration in done for change in restoration.changes]
    assert [(c.quantity, c.stamp_ns) for c in told] == [("gyro_y_rad_s", int(k) * 10_000_000) for k in hit]
    for change, k in zip(told, hit, strict=True):
        repaired, true = out[k], clean[k]
        assert isinstance(repaired, ImuSample)
        assert change.old == samples[k].gyro_rad_s[1]
        assert change.new == repaired.gyro_rad_s[1]
        assert abs(change.new - true.gyro_rad_s[1]) < 0.1
        assert repaired.accel_m_s2 == true.accel_m_s2
        assert repaired.stamp_ns == true.stamp_ns


def test_a_step_that_lasts_is_no_spike() -> None:
    """A wheel locks, a fix jumps and stays: it is not drawn back to the past for ever."""
    fixes = [fix(k, 10.0 * k if k < 20 else 10.0 * k + 60.0) for k in range(40)]

    out, _ = run(SeriesChain("fixes", "gnss", (Hampel(),)), fixes, 1)

    assert all(a is b for a, b in zip(out[30:], fixes[30:], strict=True))


def test_a_single_wild_fix_is_put_on_the_way() -> None:
    """One fix 60 m off, at 10 m/s, one fix a tick: judged by the past alone, told in degrees."""
    fixes: list[Sample] = [fix(k, 1.0 * k, 0.5 * k) for k in range(40)]
    fixes[25] = fix(25, 25.0, 12.5 + 60.0)

    out, done = run(SeriesChain("fixes", "gnss", (Hampel(),)), fixes, 1)

    assert [k for k in range(40) if out[k] is not fixes[k]] == [25]
    repaired = out[25]
    assert isinstance(repaired, GnssFix)
    assert abs(repaired.longitude_deg - fix(25, 25.0, 12.5).longitude_deg) * 74_500.0 < 0.5
    assert [c.quantity for c in done[25].changes] == ["longitude_deg"]


def test_the_past_that_counts_is_what_arrived() -> None:
    """A stuck stream of outliers becomes the usual within a window: a repair is no reason for the next."""
    samples = [imu(k, 0.0 if k < 30 else 2.0) for k in range(60)]

    out, _ = run(HAMPEL, samples, 5)

    assert all(a is b for a, b in zip(out[45:], samples[45:], strict=True))


def test_silence_and_jumps_of_time_end_the_past() -> None:
    """After a gap of many periods, or a restart, nothing is judged by what was before."""
    before, after = [imu(k, 0.0) for k in range(40)], [imu(k, 2.0) for k in range(400, 404)]
    restorer = SeriesRestorer(HAMPEL)
    for part in in_ticks(before, 10):
        restorer.apply_series(part)
    assert restorer.apply_series(after)[0] is not None
    assert restorer.apply_series([imu(k, 2.0) for k in range(404, 408)])[1].changed_share == 0.0

    restorer.restart()
    assert restorer.apply_series([imu(408, -2.0)])[1].changed_share == 0.0


def test_stamps_that_do_not_rise_change_nothing() -> None:
    """Order is the checks' business."""
    samples = [imu(k) for k in (0, 1, 2, 2, 3, 1, 9, 10)] + [imu(11, 5.0)]

    out, done = run(HAMPEL, samples, 9)

    assert all(a is b for a, b in zip(out, samples, strict=True))
    assert done[0].changed_share == 0.0


def test_clipped_peaks_are_given_back() -> None:
    """A shock of 60 m/s^2 on a sensor that ends at 39: the cubic's worst error is less than a third of clipping's."""
    t = 0.002 * np.arange(200)
    true = 60.0 * np.sin(2 * np.pi * 8.0 * t) * np.exp(-5.0 * t)
    clipped = np.clip(true, -39.2, 39.2)

    repaired = declip(t, clipped, 39.2, 0.06)

    hit = clipped != true
    assert hit.sum() > 10
    assert np.abs(repaired - true).max() < np.abs(clipped - true).max() / 3.0
    np.testing.assert_array_equal(repaired[np.abs(clipped) < 39.2], clipped[np.abs(clipped) < 39.2])


@given(
    values=st.lists(st.floats(-50.0, 50.0) | st.just(40.0) | st.just(float("nan")), min_size=1, max_size=40),
    longest_s=st.floats(0.01, 1.0),
)
def test_declipping_never_says_less_than_the_rail_nor_more_than_twice(values: list[float], longest_s: float) -> None:
    """Only clipped readings change, away from zero, and not beyond all bounds."""
    given_values = np.clip(np.array(values), -40.0, 40.0)
    out = declip(0.01 * np.arange(len(values)), given_values, 40.0, longest_s)

    changed = ~((out == given_values) | (np.isnan(out) & np.isnan(given_values)))
    assert (np.abs(given_values[changed]) == 40.0).all()
    assert (np.sign(out[changed]) == np.sign(given_values[changed])).all()
    assert (np.abs(out[changed]) >= 40.0).all()
    assert (np.abs(out[changed]) <= 80.0).all()


def test_clipping_that_has_no_end_yet_or_lasts_too_long_is_left() -> None:
    """Nothing is known on the other side."""
    t = 0.01 * np.arange(30)
    open_end = np.r_[np.zeros(20), np.full(10, 40.0)]
    long = np.r_[np.zeros(5), np.full(20, 40.0), np.zeros(5)]

    for values in (open_end, long):
        np.testing.assert_array_equal(declip(t, values, 40.0, 0.05), values)


def test_a_running_median_is_numpys() -> None:
    """Inside, against a plain loop; at the ends the window is shorter."""
    values = np.random.default_rng(3).standard_normal(50)

    out = running_median(values, 2)

    assert out.tolist() == [float(np.median(values[max(0, k - 2) : k + 3])) for k in range(50)]


def test_the_line_is_scipys() -> None:
    """Slope and level against SciPy's Theil-Sen estimator, the reading itself left out."""
    from scipy.stats import theilslopes

    rng = np.random.default_rng(4)
    t, v = np.cumsum(rng.uniform(0.5, 1.5, 30)), rng.standard_normal(30)
    level, spread, count = line_around(t, v, 4)
    for k in range(30):
        others = [i for i in range(max(0, k - 4), min(30, k + 5)) if i != k]
        slope = theilslopes(v[others], t[others] - t[k])[0]
        rest = v[others] - slope * (t[others] - t[k])
        assert level[k] == pytest.approx(np.median(rest))
        assert spread[k] == pytest.approx(1.4826 * np.median(np.abs(rest - np.median(rest))))
        assert count[k] == len(others)


@given(seed=st.integers(0, 2**31), count=st.integers(1, 60))
def test_series_keep_their_length_kinds_and_stamps_and_every_change_is_told(seed: int, count: int) -> None:
    """Whatever arrives, NaN and infinities too: what differs is exactly what is told or counted."""
    rng = np.random.default_rng(seed)
    wild = np.where(rng.random((count, 6)) < 0.2, rng.choice([np.nan, np.inf, -np.inf, 1e9, -50.0], (count, 6)), 0.1)
    samples = [ImuSample(k * 10_000_000, tuple(row[:3]), tuple(row[3:])) for k, row in enumerate(wild)]  # type: ignore[arg-type]
    chain = SeriesChain(
        "all", "imu", (Declip(("accel_x_m_s2",), 39.0), Hampel(half=3), RunningMedian(("gyro_x_rad_s",)))
    )

    out, done = run(chain, samples, 20)

    assert [(type(s), s.stamp_ns) for s in out] == [(type(s), s.stamp_ns) for s in samples]
    channels = channels_of(samples)
    assert channels is not None
    old, new = channels.read(samples), channels.read(out)
    differs = ~((old == new) | (np.isnan(old) & np.isnan(new)))
    assert differs.sum() == sum(len(r.changes) + r.unlisted for r in done)
    assert all(len(r.changes) <= MAX_CHANGES for r in done)
    assert np.isfinite(new[differs]).all()


def test_evidence_is_bounded() -> None:
    """A thousand changes of one tick: the first are listed, the others counted."""
    rng = np.random.default_rng(1)
    samples = [ImuSample(k, tuple(rng.random(3)), tuple(rng.random(3))) for k in range(400)]  # type: ignore[arg-type]

    _, done = run(SeriesChain("m", "imu", (RunningMedian(),)), samples, 400)

    assert len(done[0].changes) == MAX_CHANGES
    assert done[0].unlisted > 1000


def test_what_a_sample_has_not_is_not_invented() -> None:
    """Fixes without altitude and wheels without single speeds keep having none."""
    fixes = [GnssFix(k * 10**8, 48.0 + (1.0 if k == 9 else 0.0), 11.0) for k in range(20)]
    wheels = [WheelOdometry(k * 10**7, 50.0 if k == 9 else 5.0) for k in range(20)]

    for name, samples in (("gnss", fixes), ("wheels", wheels)):
        out, _ = run(SeriesChain("s", name, (Hampel(),)), samples, 20)
        assert out[9] is not samples[9]
        assert all(getattr(s, "altitude_m", None) is None for s in out)
        assert all(getattr(s, "wheel_speeds_m_s", None) is None for s in out)


def test_pictures_and_mixed_series_pass() -> None:
    """They have no channels."""
    mixed = [imu(0), fix(1, 0.0)]
    pictures = [Image(np.zeros((9, 9, 3), np.uint8), 0)]

    for samples in (mixed, pictures, []):
        assert SeriesRestorer(HAMPEL).apply_series(samples)[0] is samples


@pytest.mark.parametrize(
    "step",
    [
        {"op": "declip", "full_scale": 40.0},
        {"op": "declip", "channels": ["accel_x_m_s2"]},
        {"op": "hampel", "channels": ["accel_x"]},
        {"op": "hampel", "half": 1000},
        {"op": "kalman"},
    ],
)
def test_settings_that_mean_nothing_are_refused(step: dict[str, object]) -> None:
    """When the file is read, not when it runs."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "series", "name": "x", "sensor": "imu", "steps": [step]}, SeriesChain)


def test_hampel_asks_for_more_than_noise_and_more_than_honest_motion() -> None:
    """Both bounds count: a quiet series tolerates what a body can do, a noisy one its noise."""
    t = 0.01 * np.arange(41)
    quiet, noisy = np.zeros(41), np.random.default_rng(2).laplace(0.0, 1.0, 41)
    quiet[20], noisy[20] = 0.9, 10.0

    assert hampel(t, quiet, 5, 12.0, np.full(41, 1.0))[20] == 0.9
    assert abs(hampel(t, quiet, 5, 12.0, np.full(41, 0.5))[20]) < 1e-9
    assert hampel(t, noisy, 5, 12.0, np.full(41, 0.5))[20] == 10.0


@pytest.mark.realdata
def test_a_real_drive_and_a_real_flight_hardly_change(realdata: Path) -> None:
    """Car: no reading of GNSS, wheels or IMU of 25 s. Drone: one IMU reading in a hundred at most."""
    car = np.load(realdata / "car_60s/car.npz")
    rows = min(len(car["gyro_t"]), len(car["accelerometer_t"]))
    gyro, force = car["gyro_value"], car["accelerometer_value"]
    body = [ImuSample(int(car["gyro_t"][k] * 1e9), tuple(gyro[k]), tuple(force[k])) for k in range(rows)]  # type: ignore[arg-type]
    fixes = [
        GnssFix(int(t * 1e9), float(v[0]), float(v[1]), float(v[4]), float(v[2]))
        for t, v in zip(car["gnss_t"], car["gnss_value"], strict=True)
    ]
    wheels = [
        WheelOdometry(int(t * 1e9), float(v.mean()), tuple(v))  # type: ignore[arg-type]
        for t, v in zip(car["wheel_speed_t"], car["wheel_speed_value"], strict=True)
    ]
    for samples, size in ((body, 10), (fixes, 1), (wheels, 8)):
        assert all(a.stamp_ns < b.stamp_ns for a, b in pairwise(samples))
        assert all(r.changed_share == 0.0 for r in run(HAMPEL, samples, size)[1])
    table = np.loadtxt(realdata / "euroc/imu0/data.csv", delimiter=",", comments="#")
    drone = [ImuSample(int(row[0]), tuple(row[1:4]), tuple(row[4:7])) for row in table]  # type: ignore[arg-type]
    out, _ = run(HAMPEL, drone, 20)
    assert sum(a is not b for a, b in zip(out, drone, strict=True)) <= 0.01 * len(drone)
