"""What recording costs the pipeline: step times with and without a recorder, in turns, in one run.

A simulated drive is rendered once and kept in memory; then it is run again and again, paced like a device (a tick every
100 ms) and back to back (no pause at all, the worst case: the recorder never gets an idle moment). A step is everything
from taking the samples to the decision, with the recorder's tap and its queue. `idle` and `idle again` are the same
thing twice: what the machine's own noise makes of no difference. `cpu` is processor time of the pipeline's own thread,
which other programs do not disturb; what the recorder's thread takes from it by holding the interpreter shows in the
wall times alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sensors.recorded import RecordedSource
from edgeguard.sensors.recorder import Recorder
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import RigCalibration, Sample, Source, SourceInfo

TICKS, WARM_UP, ROUNDS = 60, 10, 3
TICK_NS = 100_000_000
START_NS = 1_000_000_000
MODES = ("idle", "idle again", "png", "raw", "jpeg")

Drive = Mapping[str, tuple[SourceInfo, list[int], list[Sample]]]


def main() -> None:
    drive, calibration = _render()
    for paced in (True, False):
        steps: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
        notes: dict[str, str] = dict.fromkeys(MODES, "")
        for _ in range(ROUNDS):
            for mode in MODES:
                taken, note = _run(drive, calibration, mode, paced)
                steps[mode] += taken
                notes[mode] = note
        print(f"{'a tick every 100 ms' if paced else 'back to back'}, {ROUNDS} x {TICKS - WARM_UP} ticks each")
        print(f"  {'recorder':12s} {'median ms':>10s} {'p99 ms':>8s} {'median':>8s} {'p99':>8s} {'cpu median':>12s}")
        base = np.array(steps["idle"])
        for mode in MODES:
            wall, cpu = np.array(steps[mode]).T
            median, p99 = np.percentile(wall, [50, 99])
            base_median, base_p99 = np.percentile(base[:, 0], [50, 99])
            print(
                f"  {mode:12s} {median:10.2f} {p99:8.2f} {median / base_median:7.3f}x {p99 / base_p99:7.3f}x "
                f"{np.median(cpu) / np.median(base[:, 1]):11.3f}x  {notes[mode]}"
            )


def _render() -> tuple[Drive, RigCalibration]:
    """Every sample of one drive, with the time at which it became readable."""
    clock = ManualClock(start_ns=START_NS)
    rig = SimRig(World(3, TICKS / 10), clock, 3)
    with rig:
        kept: dict[str, tuple[SourceInfo, list[int], list[Sample]]] = {}
        for name, source in rig.sources.items():
            source.open()
            kept[name] = (source.info, [], [])
        for now_ns in range(START_NS, START_NS + TICKS * TICK_NS + 1, 5_000_000):
            clock.wait_until_ns(now_ns)
            for name, source in rig.sources.items():
                while (sample := source.read(0.0)) is not None:
                    kept[name][1].append(now_ns)
                    kept[name][2].append(sample)
        return kept, rig.calibration


def _run(drive: Drive, calibration: RigCalibration, mode: str, paced: bool) -> tuple[list[tuple[float, float]], str]:
    """Wall and processor time of each step in ms, without the warm-up, and what the recorder said."""
    clock = ManualClock(start_ns=START_NS)
    sources: Mapping[str, Source] = {
        name: RecordedSource(info, stamps, samples.__getitem__, clock)
        for name, (info, stamps, samples) in drive.items()
    }
    if mode.startswith("idle"):
        return _steps(sources, calibration, clock, None, paced), ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.mcap"
        with Recorder(path, sources, clock, calibration, images=mode) as recorder:
            taken = _steps(recorder.sources, calibration, clock, recorder, paced)
        size_mb = path.stat().st_size / 1e6
    lost = dict(recorder.drops)
    return taken, f"{size_mb / TICKS * 10:.1f} MB/s of drive, lost: {lost or 'nothing'}"


def _steps(
    sources: Mapping[str, Source],
    calibration: RigCalibration,
    clock: ManualClock,
    recorder: Recorder | None,
    paced: bool,
) -> list[tuple[float, float]]:
    taken: list[tuple[float, float]] = []
    with Pipeline(Config(), sources, clock, calibration=calibration) as pipeline:
        due = time.perf_counter()
        for tick in periodic_ticks(START_NS, TICK_NS, TICKS):
            due += TICK_NS / 1e9
            if paced:
                time.sleep(max(0.0, due - time.perf_counter()))
            started, started_cpu = time.perf_counter(), time.thread_time()
            frame = pipeline.step(tick)
            if recorder is not None:
                recorder.frame(frame)
            taken.append(((time.perf_counter() - started) * 1e3, (time.thread_time() - started_cpu) * 1e3))
    return taken[WARM_UP:]


if __name__ == "__main__":
    main()
