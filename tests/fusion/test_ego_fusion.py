"""The ego filter is consistent, honest about its uncertainty, and never captured by a spoofer."""

from __future__ import annotations

import math

import numpy as np

from edgeguard.fusion.ego import EgoFilter
from edgeguard.fusion.fusion import Fusion
from edgeguard.types import (
    GNSS,
    IMU,
    WHEELS,
    CheckResult,
    EgoState,
    GnssFix,
    ImuSample,
    Level,
    Sample,
    SyncedSet,
    Tick,
    TrustState,
    WheelOdometry,
)

S = 1_000_000_000
NORTH, EAST = 110_977.0, 89_012.0  # metres per degree at 37 deg north


def drive(
    seed: int, seconds: float, offset: dict[int, float] | None = None
) -> list[tuple[SyncedSet, tuple[float, float]]]:
    """A 15 m/s drive in wide bends; `offset` adds metres east to the fix of a tick."""
    rng = np.random.default_rng(seed)
    e = n = 0.0
    yaw, v = 1.0, 15.0
    wander = rng.normal(0, 1.5, 2)
    out = []
    for i in range(int(seconds * 10)):
        series: dict[str, list[Sample]] = {GNSS: [], WHEELS: [], IMU: []}
        for k in range(5):
            t = S + i * S // 10 + (k + 1) * S // 50
            w = 0.1 * math.sin((i + k / 5) / 60)
            yaw += w / 50
            e, n = e + v * math.cos(yaw) / 50, n + v * math.sin(yaw) / 50
            series[IMU].append(ImuSample(t, (0.0, 0.0, w + 0.003 + rng.normal(0, 0.004)), (0.0, 0.0, 9.81)))
            series[WHEELS].append(WheelOdometry(t, v * 1.005 + rng.normal(0, 0.02)))
        wander = 0.9975 * wander + rng.normal(0, 1.5 * math.sqrt(1 - 0.9975**2), 2)
        shift = (offset or {}).get(i, 0.0)
        series[GNSS].append(
            GnssFix(
                S + (i + 1) * S // 10,
                37 + (n + wander[1]) / NORTH,
                -122 + (e + wander[0] + shift) / EAST,
                speed_m_s=v + rng.normal(0, 0.1),
                course_deg=(90 - math.degrees(yaw + rng.normal(0, 0.01))) % 360,
            )
        )
        tick = Tick(i, S + (i + 1) * S // 10)
        out.append((SyncedSet(tick, {s: x[-1] for s, x in series.items()}, series, {}), (e, n)))
    return out


def error(ego: EgoState, truth: tuple[float, float], start: tuple[float, float]) -> float:
    return math.hypot(ego.east_m - truth[0] + start[0], ego.north_m - truth[1] + start[1])


ALL = frozenset({GNSS, WHEELS, IMU})


def test_errors_stay_within_the_stated_uncertainty():
    """Sigma is neither decoration nor panic: errors below 3 sigma plus the start fix's own error."""
    ratios = []
    for seed in range(6):
        ego_filter, start = EgoFilter(), None
        for synced, truth in drive(seed, 60):
            ego = ego_filter.update(synced, ALL)
            assert ego is not None
            start = start or truth
            if synced.tick.frame > 50:
                # The plane starts at the first fix, which is itself off by the receiver's error (2.1 m rms here).
                ratios.append(error(ego, truth, start) / math.hypot(ego.sigma_m * math.sqrt(2), 3.0))
    assert np.quantile(ratios, 0.95) < 2.0
    assert max(ratios) < 3.0


def test_without_gnss_it_reckons_and_its_sigma_grows():
    """30 s on wheels and gyro: a percent or so of the way, and sigma covers it."""
    ego_filter, start, before = EgoFilter(), None, None
    for synced, truth in drive(1, 60):
        ego = ego_filter.update(synced, ALL if synced.tick.frame < 300 else frozenset({WHEELS, IMU}))
        assert ego is not None
        start = start or truth
        if synced.tick.frame == 299:
            before = ego
    assert before is not None
    assert ego.sigma_m > before.sigma_m
    assert error(ego, truth, start) < 4.5 + 0.03 * 450
    assert error(ego, truth, start) < 4.5 + 3 * ego.sigma_m
    assert ego.sources == (WHEELS, IMU)


def test_a_jump_of_a_believed_gnss_does_not_move_it():
    """The gate leaves it out, and no timeout resets to it."""
    jump = dict.fromkeys(range(200, 300), 60.0)
    ego_filter, start = EgoFilter(), None
    for synced, truth in drive(2, 30, jump):
        ego = ego_filter.update(synced, ALL)
        start = start or truth
        assert ego is not None
        assert error(ego, truth, start) < 8.0


def test_nothing_believable_gives_no_state():
    """No invention."""
    synced, _ = drive(0, 0.2)[0]
    assert EgoFilter().update(synced, frozenset()) is None


def blame(level: Level) -> list[CheckResult]:
    """GNSS self-check plus the cross-checks a full rig would show."""
    return [
        CheckResult("G1.doppler", (GNSS,), level, 2.0 if level is Level.ANOMALY else 0.1, 1.0, 1.0, "m", "position"),
        CheckResult("X8.speed", (GNSS, WHEELS), Level.OK, 0.1, 1.0, 0.4, "m/s", "speed"),
    ]


def test_a_constant_offset_after_a_spoof_keeps_gnss_out_until_it_is_consistent_again():
    """Every window forgets a constant offset; the ego filter does not."""
    offset = {i: min(40.0, (i - 100) * 2.0) for i in range(100, 300)}
    fusion = Fusion((GNSS, WHEELS, IMU))
    states: dict[int, TrustState] = {}
    for synced, _ in drive(4, 80, offset):
        i = synced.tick.frame
        state = fusion.update(synced, blame(Level.ANOMALY if 102 <= i < 120 else Level.OK))
        states[i] = state.trust[GNSS].state
    assert states[99] is TrustState.TRUSTED
    assert states[106] is TrustState.REJECTED
    assert {states[i] for i in range(110, 300)} == {TrustState.REJECTED}
    assert states[790] is TrustState.TRUSTED
    back = min(i for i in range(300, 800) if states[i] is not TrustState.REJECTED)
    assert back > 300


def test_a_rig_without_calibration_has_no_depth_and_every_sensor_has_a_trust():
    """Shape of the product."""
    fusion = Fusion((GNSS, WHEELS, IMU, "scan2d"), None)
    synced, _ = drive(0, 0.2)[0]
    state = fusion.update(synced, [])
    assert state.registered is None
    assert set(state.trust) == {GNSS, WHEELS, IMU, "scan2d"}
    assert state.ego is not None
