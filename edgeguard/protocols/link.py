"""The authenticated serial link of our sensor nodes, version 1: `docs/formats/serial-link.md`.

`LinkEncoder` is what a node does (and the simulator in its place); `LinkDecoder` is sans-IO: bytes in, records out.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from edgeguard.errors import ConfigError, PacketError
from edgeguard.protocols import cobs
from edgeguard.types import ImuSample, LineStats, WheelOdometry

VERSION = 1
TYPE_IMU = 0x01
TYPE_WHEELS = 0x02
KEY_BYTES = 32
TAG_BYTES = 8
MAX_BODY_BYTES = 254  # so that COBS adds one byte at most and a frame fits a small DMA buffer
MAX_ENCODED_BYTES = MAX_BODY_BYTES + 1
MAX_NODES = 64  # more than a vehicle has; bounds the decoder's memory
MAX_COUNTER = 2**32 - 1

_CONTEXT = b"edgeguard link v1\0"
_HEADER = struct.Struct("<BBHIIQ")
_IMU = struct.Struct("<6i")
_WHEELS = struct.Struct("<5i")
_CRC = struct.Struct("<I")
_TRAILER_BYTES = _CRC.size + TAG_BYTES
_RATE_UNIT, _FORCE_UNIT, _SPEED_UNIT, _ANGLE_UNIT = 1e-7, 1e-6, 1e-6, 1e-7
_UNKNOWN_ANGLE = -(2**31)
_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ImuReading:
    """Angular rate in rad/s and specific force in m/s^2, body axes."""

    gyro_rad_s: tuple[float, float, float]
    accel_m_s2: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class WheelReading:
    """Wheel speeds in m/s (front-left, front-right, rear-left, rear-right); steering in radians, None if unknown."""

    wheel_speeds_m_s: tuple[float, float, float, float]
    steering_rad: float | None


Reading = ImuReading | WheelReading


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """One accepted frame. `device_time_us` counts from the node's start."""

    node_id: int
    boot: int
    counter: int
    device_time_us: int
    reading: Reading

    def sample(self, stamp_ns: int, sensor: str) -> ImuSample | WheelOdometry:
        """Return the value the pipeline works on, stamped with the receiver's time of arrival."""
        reading, device_ns = self.reading, self.device_time_us * 1000
        if isinstance(reading, ImuReading):
            return ImuSample(stamp_ns, reading.gyro_rad_s, reading.accel_m_s2, sensor, device_ns)
        speeds = reading.wheel_speeds_m_s
        return WheelOdometry(stamp_ns, sum(speeds) / 4.0, speeds, reading.steering_rad, sensor, device_ns)


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Running totals, one per cause of refusal; see the format document."""

    bytes_received: int = 0
    frames: int = 0
    checksum_failures: int = 0
    forged: int = 0
    replayed: int = 0
    malformed: int = 0
    bytes_skipped: int = 0
    sequence_gaps: int = 0


def encode_reading(reading: Reading) -> tuple[int, bytes]:
    """Return message type and payload.

    Raises:
        PacketError: EG-N032 when a value is not finite or outside the field.
    """
    if isinstance(reading, ImuReading):
        values = [_fixed(v, _RATE_UNIT) for v in reading.gyro_rad_s] + [
            _fixed(v, _FORCE_UNIT) for v in reading.accel_m_s2
        ]
        return TYPE_IMU, _IMU.pack(*values)
    speeds = [_fixed(v, _SPEED_UNIT) for v in reading.wheel_speeds_m_s]
    angle = _UNKNOWN_ANGLE if reading.steering_rad is None else _fixed(reading.steering_rad, _ANGLE_UNIT)
    return TYPE_WHEELS, _WHEELS.pack(*speeds, angle)


def decode_reading(message_type: int, payload: bytes) -> Reading:
    """Return the reading of a payload.

    Raises:
        PacketError: EG-N033 when the type is unknown or the length is not the type's.
    """
    if message_type == TYPE_IMU and len(payload) == _IMU.size:
        v = _IMU.unpack(payload)
        return ImuReading(
            (v[0] * _RATE_UNIT, v[1] * _RATE_UNIT, v[2] * _RATE_UNIT),
            (v[3] * _FORCE_UNIT, v[4] * _FORCE_UNIT, v[5] * _FORCE_UNIT),
        )
    if message_type == TYPE_WHEELS and len(payload) == _WHEELS.size:
        fl, fr, rl, rr, angle = _WHEELS.unpack(payload)
        speeds = (fl * _SPEED_UNIT, fr * _SPEED_UNIT, rl * _SPEED_UNIT, rr * _SPEED_UNIT)
        return WheelReading(speeds, None if angle == _UNKNOWN_ANGLE else angle * _ANGLE_UNIT)
    raise PacketError(f"message type 0x{message_type:02x} with {len(payload)} bytes is not known", code="EG-N033")


class LinkEncoder:
    """A node's side: numbers, seals and stuffs readings.

    Args:
        node_id: 1..65535. key: 32 bytes shared with the receiver. boot: this start of the node.

    Raises:
        ConfigError: EG-C030 when key or node id are not usable.
    """

    def __init__(self, node_id: int, key: bytes, *, boot: int = 1) -> None:
        _require_node(node_id, key)
        self._node_id, self._key, self._boot = node_id, key, boot
        self._counter = 0

    def frame(self, device_time_us: int, reading: Reading) -> bytes:
        """Return one frame with its delimiter.

        Raises:
            PacketError: EG-N032 on values outside the fields; EG-N034 when the counter is used up.
        """
        if self._counter > MAX_COUNTER:
            raise PacketError("the frame counter is used up", code="EG-N034", hint="restart the node")
        message_type, payload = encode_reading(reading)
        head = _HEADER.pack(VERSION, message_type, self._node_id, self._boot, self._counter, device_time_us)
        self._counter += 1
        covered = head + payload
        return cobs.encode(covered + _CRC.pack(zlib.crc32(covered)) + link_tag(self._key, covered)) + b"\0"


class LinkDecoder:
    """A receiver's side. Feed it whatever arrives; the result does not depend on how the bytes are cut.

    Args:
        keys: node id to 32-byte key, at most 64 nodes.
        floor: node id to the last (boot, counter) accepted earlier; older frames count as replays.
        next_keys: node id to the key it is about to change to. Frames under either key are accepted until the first
            one under the new key: from then on the old key is refused, and `changed_keys` names the node.
        any_node_key: key for nodes that `keys` does not name, for tools that look at a capture.

    Raises:
        ConfigError: EG-C030 when a key or node id is not usable, or there are too many.
    """

    def __init__(
        self,
        keys: Mapping[int, bytes],
        *,
        floor: Mapping[int, tuple[int, int]] | None = None,
        next_keys: Mapping[int, bytes] | None = None,
        any_node_key: bytes | None = None,
    ) -> None:
        if not (1 if any_node_key is None else 0) <= len(keys) <= MAX_NODES:
            raise ConfigError(f"a link has 1 to {MAX_NODES} nodes, not {len(keys)}", code="EG-C030")
        self._any_node_key = any_node_key
        if any_node_key is not None:
            _require_node(1, any_node_key)
        self._keys = dict(keys)
        self._next_keys = dict(next_keys or {})
        for node_id, key in [*self._keys.items(), *self._next_keys.items()]:
            _require_node(node_id, key)
        if not self._next_keys.keys() <= self._keys.keys():
            raise ConfigError("a key change is announced for a node that the link does not have", code="EG-C030")
        self._changed: set[int] = set()
        self._last: dict[int, tuple[int, int]] = dict(floor or {})
        self._buffer = bytearray()
        self._overlong = False
        self._synced = False
        self._stats = LinkStats()

    @property
    def stats(self) -> LinkStats:
        """Totals by cause."""
        return self._stats

    @property
    def line_stats(self) -> LineStats:
        """Totals in the common shape: forged frames count as checksum failures."""
        s = self._stats
        return LineStats(s.bytes_received, s.frames, s.checksum_failures + s.forged, s.bytes_skipped, s.sequence_gaps)

    @property
    def last_accepted(self) -> Mapping[int, tuple[int, int]]:
        """Per node the last accepted (boot, counter): what to keep for `floor`."""
        return dict(self._last)

    @property
    def keys_in_use(self) -> Mapping[int, bytes]:
        """Per node the key that its newest accepted frame was under, or the one it began with."""
        return dict(self._keys)

    @property
    def changed_keys(self) -> frozenset[int]:
        """Nodes that have changed to their next key: their old key can be forgotten."""
        return frozenset(self._changed)

    def feed(self, data: bytes) -> list[LinkRecord]:
        """Return the records that `data` completes, in order. Never raises on the bytes' account."""
        self._count(bytes_received=len(data))
        records: list[LinkRecord] = []
        pieces = data.split(b"\0")
        for index, piece in enumerate(pieces):
            self._take(piece)
            if index < len(pieces) - 1:
                record = self._finish()
                if record is not None:
                    records.append(record)
        return records

    def _take(self, piece: bytes) -> None:
        room = MAX_ENCODED_BYTES - len(self._buffer)
        if self._overlong or len(piece) > room:
            self._count(bytes_skipped=len(piece) + len(self._buffer))
            self._buffer.clear()
            self._overlong = self._overlong or len(piece) > room
        else:
            self._buffer += piece

    def _finish(self) -> LinkRecord | None:
        encoded, overlong, synced = bytes(self._buffer), self._overlong, self._synced
        self._buffer.clear()
        self._overlong, self._synced = False, True
        if overlong:
            self._count(malformed=1 if synced else 0, bytes_skipped=1)
            return None
        if not encoded:
            return None
        cause, record = self._open(encoded)
        if record is not None:
            self._count(frames=1)
            return record
        self._count(bytes_skipped=len(encoded) + 1)
        if synced or cause in {"forged", "replayed"}:
            self._count(**{cause: 1})
        return None

    def _open(self, encoded: bytes) -> tuple[str, LinkRecord | None]:
        """Return ("", record), or the cause of refusal and None."""
        try:
            body = cobs.decode(encoded)
        except PacketError:
            return "malformed", None
        if len(body) < _HEADER.size + _TRAILER_BYTES or len(body) > MAX_BODY_BYTES:
            return "malformed", None
        covered, trailer = body[:-_TRAILER_BYTES], body[-_TRAILER_BYTES:]
        if _CRC.unpack_from(trailer)[0] != zlib.crc32(covered):
            return "checksum_failures", None
        version, message_type, node_id, boot, counter, device_time_us = _HEADER.unpack_from(covered)
        key = self._keys.get(
            node_id, self._any_node_key if len(self._last) < MAX_NODES or node_id in self._last else None
        )
        if version != VERSION or key is None:
            return "malformed", None
        tag, following = trailer[_CRC.size :], self._next_keys.get(node_id)
        authentic = hmac.compare_digest(tag, link_tag(key, covered))
        changes = not authentic and following is not None and hmac.compare_digest(tag, link_tag(following, covered))
        if not authentic and not changes:
            return "forged", None
        try:
            reading = decode_reading(message_type, covered[_HEADER.size :])
        except PacketError:
            return "malformed", None
        last = self._last.get(node_id)
        if last is not None and (boot, counter) <= last:
            return "replayed", None
        if last is not None and boot == last[0]:
            self._count(sequence_gaps=counter - last[1] - 1)
        self._last[node_id] = (boot, counter)
        if changes:
            self._keys[node_id] = self._next_keys.pop(node_id)
            self._changed.add(node_id)
        return "", LinkRecord(node_id, boot, counter, device_time_us, reading)

    def _count(self, **more: int) -> None:
        s = self._stats
        self._stats = LinkStats(
            s.bytes_received + more.get("bytes_received", 0),
            s.frames + more.get("frames", 0),
            s.checksum_failures + more.get("checksum_failures", 0),
            s.forged + more.get("forged", 0),
            s.replayed + more.get("replayed", 0),
            s.malformed + more.get("malformed", 0),
            s.bytes_skipped + more.get("bytes_skipped", 0),
            s.sequence_gaps + more.get("sequence_gaps", 0),
        )


def link_tag(key: bytes, covered: bytes) -> bytes:
    """Return the 8-byte tag over header and payload (RFC 2104, truncated as its section 5 allows)."""
    return hmac.new(key, _CONTEXT + covered, hashlib.sha256).digest()[:TAG_BYTES]


def _fixed(value: float, unit: float) -> int:
    scaled = value / unit
    if not -_LARGEST <= scaled <= _LARGEST:  # also refuses NaN
        raise PacketError("a reading is not finite or does not fit its field", code="EG-N032")
    return round(scaled)


def _require_node(node_id: int, key: bytes) -> None:
    if not 1 <= node_id <= 0xFFFF:
        raise ConfigError(f"node id {node_id} is not in 1..65535", code="EG-C030")
    if len(key) != KEY_BYTES:
        raise ConfigError(f"the key of node {node_id} is not {KEY_BYTES} bytes", code="EG-C030")
