"""From starting a process to the first verdict on a rig with camera and lidar, kernels warm; and where the time goes.

The rig is simulated once and recorded with full-size sweeps and images, or any recording is given:

    python -m benchmarks first_verdict [--recording DRIVE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import yardstick_s

ROUNDS = 5
# The laps of one start, by its own clock: imports, opening, building, first tick.
LAPS = """
import json, sys, time
laps = {}
last = time.perf_counter()
def lap(name):
    global last
    now = time.perf_counter()
    laps[name] = now - last
    last = now
import numpy
lap("numpy")
import numba
lap("numba")
import edgeguard.kernels.angles
lap("first kernel")
import edgeguard.runtime.pipeline
lap("pipeline and its kernels")
import edgeguard.sensors.recording
from pathlib import Path
recording = edgeguard.sensors.recording.open_recording(Path(sys.argv[1]))
ticks = list(recording.ticks())
lap("opening the recording")
from edgeguard.clock import ManualClock
from edgeguard.config import Config
clock = ManualClock(start_ns=ticks[0].stamp_ns - 1)
pipeline = edgeguard.runtime.pipeline.Pipeline(
    Config(), recording.sources(clock), clock, calibration=recording.calibration)
lap("building the pipeline")
with pipeline:
    frame = pipeline.step(ticks[0])
    lap("first tick")
    laps["of it checks"] = frame.stage_ns["checks"] / 1e9
    laps["of it reading"] = frame.stage_ns["sensors"] / 1e9
print(json.dumps(laps))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks first_verdict")
    parser.add_argument("--recording", type=Path)
    given = parser.parse_args().recording
    with tempfile.TemporaryDirectory(prefix="edgeguard-first-") as folder:
        recording = given or _record(Path(folder))
        _warm()
        starts = [_first_line_s(recording) for _ in range(ROUNDS)]
        laps = [_laps(recording) for _ in range(ROUNDS)]
        bare = min(_wall_s([sys.executable, "-c", "pass"]) for _ in range(ROUNDS))
    print(f"yardstick: SHA-256 of 64 MiB            {yardstick_s() * 1e3:7.0f} ms")
    print(f"edgeguard replay to its first verdict   {min(starts)[0] * 1e3:7.0f} ms, best of {ROUNDS}; at most 2000")
    print(f"  processor time of all its threads     {min(cpu for _, cpu in starts) * 1e3:7.0f} ms, start to exit")
    print(f"  a bare interpreter                    {bare * 1e3:7.0f} ms")
    for name in laps[0]:
        print(f"  {name:36s}  {min(each[name] for each in laps) * 1e3:7.0f} ms")


def _record(folder: Path) -> Path:
    """Record three ticks of a simulated rig with all sensors."""
    from edgeguard.clock import ManualClock
    from edgeguard.config import Config
    from edgeguard.runtime.pipeline import Pipeline
    from edgeguard.runtime.ticks import periodic_ticks
    from edgeguard.sensors.recorder import Recorder
    from edgeguard.sim.rig import SimRig
    from edgeguard.sim.world import World

    path = folder / "drive.mcap"
    clock = ManualClock()
    with (
        SimRig(World(1, 10.0), clock, 1) as rig,
        Recorder(path, rig.sources, clock, rig.calibration, images="raw", wait=True) as recorder,
        Pipeline(Config(), recorder.sources, clock, calibration=rig.calibration) as pipeline,
    ):
        for _ in pipeline.run(periodic_ticks(clock.now_ns(), 100_000_000, 4)):
            pass
    return path


def _warm() -> None:
    from edgeguard.kernels.compiled import load_kernels

    compiled = sum(module.compiled for module in load_kernels())
    print(f"warm: {compiled} kernels had to be compiled first" if compiled else "warm: every kernel was in the cache")


def _first_line_s(recording: Path) -> tuple[float, float]:
    """Seconds until `edgeguard replay` has printed its first line, which is the first verdict; its processor time."""
    before_s = _children_s()
    command = [sys.executable, "-c", "from edgeguard.cli.main import main; main()", "replay", str(recording)]
    start_s = time.perf_counter()
    with subprocess.Popen(
        [*command, "--limit", "1", "--format", "json"], stdout=subprocess.PIPE, env=os.environ
    ) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        spent_s = time.perf_counter() - start_s
        running.stdout.read()
    if b'"verdict"' not in line:
        raise SystemExit("the first line is no verdict")
    return spent_s, _children_s() - before_s


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _laps(recording: Path) -> dict[str, float]:
    out = subprocess.run([sys.executable, "-c", LAPS, str(recording)], check=True, capture_output=True, text=True)
    laps: dict[str, float] = json.loads(out.stdout)
    return laps


def _wall_s(command: list[str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start_s
