"""What the camera alone tells: focus, stripes, replays, cuts, things that appear and stand still."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeguard.checks.camera_banding import BandingCheck
from edgeguard.checks.camera_evidence import CameraEvidence
from edgeguard.checks.camera_focus import FocusCheck
from edgeguard.checks.camera_overlay import OverlayCheck
from edgeguard.checks.camera_replay import CutCheck, ReplayCheck
from edgeguard.checks.scores import Fit, SensorFits
from edgeguard.sim.attacks.camera import CameraBanding, CameraDazzle, CameraDefocus, CameraDirt, CameraPatch
from edgeguard.sim.attacks.faults import CameraFreeze
from edgeguard.types import Check, CheckResult, Image, Level

ONSET, COUNT, END_S = 16, 27, 9.0
SEEDS = (11, 12)


def _checks(fits: SensorFits | None = None) -> list[Check]:
    seen = CameraEvidence()
    return [FocusCheck(seen, fits), BandingCheck(seen, fits), ReplayCheck(seen), CutCheck(seen), OverlayCheck(seen)]


def _alarms(results: list[list[CheckResult]]) -> set[str]:
    return {r.check for row in results for r in row if r.level is Level.ANOMALY}


_SPOILT = {
    "defocus": ("C2.focus", CameraDefocus(1.6, END_S, radius_px=6.0)),
    "slight defocus": ("C2.focus", CameraDefocus(1.6, END_S, radius_px=2.5)),
    "stripes": ("C4.banding", CameraBanding(1.6, END_S, depth=0.5)),
    "dirt": ("C5.overlay", CameraDirt(1.6, END_S, cover=0.3)),
    "a board carried ahead": ("C5.overlay", CameraPatch(1.6, END_S, width_m=1.6, height_m=1.2)),
    "dazzle": ("C5.overlay", CameraDazzle(1.6, END_S, strength=4.0)),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", sorted(_SPOILT))
def test_a_spoilt_view_is_found_within_a_second(rides, what: str, seed: int) -> None:
    """Each by its own check, within ten frames, none before the onset."""
    name, attack = _SPOILT[what]

    results = rides.run(_checks(), rides.attacked(rides.drive(seed, COUNT), attack))

    delay = rides.delay(results, name, ONSET)
    assert delay is not None
    assert delay <= 10


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loop", [False, True])
def test_a_replay_under_fresh_noise_is_found_within_a_second(rides, seed: int, loop: bool) -> None:
    """A held frame and a loop of the last second, no two payloads alike."""
    ticks = rides.drive(seed, COUNT)
    if loop:
        ticks = [ticks[k] if k < ONSET else ticks[ONSET - 10 + (k - ONSET) % 10] for k in range(COUNT)]
    else:
        ticks = rides.attacked(ticks, CameraFreeze(1.6, END_S))

    delay = rides.delay(rides.run(_checks(), rides.noisy(ticks, ONSET)), "C3.replay", ONSET)

    assert delay is not None
    assert delay <= 10


def test_exchanged_video_is_a_cut(rides) -> None:
    """Mirrored, or from another street: found at the first frame."""
    ticks = rides.drive(11, COUNT)
    mirrored = [
        t if k < ONSET else {"camera": replace(t["camera"], pixels=np.ascontiguousarray(t["camera"].pixels[:, ::-1]))}
        for k, t in enumerate(ticks)
    ]
    other = [*ticks[:ONSET], *rides.drive(12, COUNT)[ONSET:]]

    assert rides.delay(rides.run(_checks(), mirrored), "C3.cut", ONSET) == 0
    assert rides.delay(rides.run(_checks(), other), "C3.cut", ONSET) == 0


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_an_honest_drive_alarms_nothing(rides, seed: int) -> None:
    """Streets that nothing was developed on; every check gets to judge."""
    results = rides.run(_checks(), rides.drive(seed, 40))

    assert _alarms(results) == set()
    for number, check in enumerate(_checks()):
        judged = [row[number] for row in results if row[number].level is Level.OK]
        assert len(judged) > 20, check.name
        assert all(np.isfinite(r.power) for r in judged)


def test_parked_light_and_lost_frames_are_no_attacks(rides) -> None:
    """A still scene is no replay; light that fades to an eighth within a second, lost frames, jumps of time."""
    parked = rides.run(_checks(), rides.parked(11, 25))
    dark = []
    for k, tick in enumerate(rides.drive(12, 40)):
        gain = float(np.clip(0.125 ** ((k - 12) / 10), 0.125, 1.0))
        pixels = np.clip(tick["camera"].pixels * gain + 0.5, 0, 255).astype(np.uint8)
        dark.append({"camera": replace(tick["camera"], pixels=pixels)})
    lossy = [t if k % 7 not in (3, 4) else {"camera": None} for k, t in enumerate(rides.drive(11, 40))]

    assert _alarms(parked) == set()
    assert {row[2].level for row in parked} == {row[4].level for row in parked} == {Level.NOT_OBSERVABLE}
    assert _alarms(rides.run(_checks(), dark)) == set()
    assert _alarms(rides.run(_checks(), lossy)) == set()
    assert _alarms(rides.run(_checks(), rides.drive(12, 30), frozenset({14}))) == set()


def test_without_frames_nothing_is_claimed(rides) -> None:
    """Missing, tiny and plain frames are NOT_OBSERVABLE with a reason and no power; a change of size starts anew."""
    tiny = Image(np.zeros((10, 10, 3), np.uint8), 0)
    plain = Image(np.full((120, 160, 3), 90, np.uint8), 0)
    ticks = [{"camera": i} for i in (None, tiny, plain, plain, None, *(Image(plain.pixels[:100], 0),) * 3)]

    results = rides.run(_checks(), ticks)

    assert _alarms(results) == set()
    blind = [r for row in results for r in row if r.level is Level.NOT_OBSERVABLE]
    assert len(blind) > 30
    assert all(r.reason and r.power == float("inf") for r in blind)


def test_a_fit_of_the_rig_replaces_the_prior(rides) -> None:
    """A rig whose sharpness is known to swing tolerates a slight defocus that the prior does not."""
    ticks = rides.attacked(rides.drive(11, COUNT), CameraDefocus(1.6, END_S, radius_px=2.5))
    wide = SensorFits.of({"C2.focus": Fit(0.0, 0.5, 500, 60.0, 12.0, 2.0)})

    assert "C2.focus" in _alarms(rides.run(_checks(), ticks))
    assert "C2.focus" not in _alarms(rides.run(_checks(wide), ticks))


@pytest.mark.realdata
def test_real_cameras_alarm_nothing(rides, realdata: Path) -> None:
    """KITTI at every pace and mirrored, EuRoC at 20 Hz on a vehicle that turns fast: no anomaly."""
    kitti = [cv2.imread(str(p)) for p in sorted((realdata / "kitti_drive" / "image_02").glob("*.png"))]
    euroc = [cv2.imread(str(p)) for p in sorted((realdata / "euroc" / "cam0" / "data").glob("*.png"))]
    runs = [kitti[:12], kitti[12:], kitti[:12:2], kitti[12::3], kitti[:12][::-1], [k[:, ::-1] for k in kitti[:12]]]

    for frames in [*runs, euroc, euroc[::2], euroc[::-1]]:
        ticks = [{"camera": Image(np.ascontiguousarray(f), 0)} for f in frames]
        assert _alarms(rides.run(_checks(), ticks)) == set()
