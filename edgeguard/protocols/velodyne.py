"""Velodyne UDP packets (VLP-16 and its siblings) into sweeps and position fixes.

`VelodyneDecoder` is sans-IO: one datagram per `feed`. The packets carry neither a sequence number nor a checksum nor a
serial number; loss is read from their time stamps. A sweep ends where the azimuth passes zero.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ConfigError
from edgeguard.kernels import velodyne as kernels
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.gnss_record import GnssRecord
from edgeguard.protocols.sweeps import Points, range_summary
from edgeguard.protocols.velodyne_models import DUAL, LAST, MODELS, STRONGEST, VelodyneModel
from edgeguard.types import LineStats, PointCloud

DATA_BYTES = kernels.PACKET_BYTES
POSITION_BYTES = 512
HOUR_US = 3_600_000_000
BLOCK_FLAG = 0xEEFF
# 5 Hz, dual return, 32 lasers is 603 packets a turn; more means that the head does not turn.
MAX_SWEEP_PACKETS = 1024
# A packet further ahead than this is taken only when the stream goes on there: one forged packet from the far future
# must not make the sensor's own packets late.
MAX_AHEAD_US = 2_000_000
RESTART_PACKETS = 32  # after so many packets in a row from the past or the far future it is the clock that was set
KEEP = {"strongest": kernels.KEEP_STRONGEST, "last": kernels.KEEP_LAST, "both": kernels.KEEP_BOTH}

_PACKET = struct.Struct("<" + "HH96x" * kernels.BLOCKS + "IBB")
_POSITION_AT, _PPS_AT, _NMEA_AT = 0xC6, 0xCA, 0xCE


@dataclass(frozen=True, slots=True, eq=False)
class VelodyneSweep:
    """One turn of the head.

    xyz: (N, 3) float32 metres, REP-103. intensity 0..1. ring: 0 is the lowest beam. time_offset_ns: from the last
    firing, never positive. kind: (N,) uint8, bit 1 strongest, bit 2 last return. device_stamp_ns: the sensor's
    time of the last firing, counted from the top of the hour in which the sensor was first heard.
    turned_deg: how much of the circle was swept. partial: the stream began or ended inside.
    """

    model: str
    return_mode: int
    xyz: NDArray[np.float32]
    intensity: NDArray[np.float32]
    ring: NDArray[np.int16]
    time_offset_ns: NDArray[np.int32]
    kind: NDArray[np.uint8]
    device_stamp_ns: int
    packets: int
    turned_deg: float
    partial: bool

    def points(self) -> Points:
        """Return xyz, intensity, ring and time offset, in the order of the packets."""
        return self.xyz, self.intensity, self.ring, self.time_offset_ns

    def summary(self) -> dict[str, object]:
        """Return what matters of a sweep in a few numbers, for people and for JSON."""
        return {
            "model": self.model,
            "return_mode": self.return_mode,
            "last_firing_device_ns": self.device_stamp_ns,
            "packets": self.packets,
            "turned_deg": self.turned_deg,
            "partial": self.partial,
            **range_summary(self.xyz),
        }

    def sample(self, stamp_ns: int, sensor: str) -> PointCloud:
        """Return the value the pipeline works on; `stamp_ns` is when the last packet arrived."""
        return PointCloud(
            self.xyz, self.intensity, stamp_ns, sensor, self.ring, self.time_offset_ns, self.device_stamp_ns
        )


VelodyneRecord = VelodyneSweep | GnssRecord


class VelodyneDecoder:
    """One sensor's data and position packets in, sweeps and fixes out.

    Args:
        returns: which of two returns of a firing stays in dual mode: "strongest", "last" or "both".

    Raises:
        ConfigError: EG-C133 when `returns` is none of them.
    """

    def __init__(self, *, returns: str = "strongest") -> None:
        if returns not in KEEP:
            raise ConfigError(f"returns is one of {', '.join(KEEP)}", code="EG-C133")
        self._keep = KEEP[returns]
        self._model: VelodyneModel | None = None
        self._mode = 0
        self._packets: list[bytes] = []
        self._spans: list[tuple[int, int]] = []
        self._stamps_us: list[int] = []
        self._turned = 0
        self._azimuth: int | None = None
        self._hours_us = 0
        self._last_us: int | None = None
        self._far_run = 0
        self._started = False
        self._nmea = GnssDecoder()
        self._sentence = b""
        self._bytes = self._accepted = self._skipped = self._gaps = 0
        self._drops: Counter[str] = Counter()
        self.pps_status: int | None = None

    @property
    def packet_bytes(self) -> int:
        """Payload size of a data packet."""
        return DATA_BYTES

    @property
    def accepted(self) -> int:
        """Packets taken so far."""
        return self._accepted

    @property
    def line_stats(self) -> LineStats:
        """Totals: `frames` are packets accepted, `sequence_gaps` packets that never came, by the sensor's clock.

        Checksum failures are those of the NMEA sentences in position packets; data packets have no checksum.
        """
        failures = self._nmea.line_stats.checksum_failures
        return LineStats(self._bytes, self._accepted, failures, self._skipped, self._gaps)

    @property
    def drops(self) -> Mapping[str, int]:
        """Why packets were not used, in totals: wrong_size, malformed, unknown_model, other_sensor,
        out_of_sequence."""
        return dict(self._drops)

    def feed(self, data: bytes) -> list[VelodyneRecord]:
        """Return what this datagram completes. Never raises on the bytes' account."""
        self._bytes += len(data)
        if len(data) == DATA_BYTES:
            return self._data(data)
        if len(data) == POSITION_BYTES:
            return self._position(data)
        return self._refuse("wrong_size", data)

    def flush(self) -> list[VelodyneRecord]:
        """Return the sweep that is under way: a recording is over."""
        return [self._close(partial=True)] if self._packets else []

    def _refuse(self, reason: str, data: bytes) -> list[VelodyneRecord]:
        self._drops[reason] += 1
        self._skipped += len(data)
        return []

    def _data(self, data: bytes) -> list[VelodyneRecord]:
        *blocks, stamp_us, mode, product = _PACKET.unpack(data)
        azimuths = blocks[1::2]
        if any(flag != BLOCK_FLAG for flag in blocks[0::2]) or max(azimuths) >= kernels.TURN or stamp_us >= HOUR_US:
            return self._refuse("malformed", data)
        model = MODELS.get(product)
        if model is None or mode not in {STRONGEST, LAST, DUAL}:
            return self._refuse("unknown_model", data)
        if self._model is None:
            self._model, self._mode = model, mode
        if model is not self._model:
            return self._refuse("other_sensor", data)
        records: list[VelodyneRecord] = []
        if mode != self._mode:  # the user changed it: what was measured before belongs to another kind of sweep
            records += self.flush()
            self._mode = mode
        if not self._on_time(stamp_us, model, records):
            self._refuse("out_of_sequence", data)
            return records
        self._accepted += 1
        self._take(data, azimuths, self._hours_us + stamp_us, records)
        return records

    def _on_time(self, stamp_us: int, model: VelodyneModel, records: list[VelodyneRecord]) -> bool:
        """Whether the packet follows the one before; count those missing between, and full hours. Where time jumped,
        the sweep before the jump is closed."""
        last = self._last_us
        if last is not None:
            ahead = (stamp_us - last) % HOUR_US
            if 0 < ahead <= MAX_AHEAD_US:
                self._gaps += max(0, round(ahead * 1000.0 / model.packet_ns(dual=self._mode == DUAL)) - 1)
            else:
                self._far_run += 1
                if self._far_run < RESTART_PACKETS:
                    return False
                records += self.flush()
                self._azimuth, self._started = None, False
            if stamp_us < last and ahead < HOUR_US // 2:
                self._hours_us += HOUR_US
        self._far_run = 0
        self._last_us = stamp_us
        return True

    def _take(self, data: bytes, azimuths: list[int], stamp_us: int, records: list[VelodyneRecord]) -> None:
        first = 0
        for block, azimuth in enumerate(azimuths):
            before = self._azimuth
            self._azimuth = azimuth
            if before is None:
                continue
            step = azimuth - before
            # Passing zero is a large step down; a small one is a packet out of order or a head that is pushed back.
            if step < -kernels.TURN // 2:
                if block > first:
                    self._keep_span(data, first, block, stamp_us)
                first = block
                if self._packets:
                    records.append(self._close(partial=not self._started))
                self._started = True
            else:
                self._turned += max(step, 0)
        self._keep_span(data, first, kernels.BLOCKS, stamp_us)
        if len(self._packets) >= MAX_SWEEP_PACKETS:
            records.append(self._close(partial=True))

    def _keep_span(self, data: bytes, first: int, end: int, stamp_us: int) -> None:
        self._packets.append(data)
        self._spans.append((first, end))
        self._stamps_us.append(stamp_us)

    def _close(self, *, partial: bool) -> VelodyneSweep:
        model = self._model
        assert model is not None  # noqa: S101 - a packet set it before it could be kept
        dual = self._mode == DUAL
        packets = np.frombuffer(b"".join(self._packets), dtype=np.uint8).reshape(-1, DATA_BYTES).copy()
        packet_ns = np.array(self._stamps_us, dtype=np.int64) * 1000
        last_block = (self._spans[-1][1] - 1) // (2 if dual else 1)
        firing_ns = model.firing_ns()
        end_ns = int(packet_ns[-1] + last_block * model.period_ns * model.firings + firing_ns[-1])
        xyz, intensity, ring, offset_ns, kind = kernels.sweep_points(
            packets,
            np.array(self._spans, dtype=np.int64),
            packet_ns,
            end_ns,
            self._keep,
            dual,
            model.firings,
            model.period_ns,
            model.lasers(),
            model.rings(),
            firing_ns,
            model.unit_m,
        )
        sweep = VelodyneSweep(
            model.name, self._mode, xyz, intensity, ring, offset_ns, kind, end_ns, len(packets),
            self._turned / 100.0, partial,
        )  # fmt: skip
        self._packets, self._spans, self._stamps_us, self._turned = [], [], [], 0
        return sweep

    def _position(self, data: bytes) -> list[VelodyneRecord]:
        (stamp_us,) = struct.unpack_from("<I", data, _POSITION_AT)
        if stamp_us >= HOUR_US:
            return self._refuse("malformed", data)
        self._accepted += 1
        self.pps_status = data[_PPS_AT]
        sentence = data[_NMEA_AT:].split(b"\0", 1)[0].rstrip(b"\r\n")
        if not sentence or sentence == self._sentence:  # the sensor repeats the sentence until the next one comes
            return []
        self._sentence = sentence
        return list(self._nmea.feed(sentence + b"\r\n"))
