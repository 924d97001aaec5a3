"""`SimRig`: a whole sensor rig on a drive through a world, behind the same `Source`s as hardware.

Camera and lidar hand over values. GNSS, IMU, wheels and a planar lidar leave as bytes on real pseudo-terminals (NMEA,
UBX, our authenticated link, LD06 or RPLIDAR) and come back through the production serial source and decoders. Waiting
on the `ManualClock` is what makes the rig go on: whatever is due by the new time is measured, attacked and sent before
the wait returns.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np

from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.link import ImuReading, LinkDecoder, LinkEncoder, WheelReading
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sensors.scan2d import Ld06Source, RplidarSource
from edgeguard.sensors.serial import SerialSource
from edgeguard.sim.ahead import RenderAhead
from edgeguard.sim.attacks.base import Attack, Injector, Payload, SampleTruth
from edgeguard.sim.camera import DEFAULT_CAMERA, CameraModel, render
from edgeguard.sim.clocks import ClockModel, SensorClock
from edgeguard.sim.gnss import Gnss, GnssModel
from edgeguard.sim.inertial import IMU_LATENCY_NS, Imu, ImuModel
from edgeguard.sim.lidar import DEFAULT_LIDAR, LidarModel, sweep
from edgeguard.sim.lidar2d import DEFAULT_LIDAR2D, LD06, Lidar2dModel, ScanWire, scan
from edgeguard.sim.memory_source import MemorySource
from edgeguard.sim.pty_line import PtyLine
from edgeguard.sim.receiver import NMEA, nmea_epoch, ubx_epoch
from edgeguard.sim.wheels import WHEELS_LATENCY_NS, WheelModel, Wheels
from edgeguard.sim.world import EgoTruth, World
from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    GnssFix,
    Image,
    ImuSample,
    PointCloud,
    RigCalibration,
    Sample,
    Source,
    SourceInfo,
    Tick,
    Truth,
    WheelOdometry,
)

FRAME_PERIOD_NS = NS_PER_S // 10  # camera and lidar, both on the same ticks
IMU_NODE, WHEELS_NODE = 1, 2
FORGER = 1000  # added to a node's number, it names the key of who forges that node
GNSS_BAUD, LINK_BAUD = 115_200, 921_600
SCAN_LATENCY_NS = 4_000_000  # a new turn shows with its first packet, 2.6 ms of measuring and 2 ms on the wire
SCAN2D = "scan2d"
ALL_SENSORS = (CAMERA, LIDAR, GNSS, IMU, WHEELS)  # a rig has these unless it is told
KNOWN_SENSORS = (*ALL_SENSORS, SCAN2D)


@dataclass(frozen=True, slots=True)
class SerialModels:
    """Models of what sits on serial lines."""

    imu: ImuModel = field(default_factory=ImuModel)
    gnss: GnssModel = field(default_factory=GnssModel)
    wheels: WheelModel = field(default_factory=WheelModel)
    scan2d: Lidar2dModel = DEFAULT_LIDAR2D


DEFAULT_MODELS = SerialModels()
_PERFECT: Mapping[str, ClockModel] = MappingProxyType({})


@dataclass(slots=True)
class _Stream:
    """One sensor's schedule: sample `index` is taken at index * period and delivered `latency` later.

    encode: a sample, and whether a second transmitter forged it, to what travels; None where values travel.
    waiting: (arrival, order, payload) of what is on its way, a heap.
    """

    sensor: str
    period_ns: int
    latency_ns: int
    index: int
    measure: Callable[[int], Sample]
    deliver: Callable[[Payload, int], None]
    unplug: Callable[[], None]
    encode: Callable[[Sample, bool], bytes] | None = None
    plugged: bool = True
    waiting: list[tuple[int, int, Payload]] = field(default_factory=list)
    sent: int = 0


class SimRig:
    """A context manager; inside it, `sources` can be opened and the clock drives the world.

    Args:
        world: what there is. clock: the drive starts at its time on entry. seed: of sensor noise and attacks.
        attacks: applied in order to what the sensors measured.
        sensors: which of `KNOWN_SENSORS` the rig has. models: of what is on serial lines. clocks: of some sensors and
            their way to the host; perfect for the rest.
    """

    def __init__(
        self,
        world: World,
        clock: ManualClock,
        seed: int,
        attacks: Sequence[Attack] = (),
        *,
        camera: CameraModel = DEFAULT_CAMERA,
        lidar: LidarModel = DEFAULT_LIDAR,
        sensors: Collection[str] = ALL_SENSORS,
        models: SerialModels = DEFAULT_MODELS,
        clocks: Mapping[str, ClockModel] = _PERFECT,
    ) -> None:
        self._wanted = frozenset(sensors)
        self.world, self._clock, self._seed = world, clock, seed
        self._attacks = tuple(attacks)
        self._camera, self._lidar, self._models = camera, lidar, models
        self._origin_ns = clock.now_ns()
        self._injector = Injector(self._attacks, seed, self._origin_ns)
        self._clocks = {name: SensorClock(model, seed, name) for name, model in clocks.items() if not model.perfect}
        self._streams: list[_Stream] = []
        self._sources: dict[str, Source] = {}
        self._lines: dict[str, PtyLine] = {}
        self._frames: list[MemorySource] = []
        self._stack = ExitStack()

    # ---- what a pipeline is given ----------------------------------------------------------------------------

    @property
    def clock(self) -> ManualClock:
        """The clock that drives the world."""
        return self._clock

    def ticks(self, period_ms: int = 100) -> tuple[Tick, ...]:
        """Return evenly spaced ticks from now to the end of the drive, for `Pipeline.run`."""
        end_ns = self._origin_ns + round(self.world.duration_s * NS_PER_S)
        now_ns, period_ns = self._clock.now_ns(), period_ms * 1_000_000
        return tuple(periodic_ticks(now_ns, period_ns, max(0, end_ns - now_ns) // period_ns))

    @property
    def sources(self) -> Mapping[str, Source]:
        """Sensor name to source; empty outside the context."""
        return MappingProxyType(self._sources)

    @property
    def calibration(self) -> RigCalibration | None:
        """True geometry of camera and lidar; None for a rig with neither."""
        if not self._wanted & {CAMERA, LIDAR}:
            return None
        return rig_calibration(self._camera, self._lidar)

    @property
    def truths(self) -> tuple[Truth, ...]:
        """Every attack with its stamps on the clock; ends are cut at the end of the drive."""
        end_ns = self._origin_ns + round(self.world.duration_s * NS_PER_S)
        return tuple(replace(truth, end_ns=min(truth.end_ns, end_ns)) for truth in self._injector.truths)

    @property
    def labels(self) -> tuple[SampleTruth, ...]:
        """Ground truth of every sample that an attack touched so far."""
        return self._injector.labels

    @property
    def finished(self) -> bool:
        """Whether the drive is over."""
        return self._clock.now_ns() - self._origin_ns > self.world.duration_s * NS_PER_S

    def ego_truth(self, time_s: float) -> EgoTruth:
        """Return where the vehicle really is, `time_s` seconds after the start."""
        return self.world.ego(time_s)

    # ---- life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._origin_ns = self._clock.now_ns()
        self._injector = Injector(self._attacks, self._seed, self._origin_ns)
        self._add_frames()
        self._add_lines()
        self._clock.on_advance.append(self._advance)
        self._stack.callback(self._clock.on_advance.remove, self._advance)
        self._advance(self._origin_ns)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._streams.clear()
        self._sources.clear()
        self._lines.clear()
        self._frames.clear()

    def _add_frames(self) -> None:
        def camera(index: int) -> Sample:
            return render(self.world, self._time(index, FRAME_PERIOD_NS), self._camera, noise_seed=self._seed)

        def lidar(index: int) -> Sample:
            return sweep(self.world, self._time(index, FRAME_PERIOD_NS), self._lidar, noise_seed=self._seed)

        worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgeguard-render")
        self._stack.callback(worker.shutdown, cancel_futures=True)
        last_index = round(self.world.duration_s * NS_PER_S) // FRAME_PERIOD_NS
        for sensor, kind, pure in ((CAMERA, Image, camera), (LIDAR, PointCloud, lidar)):
            if sensor not in self._wanted:
                continue
            measure = RenderAhead(pure, worker, last_index)
            source = MemorySource(SourceInfo(sensor, kind, FRAME_PERIOD_NS, "simulator"), self._clock)
            self._frames.append(source)
            self._sources[sensor] = source
            self._streams.append(_Stream(sensor, FRAME_PERIOD_NS, 0, 0, measure, source.put, source.unplug))

    def _add_lines(self) -> None:
        imu_model, wheel_model, gnss_model = self._models.imu, self._models.wheels, self._models.gnss
        gnss = Gnss(self.world, self._seed, gnss_model)
        ends = ["RMC"] if gnss_model.wire == NMEA else []
        keys = {node: node_key(self._seed, node) for node in (IMU_NODE, WHEELS_NODE)}
        # A forger on the line has no key of ours: his frames are well-formed under one of his own.
        imu_links, wheel_links = (
            (LinkEncoder(node, keys[node]), LinkEncoder(node, node_key(self._seed, FORGER + node)))
            for node in (IMU_NODE, WHEELS_NODE)
        )

        def send_imu(sample: Sample, forged: bool) -> bytes:
            assert isinstance(sample, ImuSample)  # noqa: S101 - attacks keep a sample's kind
            return imu_links[forged].frame(_device_us(sample), ImuReading(sample.gyro_rad_s, sample.accel_m_s2))

        def send_wheels(sample: Sample, forged: bool) -> bytes:
            assert isinstance(sample, WheelOdometry)  # noqa: S101
            speeds = sample.wheel_speeds_m_s or (sample.speed_m_s,) * 4
            return wheel_links[forged].frame(_device_us(sample), WheelReading(speeds, sample.steering_rad))

        plan = (
            (GNSS, GnssFix, gnss_model.rate_hz, round(gnss_model.latency_s * NS_PER_S), GNSS_BAUD,
             GnssDecoder(ends=ends), gnss.sample, _gnss_sender(gnss)),
            (IMU, ImuSample, imu_model.rate_hz, IMU_LATENCY_NS, LINK_BAUD,
             LinkDecoder({IMU_NODE: keys[IMU_NODE]}), Imu(self.world, self._seed, imu_model).sample, send_imu),
            (WHEELS, WheelOdometry, wheel_model.rate_hz, WHEELS_LATENCY_NS, LINK_BAUD,
             LinkDecoder({WHEELS_NODE: keys[WHEELS_NODE]}), Wheels(self.world, self._seed, wheel_model).sample,
             send_wheels),
        )  # fmt: skip
        for sensor, kind, rate_hz, latency_ns, baud, decoder, measure, to_bytes in plan:
            if sensor not in self._wanted:
                continue
            line = PtyLine()
            info = SourceInfo(sensor, kind, NS_PER_S // rate_hz, line.port)
            source = SerialSource(line.port, baud, decoder, info, self._clock)
            self._add_line(line, source, latency_ns, measure, to_bytes)
        if SCAN2D in self._wanted:
            self._add_scanner(self._models.scan2d)

    def _add_scanner(self, model: Lidar2dModel) -> None:
        line = PtyLine()
        period_ns = NS_PER_S // model.rate_hz
        source: SerialSource
        if model.wire == LD06:
            source = Ld06Source(line.port, self._clock, period_ns=period_ns)
        else:
            source = RplidarSource(line.port, self._clock, mode="standard", period_ns=period_ns)

        def measure(index: int) -> Sample:
            return scan(self.world, self._time(index, period_ns), model, noise_seed=self._seed)

        self._add_line(line, source, SCAN_LATENCY_NS, measure, ScanWire(model, line.heard).send)

    def _add_line(
        self,
        line: PtyLine,
        source: SerialSource,
        latency_ns: int,
        measure: Callable[[int], Sample],
        to_bytes: Callable[[Sample, bool], bytes],
    ) -> None:
        sensor, period_ns = source.info.sensor, source.info.period_ns
        self._stack.callback(line.unplug)
        self._stack.callback(source.close)
        self._lines[sensor] = line
        self._sources[sensor] = source
        # Sample 0 would be lost: a port is opened, and flushed, only after the rig stands.
        self._streams.append(_Stream(sensor, period_ns, latency_ns, 1, measure, _writer(line), line.unplug, to_bytes))

    def _time(self, index: int, period_ns: int) -> float:
        return index * period_ns / NS_PER_S

    # ---- the world goes on -----------------------------------------------------------------------------------

    def _advance(self, now_ns: int) -> None:
        end_ns = round(self.world.duration_s * NS_PER_S)
        elapsed_ns = now_ns - self._origin_ns
        for stream in self._streams:
            self._unplug_if_due(stream, now_ns)
            while stream.plugged:
                taken_ns = stream.index * stream.period_ns
                if taken_ns > end_ns or taken_ns + stream.latency_ns > elapsed_ns:
                    break
                measured = replace(stream.measure(stream.index), stamp_ns=self._origin_ns + taken_ns)
                measured = self._by_own_clock(measured, taken_ns)
                stream.index += 1
                self._send(stream, measured, self._origin_ns + taken_ns + stream.latency_ns)
                self._hand_over(stream, now_ns)
            self._hand_over(stream, now_ns)
        if elapsed_ns >= end_ns:
            for source in self._frames:
                source.finished = True

    def _send(self, stream: _Stream, measured: Sample, at_ns: int) -> None:
        """Put what becomes of one measurement on its way: attacked, encoded, delayed, beside what a forger sends."""
        stamp_ns = measured.stamp_ns
        for forged in self._injector.forged(measured):
            payload = forged if stream.encode is None else stream.encode(forged, True)
            self._put(stream, payload, at_ns + stream.period_ns // 2)
        sample = self._injector.apply(measured)
        if sample is None:
            return
        payload = sample if stream.encode is None else stream.encode(sample, False)
        if payload == b"":  # a sensor that was not asked
            return
        for arriving, arrival_ns in self._injector.route(stream.sensor, stamp_ns, payload, at_ns):
            link = self._clocks.get(stream.sensor)
            if link is None:
                self._put(stream, arriving, arrival_ns)
                continue
            size = len(arriving) if isinstance(arriving, bytes) else 0
            for moment_ns in link.arrivals(stream.index, arrival_ns, size):
                self._put(stream, arriving, moment_ns)

    def _by_own_clock(self, sample: Sample, taken_ns: int) -> Sample:
        """Return the sample with the device stamp that the sensor's own clock gives it."""
        clock = self._clocks.get(sample.sensor)
        if clock is None or sample.device_stamp_ns is None:
            return sample
        return replace(sample, device_stamp_ns=sample.device_stamp_ns + clock.device_ns(taken_ns) - taken_ns)

    def _put(self, stream: _Stream, payload: Payload, at_ns: int) -> None:
        heapq.heappush(stream.waiting, (at_ns, stream.sent, payload))
        stream.sent += 1

    def _hand_over(self, stream: _Stream, now_ns: int) -> None:
        while stream.plugged and stream.waiting and stream.waiting[0][0] <= now_ns:
            at_ns, _, payload = heapq.heappop(stream.waiting)
            stream.deliver(payload, at_ns)

    def _unplug_if_due(self, stream: _Stream, now_ns: int) -> None:
        if stream.plugged and self._injector.unplugged(stream.sensor, now_ns):
            stream.plugged = False
            stream.unplug()


def rig_calibration(camera: CameraModel = DEFAULT_CAMERA, lidar: LidarModel = DEFAULT_LIDAR) -> RigCalibration:
    """Return the geometry of a rig whose camera and lidar look straight ahead."""
    transform = np.eye(4)
    transform[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]  # optical axes from x forward, y left, z up
    transform[:3, 3] = transform[:3, :3] @ (np.array(lidar.mount_m) - np.array(camera.mount_m))
    size = (camera.width_px, camera.height_px)
    return RigCalibration(camera.matrix(), transform, size, lidar.mount_m[2], camera.distortion)


def node_key(seed: int, node_id: int) -> bytes:
    """Return the link key of a simulated node. Derived from a public seed: good for simulation only."""
    return hashlib.sha256(f"edgeguard simulated node key {seed} {node_id}".encode()).digest()


def _writer(line: PtyLine) -> Callable[[Payload, int], None]:
    def deliver(payload: Payload, readable_ns: int) -> None:
        del readable_ns  # bytes are readable as soon as they are written
        if isinstance(payload, bytes):
            line.write(payload)

    return deliver


def _send_gnss(sample: Sample, forged: bool = False) -> bytes:
    """NMEA without satellites, as a receiver without a constellation sends it."""
    del forged  # NMEA knows no sender
    assert isinstance(sample, GnssFix)  # noqa: S101 - attacks keep a sample's kind
    return nmea_epoch(sample, {}, with_sky=False)


def _gnss_sender(gnss: Gnss) -> Callable[[Sample, bool], bytes]:
    if not gnss.model.constellation and gnss.model.wire == NMEA:
        return _send_gnss
    azimuths = gnss.azimuths()
    write = nmea_epoch if gnss.model.wire == NMEA else ubx_epoch

    def send(sample: Sample, forged: bool) -> bytes:
        del forged
        assert isinstance(sample, GnssFix)  # noqa: S101
        whole_second = (sample.device_stamp_ns or 0) % NS_PER_S == 0
        return write(sample, azimuths, with_sky=gnss.model.constellation and whole_second)

    return send


def _device_us(sample: ImuSample | WheelOdometry) -> int:
    return (sample.device_stamp_ns or 0) // 1000
