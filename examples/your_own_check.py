"""A check of your own: one class with `name`, `sensors` and `evaluate`, handed to the pipeline.

This one watches how bright the road is: a lamp pointed at the camera, or a bag over it, changes it at once.
"""

from __future__ import annotations

from edgeguard.clock import ManualClock
from edgeguard.config import load_config
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sim.attacks.faults import CameraBlind
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import CAMERA, CheckResult, Image, Level, SyncedSet

MAX_STEP = 25.0  # grey levels from one frame to the next; a street does not change faster


class BrightnessStep:
    """Self-check of the camera: how far the mean grey level jumps between two frames."""

    name = "U1.brightness-step"
    sensors = (CAMERA,)

    def __init__(self) -> None:
        self._before: float | None = None

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        image = synced.samples.get(CAMERA)
        now = float(image.pixels.mean()) if isinstance(image, Image) else None
        before, self._before = self._before, now
        if now is None or before is None:
            return CheckResult(self.name, self.sensors, Level.NOT_OBSERVABLE, 0.0, MAX_STEP, reason="no two frames")
        step = abs(now - before)
        level = Level.ANOMALY if step > MAX_STEP else Level.OK
        return CheckResult(self.name, self.sensors, level, step, MAX_STEP, power=MAX_STEP, power_unit="grey levels")


def main() -> None:
    clock = ManualClock(start_ns=1_000_000_000)
    attack = CameraBlind(start_s=2.0, end_s=3.0)
    with SimRig(World(seed=3, duration_s=5.0), clock, 3, [attack]) as rig:
        pipeline = Pipeline(
            load_config(), rig.sources, clock, calibration=rig.calibration, extra_checks=[BrightnessStep()]
        )
        with pipeline:
            for frame in pipeline.run(periodic_ticks(clock.now_ns(), 100_000_000, 40)):
                for found in frame.anomalies:
                    time_s = (frame.synced.stamp_ns - 1_000_000_000) / 1e9
                    print(f"{time_s:4.1f} s  {found.check:20s} {found.statistic:6.1f} > {found.threshold:5.1f}")


if __name__ == "__main__":
    main()
