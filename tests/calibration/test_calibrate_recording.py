"""From a recording to fits and back into a pipeline: clean or refused, bound to its rig, held against its own tail."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeguard.checks.calibration_file import read_calibration, write_section
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.cli.main import cli, run
from edgeguard.clock import NS_PER_S, Clock, ManualClock
from edgeguard.config import CalibrationConfig, Config
from edgeguard.errors import CalibrationError, ConfigError, NotCleanError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.runtime.calibrate import calibrate_sensors, observe
from edgeguard.runtime.calibration import load_fits, rig_of
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sensors.npz import save_npz
from edgeguard.sensors.recorded import RecordedStream, recorded_ticks
from edgeguard.types import (
    WHEELS,
    CheckResult,
    GnssFix,
    Level,
    RigCalibration,
    Sample,
    Source,
    SourceInfo,
    SyncedSet,
    Tick,
    WheelOdometry,
)

PERIOD_NS = NS_PER_S // 20


class SpeedNoise:
    """A user's own check: the wheel speed against what the drive is known to be."""

    name = "U1.speed_noise"
    sensors = (WHEELS,)

    def __init__(self, fits: SensorFits | None = None, persist: int = 3) -> None:
        prior = Prior(0.0, 0.5, "m/s")
        self.monitors = (ScoreMonitor("U1.speed_noise", prior, fits, persist=persist),)

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        (monitor,) = self.monitors
        for sample in synced.series.get(WHEELS, ()):
            if isinstance(sample, WheelOdometry):
                monitor.push(sample.stamp_ns / NS_PER_S, sample.speed_m_s - 5.0, 5.0)
        level = Level.ANOMALY if monitor.statistic > 1.0 else Level.OK
        return CheckResult(self.name, self.sensors, level, monitor.statistic, 1.0, monitor.power(), "m/s")


@dataclass(frozen=True)
class WheelDrive:
    """A recording of wheels alone: 5 m/s and noise, with a bias from some second on."""

    seconds: int
    noise_m_s: float = 0.1
    bias_from_s: float = 1e9
    bias_m_s: float = 4.0
    geometry: RigCalibration | None = None
    seed: int = 3

    @property
    def calibration(self) -> RigCalibration | None:
        return self.geometry

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]:
        return ()

    def samples(self) -> list[WheelOdometry]:
        rng = np.random.default_rng(self.seed)
        count = self.seconds * 20
        stamps = NS_PER_S + np.arange(count) * PERIOD_NS
        speed = 5.0 + self.noise_m_s * rng.normal(size=count)
        speed += np.where(stamps / NS_PER_S - 1.0 >= self.bias_from_s, self.bias_m_s, 0.0)
        return [WheelOdometry(int(t), float(v)) for t, v in zip(stamps, speed, strict=True)]

    def _stream(self) -> RecordedStream:
        samples = self.samples()
        stamps = np.array([s.stamp_ns for s in samples])
        return RecordedStream(SourceInfo(WHEELS, WheelOdometry, PERIOD_NS, "memory"), stamps, samples.__getitem__)

    def ticks(self) -> list[Tick]:
        return recorded_ticks([self._stream()])

    def sources(self, clock: Clock) -> Mapping[str, Source]:
        return {WHEELS: self._stream().source(clock)}


def geometry(yaw: float = 0.0) -> RigCalibration:
    """A camera-lidar rig's geometry, turned a little."""
    pose = np.eye(4)
    pose[0, 1], pose[1, 0] = -yaw, yaw
    return RigCalibration(np.diag([700.0, 700.0, 1.0]), pose, (640, 480))


def test_a_clean_drive_is_fitted_on_its_first_part_and_held_against_the_rest() -> None:
    """Every score of the first 70 % and none of the tail; power in the noise of the drive, no longer of the prior."""
    observed = observe(WheelDrive(100), Config(), extra_checks=[SpeedNoise()])
    assert not observed.anomalies
    result = calibrate_sensors(observed, 10.0, recording="drive")
    (row,) = result.rows
    fit = row.fitted.bin.fit
    assert fit.samples == pytest.approx(1400, abs=6)
    assert fit.sigma == pytest.approx(0.1, rel=0.2)
    assert row.fitted.basis == "data"
    assert row.detectable < 0.25
    held = result.section.held_out
    assert held.seconds == pytest.approx(30.0, abs=0.5)
    assert held.alarms == 0
    assert held.per_hour_upper == pytest.approx(2.9957 * 3600.0 / held.seconds, rel=1e-3)
    again = calibrate_sensors(observe(WheelDrive(100), Config(), extra_checks=[SpeedNoise()]), 10.0, recording="drive")
    assert again.section == result.section


def test_an_anomaly_refuses_the_recording_and_names_the_check() -> None:
    """Unless it is allowed: then it is counted in the file, and the fit stays that of the clean majority."""
    drive = WheelDrive(100, bias_from_s=62.0, bias_m_s=6.0)
    observed = observe(drive, Config(), extra_checks=[SpeedNoise()])
    with pytest.raises(NotCleanError, match=r"U1\.speed_noise") as caught:
        calibrate_sensors(observed, 10.0)
    assert (caught.value.code, caught.value.exit_code) == ("EG-L006", 1)
    allowed = calibrate_sensors(observed, 10.0, allow_anomalies=True)
    assert allowed.section.made.anomalies > 100
    assert allowed.section.held_out.alarms == 1
    clean = observe(drive, Config(), to_s=60.0, extra_checks=[SpeedNoise()])
    assert calibrate_sensors(clean, 10.0).section.made.anomalies == 0


def test_a_part_of_the_recording_is_what_was_asked_for() -> None:
    """--from leaves the beginning to run in: its anomalies and scores do not count."""
    observed = observe(WheelDrive(100), Config(), from_s=40.0, to_s=80.0, extra_checks=[SpeedNoise()])
    assert (observed.from_s, observed.to_s) == (pytest.approx(40.0, abs=0.2), pytest.approx(80.0, abs=0.2))
    assert len(observed.scores[0].score) == pytest.approx(800, abs=6)
    with pytest.raises(CalibrationError, match="EG-L007"):
        observe(WheelDrive(100), Config(), from_s=99.0, extra_checks=[SpeedNoise()])


def test_less_than_thirty_seconds_make_the_check_blinder_not_sharper() -> None:
    """The prior, widened; the row says so."""
    result = calibrate_sensors(observe(WheelDrive(20), Config(), extra_checks=[SpeedNoise()]), 10.0)
    (row,) = result.rows
    assert row.fitted.basis == "prior"
    assert 0.5 < row.fitted.bin.fit.sigma < 0.6
    assert result.section.monitors["U1.speed_noise"].bins[0].basis == "prior"


def test_a_rig_without_monitors_has_nothing_to_calibrate() -> None:
    """Said plainly, not an empty file."""
    with pytest.raises(CalibrationError, match="EG-L007"):
        calibrate_sensors(observe(WheelDrive(30), Config()), 10.0)


@pytest.fixture(scope="module")
def key_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device's key."""
    path = tmp_path_factory.mktemp("key") / "device.pem"
    FileKeyProvider.generate(path)
    return path


@pytest.fixture
def calibrated(tmp_path: Path, key_path: Path) -> Config:
    """A configuration that names a calibration of the wheel rig."""
    result = calibrate_sensors(observe(WheelDrive(100), Config(), extra_checks=[SpeedNoise()]), 10.0)
    write_section(tmp_path / "c.json", FileKeyProvider(key_path), sensors=result.section)
    return Config(calibration=CalibrationConfig(str(tmp_path / "c.json"), str(key_path)))


def pipeline(config: Config, drive: WheelDrive, checks: Sequence[Any]) -> Pipeline:
    """A pipeline over a drive."""
    clock = ManualClock(NS_PER_S - 1)
    return Pipeline(config, drive.sources(clock), clock, calibration=drive.calibration, extra_checks=checks)


def test_a_pipeline_reads_what_its_configuration_names(calibrated: Config) -> None:
    """What was learned finds a bias that the prior cannot see; the key may be that of [model]."""
    drive = WheelDrive(30, bias_from_s=20.0, bias_m_s=0.3, seed=9)
    infos = [source.info for source in drive.sources(ManualClock()).values()]
    fits = load_fits(calibrated, infos, None, wall_ns=0)
    found = {}
    for name, each in (("fits", fits), ("prior", None)):
        check = SpeedNoise(each)
        with pipeline(calibrated, drive, [check]) as running:
            anomalies = [tick.stamp_ns for tick in drive.ticks() if _anomalous(running, tick)]
        found[name] = [stamp / NS_PER_S - 1.0 for stamp in anomalies]
    assert found["prior"] == []
    assert 20.0 < found["fits"][0] < 22.0
    settings = msgspec.structs.replace(calibrated.calibration, key="")
    model = msgspec.structs.replace(calibrated.model, key=calibrated.calibration.key)
    other = msgspec.structs.replace(calibrated, calibration=settings, model=model)
    assert load_fits(other, infos, None, wall_ns=0) is not None


def _anomalous(running: Pipeline, tick: Tick) -> bool:
    _, results = running.evidence(tick)
    return any(result.check == SpeedNoise.name and result.level is Level.ANOMALY for result in results)


def test_a_calibration_of_another_rig_is_refused(calibrated: Config) -> None:
    """Other sensors, other kinds, another geometry: the pipeline is not built."""
    turned = WheelDrive(5, geometry=geometry(0.01))
    with pytest.raises(CalibrationError, match="mounted") as caught:
        pipeline(calibrated, turned, [])
    assert caught.value.code == "EG-L004"
    infos = [SourceInfo("wheels2", WheelOdometry, PERIOD_NS, "")]
    with pytest.raises(CalibrationError, match="wheels missing here; wheels2 new here"):
        load_fits(calibrated, infos, None, wall_ns=0)
    assert rig_of(infos, geometry()) != rig_of(infos, geometry(0.001))
    assert rig_of(infos, geometry()) == rig_of(infos, geometry(1e-19))


def test_a_monitor_that_is_defined_otherwise_now_refuses_the_file(calibrated: Config) -> None:
    """The numbers would mean something else."""
    with pytest.raises(CalibrationError, match="EG-L008"):
        pipeline(calibrated, WheelDrive(5), [SpeedNoise(persist=5)])


def test_a_configured_calibration_is_never_silently_left_out(calibrated: Config, tmp_path: Path) -> None:
    """No key, no file, an edited file: errors, not priors."""
    without = msgspec.structs.replace(calibrated.calibration, key="")
    with pytest.raises(ConfigError, match="EG-C070"):
        pipeline(msgspec.structs.replace(calibrated, calibration=without), WheelDrive(5), [])
    path = Path(calibrated.calibration.file)
    path.write_bytes(path.read_bytes().replace(b'"alarms":0', b'"alarms":1'))
    with pytest.raises(CalibrationError, match="EG-L002"):
        pipeline(calibrated, WheelDrive(5), [])
    path.unlink()
    with pytest.raises(CalibrationError, match="EG-L005"):
        pipeline(calibrated, WheelDrive(5), [])


def test_the_verb_says_when_there_is_nothing_to_calibrate(
    tmp_path: Path, key_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recorded drive of wheels alone has no cross-check: exit 4, the reason, and no file."""
    recording = tmp_path / "drive.npz"
    save_npz(recording, [(sample.stamp_ns, sample) for sample in WheelDrive(30).samples()])
    out = tmp_path / "c.json"
    code = run(cli, "edgeguard", ["calibrate", "sensors", str(recording), "--key", str(key_path), "--out", str(out)])
    assert code == 4
    assert "EG-L007" in capsys.readouterr().err
    assert not out.exists()


def test_the_result_reads_back_what_is_written(tmp_path: Path, key_path: Path) -> None:
    """Section in, section out, through the file; equal to the last digit."""
    result = calibrate_sensors(observe(WheelDrive(60), Config(), extra_checks=[SpeedNoise()]), 2.0, recording="d" * 400)
    key = FileKeyProvider(key_path)
    write_section(tmp_path / "c.json", key, sensors=result.section)
    assert read_calibration(tmp_path / "c.json", key=key).sensors == result.section
    assert json.loads((tmp_path / "c.json").read_bytes())["calibration"]["sensors"]["made"]["recording"] == "d" * 256


def save_car_drive(path: Path, seconds: int) -> None:
    """Record a car on a straight road: GNSS at 10 Hz, wheels at 20 Hz, noise of both, and a speed that swings."""
    rng = np.random.default_rng(12)

    def speed(t_s: float) -> float:
        return 12.0 + 2.0 * math.sin(0.2 * t_s)

    samples: list[tuple[int, Sample]] = []
    for wheel in WheelDrive(seconds).samples():
        t_s = wheel.stamp_ns / NS_PER_S
        measured = speed(t_s) + 0.05 * rng.normal()
        samples.append((wheel.stamp_ns, replace(wheel, speed_m_s=measured)))
    for i in range(seconds * 10):
        stamp_ns = NS_PER_S + i * NS_PER_S // 10
        t_s = stamp_ns / NS_PER_S
        way_m = 12.0 * t_s - 10.0 * (math.cos(0.2 * t_s) - 1.0)
        fix = GnssFix(
            stamp_ns, 48.0 + (way_m + 0.1 * rng.normal()) / 111_320.0, 11.0 + 0.1 * rng.normal() / 74_500.0, 500.0,
            speed_m_s=speed(t_s) + 0.06 * rng.normal(), course_deg=0.0,
        )  # fmt: skip
        samples.append((stamp_ns, fix))
    save_npz(path, sorted(samples, key=lambda pair: pair[0]))


def test_the_verb_calibrates_a_recorded_rig_and_replay_uses_the_file(
    tmp_path: Path, key_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recording in, table and file out; then the same rig replays with it, and another rig does not."""
    save_car_drive(tmp_path / "car.npz", 75)
    out = tmp_path / "c.json"
    verb = ["calibrate", "sensors", str(tmp_path / "car.npz"), "--key", str(key_path), "--out", str(out)]
    assert run(cli, "edgeguard", [*verb, "--hours-between-alarms", "8", "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rig"]["sensors"] == {"gnss": "GnssFix", "wheels": "WheelOdometry"}
    assert result["made"]["hours_between_alarms"] == 8.0
    assert result["monitors"]
    assert all(row["detectable_in_2_s"] > 0.0 and row["cusum_h"] >= 4.0 for row in result["monitors"])
    assert run(cli, "edgeguard", [*verb, "--report", str(tmp_path / "c.html")]) == 0
    assert "X8.speed" in (tmp_path / "c.html").read_text(encoding="utf-8")
    table = capsys.readouterr().out
    assert all(row["monitor"] in table for row in result["monitors"])
    assert "held out: 0 alarms" in table
    config = tmp_path / "c.toml"
    config.write_text(f'[calibration]\nfile = "{out}"\nkey = "{key_path}"\n', encoding="utf-8")
    replay = ["replay", "--config", str(config), "--limit", "5", "--format", "json"]
    assert run(cli, "edgeguard", [*replay, str(tmp_path / "car.npz")]) in {0, 1}
    assert "frames" in capsys.readouterr().out
    save_npz(tmp_path / "wheels.npz", [(sample.stamp_ns, sample) for sample in WheelDrive(5).samples()])
    assert run(cli, "edgeguard", [*replay, str(tmp_path / "wheels.npz")]) == 4
    assert "EG-L004" in capsys.readouterr().err
