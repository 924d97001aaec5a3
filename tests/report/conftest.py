"""A made-up drive of one minute with four attacks, as the pipeline would report it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    CheckResult,
    Detection,
    EgoState,
    FrameResult,
    FusedState,
    GnssFix,
    Image,
    Level,
    RegisteredDepth,
    Restoration,
    Sample,
    SensorTrust,
    StreamHealth,
    SyncedSet,
    Tick,
    TrustState,
    Truth,
    Verdict,
)

RIG = (CAMERA, LIDAR, GNSS, IMU, WHEELS)
TICK_S = 0.1
START_NS = 5_000_000_000
CHECKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("X8.speed", (GNSS, WHEELS)), ("X9.course", (GNSS, IMU)), ("G1.jump", (GNSS,)), ("X2.depth", (CAMERA, LIDAR)),
    ("C1.dark", (CAMERA,)), ("L4.ghost", (LIDAR,)), ("X7.yaw", (IMU, WHEELS)), ("T1.rate", (LIDAR,)),
    ("T2.jitter", (CAMERA,)), ("T3.clock", (GNSS,)), ("I1.bias", (IMU,)), ("X5.flow", (CAMERA, WHEELS)),
)  # fmt: skip
ATTACKS = (
    ("gnss-walk", GNSS, 10.0, 20.0, "2 m/s sideways"),
    ("camera-blinding", CAMERA, 27.0, 32.0, "laser on 60 % of the frame"),
    ("lidar-phantom", LIDAR, 38.0, 44.0, "car-sized, 12 m ahead"),
    ("wheel-scale", WHEELS, 50.0, 56.0, "+20 %"),
)
NOISY = {"gnss-walk": ("X8.speed", "X9.course"), "camera-blinding": ("C1.dark", "X2.depth", "X5.flow"),
         "lidar-phantom": ("L4.ghost", "X2.depth"), "wheel-scale": ("X8.speed", "X7.yaw", "X5.flow")}  # fmt: skip

MakeFrame = Callable[..., FrameResult]


def ns(time_s: float) -> int:
    return START_NS + round(time_s * 1e9)


def truths() -> list[Truth]:
    return [Truth(a, s, ns(t0), ns(t1), size) for a, s, t0, t1, size in ATTACKS]


def make_frame(
    index: int,
    *,
    trust: Mapping[str, TrustState] | None = None,
    verdict: Verdict = Verdict.PASS,
    reason: str = "all sensors trusted",
    results: tuple[CheckResult, ...] = (),
    samples: Mapping[str, Sample | None] | None = None,
    registered: RegisteredDepth | None = None,
    ego: EgoState | None = None,
    detections: tuple[Detection, ...] = (),
    restorations: tuple[Restoration, ...] = (),
    discontinuity: bool = False,
    time_s: float | None = None,
) -> FrameResult:
    """One tick with everything trusted unless told otherwise."""
    states = dict.fromkeys(RIG, TrustState.TRUSTED) | dict(trust or {})
    given = dict(samples or {})
    synced = SyncedSet(
        tick=Tick(index, ns(index * TICK_S if time_s is None else time_s), discontinuity),
        samples=given,
        series={k: [v] for k, v in given.items() if v is not None},
        health={n: StreamHealth(n, 100_000_000, index + 1, 0, 10.0, {"late": 2} if n == LIDAR else {}) for n in states},
    )
    fused = FusedState({n: SensorTrust(n, s, 1.0) for n, s in states.items()}, registered, ego)
    stage_ns = {"sensors": 90_000_000, "checks": 6_000_000 + 50_000 * (index % 40), "infer": 14_000_000}
    return FrameResult(synced, results, fused, restorations, detections, verdict, reason, stage_ns, "road-v1")


def scene(index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A street in flat colours with its depth."""
    height, width = 240, 640
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = (190, 160, 120)
    pixels[height // 2 :] = (90, 90, 95)
    rows = np.arange(height, dtype=np.float32)[:, None]
    depth = np.where(rows > height / 2, 1.7 * 400 / np.maximum(rows - height / 2, 1.0), np.inf) + np.zeros((1, width))
    left = 300 + int(40 * math.sin(index / 20))
    cv2.rectangle(pixels, (left, 110), (left + 70, 165), (60, 60, 200), -1)
    depth[110:165, left : left + 70] = 14.0
    sparse = np.full((height, width), np.nan, np.float32)
    sparse[112::6, ::3] = depth[112::6, ::3]
    sparse[~np.isfinite(sparse)] = np.nan
    return pixels, sparse


def drive(picture: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.float32]]] = scene) -> Iterable[FrameResult]:
    """600 ticks; attacks are noticed after 0.6 s and forgiven 2 s after their end."""
    rng = np.random.default_rng(4)
    level = {name: rng.uniform(0.1, 0.6) for name, _ in CHECKS}
    east = north = yaw = pull = 0.0
    for index in range(600):
        now = index * TICK_S
        active = [a for a in ATTACKS if a[2] <= now < a[3]]
        states: dict[str, TrustState] = {}
        for attack, sensor, start, end, _ in ATTACKS:
            if start + 0.6 <= now < end + 2.0:
                states[sensor] = TrustState.SUSPECT if now < start + 1.4 or now > end + 1 else TrustState.REJECTED
            if attack == "wheel-scale" and start + 0.6 <= now < start + 1.4:
                states[IMU] = TrustState.SUSPECT
        verdict = Verdict.DEGRADE if states else Verdict.PASS
        if states.get(CAMERA) is TrustState.REJECTED:
            verdict = Verdict.HOLD
        yaw += 0.012 * math.sin(now / 9.0)
        east, north = east + 1.1 * math.cos(yaw), north + 1.1 * math.sin(yaw)
        pull = pull + 0.25 if any(a[1] == GNSS for a in active) else pull * 0.9
        fix = GnssFix(
            ns(now),
            48.1 + (north + pull + rng.normal(0, 0.4)) / 111_200,
            11.5 + (east + rng.normal(0, 0.4)) / 74_400,
        )
        results = []
        for name, sensors in CHECKS:
            hit = any(name in NOISY[a[0]] and now > a[2] + 0.3 for a in active)
            value = level[name] * math.exp(rng.normal(0, 0.25)) * (rng.uniform(5, 9) / level[name] * 0.5 if hit else 1)
            blind = name == "X9.course" and index % 90 < 20
            kind = Level.NOT_OBSERVABLE if blind else Level.ANOMALY if value > 1 else Level.OK
            results.append(CheckResult(name, sensors, kind, value, 1.0))
        results.append(CheckResult("X1.stereo", (CAMERA,), Level.NOT_OBSERVABLE, 0.0, 1.0))
        pixels, depth = picture(index)
        if any(a[1] == CAMERA for a in active):
            pixels = cv2.addWeighted(pixels, 0.3, np.full_like(pixels, (120, 255, 160)), 0.7, 0)
        named = ", ".join(f"{s} {state.value}" for s, state in sorted(states.items()))
        yield make_frame(
            index,
            trust=states,
            verdict=verdict,
            reason=named or "all sensors trusted",
            results=tuple(results),
            samples={CAMERA: Image(pixels, ns(now)), GNSS: fix},
            registered=RegisteredDepth(depth, int(np.isfinite(depth).sum())),
            ego=EgoState(east, north, yaw, 11.0, 0.5, (GNSS, IMU, WHEELS)),
            detections=(Detection("car", 0.91, (300.0, 108.0, 372.0, 168.0)),) if verdict is Verdict.PASS else (),
        )


@pytest.fixture
def frame() -> MakeFrame:
    return make_frame


@pytest.fixture(scope="session")
def demo_drive() -> tuple[list[FrameResult], list[Truth]]:
    return list(drive()), truths()
