"""Fusion on simulated drives: processor time per tick, and who is named for which fault.

    python -m benchmarks fusion [--seeds 901-904] [--rigs 3|4|both]

Cost: one drive with camera, lidar, GNSS, IMU and wheels; processor time of `Fusion.update` and `Fusion.confirm` per
tick, the sweep having been prepared and matched by the checks, median and 99th percentile, and of de-skewing one sweep.
Attribution: eleven faults of GNSS, IMU and wheels, on rigs with three sources (no lidar) and with four. "named" means
that the culprit alone is REJECTED at some time, "set" that it is SUSPECT with others, "wrong" that another is REJECTED.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.config import Config
from edgeguard.fusion.deskew import deskew
from edgeguard.fusion.fusion import Fusion
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sim.scenario import parse_scenario
from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    CheckResult,
    Detection,
    PointCloud,
    SyncedSet,
    TrustState,
)

FAULTS = {
    "gnss_drift": (GNSS, 'type="gnss_drift"\nrate_m_s=1.0\nbearing_deg=90.0'),
    "gnss_jump": (GNSS, 'type="gnss_jump"\noffset_m=30.0'),
    "gnss_meacon": (GNSS, 'type="gnss_meacon"'),
    "imu_bias 0.1 rad/s": (IMU, 'type="imu_bias"\nbias=0.1'),
    "imu_bias 0.03 rad/s": (IMU, 'type="imu_bias"\nbias=0.03'),
    "imu_bias 2 m/s^2": (IMU, 'type="imu_bias"\nbias=2.0\nquantity="accel"\naxis="x"'),
    "imu_stuck": (IMU, 'type="imu_stuck"'),
    "wheel_scale 1.1": (WHEELS, 'type="wheel_scale"\nscale=1.1'),
    "wheel_scale 1.04": (WHEELS, 'type="wheel_scale"\nscale=1.04'),
    "wheel_stuck": (WHEELS, 'type="wheel_stuck"'),
    "none": ("", ""),
}
DURATION_S, START_S, END_S = 24.0, 8.0, 16.0
THREE, FOUR = (GNSS, IMU, WHEELS), (LIDAR, GNSS, IMU, WHEELS)


def drive(
    fault: str, seed: int, sensors: tuple[str, ...]
) -> Iterator[tuple[Fusion, SyncedSet, tuple[CheckResult, ...]]]:
    """A drive's ticks with a fusion of our own, the sweep already prepared."""
    text = f'name="fusion"\nsummary="fusion"\nduration_s={DURATION_S}\nsensors={json.dumps(list(sensors))}\n'
    if FAULTS[fault][1]:
        text += f"[[attacks]]\n{FAULTS[fault][1]}\nstart_s={START_S}\nend_s={END_S}\n"
    clock, config = ManualClock(), Config()
    period_ns = config.pipeline.tick_ms * 1_000_000
    with parse_scenario(text, fault).rig(clock, seed) as rig:
        evidence = LidarEvidence(rig.calibration) if LIDAR in sensors and rig.calibration is not None else None
        fusion = Fusion(sensors, rig.calibration, evidence)
        with Pipeline(config, rig.sources, clock, calibration=rig.calibration) as pipeline:
            for tick in periodic_ticks(clock.now_ns(), period_ns, round(DURATION_S * NS_PER_S) // period_ns):
                synced, results = pipeline.evidence(tick)
                if evidence is not None:
                    evidence.motion(synced)
                yield fusion, synced, results


def judge(fault: str, seed: int, sensors: tuple[str, ...]) -> str:
    culprit = FAULTS[fault][0]
    rejected: set[str] = set()
    suspected: set[str] = set()
    for fusion, synced, results in drive(fault, seed, sensors):
        trust = fusion.update(synced, results).trust
        rejected |= {s for s, t in trust.items() if t.state is TrustState.REJECTED}
        suspected |= {s for s, t in trust.items() if t.state is TrustState.SUSPECT}
    if not culprit:
        return "clean" if not rejected | suspected else "wrong"
    if rejected - {culprit}:
        return "wrong"
    return "named" if rejected else "set" if culprit in suspected else "missed"


def cost(seed: int) -> None:
    spent: dict[str, list[float]] = {"update": [], "confirm": [], "deskew": []}
    boxes = [Detection("car", 0.9, (200.0, 200.0, 260.0, 250.0))]
    for fusion, synced, results in drive("gnss_drift", seed, (CAMERA, *FOUR)):
        marks = [time.process_time()]
        fused = fusion.update(synced, results)
        marks.append(time.process_time())
        fusion.confirm(synced, fused, boxes)
        marks.append(time.process_time())
        cloud = synced.samples.get(LIDAR)
        if isinstance(cloud, PointCloud):
            deskew(cloud, 10.0, 0.1)
        marks.append(time.process_time())
        for name, took in zip(spent, np.diff(marks), strict=True):
            spent[name].append(float(took) * 1e3)
    for name, values in spent.items():
        kept = values[5:]
        print(f"{name:8} {np.median(kept):6.2f} ms median {np.quantile(kept, 0.99):6.2f} ms p99")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fusion")
    parser.add_argument("--seeds", default="901-904")
    parser.add_argument("--rigs", choices=["3", "4", "both"], default="both")
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    cost(seeds[0])
    for name, sensors in (("3", THREE), ("4", FOUR)):
        if given.rigs not in (name, "both"):
            continue
        total: Counter[str] = Counter()
        for fault in FAULTS:
            found = Counter(judge(fault, seed, sensors) for seed in seeds)
            total += found
            print(f"{name} sources  {fault:20} " + ", ".join(f"{k} {v}" for k, v in sorted(found.items())))
        print(f"{name} sources  all: " + ", ".join(f"{k} {v}" for k, v in sorted(total.items())))


if __name__ == "__main__":
    main()
