"""SLAMTEC RPLIDAR: standard scan (5-byte nodes), express scan (84-byte capsules, legacy and dense), info and health.

What the sensor sends begins with a response descriptor that names the mode; a capture that begins in the middle is
recognised by its checksums. The ultra mode (132 bytes, patented packing) is not spoken: it is skipped by name.
Sans-IO. Firmware since 1.29 mixes responses into the stream, so descriptors are looked for everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.serial_lidar import (
    CAPSULE_BYTES,
    NODE_BYTES,
    decode_capsules,
    decode_dense,
    decode_nodes,
    find_capsules,
    find_nodes,
)
from edgeguard.types import LineStats, Scan2d

Mode = Literal["standard", "express", "dense", "ultra", "info", "health", "samplerate"]

DESCRIPTOR_BYTES: Final = 7
DESCRIPTORS: Final[dict[bytes, Mode]] = {
    bytes.fromhex("a55a0500004081"): "standard",
    bytes.fromhex("a55a5400004082"): "express",
    bytes.fromhex("a55a8400004084"): "ultra",
    bytes.fromhex("a55a5400004085"): "dense",
    bytes.fromhex("a55a1400000004"): "info",
    bytes.fromhex("a55a0300000006"): "health",
    bytes.fromhex("a55a0400000015"): "samplerate",
}
_ANY_DESCRIPTOR = re.compile(b"|".join(map(re.escape, DESCRIPTORS)))
REPLY_BYTES: Final[dict[Mode, int]] = {"info": 20, "health": 3, "samplerate": 4}
# What to write to a sensor: stop, reset is left to people; scan requests as the manual spells them.
STOP: Final = bytes.fromhex("a525")
START_STANDARD: Final = bytes.fromhex("a520")
START_EXPRESS: Final = bytes.fromhex("a58205000000000022")
GET_INFO: Final = bytes.fromhex("a550")
GET_HEALTH: Final = bytes.fromhex("a552")

# Without a descriptor, this much is looked at before the mode is settled: three capsules or two hundred nodes.
SNIFF_BYTES: Final = 1024
PIECE_BYTES: Final = 4096
SNIFF_NODES: Final = 20  # three fixed bits each: noise passes with 2^-60
SNIFF_CAPSULES: Final = 2
# A revolution of the densest model has 3200 points; more without a turn means angles that do not advance.
MAX_SCAN_POINTS: Final = 16_384
TYPICAL_CAPSULES: Final = 8  # the motor keeps its speed over this many; a larger step then is a loss


@dataclass(frozen=True, slots=True)
class RplidarInfo:
    """Answer to GET_INFO. firmware: (major, minor). serial_number: 32 hexadecimal digits."""

    model: int
    firmware: tuple[int, int]
    hardware: int
    serial_number: str


@dataclass(frozen=True, slots=True)
class RplidarHealth:
    """Answer to GET_HEALTH. status: good, warning or error."""

    status: str
    error_code: int


@dataclass(frozen=True, slots=True)
class RplidarPoints:
    """Consecutive measurements: one node's, or one capsule's 32 or 40. Angles clockwise from the front, degrees in
    [0, 360); a range of 0 means no return; quality 0..63, only in standard scans. turn: index of the first point of a
    new revolution among these, or None."""

    mode: str
    angle_deg: tuple[float, ...]
    range_m: tuple[float, ...]
    quality: tuple[int, ...]
    turn: int | None


@dataclass(frozen=True, slots=True, eq=False)
class RplidarScan:
    """One revolution, points without a return left out; arrays float32 (N,), angle_rad counter-clockwise (REP-103),
    intensity is quality / 63 in standard scans, else 0."""

    range_m: NDArray[np.float32]
    angle_rad: NDArray[np.float32]
    intensity: NDArray[np.float32]

    def sample(self, stamp_ns: int, sensor: str) -> Scan2d:
        """Return the value the pipeline works on, stamped with the receiver's time of arrival."""
        return Scan2d(self.range_m, self.angle_rad, self.intensity, stamp_ns, sensor)


Record = RplidarInfo | RplidarHealth | RplidarPoints


class RplidarPacketDecoder:
    """Nodes, capsules and answers in order of arrival; keeps at most `SNIFF_BYTES` and a capsule.

    Args:
        mode: what a stream without descriptor holds; None recognises it.
    """

    def __init__(self, mode: Mode | None = None) -> None:
        self._mode: Mode | None = mode
        self._buffer = b""
        self._quiet = 0
        self._stats = LineStats()
        self._capsule: tuple[int, NDArray[np.int32], NDArray[np.int32]] | None = None
        self._steps: list[int] = []
        self._raw_deg = 360.0

    @property
    def line_stats(self) -> LineStats:
        """Running totals; `frames` are nodes, capsules and answers, `sequence_gaps` capsules missing by angle."""
        return self._stats

    @property
    def mode(self) -> Mode | None:
        """What the stream holds now, None while that is not known."""
        return self._mode

    def feed(self, data: bytes) -> list[Record]:
        """Return the records that `data` completes; never raises on the bytes' account."""
        self._count(bytes_received=len(data))
        records: list[Record] = []
        # Piece by piece: cutting the buffer's front off costs its length, and a hostile line cuts at every descriptor.
        for start in range(0, len(data), PIECE_BYTES):
            self._feed(data[start : start + PIECE_BYTES], records)
        return records

    def _feed(self, data: bytes, records: list[Record]) -> None:
        self._buffer += data
        while True:
            at, mode = _next_descriptor(self._buffer)
            if mode is None:
                records += self._take(len(self._buffer) - _begun_descriptor(self._buffer), last=False)
                return
            records += self._take(at, last=True)
            self._buffer = self._buffer[DESCRIPTOR_BYTES:]
            self._mode, self._quiet, self._capsule = mode, 0, None
            self._steps.clear()

    def flush(self) -> list[Record]:
        """Return what is in hand at the end of a capture; its last capsule ends a typical step after its start."""
        records = self._take(len(self._buffer), last=True)
        if self._capsule is not None and self._steps:
            records.append(self._points(self._capsule[0] + sorted(self._steps)[len(self._steps) // 2]))
            self._capsule = None
        return records

    def _take(self, end: int, *, last: bool) -> list[Record]:
        """Decode the buffer up to `end`; with `last`, what is left of it then is skipped."""
        records: list[Record] = []
        while end > 0:
            part = self._buffer[:end]
            if self._mode is None:
                if len(part) < SNIFF_BYTES and not last:
                    return records
                self._mode = _sniff(part[:SNIFF_BYTES])
            more, used = self._decode(part, last=last)
            records += more
            self._buffer = self._buffer[used:]
            end -= used
            if used == 0 or self._mode is not None:
                break
        if last and end > 0:
            self._count(bytes_skipped=end)
            self._buffer = self._buffer[end:]
        return records

    def _decode(self, part: bytes, *, last: bool) -> tuple[list[Record], int]:
        """Return the records of `part` and how many bytes are done with."""
        if self._mode in REPLY_BYTES:
            size = REPLY_BYTES[self._mode]
            if len(part) < size:
                return [], 0
            records = _answer(self._mode, part[:size])
            self._count(frames=1)
            self._mode = None
            return records, size
        if self._mode == "standard":
            return self._nodes(part, last=last)
        if self._mode in {"express", "dense"}:
            return self._capsules(part)
        # Nothing we speak: half a window, so that what starts in its middle is seen whole in the next one.
        unknown = len(part) if self._mode == "ultra" else min(len(part), SNIFF_BYTES // 2)
        self._count(bytes_skipped=unknown)
        return [], unknown

    def _nodes(self, part: bytes, *, last: bool) -> tuple[list[Record], int]:
        raw = np.frombuffer(part, dtype=np.uint8)
        starts = np.empty(len(raw) // NODE_BYTES + 1, dtype=np.int64)
        count, skipped, used = find_nodes(raw, starts)
        if last and len(raw) - used >= NODE_BYTES and _is_node(part[used:]):
            starts[count] = used  # no successor to come
            count, used = count + 1, used + NODE_BYTES
        angle, distance, quality, first = decode_nodes(raw, starts[:count])
        self._count(frames=count, bytes_skipped=skipped)
        points = zip(angle.tolist(), distance.tolist(), quality.tolist(), first.tolist(), strict=True)
        return [
            RplidarPoints("standard", (a / 64 % 360.0,), (d / 4000,), (q,), 0 if s else None) for a, d, q, s in points
        ], used

    def _capsules(self, part: bytes) -> tuple[list[Record], int]:
        raw = np.frombuffer(part, dtype=np.uint8)
        starts = np.empty(len(raw) // CAPSULE_BYTES + 1, dtype=np.int64)
        count, failures, skipped, used, self._quiet = find_capsules(raw, self._quiet, starts)
        self._count(frames=count, checksum_failures=failures, bytes_skipped=skipped)
        if self._mode == "dense":
            distance, start, anew = decode_dense(raw, starts[:count])
            compensation = np.zeros_like(distance)
        else:
            distance, compensation, start, anew = decode_capsules(raw, starts[:count])
        records: list[Record] = []
        for c in range(count):
            if anew[c]:
                self._capsule = None
                self._steps.clear()
            if self._capsule is not None:
                records.append(self._points(int(start[c])))
            self._capsule = (int(start[c]), distance[c], compensation[c])
        return records, used

    def _points(self, next_q6: int) -> RplidarPoints:
        """The points of the capsule in hand, which end where the next capsule starts."""
        assert self._capsule is not None  # noqa: S101 - for the type checker; the only caller has looked
        start_q6, distance, compensation = self._capsule
        step_q6 = (next_q6 - start_q6) % (360 * 64)
        typical = sorted(self._steps)[len(self._steps) // 2] if len(self._steps) == TYPICAL_CAPSULES else 0
        if typical and step_q6 > 1.5 * typical:
            self._count(sequence_gaps=round(step_q6 / typical) - 1)
            step_q6 = typical
        else:
            self._steps = [*self._steps, step_q6][-TYPICAL_CAPSULES:]
        count = len(distance)
        raw_deg = (start_q6 / 64 + step_q6 / 64 / count * np.arange(count)) % 360.0
        turns = np.flatnonzero(np.diff(raw_deg, prepend=self._raw_deg) < -180.0)
        self._raw_deg = float(raw_deg[-1])
        angle_deg = (raw_deg - compensation / 8.0) % 360.0
        return RplidarPoints(
            mode=str(self._mode),
            angle_deg=tuple(angle_deg.tolist()),
            range_m=tuple((distance / 1000.0).tolist()),
            quality=(),
            turn=int(turns[0]) if len(turns) else None,
        )

    def _count(self, **more: int) -> None:
        s = self._stats
        self._stats = replace(s, **{name: getattr(s, name) + value for name, value in more.items()})


class RplidarDecoder:
    """Revolutions, for the pipeline. The first, incomplete one is left out."""

    def __init__(self, mode: Mode | None = None) -> None:
        self._packets = RplidarPacketDecoder(mode)
        self._angle: list[float] = []
        self._range: list[float] = []
        self._quality: list[int] = []
        self._whole = False
        self.info: RplidarInfo | None = None
        self.health: RplidarHealth | None = None

    @property
    def line_stats(self) -> LineStats:
        """Running totals of the line."""
        return self._packets.line_stats

    def feed(self, data: bytes) -> list[RplidarScan]:
        """Return the revolutions that `data` completes; never raises on the bytes' account."""
        scans: list[RplidarScan] = []
        for record in self._packets.feed(data):
            if isinstance(record, RplidarInfo):
                self.info = record
            elif isinstance(record, RplidarHealth):
                self.health = record
            else:
                scans += self._add(record)
        return scans

    def _add(self, points: RplidarPoints) -> list[RplidarScan]:
        turn = len(points.angle_deg) if points.turn is None else points.turn
        self._extend(points, 0, turn)
        scans = []
        if points.turn is not None or len(self._angle) > MAX_SCAN_POINTS:
            if self._whole and self._angle and points.turn is not None:
                scans.append(self._scan())
            self._whole = points.turn is not None
            self._angle, self._range, self._quality = [], [], []
        self._extend(points, turn, len(points.angle_deg))
        return scans

    def _extend(self, points: RplidarPoints, start: int, end: int) -> None:
        self._angle += points.angle_deg[start:end]
        self._range += points.range_m[start:end]
        self._quality += points.quality[start:end] or [0] * (end - start)

    def _scan(self) -> RplidarScan:
        range_m = np.array(self._range, dtype=np.float32)
        hit = range_m > 0.0
        angle = np.deg2rad(-np.array(self._angle) % 360.0).astype(np.float32)
        return RplidarScan(
            range_m[hit], angle[hit], (np.array(self._quality, dtype=np.float32) / np.float32(63.0))[hit]
        )


def _next_descriptor(data: bytes) -> tuple[int, Mode | None]:
    found = _ANY_DESCRIPTOR.search(data)
    return (len(data), None) if found is None else (found.start(), DESCRIPTORS[found[0]])


def _begun_descriptor(data: bytes) -> int:
    """How many bytes at the end may be the start of a descriptor."""
    tails = (size for size in range(DESCRIPTOR_BYTES - 1, 0, -1) if len(data) >= size)
    return next((n for n in tails if any(known.startswith(data[-n:]) for known in DESCRIPTORS)), 0)


def _sniff(part: bytes) -> Mode | None:
    raw = np.frombuffer(part, dtype=np.uint8)
    starts = np.empty(len(raw) // NODE_BYTES + 1, dtype=np.int64)
    if find_capsules(raw, 0, starts)[0] >= SNIFF_CAPSULES:
        return "express"
    count, skipped, _ = find_nodes(raw, starts)
    return "standard" if count >= SNIFF_NODES and skipped < len(part) // 4 else None


def _is_node(data: bytes) -> bool:
    return (data[0] ^ data[0] >> 1) & 1 == 1 and data[1] & 1 == 1


def _answer(mode: Mode, body: bytes) -> list[Record]:
    if mode == "info":
        return [RplidarInfo(body[0], (body[2], body[1]), body[3], body[4:20].hex())]
    if mode == "health":
        status = {0: "good", 1: "warning", 2: "error"}.get(body[0], f"unknown ({body[0]})")
        return [RplidarHealth(status, body[1] | body[2] << 8)]
    return []
