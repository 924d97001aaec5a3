"""What is attacked: a recording of any layout we read, a lidar capture, or a clean simulated drive, by one name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgeguard.clock import NS_PER_S, Clock, ManualClock
from edgeguard.errors import RecordingError, ScenarioError
from edgeguard.protocols.pcap import is_capture
from edgeguard.sensors.recorded import FIRST_STAMP_NS, RecordedStream, Recording, median_period_ns
from edgeguard.types import IMU, LIDAR, ImuSample, PointCloud, RigCalibration, Sample, Source, SourceInfo, Tick

if TYPE_CHECKING:
    from edgeguard.sensors.capture_lidar import CaptureLidarSource

SIMULATED = "sim:"
TICK_NS = NS_PER_S // 10
POLL_NS = 5_000_000
# A simulated drive is kept in memory while it is attacked: a full rig's minute takes some 2 GB.
MAX_SIMULATED_BYTES = 4 << 30
MAX_SWEEPS = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class MemoryRecording:
    """Samples in memory as a `Recording`: what a simulated drive leaves behind."""

    calibration: RigCalibration | None
    notes: Sequence[Mapping[str, Any]]
    streams: Sequence[RecordedStream]
    moments: Sequence[Tick]

    def ticks(self) -> Iterable[Tick]:
        """As recorded."""
        return iter(self.moments)

    def sources(self, clock: Clock) -> Mapping[str, Source]:
        """Fresh sources of all streams."""
        return {stream.info.sensor: stream.source(clock) for stream in self.streams}


def open_subject(name: str, seed: int = 0) -> Recording:
    """Open what `name` says: `sim:SCENARIO[:SEED]`, a pcap beside its sensor's JSON, or a recording of any layout.

    Raises:
        ScenarioError: as `load_scenario`; EG-X041 for a simulated drive that does not fit into memory.
        RecordingError: EG-X042 for a capture without metadata or without a whole sweep; those of the layout it is.
    """
    if name.startswith(SIMULATED):
        return _simulated(name.removeprefix(SIMULATED), seed)
    path = Path(name)
    if path.is_file() and _is_capture(path):
        return _captured(path)
    from edgeguard.sensors.recording import open_recording

    return open_recording(path)


def _simulated(what: str, seed: int) -> MemoryRecording:
    from edgeguard.sim.scenario import load_scenario

    scenario_name, _, number = what.rpartition(":")
    if scenario_name and number.isdigit():
        seed = int(number)
    else:
        scenario_name = what
    scenario = load_scenario(scenario_name)
    clean = msgspec.structs.replace(scenario, attacks=(), attack_expect=())
    clock = ManualClock(FIRST_STAMP_NS)
    held: dict[str, list[tuple[int, Sample]]] = {}
    size = 0
    with clean.rig(clock, seed) as rig:
        infos = {}
        for sensor, source in rig.sources.items():
            source.open()
            infos[sensor], held[sensor] = source.info, []
        end_ns = FIRST_STAMP_NS + round(clean.duration_s * NS_PER_S)
        while clock.now_ns() < end_ns:
            clock.wait_until_ns(clock.now_ns() + POLL_NS)
            for sensor, source in rig.sources.items():
                while (sample := source.read(0.0)) is not None:
                    held[sensor].append((clock.now_ns(), sample))
                    size += _bytes_of(sample)
            if size > MAX_SIMULATED_BYTES:
                raise ScenarioError(
                    f"the drive {scenario_name} does not fit into {MAX_SIMULATED_BYTES >> 30} GiB",
                    code="EG-X041",
                    hint="choose a shorter one, or one with fewer sensors: edgeguard sim new NAME",
                )
        calibration = rig.calibration
    streams = [_stream(infos[sensor], samples) for sensor, samples in held.items()]
    count = round(clean.duration_s * NS_PER_S) // TICK_NS
    ticks = [Tick(k, FIRST_STAMP_NS + (k + 1) * TICK_NS) for k in range(count)]
    return MemoryRecording(calibration, (), streams, ticks)


def _bytes_of(sample: Sample) -> int:
    arrays = (getattr(sample, name, None) for name in ("pixels", "xyz", "intensity", "ring", "time_offset_ns"))
    return 200 + sum(int(a.nbytes) for a in arrays if a is not None)


def _stream(info: SourceInfo, samples: list[tuple[int, Sample]]) -> RecordedStream:
    stamps = np.array([at for at, _ in samples], dtype=np.int64)
    return RecordedStream(info, stamps, lambda index: samples[index][1])


def _is_capture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_capture(file.read(64))
    except OSError:
        return False


@dataclass(frozen=True, slots=True, eq=False)
class _Capture:
    """A pcap of an Ouster: its sweeps, and its own IMU where the capture has it."""

    path: Path
    metadata: Path
    calibration: RigCalibration | None
    notes: Sequence[Mapping[str, Any]]
    moments: Sequence[Tick]
    periods_ns: Mapping[str, int]

    def ticks(self) -> Iterable[Tick]:
        return iter(self.moments)

    def sources(self, clock: Clock) -> Mapping[str, Source]:
        return {
            sensor: _capture_source(self.path, self.metadata, sensor, period_ns, clock)
            for sensor, period_ns in self.periods_ns.items()
        }


_KINDS = {LIDAR: PointCloud, IMU: ImuSample}


def _capture_source(path: Path, metadata: Path, sensor: str, period_ns: int, clock: Clock) -> CaptureLidarSource:
    from edgeguard.protocols.ouster import OusterDecoder
    from edgeguard.protocols.ouster_metadata import MAX_METADATA_BYTES, parse_metadata
    from edgeguard.sensors.capture_lidar import CaptureLidarSource

    try:
        with metadata.open("rb") as file:
            told = file.read(MAX_METADATA_BYTES + 1)
    except OSError as error:
        raise RecordingError(f"cannot read {metadata}: {error.strerror}", code="EG-X042") from None
    info = SourceInfo(sensor, _KINDS[sensor], period_ns, str(path))
    return CaptureLidarSource(path, OusterDecoder(parse_metadata(told)), info, clock, start_ns=FIRST_STAMP_NS)


def _captured(path: Path) -> _Capture:
    metadata = _metadata_beside(path)
    stamps: dict[str, list[int]] = {}
    for sensor in _KINDS:
        clock = ManualClock(FIRST_STAMP_NS)
        with _capture_source(path, metadata, sensor, TICK_NS, clock) as source:
            stamps[sensor] = []
            while not source.exhausted and len(stamps[sensor]) < MAX_SWEEPS:
                if source.read(1.0) is not None:
                    stamps[sensor].append(clock.now_ns())
    if not stamps[LIDAR]:
        raise RecordingError(f"{path.name} holds no whole sweep", code="EG-X042", hint="capture a second or more")
    periods = {sensor: median_period_ns(np.array(each, np.int64), TICK_NS) for sensor, each in stamps.items() if each}
    moments = list(dict.fromkeys(stamps[LIDAR]))
    return _Capture(path, metadata, None, (), [Tick(k, stamp) for k, stamp in enumerate(moments)], periods)


def _metadata_beside(path: Path) -> Path:
    """The sensor's JSON in the same folder whose name has most of its beginning in common with the capture's."""
    found = sorted(path.parent.glob("*.json"), key=lambda p: (-_common(p.stem, path.stem), p.name))
    if not found or (len(found) > 1 and not _common(found[0].stem, path.stem)):
        raise RecordingError(
            f"{path.name} has no metadata beside it",
            code="EG-X042",
            hint="put the sensor's JSON there, from http://SENSOR/api/v1/sensor/metadata",
        )
    return found[0]


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
