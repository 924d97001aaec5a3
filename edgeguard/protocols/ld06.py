"""LDROBOT LD06 and LD19: 47-byte packets of 12 points with a CRC-8, out of a byte stream with anything in between.

`Ld06Packets` are arrays, for speed: one call decodes as many packets as the bytes hold. `Ld06Decoder` cuts them into
revolutions. Sans-IO; line rate 230400 baud, 4500 points a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.serial_lidar import (
    LD06_BYTES,
    LD06_CIRCLE_CDEG,
    LD06_CRC_TABLES,
    LD06_POINTS,
    LD06_WRAP_MS,
    count_missing_ld06,
    decode_ld06,
    find_ld06,
)
from edgeguard.types import LineStats, Scan2d

# The motor turns at 5 to 13 Hz; at a standstill or beyond a spinning top, the field is damaged.
MAX_SPEED_DEG_S = 13 * 360 * 2
# A revolution at 5 Hz has 900 points; more without a turn means angles that do not advance.
MAX_SCAN_PACKETS = 256
# Packets are 2.7 ms apart. A larger step is a gap or a damaged stamp: believed once the stream goes on there.
MAX_STEP_MS = 50
STEP_PACKETS = 4
_LARGEST_HEAD = np.array([MAX_SPEED_DEG_S, LD06_CIRCLE_CDEG, LD06_CIRCLE_CDEG, 0xFFFF], dtype=np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class Ld06Packets:
    """P packets. speed_deg_s, start_cdeg, end_cdeg (0.01 deg, clockwise from the front), timestamp_ms: (P,) uint16.
    distance_mm (0: no return): (P, 12) uint16. intensity: (P, 12) uint8."""

    speed_deg_s: NDArray[np.uint16]
    start_cdeg: NDArray[np.uint16]
    end_cdeg: NDArray[np.uint16]
    timestamp_ms: NDArray[np.uint16]
    distance_mm: NDArray[np.uint16]
    intensity: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.start_cdeg)

    def angles_deg(self) -> NDArray[np.float64]:
        """Return (P, 12) angles in [0, 360), clockwise from the front, evenly spaced from start to end."""
        start = self.start_cdeg.astype(np.float64)[:, None]
        span = (self.end_cdeg.astype(np.float64)[:, None] - start) % LD06_CIRCLE_CDEG
        angles: NDArray[np.float64] = (start + span * np.arange(LD06_POINTS) / (LD06_POINTS - 1)) % LD06_CIRCLE_CDEG
        return angles / 100.0


@dataclass(frozen=True, slots=True)
class Ld06Packet:
    """One packet as plain numbers, for people. Angles clockwise from the front; a range of 0 means no return."""

    speed_deg_s: int
    start_angle_deg: float
    end_angle_deg: float
    timestamp_ms: int
    range_m: tuple[float, ...]
    intensity: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Ld06Scan:
    """One revolution: range_m, angle_rad (counter-clockwise, as REP-103 has it) and intensity (0..1), float32 (N,).

    Points without a return are left out. timestamp_ms: of the last packet, by the sensor's clock, which wraps.
    """

    range_m: NDArray[np.float32]
    angle_rad: NDArray[np.float32]
    intensity: NDArray[np.float32]
    timestamp_ms: int
    device_ns: int

    def sample(self, stamp_ns: int, sensor: str) -> Scan2d:
        """Return the value the pipeline works on, stamped with the receiver's time of arrival."""
        return Scan2d(self.range_m, self.angle_rad, self.intensity, stamp_ns, sensor, self.device_ns)


class Ld06Framer:
    """Bytes to packets; keeps at most 46 bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._quiet = 0
        self._stats = LineStats()
        self._last = np.zeros(3, dtype=np.int64)

    @property
    def line_stats(self) -> LineStats:
        """Running totals; `sequence_gaps` counts packets that are missing by angle and time."""
        return self._stats

    def packets(self, data: bytes) -> Ld06Packets:
        """Return the packets that `data` completes."""
        raw = np.frombuffer(self._rest + data if self._rest else data, dtype=np.uint8)
        starts = np.empty(len(raw) // LD06_BYTES + 1, dtype=np.int64)
        count, failures, skipped, used, self._quiet = find_ld06(raw, LD06_CRC_TABLES, self._quiet, starts)
        self._rest = raw[used:].tobytes()
        distance, intensity, head = decode_ld06(raw, starts[:count])
        sane = (head <= _LARGEST_HEAD).all(axis=1)
        if not sane.all():
            # A correct checksum over impossible values: eight bits let one damaged packet in 256 through.
            wrong = int(count - sane.sum())
            failures, skipped, count = failures + wrong, skipped + wrong * LD06_BYTES, count - wrong
            distance, intensity, head = distance[sane], intensity[sane], np.ascontiguousarray(head[sane])
        packets = Ld06Packets(head[:, 0], head[:, 1], head[:, 2], head[:, 3], distance, intensity)
        s = self._stats
        self._stats = replace(
            s,
            bytes_received=s.bytes_received + len(data),
            frames=s.frames + count,
            checksum_failures=s.checksum_failures + failures,
            bytes_skipped=s.bytes_skipped + skipped,
            sequence_gaps=s.sequence_gaps + count_missing_ld06(head, self._last),
        )
        return packets

    def flush(self) -> None:
        """Count what is left at the end of a capture as skipped."""
        self._stats = replace(self._stats, bytes_skipped=self._stats.bytes_skipped + len(self._rest))
        self._rest = b""


class Ld06PacketDecoder:
    """Packets one by one, for looking at a line."""

    def __init__(self) -> None:
        self._framer = Ld06Framer()

    @property
    def line_stats(self) -> LineStats:
        return self._framer.line_stats

    def feed(self, data: bytes) -> list[Ld06Packet]:
        """Return the packets that `data` completes; never raises on the bytes' account."""
        found = self._framer.packets(data)
        return [
            Ld06Packet(
                speed_deg_s=int(found.speed_deg_s[p]),
                start_angle_deg=int(found.start_cdeg[p]) / 100,
                end_angle_deg=int(found.end_cdeg[p]) / 100,
                timestamp_ms=int(found.timestamp_ms[p]),
                range_m=tuple(mm / 1000 for mm in found.distance_mm[p].tolist()),
                intensity=tuple(found.intensity[p].tolist()),
            )
            for p in range(len(found))
        ]

    def flush(self) -> list[Ld06Packet]:
        """Count what is left at the end of a capture as skipped; gives nothing."""
        self._framer.flush()
        return []


class _UnwrappedClock:
    """The sensor's milliseconds without the wrap every 30 s.

    One damaged stamp (eight bits of checksum let one in 256 through) must not count as a wrap: what the stream does not
    confirm is passed over, and a confirmed step back by less than half a wrap is a correction. A gap of more than 15 s
    cannot be told from one and shows as a clock that was set.
    """

    def __init__(self) -> None:
        self.device_ms = 0
        self._last_ms: int | None = None
        self._held: list[int] = []

    def take(self, time_ms: int) -> None:
        """Follow one packet's stamp."""
        if self._last_ms is None:
            self.device_ms = self._last_ms = time_ms
            return
        step_ms = (time_ms - self._last_ms) % LD06_WRAP_MS
        if step_ms > MAX_STEP_MS:
            if self._held and (time_ms - self._held[-1]) % LD06_WRAP_MS > MAX_STEP_MS:
                self._held.clear()
            self._held.append(time_ms)
            if len(self._held) < STEP_PACKETS:
                return
        self._held.clear()
        self.device_ms += step_ms if step_ms <= LD06_WRAP_MS // 2 else step_ms - LD06_WRAP_MS
        self._last_ms = time_ms


class Ld06Decoder:
    """Revolutions, for the pipeline. The first, incomplete one is left out."""

    def __init__(self) -> None:
        self._framer = Ld06Framer()
        self._parts: list[tuple[NDArray[np.float64], NDArray[np.uint16], NDArray[np.uint8]]] = []
        self._last_cdeg: int | None = None
        self._whole = False
        self._clock = _UnwrappedClock()
        self._last_ms = 0

    @property
    def line_stats(self) -> LineStats:
        """Running totals of the line; `frames` are packets."""
        return self._framer.line_stats

    def feed(self, data: bytes) -> list[Ld06Scan]:
        """Return the revolutions that `data` completes; never raises on the bytes' account."""
        found = self._framer.packets(data)
        scans: list[Ld06Scan] = []
        angles = found.angles_deg() if len(found) else np.zeros((0, LD06_POINTS))
        for p in range(len(found)):
            start, time_ms = int(found.start_cdeg[p]), int(found.timestamp_ms[p])
            turned = self._last_cdeg is not None and start < self._last_cdeg
            if turned or len(self._parts) >= MAX_SCAN_PACKETS:
                if self._whole and self._parts:
                    scans.append(self._scan())
                self._whole = turned
                self._parts.clear()
            self._clock.take(time_ms)
            self._last_cdeg, self._last_ms = start, time_ms
            self._parts.append((angles[p], found.distance_mm[p], found.intensity[p]))
        return scans

    def _scan(self) -> Ld06Scan:
        angle = np.concatenate([part[0] for part in self._parts])
        distance = np.concatenate([part[1] for part in self._parts])
        intensity = np.concatenate([part[2] for part in self._parts])
        hit = distance > 0
        return Ld06Scan(
            range_m=(distance[hit] / np.float32(1000.0)).astype(np.float32),
            angle_rad=np.deg2rad(-angle[hit] % 360.0).astype(np.float32),
            intensity=(intensity[hit] / np.float32(255.0)).astype(np.float32),
            timestamp_ms=self._last_ms,
            device_ns=self._clock.device_ms * 1_000_000,
        )


def encode_packet(packet: Ld06Packet) -> bytes:
    """Return the 47 bytes of a packet: what a sensor sends, for the simulator and for tests."""
    out = bytearray((0x54, 0x2C))
    out += packet.speed_deg_s.to_bytes(2, "little")
    out += round(packet.start_angle_deg * 100).to_bytes(2, "little")
    for range_m, strength in zip(packet.range_m, packet.intensity, strict=True):
        out += round(range_m * 1000).to_bytes(2, "little") + bytes((strength,))
    out += round(packet.end_angle_deg * 100).to_bytes(2, "little")
    out += packet.timestamp_ms.to_bytes(2, "little")
    crc = int(np.bitwise_xor.reduce(LD06_CRC_TABLES[np.arange(len(out)), np.frombuffer(out, dtype=np.uint8)]))
    return bytes(out) + bytes((crc,))
