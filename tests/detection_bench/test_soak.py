"""The clean day: a plan that grows, drives that repeat, and a file that survives a cut."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgeguard.errors import ScenarioError
from edgeguard.sim.soak.lean import PRESETS, lean_drive
from edgeguard.sim.soak.soak import (
    AlarmCount,
    Drive,
    Driven,
    Soak,
    drive_once,
    read_calibrations,
    read_rows,
    run_soak,
    summarise,
)
from edgeguard.sim.soak.table import soak_text
from edgeguard.sim.world import World
from edgeguard.types import CheckResult, Level, WheelOdometry

CAR = tuple(p for p in PRESETS if p.name == "car")


def test_the_plan_covers_the_hours_and_every_preset() -> None:
    """Shares hold, no street comes twice in a preset, and the file's key does not depend on the length."""
    day = Soak(24.0)
    seconds = {p.name: sum(d.duration_s for d in day.drives if d.preset == p.name) for p in PRESETS}
    assert sum(seconds.values()) == pytest.approx(24 * 3600, rel=0.01)
    for preset in PRESETS:
        assert seconds[preset.name] == pytest.approx(24 * 3600 * preset.share, rel=0.05)
        streets = [d.street for d in day.drives if d.preset == preset.name]
        assert len(set(streets)) == len(streets)
    assert day.key == Soak(1.0).key
    assert day.key != Soak(24.0, rate=1.0).key
    assert day.key != Soak(24.0, seed=2).key


def test_wheels_keep_their_scale_from_street_to_street_and_noise_does_not() -> None:
    """The rig's number decides the tyres; the street decides what else comes out."""

    def scale(rig: int, street: int) -> float:
        drive, world = lean_drive(("wheels",), rig, street, 8.0), World(street, 8.0)
        wheels = [drive.streams[0].load(i) for i in range(len(drive.streams[0].stamps_ns))]
        said = sum(w.speed_m_s for w in wheels if isinstance(w, WheelOdometry))
        return said / sum(world.ego((i + 0.5) / 25.0).speed_m_s for i in range(len(wheels)))

    assert scale(0, 11) == pytest.approx(scale(0, 12), abs=2e-3)
    assert abs(scale(0, 11) - scale(1, 11)) > 1e-3


def test_a_drive_repeats_and_counts_its_clean_time() -> None:
    """Everything but the time spent is a function of the plan."""
    drive = Drive("car", 1, 5_003, 5.0)
    first, second = (msgspec.structs.replace(drive_once(drive, None, "k"), spent_s=0.0) for _ in range(2))
    assert first == second
    assert first.clean_s == 5.0


def test_a_cut_day_goes_on_where_it_was(tmp_path: Path) -> None:
    """Finished drives are not driven again, a torn line is, and drives of another program are not counted."""
    path = tmp_path / "day.jsonl"
    day = Soak(0.004, rate=None, presets=tuple(p for p in PRESETS if p.name in ("car", "no-imu")))
    first, second = day.drives
    lines = [_row(day.key, first, alarms=7), _row("another program", second, alarms=90), _row(day.key, second, 1)]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, lines))[:-30])
    driven: list[Driven] = []
    result = run_soak(day, path, on_drive=driven.append)
    assert [row.drive for row in driven] == [second]
    assert result.alarms == 7 + driven[0].alarms
    assert run_soak(day, path, on_drive=driven.append) == result
    assert len(driven) == 1
    assert len(read_rows(path)) == 3


def _row(key: str, drive: Drive, alarms: int) -> Driven:
    return Driven(key, drive, drive.duration_s, alarms, 0.1 * alarms, {"X8.speed": alarms}, {}, (), True, 1.0)


@pytest.mark.parametrize(("alarms", "within", "certain"), [(4, True, False), (12, False, False), (30, False, False)])
def test_the_rate_is_held_against_the_stated_one(alarms: int, within: bool, certain: bool) -> None:
    """Four an hour for four stated is within; twelve are not; an hour is never certain."""
    day = Soak(1.0, 4.0, presets=CAR)
    drive = Drive("car", 0, 1, 3600.0)
    result = summarise([_row("k", drive, alarms)], day)
    assert (result.within, result.certain) == (within, certain)
    assert result.low <= result.per_hour == alarms <= result.high
    assert f"{alarms}, {alarms}/h" in soak_text(result)


def test_a_long_day_makes_it_certain() -> None:
    """A thousand hours at the stated rate."""
    rows = [_row("k", Drive("car", 0, n, 3600.0), 4) for n in range(1000)]
    assert summarise(rows, Soak(1000.0, 4.0, presets=CAR)).certain


def test_a_calibration_is_made_once_per_rig_and_kept(tmp_path: Path) -> None:
    """It is a line of the file, on disk before the first drive; what it expects is part of the result."""
    path = tmp_path / "day.jsonl"
    presets = tuple(p for p in PRESETS if p.name == "no-gnss")
    day = Soak(0.004, rate=60.0, presets=presets, calibration_s=45.0)
    result = run_soak(day, path)
    (made,) = read_calibrations(path)
    assert (made.preset, made.rig, made.key) == ("no-gnss", 0, day.key)
    assert made.section is not None
    assert made.section.thresholds
    assert path.read_bytes().startswith(b'{"key":"' + day.key.encode() + b'","preset"')
    assert result.expected_per_hour == pytest.approx(
        sum(each.per_hour for each in made.section.thresholds.values()), abs=1e-3
    )
    longer = Soak(0.008, rate=60.0, presets=presets, calibration_s=45.0)
    assert longer.key == day.key
    run_soak(longer, path)
    assert len(read_calibrations(path)) == 1
    assert Soak(0.004, rate=60.0, presets=presets, calibration_s=50.0).key != day.key


def test_alarms_of_hard_limits_alone_are_counted_apart() -> None:
    """They are outside the stated rate, and the text says how many there were."""
    day = Soak(1.0, 4.0, presets=CAR)
    row = msgspec.structs.replace(_row("k", Drive("car", 0, 1, 3600.0), 9), hard=5)
    result = summarise([row], day)
    assert (result.alarms, result.hard, result.per_hour, result.within) == (4, 5, 4.0, True)
    assert "5 of hard limits alone" in soak_text(result)


def test_an_alarm_is_of_a_hard_limit_until_a_statistic_takes_part_in_it() -> None:
    """A protocol's alarm, one of both, and one of a statistic: three alarms, one of them hard."""
    count = AlarmCount(frozenset({"X8.speed.speed", "C2.focus"}))
    for raised in ([], ["S2.plausible"], [], ["S2.plausible"], ["S2.plausible", "X8.speed"], [], ["C2.focus"], []):
        results = tuple(CheckResult(name, ("gnss",), Level.ANOMALY, 2.0, 1.0) for name in raised)
        count.add(results, frozenset(), 0.0)
    assert (count.alarms, count.hard) == (3, 1)
    assert count.checks == {"S2.plausible": 2, "X8.speed": 1, "C2.focus": 1}


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """Nothing is appended to somebody's notes."""
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\nthe lidar was fine today\n")
    with pytest.raises(ScenarioError, match="EG-X047"):
        read_rows(path)
