"""From recordings to thresholds for the rate of the whole system, and back into the checks that use them."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from edgeguard.checks.calibration_file import SensorSection, read_calibration
from edgeguard.checks.motion_drift import DriftMonitor
from edgeguard.checks.motion_statistics import ResidualMonitor
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.checks.tails import fit_tail
from edgeguard.checks.thresholds import Threshold, share_rate
from edgeguard.cli.main import cli
from edgeguard.config import Config
from edgeguard.errors import CalibrationError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.runtime.calibrate import observe
from edgeguard.runtime.calibrate_rate import Climbs, calibrate, climb, join, tails_of
from edgeguard.sensors.npz import save_npz
from edgeguard.sim.soak.lean import LeanDrive, lean_drive
from edgeguard.sim.soak.soak import SOAK_CONFIG
from edgeguard.types import GNSS, IMU, WHEELS

RIG = (IMU, WHEELS)


def drive(street: int, seconds: float = 40.0, sensors: tuple[str, ...] = RIG) -> LeanDrive:
    """A clean simulated drive of one rig."""
    return lean_drive(sensors, 3, 700 + street, seconds)


@pytest.fixture(scope="module")
def calibrated() -> SensorSection:
    """Two drives, for an alarm every ten minutes."""
    result, observed = calibrate([drive(0), drive(1)], SOAK_CONFIG, 1.0 / 6.0, known_clean=True)
    assert observed.fit_s == pytest.approx(56.0, abs=1.0)
    return result.section


def test_every_statistic_of_the_rig_has_a_threshold_and_all_expect_the_stated_rate(calibrated: SensorSection) -> None:
    """Those that showed nothing keep the shipped one; the file carries what was derived."""
    thresholds = calibrated.thresholds
    assert "I1.noise.gyro_x" in thresholds
    assert "X7.accel.1_s" in thresholds
    assert all(each.scale == 1.0 for each in thresholds.values() if not each.peaks)
    assert sum(each.per_hour for each in thresholds.values()) <= 6.0 * 1.01
    assert (calibrated.made.margin, calibrated.made.seconds) == ("mean", pytest.approx(56.0, abs=1.0))
    again = msgspec.json.decode(msgspec.json.encode(calibrated), type=SensorSection)
    assert again == calibrated
    fits = again.fits()
    assert {name: fits.scale(name) for name in thresholds} == {name: each.scale for name, each in thresholds.items()}
    assert SensorFits().scale("anything") == 1.0


def test_thresholds_reach_the_statistics_and_leave_what_they_climb_to_as_it_was(calibrated: SensorSection) -> None:
    """The same drive with and without them: equal climbs, so that no rate changes what it was derived from."""
    fits = calibrated.fits()
    bare = SensorFits({name: fits.bins(name) for name in fits}, fits.definitions)
    with_scales, without = (climb(drive(2, 15.0), SOAK_CONFIG, each) for each in (fits, bare))
    assert with_scales.peaks.keys() == without.peaks.keys() == calibrated.thresholds.keys()
    for name, peaks in without.peaks.items():
        assert np.array_equal(with_scales.peaks[name], peaks), name
    assert any(peaks.max() > 0.0 for peaks in without.peaks.values())


def test_several_recordings_are_one_and_of_one_rig() -> None:
    """Scores, parts and seconds add up; nothing bridges them; another rig is refused."""
    parts = [observe(drive(i, 8.0), Config()) for i in range(2)]
    whole = join(parts)
    for i, scores in enumerate(whole.scores):
        assert scores.score == parts[0].scores[i].score + parts[1].scores[i].score
        assert [scores.score[row] for row in whole.tail[i]] == [
            part.scores[i].score[row] for part in parts for row in part.tail[i]
        ]
        if len(scores.t_s) > 1:
            assert scores.t_s == sorted(scores.t_s)
            assert max(np.diff(scores.t_s)) > 3000.0
    assert whole.fit_s == pytest.approx(sum(part.fit_s for part in parts))
    assert join(parts[:1]) is parts[0]
    with pytest.raises(CalibrationError, match="EG-L004"):
        join([parts[0], observe(drive(0, 8.0, (GNSS, WHEELS)), Config())])


def test_alarms_are_counted_once_over_all_statistics() -> None:
    """Two statistics at once are one alarm, one 20 s later another; the threshold decides."""
    peaks = {"a": np.zeros(600), "b": np.zeros(600)}
    peaks["a"][[100, 300]] = [0.8, 0.8]
    peaks["b"][[110, 500]] = [0.9, 0.5]
    climbs = Climbs(peaks, np.ones(600, dtype=bool), 200, 0.1)
    halves = {"a": Threshold(0.6), "b": Threshold(0.6)}
    assert climbs.alarms(halves) == 2
    assert climbs.alarms({"a": Threshold(0.6), "b": Threshold(0.4)}) == 3
    assert climbs.alarms(halves, from_tick=200) == 1
    assert climbs.alarms({"a": Threshold(), "b": Threshold()}) == 0


def test_what_lies_near_an_anomaly_is_left_out_unless_all_is_known_to_be_clean() -> None:
    """And so are its seconds."""
    peaks = np.linspace(0.1, 0.2, 100)
    clean = np.ones(100, dtype=bool)
    clean[10:20] = False
    climbs = Climbs({"a": peaks}, clean, 70, 1.0)
    assert climbs.seconds(all_clean=False) == 60.0
    assert climbs.seconds(all_clean=True) == 100.0
    assert climbs.fitted("a", all_clean=False)[10:20].tolist() == [0.0] * 10
    assert tails_of([climbs], all_clean=True)["a"] is not None


def test_the_stated_rate_comes_of_it_on_new_noise() -> None:
    """Six statistics of three laws, ten hours to calibrate on, two hundred to test: 1, 4 and 20 an hour within 30 %."""
    rng = np.random.default_rng(21)
    laws = [("exponential", 1.0), ("between", 1.4), ("gaussian", 2.0)] * 2

    def peaks(power: float, hours: float) -> np.ndarray:
        return 0.1 * rng.weibull(power, rng.poisson(180.0 * hours))

    tails = {f"{name} {i}": fit_tail(peaks(power, 10.0), 36_000.0) for i, (name, power) in enumerate(laws)}
    for rate in (1.0, 4.0, 20.0):
        # Scaled so that no bound of the thresholds is met: shapes decide, not units.
        assert all(tail is not None for tail in tails.values())
        part = rate / len(laws)
        levels = {name: tail.level(part) for name, tail in tails.items() if tail is not None}
        alarms = sum(int((peaks(power, 200.0) > levels[f"{name} {i}"]).sum()) for i, (name, power) in enumerate(laws))
        assert alarms / 200.0 == pytest.approx(rate, rel=0.3)
    assert set(share_rate(tails, 4.0)) == set(tails)


def pushed(monitor: ResidualMonitor | DriftMonitor, shift: float) -> list[float]:
    """Statistics over 20 s of noise and then 20 s of a shift."""
    rng = np.random.default_rng(2)
    found = []
    for i in range(400):
        residual = 0.1 * rng.normal() + (shift if i >= 200 else 0.0)
        if isinstance(monitor, DriftMonitor):
            monitor.push(0.1 * i, residual, 0.02, (residual,))
        else:
            monitor.push(0.1 * i, residual, 0.02)
        found.append(monitor.statistic(0.1 * i))
    return found


@pytest.mark.parametrize("kind", ["residual", "drift"])
def test_a_lower_threshold_finds_a_shift_sooner_and_says_so(kind: str) -> None:
    """At half the threshold: the same course of the share, an earlier alarm, a smaller detectable shift."""

    def monitor(scale: float) -> ResidualMonitor | DriftMonitor:
        made = ResidualMonitor(0.05, 0.4, 0.3) if kind == "residual" else DriftMonitor(0.05, 0.4, 0.15)
        made.scale = scale
        return made

    whole, half = monitor(1.0), monitor(0.5)
    first, second = pushed(whole, 0.35), pushed(half, 0.35)
    assert second[:200] == pytest.approx([2.0 * share for share in first[:200]])
    alarm = [next(i for i, share in enumerate(each) if share > 1.0) for each in (first, second)]
    assert 200 <= alarm[1] < alarm[0]
    assert half.power(0.02) < whole.power(0.02)
    assert half.size > 0.1
    assert half.take_peak() > 0.5
    assert half.take_peak() == 0.0


def test_a_score_monitors_threshold_moves_gate_and_sum_alike() -> None:
    """Peak, share and power; NaN power nowhere."""
    monitors = [ScoreMonitor("T", Prior(0.0, 1.0), SensorFits(scales={"T": scale})) for scale in (1.0, 0.5)]
    for monitor in monitors:
        for i in range(8):
            monitor.push(0.1 * i, 3.5 if i >= 4 else 0.0)
    whole, half = monitors
    assert whole.share == half.share == whole.statistic
    assert half.statistic == pytest.approx(2.0 * whole.statistic)
    assert whole.statistic < 1.0 < half.statistic
    assert half.power() < whole.power()
    assert math.isfinite(half.power())
    assert half.take_peak() == pytest.approx(whole.take_peak())


def test_the_verb_takes_several_recordings_and_says_what_to_expect(tmp_path: Path) -> None:
    """Two recorded drives in, thresholds and margin in the file and on the screen."""
    paths = []
    for i in range(2):
        recording = drive(i, 35.0)
        stamped = [
            (int(stream.stamps_ns[k]), stream.load(k))
            for stream in recording.streams
            for k in range(len(stream.stamps_ns))
        ]
        paths.append(tmp_path / f"drive{i}.npz")
        save_npz(paths[-1], sorted(stamped, key=lambda pair: pair[0]))
    key = tmp_path / "device.pem"
    FileKeyProvider.generate(key)
    out = tmp_path / "c.json"
    arguments = ["calibrate", "sensors", *map(str, paths), "--key", str(key), "--out", str(out), "--margin", "sure"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "expected of the whole system" in done.output
    assert "margin sure" in done.output
    sensors = read_calibration(out, key=FileKeyProvider(key)).sensors
    assert sensors is not None
    assert sensors.made.recording == "drive0.npz, drive1.npz"
    assert sensors.made.margin == "sure"
    assert sensors.thresholds
