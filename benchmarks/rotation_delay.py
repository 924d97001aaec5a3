"""How soon a camera can see a gyro's bias: what one comparison tells, by its span, and the delay that follows.

`python -m benchmarks rotation_delay [--euroc FOLDER]`. Each comparison of X5 is an estimate of the bias. T seconds
after a step nobody has more than T seconds of changed readings, so the spread of comparisons over T bounds every
detector of a step; a generalised likelihood ratio reaches the bound where it looks at the right T. The limit is that
of one false alarm an hour over three axes, for Gaussian noise. Location and spread come from the first half of each
drive, what is beyond the limit is counted in the second. A last line says how well X5 knows the bias by then.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.camera_rotation import AXES, RotationCheck, _Residual
from edgeguard.checks.feature_tracks import TrackedFrame
from edgeguard.clock import ManualClock
from edgeguard.sensors.euroc import EurocRecording
from edgeguard.sim.camera import render
from edgeguard.sim.inertial import Imu
from edgeguard.sim.rig import rig_calibration
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World
from edgeguard.types import Image, ImuSample, RigCalibration, Sample, SyncedSet, Tick

SPANS_S = (0.2, 0.5, 1.0, 1.6)
ALARMS_PER_HOUR = 1.0
SEEDS = (61, 62, 63, 64)
SECONDS = 24.0


class OneSpan(RotationCheck):
    """X5 that compares over one span only and notes what each comparison says of the bias."""

    def __init__(self, calibration: RigCalibration, span_s: float) -> None:
        super().__init__(calibration)
        self._only_s = span_s
        self.found: list[tuple[float, NDArray[np.float64], NDArray[np.float64]]] = []

    def _compare(self, late: TrackedFrame) -> _Residual | None:
        found = self._compare_over(late, self._only_s)
        if found is not None:
            self.found.append((found.t_s, np.degrees(found.known[:3] - found.rate), np.degrees(found.sigma)))
        return found


@dataclass(frozen=True, slots=True)
class Drive:
    """One drive cut into ticks."""

    name: str
    calibration: RigCalibration
    ticks: list[SyncedSet]


def street(seed: int, preset: str) -> Drive:
    """A simulated drive with camera and IMU at 10 and 100 Hz."""
    world = World(seed, SECONDS, WORLD_PRESETS[preset][0])
    imu, sent = Imu(world, seed), 0
    ticks: list[SyncedSet] = []
    for k in range(int(SECONDS * 10)):
        stamp_ns = k * 100_000_000
        image = replace(render(world, k / 10, noise_seed=seed), stamp_ns=stamp_ns)
        readings = tuple(replace(imu.sample(n), stamp_ns=n * 10_000_000) for n in range(sent, 10 * k + 1))
        sent = 10 * k + 1
        ticks.append(SyncedSet(Tick(k, stamp_ns), {"camera": image}, {"camera": (image,), "imu": readings}, {}))
    return Drive(f"{preset}, seed {seed}", rig_calibration(), ticks)


def recorded(folder: Path) -> Drive:
    """A EuRoC recording."""
    recording, clock = EurocRecording(folder), ManualClock(start_ns=0)
    sources, samples, ticks = recording.sources(clock), list[Sample](), list[SyncedSet]()
    for source in sources.values():
        source.open()
    clock.wait_until_ns(recording.ticks()[-1].stamp_ns)
    for source in sources.values():
        while (sample := source.read(0.0)) is not None:
            samples.append(sample)
    samples.sort(key=lambda s: s.stamp_ns)
    readings: list[Sample] = []
    for sample in samples:
        if isinstance(sample, ImuSample):
            readings.append(sample)
        elif isinstance(sample, Image):
            series = {"camera": (sample,), "imu": tuple(readings)}
            ticks.append(SyncedSet(Tick(len(ticks), sample.stamp_ns), {"camera": sample}, series, {}))
            readings = []
    assert recording.calibration is not None  # every EuRoC sequence has one
    return Drive("EuRoC", recording.calibration, ticks)


def estimates(drive: Drive, span_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, 3) deg/s of bias by each comparison, and (N, 3) its predicted sigma."""
    check = OneSpan(drive.calibration, span_s)
    for synced in drive.ticks:
        check.evaluate(synced)
    if not check.found:
        return np.zeros((0, 3)), np.zeros((0, 3))
    return np.array([one[1] for one in check.found]), np.array([one[2] for one in check.found])


def known_deg_s(drive: Drive) -> float:
    """Largest standard deviation over the axes of the bias that X5 as shipped has learned by the end, deg/s."""
    check = RotationCheck(drive.calibration)
    for synced in drive.ticks:
        check.evaluate(synced)
    own = [check._model.sd([float(k == axis) for k in range(10)]) for axis in range(3)]
    return float(np.degrees(np.hypot(own, check._scene_rad_s()).max()))


def limit_sigma(span_s: float) -> float:
    """Two-sided Gaussian limit of one false alarm an hour; comparisons that do not overlap are looks of their own."""
    looks = 3600.0 / span_s * len(AXES)
    return NormalDist().inv_cdf(1.0 - 0.5 * ALARMS_PER_HOUR / looks)


def drives(euroc: Path | None) -> Iterator[Drive]:
    """What is measured: EuRoC where given, standing and driving streets."""
    if euroc is not None:
        yield recorded(euroc)
    for seed in SEEDS[:2]:
        yield street(seed, "queue")
    for seed in SEEDS:
        yield street(seed, "clear")


def main() -> None:
    """Print, per drive and span: spread per axis, share of the predicted sigma, false alarms of the second half."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks rotation_delay")
    parser.add_argument("--euroc", type=Path)
    print(
        "drive, span s, comparisons, sd roll / pitch / yaw deg/s, sd / predicted, step found deg/s, beyond in 2nd half"
    )
    for drive in drives(parser.parse_args().euroc):
        for span_s in SPANS_S:
            bias, sigma = estimates(drive, span_s)
            half = len(bias) // 2
            if half < 8:
                print(f"{drive.name:20s} {span_s:4.1f}  too few comparisons")
                continue
            middle = np.median(bias[:half], axis=0)
            sd = 1.4826 * np.median(np.abs(bias[:half] - middle), axis=0)
            ratio = sd / np.median(sigma[:half], axis=0)
            reach = limit_sigma(span_s) * sd
            beyond = np.count_nonzero(np.abs(bias[half:] - middle) > reach, axis=0)
            row = "  ".join(" / ".join(f"{v:.3f}" for v in part) for part in (sd, ratio, reach))
            print(
                f"{drive.name:20s} {span_s:4.1f} {len(bias):4d}  {row}  {beyond.tolist()} of {len(bias) - half}",
                flush=True,
            )
        print(f"{drive.name:20s} bias known to {known_deg_s(drive):.3f} deg/s at the end", flush=True)


if __name__ == "__main__":
    main()
