"""Worlds of the inertial checks: a cloud of bright dots before a camera, and streams cut into ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeguard.clock import ManualClock
from edgeguard.sensors.euroc import EurocRecording
from edgeguard.types import (
    Check,
    CheckResult,
    Image,
    ImuSample,
    Level,
    RigCalibration,
    Sample,
    SyncedSet,
    Tick,
)

S = 1_000_000_000
K = np.array([[458.0, 0.0, 367.0], [0.0, 457.0, 248.0], [0.0, 0.0, 1.0]])
DISTORTION = (-0.283, 0.074, 0.0002, 0.00002)  # a real wide lens (EuRoC)
SIZE = (752, 480)
CAM_FLU = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
Rates = Callable[[float], tuple[float, float, float]]


def dots_calibration() -> RigCalibration:
    """Of the dots' camera: distorted, with an IMU whose axes are forward, left, up."""
    T = np.eye(4)
    T[:3, :3] = CAM_FLU
    return RigCalibration(K, T, SIZE, distortion=DISTORTION, R_cam_imu=CAM_FLU.copy())


def dots_drive(
    rates: Rates, seconds: float, *, seed: int = 1, velocity_m_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> tuple[list[Image], list[ImuSample]]:
    """Pictures at 20 Hz and readings at 200 Hz of a body that turns with `rates` (t -> rad/s, forward left up)."""
    rng = np.random.default_rng(seed)
    depth = 1.0 / rng.uniform(1 / 30.0, 1 / 4.0, 900)
    directions = rng.normal(0.0, 1.0, (900, 3)) * (1.0, 0.8, 0.5)
    directions[:, 0] = np.abs(directions[:, 0]) + 0.2
    points = directions / np.linalg.norm(directions, axis=1, keepdims=True) * depth[:, None]
    light = rng.uniform(60, 190, len(points))
    grid = np.mgrid[-6:7, -6:7].astype(np.float64)
    R, images, readings = np.eye(3), [], []
    for step in range(round(seconds * 200) + 1):
        t = step / 200
        readings.append(ImuSample(S + round(t * S), tuple(np.array(rates(t)) + rng.normal(0, 0.002, 3)), (0, 0, 9.81)))
        if step % 10 == 0:
            body = (points - np.array(velocity_m_s) * t) @ R
            images.append(Image(_picture(body, light, grid, rng), S + round(t * S)))
        R = R @ cv2.Rodrigues(np.array(rates(t + 0.0025)) / 200)[0]
    return images, readings


def _picture(
    body: NDArray[np.float64], light: NDArray[np.float64], grid: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    view = body @ CAM_FLU.T
    ahead = (view[:, 2] > 0.5) & (np.abs(view[:, 0]) < 1.1 * view[:, 2]) & (np.abs(view[:, 1]) < 0.8 * view[:, 2])
    places = cv2.projectPoints(view[ahead], np.zeros(3), np.zeros(3), K, np.array(DISTORTION))[0][:, 0]
    canvas = np.full((SIZE[1], SIZE[0]), 40.0)
    for (x, y), bright in zip(places, light[ahead], strict=True):
        c, r = int(x), int(y)
        if 8 < c < SIZE[0] - 8 and 8 < r < SIZE[1] - 8:
            spot = bright * np.exp(-((grid[1] + c - x) ** 2 + (grid[0] + r - y) ** 2) / 8.0)
            canvas[r - 6 : r + 7, c - 6 : c + 7] += spot
    noisy = np.clip(canvas + rng.normal(0.0, 1.5, canvas.shape), 0, 255).astype(np.uint8)
    return np.repeat(noisy[:, :, None], 3, axis=2)


def ticks(samples: Sequence[Sample], hz: int = 20) -> Iterator[SyncedSet]:
    """All streams cut into ticks, each with what came since the one before."""
    ordered = sorted(samples, key=lambda s: s.stamp_ns)
    period, i, frame = S // hz, 0, 0
    at = ordered[0].stamp_ns
    while i < len(ordered):
        series: dict[str, list[Sample]] = {}
        while i < len(ordered) and ordered[i].stamp_ns <= at:
            series.setdefault(ordered[i].sensor, []).append(ordered[i])
            i += 1
        yield SyncedSet(Tick(frame, at), {k: v[-1] for k, v in series.items()}, series, {})
        at, frame = at + period, frame + 1


def judge(check: Check, samples: Sequence[Sample], hz: int = 20) -> list[tuple[float, CheckResult]]:
    """Time since the first sample, and the result, of every tick."""
    start = min(s.stamp_ns for s in samples)
    return [((t.stamp_ns - start) / S, check.evaluate(t)) for t in ticks(samples, hz)]


def first_alarm(found: list[tuple[float, CheckResult]], after_s: float = 0.0) -> float | None:
    """Seconds from `after_s` to the first anomaly, None without one."""
    return next((t - after_s for t, r in found if r.level is Level.ANOMALY), None)


@pytest.fixture(scope="session")
def swaying() -> tuple[list[Image], list[ImuSample]]:
    """Four seconds of a body that sways by up to 15 deg/s about all axes and flies sideways and ahead."""
    return dots_drive(
        lambda t: (0.2 * np.sin(4 * t), 0.15 * np.sin(5 * t + 1), 0.25 * np.sin(3 * t + 2)), 4.0,
        velocity_m_s=(0.5, 0.3, 0.0),
    )  # fmt: skip


def recorded(folder: Path) -> tuple[Any, list[Sample]]:
    """A EuRoC recording and all of its samples."""
    recording = EurocRecording(folder)
    clock = ManualClock(start_ns=0)
    sources = recording.sources(clock)
    samples: list[Sample] = []
    for source in sources.values():
        source.open()
    clock.wait_until_ns(recording.ticks()[-1].stamp_ns)
    for source in sources.values():
        while (sample := source.read(0.0)) is not None:
            samples.append(sample)
    return recording, samples


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """The functions of this file: tests of a folder cannot import from each other."""
    return SimpleNamespace(
        calibration=dots_calibration,
        drive=dots_drive,
        judge=judge,
        first_alarm=first_alarm,
        ticks=ticks,
        recorded=recorded,
    )
