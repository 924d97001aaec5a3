"""The bench end to end on a small simulated drive: known attacks are found, sham ones are not, all is counted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import ScenarioError
from edgeguard.sensors.npz import save_npz
from edgeguard.sensors.recorded import RecordedStream
from edgeguard.sim.attacks.gnss import GnssDrift, GnssJump
from edgeguard.sim.detection.bench import Options, read_stealth, run_bench
from edgeguard.sim.detection.result import FORMAT, MET, MISSED, NOT_APPLICABLE, OPEN, BenchResult
from edgeguard.sim.detection.rows import END_S, Goal, Planned, Row, all_rows, choose_rows
from edgeguard.sim.detection.run import Measured, measure
from edgeguard.sim.detection.scene import Scene
from edgeguard.sim.detection.summary import summarise_attribution, summarise_clean, summarise_row
from edgeguard.sim.detection.table import html, markdown, text_summary, text_table
from edgeguard.sim.detection.trial import Trial
from edgeguard.sim.soak.lean import LeanDrive, lean_drive
from edgeguard.types import CheckResult, GnssFix, Level, RigCalibration, Source, SourceInfo, SyncedSet, Tick


def _jump(scene: Scene) -> Planned:
    attack = GnssJump(start_s=0.0, end_s=END_S, offset_m=40.0, bearing_deg=float(scene.rng.uniform(0, 360)))
    return Planned(attack, lambda seconds: (40.0 + seconds, 0.0))


def _sham(scene: Scene) -> Planned:
    del scene
    return Planned(GnssDrift(start_s=0.0, end_s=END_S, rate_m_s=1e-6, bearing_deg=0.0), lambda _: (0.0, 0.0))


JUMP = Row("jump", "fix jumps 40 m", GnssFix, _jump, Goal("rate", 1.0, seconds=1.0), horizon_s=1.5)
SHAM = Row("sham", "an attack too small to matter", GnssFix, _sham, Goal("rate", 0.99, seconds=1.0), horizon_s=1.5)
AREA = Row("area", "jump, by score", GnssFix, _jump, Goal("auroc", 0.99, seconds=1.0), horizon_s=1.0)


@pytest.fixture(scope="module")
def measured(drive: LeanDrive) -> Measured:
    """Three rows, few trials."""
    return measure(drive, [JUMP, SHAM, AREA], seed=3, effort=0.08, jobs=2)


def test_a_gross_jump_is_always_found_and_a_sham_never(measured: Measured) -> None:
    """The bench can tell them apart, which is what it is for."""
    jump, sham = (summarise_row(row, [measured], 3) for row in (JUMP, SHAM))
    assert jump.trials >= 6
    assert jump.verdict == MET
    assert jump.found == jump.trials
    assert jump.delay_p95_s is not None
    assert jump.delay_p95_s < 1.0
    assert jump.frames_median is not None
    assert jump.damage_median_m is not None
    assert jump.damage_median_m >= 40.0
    assert sum(jump.checks.values()) == jump.found
    assert sham.verdict == MISSED
    assert sham.found == 0
    assert sham.delay_median_s is None
    assert sham.low == 0.0
    assert sham.high < 0.35


def test_the_score_separates_the_jump_from_clean_windows(measured: Measured) -> None:
    """AUROC of one, with an interval, over windows of a second."""
    area = summarise_row(AREA, [measured], 3)
    assert area.area is not None
    assert area.area > 0.99
    assert area.area_low is not None
    assert area.area_low > 0.9
    assert area.frame_area is not None
    assert area.verdict == MET


def test_no_attack_begins_in_the_part_that_was_fitted_on(measured: Measured) -> None:
    """The split is in time, and the clean count covers the test part alone."""
    onsets = [t.onset_s for trials in measured.trials.values() for t in trials]
    assert min(onsets) >= measured.test_s[0] - 1e-6
    assert measured.fit_s == (0.0, measured.test_s[0])
    clean = summarise_clean([measured.clean])
    assert clean.seconds == pytest.approx(measured.test_s[1] - measured.test_s[0], abs=0.2)
    assert clean.per_hour_high is not None
    assert clean.per_hour_high >= 3600.0 * 3.6 / clean.seconds


def test_the_same_seed_gives_the_same_trials_in_any_number_of_processes(drive: LeanDrive) -> None:
    """Everything but the time spent."""

    def run(seed: int, jobs: int) -> list[Trial]:
        done = measure(drive, [JUMP], seed=seed, effort=0.05, jobs=jobs)
        return sorted((msgspec.structs.replace(t, spent_s=0.0) for t in done.trials["jump"]), key=lambda t: t.onset_s)

    first = run(5, 1)
    assert first == run(5, 2)
    assert [t.size for t in first] != [t.size for t in run(6, 1)]


def test_a_clean_run_is_not_disturbed_by_its_trials(drive: LeanDrive, measured: Measured) -> None:
    """Scores of every clean tick are those of a run without any trial."""
    alone = measure(drive, [], seed=3)
    assert [t.scores for t in alone.clean] == [t.scores for t in measured.clean]


def test_rows_for_sensors_that_are_missing_say_so(drive: LeanDrive) -> None:
    """A rig without camera and lidar: the row is not applicable, nothing crashes, everything renders."""
    rows = choose_rows(["late", "ghost", "frozen.wheels"])
    done = measure(drive, rows, effort=0.05)
    results = {row.name: summarise_row(row, [done], 0) for row in rows}
    assert results["late.lidar"].verdict == NOT_APPLICABLE
    assert "no PointCloud" in results["late.lidar"].why
    assert results["frozen.wheels"].trials > 0


@dataclass(frozen=True)
class _Holed:
    """A drive whose GNSS stops for good after some seconds, under another sensor name, with a hole in its ticks."""

    inner: LeanDrive

    calibration: RigCalibration | None = None
    notes: Sequence[Mapping[str, Any]] = ()

    def ticks(self) -> Iterable[Tick]:
        kept = [t for t in self.inner.ticks() if not 12.0 < t.stamp_ns / NS_PER_S < 15.0]
        return [replace(t, discontinuity=i > 0 and t.frame != kept[i - 1].frame + 1) for i, t in enumerate(kept)]

    def sources(self, clock: Clock) -> Mapping[str, Source]:
        named = {}
        for stream in self.inner.streams:
            count = 180 if stream.info.sensor == "gnss" else len(stream.stamps_ns)
            named[stream.info.sensor] = RecordedStream(stream.info, stream.stamps_ns[:count], stream.load).source(clock)
        return named


def test_a_recording_with_holes_and_a_sensor_that_ends_is_measured_to_its_end(drive: LeanDrive) -> None:
    """Trials at which nothing could be altered are told, not counted."""
    done = measure(_Holed(drive), [JUMP, *choose_rows(["drift.coherent.5", "loop"])], effort=0.05)
    jump = summarise_row(JUMP, [done], 0)
    assert jump.failed == 0
    assert jump.not_possible or jump.void or jump.trials == 0
    assert all(t.status != "error" for trials in done.trials.values() for t in trials)


def test_a_recording_too_short_for_anything_is_refused() -> None:
    """Two ticks are no drive."""
    with pytest.raises(ScenarioError, match="EG-X044"):
        measure(lean_drive(("gnss", "wheels"), 0, 1, 1.0).__class__(None, (), 0.2), [JUMP])


def test_a_row_that_nobody_knows_gets_the_nearest_name() -> None:
    """And a beginning stands for all that begin so."""
    with pytest.raises(ScenarioError, match="EG-X043") as caught:
        choose_rows(["frozen.camra"])
    assert caught.value.hint == "did you mean frozen.camera?"
    assert [r.name for r in choose_rows(["gyro"])] == ["gyro.bias"]
    assert len({row.name for row in all_rows()}) == len(all_rows())


def test_a_goal_that_needs_a_camera_is_not_decided_without(drive: LeanDrive) -> None:
    """A gyro is held against a camera: other rigs are measured, and judged by nobody."""
    rows = choose_rows(["gyro.bias"])
    row = summarise_row(rows[0], [measure(drive, rows, effort=0.05)], 0)
    assert row.trials > 0
    assert row.verdict == OPEN
    assert "Image" in row.why


def _trial(**more: Any) -> Trial:
    return Trial("jump", 1.0, "run", **more)


def _made(trials: list[Trial]) -> Measured:
    infos = {"gnss": SourceInfo("gnss", GnssFix, NS_PER_S // 10, "made")}
    return Measured(infos, 10.0, (0.0, 5.0), (5.0, 10.0), trials={"jump": trials})


def test_attribution_is_counted_by_what_could_be_seen() -> None:
    """With three sources it must be right, with two it must not be wrong."""
    good = [_trial(delay_s=0.1, attribution="right", sources=3)] * 99 + [
        _trial(delay_s=0.1, attribution="ambiguous", sources=4)
    ]
    two = [_trial(delay_s=0.1, attribution="ambiguous", sources=2)] * 9
    three, pair, _ = summarise_attribution([_made(good + two)])
    assert (three.right, three.ambiguous, three.verdict) == (99, 1, MET)
    assert (pair.detected, pair.verdict, pair.certain) == (9, MET, False)
    wrong = summarise_attribution([_made([*two, _trial(delay_s=0.1, attribution="wrong", sources=2)])])[1]
    assert (wrong.verdict, wrong.certain) == (MISSED, True)


def test_a_find_after_the_goal_counts_as_missed_and_keeps_its_delay() -> None:
    """Three of four in time: the rate is of those, the delays are of all."""
    run = _made([_trial(delay_s=d, frames=1, attribution="right", sources=3) for d in (0.2, 0.3, 0.4, 1.4)])
    row = summarise_row(JUMP, [run], 0)
    assert (row.found, row.trials, row.delay_p95_s) == (3, 4, 1.4)
    five = summarise_row(JUMP, [_made([_trial(delay_s=0.2, frames=1)] * 5)], 0)
    assert (five.verdict, five.certain) == (MET, False)
    assert row.verdict == OPEN  # four trials are too few


def test_the_whole_result_survives_json_and_every_rendering(tmp_path: Path, drive: LeanDrive) -> None:
    """JSON reads back to the same value; text, markdown and HTML name every row that ran."""
    pairs = [(int(at), s.load(i)) for s in drive.streams for i, at in enumerate(s.stamps_ns) if at < 14 * NS_PER_S]
    names = [str(tmp_path / "a;b<i>.npz"), str(tmp_path / "second.npz")]
    for name in names:
        save_npz(Path(name), [(at, sample) for at, sample in pairs if not isinstance(sample, str)])
    stealth = read_stealth(
        '{"goal":"wheel_scale","sensors":["gnss"],"attempts":6,"caught":2,"unseen_m":4.5,"seed":1}\n'
    )
    rows = [JUMP, SHAM, *choose_rows(["late.lidar"])]
    result = run_bench(names, rows, Options(seed=2, effort=0.05, calibrate=False), stealth=stealth)
    assert result.format == FORMAT
    assert msgspec.convert(json.loads(json.dumps(result.as_json())), BenchResult) == result
    assert result.pooled is not None
    assert result.pooled.rows[0].trials == sum(one.rows[0].trials for one in result.recordings)
    page, text, table = html(result), text_table(result.recordings[0]), markdown(result)
    for shown in (page, text, table):
        assert JUMP.title in shown
    assert "<i>" not in page
    assert "4.5 m" in text_summary(result)
    assert "not applicable here: 1 rows" in text


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"goal": 1}', "[" * 2000])
def test_a_line_that_is_no_stealth_run_is_refused(line: str) -> None:
    """With the command that makes them."""
    with pytest.raises(ScenarioError, match="EG-X045"):
        read_stealth(line)


class _Crying:
    """A check that accuses the receiver for a while, attack or none."""

    name = "Z9.crying"
    sensors = ("gnss",)

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        crying = 15.0 < synced.stamp_ns / NS_PER_S < 24.0
        level = Level.ANOMALY if crying else Level.OK
        return CheckResult(self.name, self.sensors, level, 2.0 * crying, 1.0, 1.0)


def test_a_false_alarm_is_no_detection(drive: LeanDrive) -> None:
    """What the clean run cries too is void, at the onset and after it; it counts as an alarm of clean time."""
    done = measure(drive, [SHAM], effort=0.05, extra_checks=[_Crying()])
    row = summarise_row(SHAM, [done], 0)
    assert row.found == 0
    assert row.void > 0
    assert summarise_clean([done.clean]).checks["Z9.crying"] == 1
