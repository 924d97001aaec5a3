"""Drives through the simulated street with camera, lidar and wheels, and ways to spoil them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from edgeguard.sim.attacks.base import AttackBase, Injector
from edgeguard.sim.camera import render
from edgeguard.sim.lidar import sweep
from edgeguard.sim.world import World
from edgeguard.types import CAMERA, Check, CheckResult, Image, Level, Sample, SyncedSet, Tick, WheelOdometry

PERIOD_NS = 100_000_000
Ticks = list[dict[str, Sample | None]]


@cache
def _drive(seed: int, count: int, lidar: bool) -> tuple[dict[str, Sample | None], ...]:
    world = World(seed, count / 10 + 1)
    ticks = []
    for k in range(count):
        samples: dict[str, Sample | None] = {CAMERA: render(world, k / 10)}
        if lidar:
            samples["lidar"] = sweep(world, k / 10)
        samples["wheels"] = WheelOdometry(k * PERIOD_NS, world.ego(k / 10).speed_m_s)
        ticks.append(samples)
    return tuple(ticks)


@dataclass(frozen=True)
class Rides:
    """Everything is a function of its arguments."""

    def drive(self, seed: int, count: int, *, lidar: bool = False) -> Ticks:
        """Samples at 10 Hz of a drive through a street."""
        return [dict(samples) for samples in _drive(seed, count, lidar)]

    def parked(self, seed: int, count: int) -> Ticks:
        """One view again and again, each time with the noise of its own exposure."""
        world = World(seed, 2.0)
        return [{CAMERA: render(world, 1.0, noise_seed=k)} for k in range(count)]

    def attacked(self, ticks: Ticks, attack: AttackBase, seed: int = 0) -> Ticks:
        """Put an attack of the library on the values."""
        injector, out = Injector((attack,), seed, 0), []
        for k, samples in enumerate(ticks):
            sample = samples[attack.sensor]
            assert sample is not None
            sample = replace(sample, stamp_ns=k * PERIOD_NS)
            out.append({**samples, attack.sensor: injector.apply(sample)})
        return out

    def late(self, ticks: Ticks, sensor: str, frames: int, onset: int = 0) -> Ticks:
        """Give what the sensor saw `frames` ago."""
        return [
            {**samples, sensor: ticks[max(0, k - frames) if k >= onset else k][sensor]}
            for k, samples in enumerate(ticks)
        ]

    def noisy(self, ticks: Ticks, onset: int) -> Ticks:
        """Fresh noise on every frame from `onset` on, as a re-encoding adds."""
        rng, out = np.random.default_rng(5), []
        for k, samples in enumerate(ticks):
            image = samples[CAMERA]
            assert isinstance(image, Image)
            noise = 1.5 * rng.standard_normal(image.pixels.shape, dtype=np.float32) if k >= onset else 0.0
            pixels = np.clip(image.pixels + noise + 0.5, 0, 255).astype(np.uint8)
            out.append({**samples, CAMERA: replace(image, pixels=pixels)})
        return out

    def run(
        self, checks: Sequence[Check], ticks: Ticks, jumps: frozenset[int] = frozenset()
    ) -> list[list[CheckResult]]:
        """Stamp the samples and give every tick to every check."""
        out = []
        for k, samples in enumerate(ticks):
            stamp_ns = k * PERIOD_NS
            stamped = {n: None if s is None else replace(s, stamp_ns=stamp_ns) for n, s in samples.items()}
            series = {n: [s] for n, s in stamped.items() if isinstance(s, WheelOdometry)}
            synced = SyncedSet(Tick(k, stamp_ns, k in jumps), stamped, series, {})
            out.append([check.evaluate(synced) for check in checks])
        return out

    def delay(self, results: Sequence[Sequence[CheckResult]], name: str, onset: int) -> int | None:
        """Ticks from onset to the check's first anomaly; an earlier one fails."""
        found = [k for k, row in enumerate(results) for r in row if r.check == name and r.level is Level.ANOMALY]
        assert not found or found[0] >= onset, f"{name} alarmed at tick {found[0]}"
        return found[0] - onset if found else None


@pytest.fixture(scope="session")
def rides() -> Rides:
    return Rides()


CheckMaker = Callable[[], Sequence[Check]]
