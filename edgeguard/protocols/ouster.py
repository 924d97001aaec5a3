"""Ouster UDP packets into sweeps and IMU samples. ATLAS AML.M0009: a lidar that is one of several senses.

`OusterDecoder` is sans-IO: one datagram per `feed`. It keeps at most two sweeps open, because packets of neighbouring
sweeps may swap on the way. A sweep is given as soon as its last column is there, or when the stream has moved on.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, radians

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import ouster as kernels
from edgeguard.protocols.ouster_metadata import OusterMetadata, PacketLayout
from edgeguard.protocols.ouster_sweep import OusterGeometry, OusterImu, OusterStatus, OusterSweep
from edgeguard.types import LineStats

IMU_BYTES = 48
STANDARD_GRAVITY_M_S2 = 9.80665  # the sensor reports specific force in it
MAX_FORCE_G = 64.0  # beyond every full scale the sensor's IMU has; larger values are damaged
MAX_RATE_DEG_S = 4000.0
TYPE_LIDAR = 1
CRC_PLACEHOLDER = 0xDEADBEEF0000C0DE  # what firmware 2.x writes where later ones write the CRC
# So many packets of the next sweep mean that what is missing of this one will not come.
REORDER_PACKETS = 8
# A sweep further ahead than this is taken only when the stream goes on there: one forged packet from the far future
# must not make the sensor's own packets late.
MAX_AHEAD_S = 2
# After so many late or far packets in a row it is the sensor's counter that jumped.
RESTART_PACKETS = 32

_IMU = struct.Struct("<3Q6f")


OusterRecord = OusterSweep | OusterImu


@dataclass(slots=True, eq=False)
class _Open:
    """A sweep that is being filled."""

    frame_id: int
    raw: NDArray[np.uint32]
    stamp_ns: NDArray[np.int64]
    state: NDArray[np.uint8]
    first: bool
    status: OusterStatus = field(default_factory=OusterStatus)
    to_come: int = 0
    packets: int = 0
    unchecked: int = 0
    first_column: int = 0


class OusterDecoder:
    """One sensor's datagrams in, sweeps and IMU samples out. Lidar and IMU packets may come mixed.

    Args:
        metadata: what the sensor said about itself; packets of another sensor, or of the same one after it was
            initialised anew (its format may differ now), are refused and counted.
    """

    def __init__(self, metadata: OusterMetadata) -> None:
        self._metadata, self._layout = metadata, metadata.layout
        self.geometry = OusterGeometry(metadata)
        width = metadata.columns_per_frame
        low, high = metadata.column_window
        columns = np.arange(width)
        inside = (columns >= low) & (columns <= high) if low <= high else (columns >= low) | (columns <= high)
        self._window = inside
        self._expected = int(inside.sum())
        self._frame_mask = 2**self._layout.frame_id_bits - 1
        self._column_words = self._layout.column_bytes(metadata.pixels_per_column) // 4
        self._tables = kernels.crc64_tables()
        self._crc_longs = (metadata.packet_bytes - 8) // 8
        self._crc_part = self._crc_longs // 4
        self._crc_advance = kernels.crc64_advance(self._crc_part)
        # As the header has them; empty where the metadata does not tell: then the first packet does.
        self._serial = metadata.serial.to_bytes(5, "little") if metadata.serial else b""
        self._init_id = metadata.init_id.to_bytes(3, "little") if metadata.init_id else b""
        self._crc_required = False
        self._open: list[_Open] = []
        self._last_closed: int | None = None
        self._started = False
        self._far_run = 0
        self._bytes = self._packets = self._crc_failures = self._skipped = self._gaps = 0
        self._drops: Counter[str] = Counter()
        self._status = OusterStatus()

    @property
    def metadata(self) -> OusterMetadata:
        return self._metadata

    @property
    def packet_bytes(self) -> int:
        """Payload size of a lidar packet."""
        return self._metadata.packet_bytes

    @property
    def accepted(self) -> int:
        """Packets taken so far."""
        return self._packets

    @property
    def line_stats(self) -> LineStats:
        """Totals: `frames` are packets accepted, `sequence_gaps` packets that never came."""
        return LineStats(self._bytes, self._packets, self._crc_failures, self._skipped, self._gaps)

    @property
    def drops(self) -> Mapping[str, int]:
        """Why packets or columns were not used, in totals. Per packet: wrong_size, other_type, other_sensor,
        reinitialised, checksum, out_of_sequence, malformed. Per column: invalid_columns, outside_columns,
        duplicate_columns."""
        return {reason: count for reason, count in self._drops.items() if count}

    @property
    def status(self) -> OusterStatus:
        """What the newest packet said about the sensor."""
        return self._status

    def feed(self, data: bytes) -> list[OusterRecord]:
        """Return what this datagram completes. Never raises on the bytes' account."""
        self._bytes += len(data)
        if len(data) == self._metadata.packet_bytes:
            return self._lidar(data)
        if len(data) == IMU_BYTES and self._metadata.imu_profile == "LEGACY":
            return self._imu(data)
        return self._refuse("wrong_size", data)

    def flush(self) -> list[OusterRecord]:
        """Return the sweeps that are still open: a recording is over."""
        records: list[OusterRecord] = []
        while self._open:
            self._close(records, at_end=len(self._open) == 1)
        return records

    def _refuse(self, reason: str, data: bytes) -> list[OusterRecord]:
        self._drops[reason] += 1
        self._skipped += len(data)
        return []

    def _imu(self, data: bytes) -> list[OusterRecord]:
        _, accel_ns, gyro_ns, *v = _IMU.unpack(data)
        limits = (MAX_FORCE_G,) * 3 + (MAX_RATE_DEG_S,) * 3
        if not all(isfinite(x) and abs(x) <= limit for x, limit in zip(v, limits, strict=True)):
            return self._refuse("malformed", data)
        self._packets += 1
        g, rate = STANDARD_GRAVITY_M_S2, radians
        force = (v[0] * g, v[1] * g, v[2] * g)
        return [OusterImu(accel_ns, gyro_ns, force, (rate(v[3]), rate(v[4]), rate(v[5])), self._metadata.imu_to_sensor)]

    def _lidar(self, data: bytes) -> list[OusterRecord]:
        refused = "" if self._layout.legacy else self._foreign(data)
        if refused:
            return self._refuse(refused, data)
        words = np.frombuffer(data, dtype="<u4")
        checked = self._layout.has_crc and self._crc_ok(words, data)
        if not checked and self._crc_required:
            self._crc_failures += 1
            return self._refuse("checksum", data)
        records: list[OusterRecord] = []
        sweep = self._sweep(_frame_id(self._layout, data), records)
        if sweep is None:
            self._refuse("out_of_sequence", data)
            return records
        self._packets += 1
        self._place(sweep, words, data, checked)
        waited = len(self._open) == 2 and self._open[1].packets >= REORDER_PACKETS
        if waited or (sweep is self._open[0] and self._complete(sweep)):
            self._close(records)
        return records

    def _complete(self, sweep: _Open) -> bool:
        if sweep.to_come > 0:
            return False
        sweep.to_come = int(np.count_nonzero(self._window & (sweep.state == kernels.UNSEEN)))
        return sweep.to_come == 0

    def _foreign(self, data: bytes) -> str:
        """Return why this packet is not of our sensor, empty when it is."""
        if self._layout.fusa:
            kind, init_id, serial = data[0], data[1:4], data[11:16]
        else:
            kind, init_id, serial = data[0] | data[1] << 8, data[4:7], data[7:12]
        if kind != TYPE_LIDAR:
            return "other_type"
        self._serial = self._serial or serial
        if serial != self._serial:
            return "other_sensor"
        self._init_id = self._init_id or init_id
        return "" if init_id == self._init_id else "reinitialised"

    def _crc_ok(self, words: NDArray[np.uint32], data: bytes) -> bool:
        """Whether the CRC is correct. Older firmware writes a placeholder or nothing in its place (and no document says
        since which release it is there), so that it is asked for from the first correct one on, of every packet."""
        carried = int.from_bytes(data[-8:], "little")
        if carried in {0, CRC_PLACEHOLDER} and not self._crc_required:
            return False  # spare the arithmetic
        longs = np.frombuffer(data, dtype="<u8", count=self._crc_longs)
        rest = words[2 * self._crc_longs : -2]
        if kernels.crc64(longs, rest, self._tables, self._crc_advance, self._crc_part) != carried:
            return False
        self._crc_required = True
        return True

    def _sweep(self, frame_id: int, records: list[OusterRecord]) -> _Open | None:
        """Return the open sweep this frame belongs to, None when it is over or too far ahead; close sweeps that the
        stream has left."""
        for sweep in self._open:
            if sweep.frame_id == frame_id:
                self._far_run = 0
                return sweep
        newest = self._open[-1].frame_id if self._open else self._last_closed
        if newest is not None:
            ahead = (frame_id - newest) & self._frame_mask
            if 0 < ahead <= MAX_AHEAD_S * self._metadata.frames_per_s:
                self._skip_frames(ahead - 1)
            else:
                self._far_run += 1
                if self._far_run < RESTART_PACKETS:
                    return None
                while self._open:
                    self._close(records)
        self._far_run = 0
        while len(self._open) >= 2:
            self._close(records)
        self._open.append(self._new(frame_id))
        return self._open[-1]

    def _skip_frames(self, frames: int) -> None:
        self._gaps += frames * -(-self._expected // self._metadata.columns_per_packet)

    def _new(self, frame_id: int) -> _Open:
        m = self._metadata
        first, self._started = not self._started, True
        return _Open(
            frame_id,
            np.empty((m.columns_per_frame, m.pixels_per_column * self.geometry.pixel_words), dtype=np.uint32),
            np.zeros(m.columns_per_frame, dtype=np.int64),
            np.zeros(m.columns_per_frame, dtype=np.uint8),
            first,
            to_come=self._expected,
        )

    def _place(self, sweep: _Open, words: NDArray[np.uint32], data: bytes, checked: bool) -> None:
        m = self._metadata
        header_words = self._layout.header_bytes // 4
        if sweep.packets == 0:
            sweep.first_column = int(words[header_words + 2]) & 0xFFFF
        sweep.packets += 1
        sweep.unchecked += not checked
        if not self._layout.legacy:
            sweep.status = self._status = _status(self._layout, data)
        stored, invalid, outside, duplicate = kernels.place_columns(
            words, header_words, self._column_words, m.columns_per_packet, self._layout.legacy,
            sweep.raw, sweep.stamp_ns, sweep.state, self._window,
        )  # fmt: skip
        if stored == m.columns_per_packet:
            sweep.to_come -= stored
            return
        self._drops["invalid_columns"] += invalid
        self._drops["outside_columns"] += outside
        self._drops["duplicate_columns"] += duplicate
        sweep.to_come = int(np.count_nonzero(self._window & (sweep.state == kernels.UNSEEN)))

    def _close(self, records: list[OusterRecord], *, at_end: bool = False) -> None:
        sweep = self._open.pop(0)
        self._last_closed = sweep.frame_id
        unseen = self._window & (sweep.state == kernels.UNSEEN)
        empty = sweep.state != kernels.VALID
        sweep.raw[empty] = 0  # it was not cleared before
        missing = int(np.count_nonzero(self._window & empty))
        if sweep.first:
            unseen[: sweep.first_column] = False  # before the recording began
        if at_end:
            seen = np.flatnonzero(sweep.state != kernels.UNSEEN)
            unseen[(int(seen[-1]) if len(seen) else 0) :] = False  # after it ended
        lost = -(-int(np.count_nonzero(unseen)) // self._metadata.columns_per_packet)
        self._gaps += lost
        records.append(
            OusterSweep(
                sweep.frame_id,
                sweep.raw,
                sweep.stamp_ns,
                sweep.state,
                missing,
                missing > 0 and (sweep.first or at_end),
                sweep.unchecked == 0,
                sweep.status,
                self.geometry,
            )
        )


def _frame_id(layout: PacketLayout, data: bytes) -> int:
    if layout.legacy:
        return data[10] | data[11] << 8
    if layout.fusa:
        return int.from_bytes(data[4:8], "little")
    return data[2] | data[3] << 8


def _status(layout: PacketLayout, data: bytes) -> OusterStatus:
    alert, limits = data[8] if layout.fusa else data[12], data[16:20]
    if alert == 0 and limits == b"\0\0\0\0":
        return _NORMAL
    return OusterStatus(alert, limits[2] & 0x0F, limits[3] & 0x0F, limits[0], limits[1])


_NORMAL = OusterStatus()
