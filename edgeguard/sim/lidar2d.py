"""A planar lidar on the simulated vehicle, as scans and as the bytes that an LD06 or an RPLIDAR sends.

The plane is level with the vehicle and `height_m` above the ground. A revolution is cast while the mirror turns, so it
carries the vehicle's motion; stamps are the middle of the revolution, at which the beam looks ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import pi
from struct import pack

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.kernels.serial_lidar import LD06_BYTES, LD06_CIRCLE_CDEG, LD06_CRC_TABLES, LD06_POINTS, NODE_BYTES
from edgeguard.protocols.rplidar import START_STANDARD, STOP
from edgeguard.sim.kernels.cast import cast
from edgeguard.sim.kernels.echo import reflect
from edgeguard.sim.lines import Planes, aim, cast_ground
from edgeguard.sim.windows import front_to_back, spinning_windows
from edgeguard.sim.world import World
from edgeguard.types import Sample, Scan2d

LD06, RPLIDAR = "ld06", "rplidar"
RPLIDAR_DESCRIPTOR = b"\xa5\x5a\x05\x00\x00\x40\x81"
_LD06_HEADER, _LD06_LENGTH = 0x54, 0x2C


@dataclass(frozen=True, slots=True)
class Lidar2dModel:
    """`points` per revolution, for an LD06 an even number of packets. Noise is its data sheet's 10 mm; loss is assumed.

    wire: `LD06` or `RPLIDAR`.
    """

    points: int = 456
    rate_hz: int = 10
    height_m: float = 0.35
    mount_m: tuple[float, float] = (3.6, 0.0)
    max_range_m: float = 12.0
    range_sigma_m: float = 0.010
    loss: float = 0.01
    wire: str = LD06


DEFAULT_LIDAR2D = Lidar2dModel()


def scan(
    world: World, time_s: float, model: Lidar2dModel = DEFAULT_LIDAR2D, *, noise_seed: int | None = None
) -> Scan2d:
    """Return the revolution centred at `time_s`; beams without an echo have range 0.

    Angles are counter-clockwise from ahead and fall: the mirror turns clockwise from behind.
    """
    world.ego(time_s)
    rays, offsets_s = _beams(model)
    mount = (*model.mount_m, model.height_m)
    aimed = aim(world, time_s, mount, rays, offsets_s)
    scene = world.primitives(time_s, model.max_range_m + 10.0).seen_from(*aimed.frame, model.max_range_m + 2.0)
    shape = (model.points, 1)
    distance, hit = np.empty(shape, np.float32), np.empty(shape, np.int32)
    assert aimed.rotations is not None  # noqa: S101 - a turning mirror's lines always have them
    way = (aimed.starts[-1, :3] - aimed.starts[0, :3]) * model.rate_hz
    yaw_rate = float(aimed.rotations[-1, 1, 0] - aimed.rotations[0, 1, 0]) * model.rate_hz
    velocity = scene.velocities()
    windows, nearest = spinning_windows(
        scene.values,
        np.zeros(1),
        model.points,
        velocity=velocity,
        motion=(float(way[0]), float(way[1]), float(way[2]), yaw_rate),
        period_s=1.0 / model.rate_hz,
        tilt_rad=float(np.hypot(aimed.rotations[:, 2, 0], aimed.rotations[:, 2, 1]).max()) + 1e-4,
    )
    windows = front_to_back(windows, scene.codes, nearest, counted=False)
    cast_ground(world, aimed, model.max_range_m, distance, hit)
    marks, alone = np.empty((0, 0), np.int32), np.zeros(0, np.int64)
    cast(*aimed.rays, aimed.starts, scene.codes, scene.values, velocity, windows, nearest, distance, hit, marks, alone)
    shine, cosine = np.empty(shape, np.float32), np.empty(shape, np.float32)
    reflect(*aimed.rays, aimed.starts, distance, hit, scene.values, velocity, scene.codes, 0.22, shine, cosine)
    stamp_ns = round(time_s * NS_PER_S)
    seed = world.seed if noise_seed is None else noise_seed
    rng = np.random.default_rng([seed, stamp_ns, 0x2D])
    measured = distance[:, 0] + model.range_sigma_m * rng.standard_normal(model.points)
    seen = (distance[:, 0] <= model.max_range_m) & (rng.random(model.points) >= model.loss)
    return Scan2d(
        np.where(seen, measured, 0.0).astype(np.float32),
        _angles(model).astype(np.float32),
        np.where(seen, shine[:, 0] * np.sqrt(cosine[:, 0]), 0.0).astype(np.float32),
        stamp_ns,
        device_stamp_ns=stamp_ns,
    )


def ld06_bytes(found: Scan2d, rate_hz: int = 10) -> bytes:
    """Return the revolution as LD06 packets of twelve points, clockwise from the front, stamped in milliseconds.

    The first packet begins behind: angles run from 180 over 360 to 180 degrees.
    """
    cdeg = np.round(_clockwise_deg(found) * 100).astype(np.int64) % LD06_CIRCLE_CDEG
    millimetres = np.clip(np.round(found.range_m.astype(np.float64) * 1000), 0, 65535).astype(int)
    loudness = np.clip(np.round(found.intensity * 255), 0, 255).astype(int)
    begin_ms = found.stamp_ns / 1e6 - 500.0 / rate_hz
    out = b""
    for first in range(0, len(cdeg) - LD06_POINTS + 1, LD06_POINTS):
        last = first + LD06_POINTS - 1
        body = pack("<BBHH", _LD06_HEADER, _LD06_LENGTH, 360 * rate_hz, int(cdeg[first]))
        for at in range(first, last + 1):
            body += pack("<HB", int(millimetres[at]), int(loudness[at]))
        stamp = round(begin_ms + 1000.0 / rate_hz * last / len(cdeg)) % 30000
        body += pack("<HH", int(cdeg[last]), stamp)
        out += body + bytes([_crc(body)])
    return out


def rplidar_bytes(found: Scan2d) -> bytes:
    """Return the revolution as RPLIDAR standard nodes of five bytes; the first one starts a turn.

    The descriptor that comes before the first revolution is `RPLIDAR_DESCRIPTOR`.
    """
    # A turn begins ahead: nodes are given from angle zero upwards.
    return _nodes(found, np.argsort(_clockwise_deg(found), kind="stable"), turn_at=0)


class ScanWire:
    """What a planar lidar sends over its line, sample after sample.

    A receiver knows a turn complete when the next one has begun. So sample k brings what the beam measured since it
    last looked ahead, up to the first points after it does so again, at the sample's stamp.

    Args:
        heard: gives what the host said since the last call. An RPLIDAR is silent until it is asked for scans.
    """

    def __init__(self, model: Lidar2dModel, heard: Callable[[bool], bytes]) -> None:
        self._model, self._heard = model, heard
        self._rest, self._stamp_ns = b"", 0
        self._asked = model.wire == LD06
        # An LD06 packet tells a new turn by itself; of an RPLIDAR node only its successor shows that it was one.
        half = model.points // 2
        self._cut = (half // LD06_POINTS + 1) * LD06_BYTES if model.wire == LD06 else (half + 2) * NODE_BYTES

    def send(self, sample: Sample, forged: bool) -> bytes:
        """Return the bytes of one measurement; empty while nobody has asked."""
        assert isinstance(sample, Scan2d)  # noqa: S101 - attacks keep a sample's kind
        hello = self._listen()
        if not self._asked:
            return b""
        whole = ld06_bytes(sample, self._model.rate_hz) if self._model.wire == LD06 else self._in_turn(sample)
        if forged:  # a second transmitter has no turn to continue
            return whole
        follows = abs(sample.stamp_ns - self._stamp_ns - NS_PER_S // self._model.rate_hz) <= NS_PER_S // 1000
        data = hello + (self._rest if follows else b"") + whole[: self._cut]
        self._rest, self._stamp_ns = whole[self._cut :], sample.stamp_ns
        return data

    def _in_turn(self, found: Scan2d) -> bytes:
        count = len(found.angle_rad)
        return _nodes(found, np.arange(count), turn_at=count // 2)

    def _listen(self) -> bytes:
        if self._model.wire == LD06:
            return b""
        words = self._heard(not self._asked)
        start, stop = words.rfind(START_STANDARD), words.rfind(STOP)
        if start > stop:
            self._asked = True
            return RPLIDAR_DESCRIPTOR
        self._asked = self._asked and stop < 0
        return b""


def _nodes(found: Scan2d, order: NDArray[np.int64], turn_at: int) -> bytes:
    clockwise, out = _clockwise_deg(found), b""
    for position, at in enumerate(order.tolist()):
        quality = min(round(float(found.intensity[at]) * 63), 63) if found.range_m[at] > 0 else 0
        angle_q6 = round(clockwise[at] * 64) % 23040
        distance_q2 = min(round(float(found.range_m[at]) * 4000), 65535)
        out += pack("<BHH", quality << 2 | (1 if position == turn_at else 2), angle_q6 << 1 | 1, distance_q2)
    return out


def _clockwise_deg(found: Scan2d) -> NDArray[np.float64]:
    return np.asarray((-found.angle_rad.astype(np.float64) * (180 / pi)) % 360.0)


def _crc(body: bytes) -> int:
    total = 0
    for place, byte in enumerate(body):
        total ^= int(LD06_CRC_TABLES[place, byte])
    return total


def _angles(model: Lidar2dModel) -> NDArray[np.float64]:
    return np.asarray(pi - 2 * pi * np.arange(model.points) / model.points)


@lru_cache(maxsize=4)
def _beams(model: Lidar2dModel) -> tuple[Planes, NDArray[np.float64]]:
    azimuth = _angles(model)[:, None]
    planes = tuple(np.ascontiguousarray(v, dtype=np.float32) for v in (np.cos(azimuth), np.sin(azimuth), 0.0 * azimuth))
    return (planes[0], planes[1], planes[2]), (np.arange(model.points) / model.points - 0.5) / model.rate_hz
