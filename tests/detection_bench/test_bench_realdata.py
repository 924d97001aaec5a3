"""The bench on real recordings: every layout opens, is attacked, and gives whole numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeguard.errors import RecordingError
from edgeguard.sim.detection.bench import Options, run_bench
from edgeguard.sim.detection.result import NOT_APPLICABLE
from edgeguard.sim.detection.rows import choose_rows
from edgeguard.sim.detection.subject import open_subject

pytestmark = pytest.mark.realdata

FOLDERS = [
    ("car_60s/car.npz", ["drift.coherent.5", "frozen.wheels"]),
    ("kitti_drive", ["ghost.free", "frozen.lidar"]),
    ("euroc", ["frozen.camera"]),
]


@pytest.mark.parametrize(("name", "attacks"), FOLDERS, ids=[f[0] for f in FOLDERS])
def test_gross_attacks_on_a_real_recording_are_found(realdata: Path, name: str, attacks: list[str]) -> None:
    """Trials run without a failure; each of these attacks is found at least once."""
    rows = choose_rows(attacks)
    result = run_bench([str(realdata / name)], rows, Options(seed=1, effort=0.05, calibrate=False)).recordings[0]
    for row in result.rows:
        assert row.failed == 0
        assert row.trials > 0
        assert row.found > 0
        assert row.delay_median_s is not None
    assert result.clean.seconds == pytest.approx(result.test_s[1] - result.test_s[0], abs=0.3)
    assert result.fit_s[1] == result.test_s[0]


def test_an_ouster_capture_of_three_sweeps_is_too_short_and_says_so(realdata: Path) -> None:
    """It opens beside its metadata; no row finds a moment, nothing crashes."""
    name = str(realdata / "ouster" / "OS-1-128_v2.3.0_1024x10_lb_n3.pcap")
    result = run_bench([name], choose_rows(["ghost", "late"]), Options(effort=0.05)).recordings[0]
    assert set(result.sensors) == {"lidar", "imu"}
    assert {row.verdict for row in result.rows} == {NOT_APPLICABLE}
    assert any("short" in note for note in result.notes)


def test_a_capture_without_a_whole_sweep_is_refused(realdata: Path) -> None:
    """Eight packets are no sweep."""
    with pytest.raises(RecordingError, match="EG-X042"):
        open_subject(str(realdata / "ouster" / "OS-1-128_767798045_1024x10_20230712_120049.pcap"))
