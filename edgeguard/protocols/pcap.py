"""Capture files, pcap and pcapng, byte by byte: sans-IO, bounded, any cut of input.

`CaptureReader` yields link-layer packets with their stamps; `edgeguard.protocols.udp` makes datagrams of them.
Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng. Every block that is not a packet or an interface is
skipped by its length.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

MAX_PACKET_BYTES = 262_144  # what libpcap itself takes as its largest snap length
MAX_BLOCK_BYTES = 1024 * 1024  # a pcapng block that is no packet; real ones are below 64 kB
MAX_INTERFACES = 256

_PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_SECTION = 0x0A0D0D0A
_SECTION_BYTES = b"\x0a\x0d\x0d\x0a"
_ORDER_MAGIC = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_INTERFACE, _OBSOLETE_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 2, 3, 6
_OPTION_END, _OPTION_TSRESOL, _OPTION_TSOFFSET = 0, 9, 14
_PCAP_HEADER_BYTES = 24
_PCAP_RECORD_BYTES = 16


class CaptureState(Enum):
    """How the file stands so far."""

    READING = "reading"
    FOREIGN = "foreign"  # not a capture file
    DAMAGED = "damaged"  # lengths contradict each other; nothing after this point can be found


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    """One link-layer packet. `stamp_ns` counts from 1970; `original_bytes` exceeds len(data) where it was cut."""

    stamp_ns: int
    link_type: int
    data: bytes
    original_bytes: int


@dataclass(frozen=True, slots=True)
class _Interface:
    link_type: int
    units_per_s: int
    offset_s: int
    snap_bytes: int


def is_capture(head: bytes) -> bool:
    """Whether a file that begins so is pcap or pcapng. Needs four bytes."""
    return head[:4] in _PCAP_MAGIC or head[:4] == _SECTION_BYTES


class CaptureReader:
    """A capture file's bytes in, packets out. Never raises on the bytes' account; see `state`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._state = CaptureState.READING
        self._order = "<"
        self._classic: _Interface | None = None
        self._interfaces: list[_Interface] = []
        self._section = False
        self._skip = 0
        self.bytes_received = 0
        self.packets = 0
        self.bytes_skipped = 0

    @property
    def state(self) -> CaptureState:
        return self._state

    @property
    def torn_bytes(self) -> int:
        """Bytes of a last packet or block that is not complete (yet)."""
        return len(self._buffer) + (1 if self._skip else 0) if self._state is CaptureState.READING else 0

    def feed(self, data: bytes) -> list[CapturedPacket]:
        """Return the packets that `data` completes, in file order."""
        self.bytes_received += len(data)
        if self._state is not CaptureState.READING:
            self.bytes_skipped += len(data)
            return []
        if self._skip:
            step = min(self._skip, len(data))
            self._skip -= step
            data = data[step:]
        self._buffer += data
        packets: list[CapturedPacket] = []
        at = 0  # `_one` returns 0 when the file turns out to be damaged, too
        while not self._skip and (length := self._one(at, packets)):
            at += length
        del self._buffer[:at]
        if self.state is not CaptureState.READING:
            self.bytes_skipped += len(self._buffer)
            self._buffer.clear()
        self.packets += len(packets)
        return packets

    def _one(self, at: int, packets: list[CapturedPacket]) -> int:
        """Take one element at `at`; return its length, 0 when it is not complete."""
        if self._classic is not None:
            return self._pcap_record(at, packets, self._classic)
        if self._section:
            return self._block(at, packets)
        head = bytes(self._buffer[at : at + 4])
        if len(head) < 4:
            return 0
        if head in _PCAP_MAGIC:
            return self._pcap_header(at, *_PCAP_MAGIC[head])
        if head == _SECTION_BYTES:
            return self._block(at, packets)
        return self._fail(CaptureState.FOREIGN)

    def _words(self, at: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"{self._order}{count}I", self._buffer, at)

    def _fail(self, state: CaptureState) -> int:
        self._state = state
        return 0

    def _pcap_header(self, at: int, order: str, unit_ns: int) -> int:
        if len(self._buffer) - at < _PCAP_HEADER_BYTES:
            return 0
        major, _, _, _, snap, link = struct.unpack_from(order + "HHiIII", self._buffer, at + 4)
        if major != 2:
            return self._fail(CaptureState.FOREIGN)
        self._order = order
        self._classic = _Interface(
            link & 0xFFFF, 1_000_000_000 // unit_ns, 0, min(snap or MAX_PACKET_BYTES, MAX_PACKET_BYTES)
        )
        return _PCAP_HEADER_BYTES

    def _pcap_record(self, at: int, packets: list[CapturedPacket], interface: _Interface) -> int:
        if len(self._buffer) - at < _PCAP_RECORD_BYTES:
            return 0
        seconds, fraction, kept, original = self._words(at, 4)
        if kept > MAX_PACKET_BYTES or fraction >= interface.units_per_s:
            return self._fail(CaptureState.DAMAGED)
        end = at + _PCAP_RECORD_BYTES + kept
        if len(self._buffer) < end:
            return 0
        stamp_ns = seconds * 1_000_000_000 + fraction * (1_000_000_000 // interface.units_per_s)
        data = bytes(self._buffer[at + _PCAP_RECORD_BYTES : end])
        packets.append(CapturedPacket(stamp_ns, interface.link_type, data, original))
        return end - at

    def _block(self, at: int, packets: list[CapturedPacket]) -> int:
        if len(self._buffer) - at < 12:
            return 0
        if self._buffer[at : at + 4] == _SECTION_BYTES:
            order = _ORDER_MAGIC.get(bytes(self._buffer[at + 8 : at + 12]))
            if order is None:
                return self._fail(CaptureState.DAMAGED if self._section else CaptureState.FOREIGN)
            self._order, self._section, self._interfaces = order, True, []
        kind, length = self._words(at, 2)
        if length < 12 or length % 4 != 0:
            return self._fail(CaptureState.DAMAGED)
        if length > MAX_BLOCK_BYTES:
            if kind in {_INTERFACE, _OBSOLETE_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET, _SECTION}:
                return self._fail(CaptureState.DAMAGED)
            there = len(self._buffer) - at
            self._skip = max(0, length - there)
            return min(length, there)
        if len(self._buffer) - at < length:
            return 0
        if self._words(at + length - 4, 1) != (length,):
            return self._fail(CaptureState.DAMAGED)
        self._take_block(kind, bytes(self._buffer[at + 8 : at + length - 4]), packets)
        return length

    def _take_block(self, kind: int, body: bytes, packets: list[CapturedPacket]) -> None:
        if kind == _INTERFACE:
            self._interface(body)
        elif kind == _ENHANCED_PACKET and len(body) >= 20:
            number, high, low, kept, original = struct.unpack_from(self._order + "5I", body)
            self._packet(body, 20, number, high << 32 | low, kept, original, packets)
        elif kind == _OBSOLETE_PACKET and len(body) >= 20:
            number, _, high, low, kept, original = struct.unpack_from(self._order + "HH4I", body)
            self._packet(body, 20, number, high << 32 | low, kept, original, packets)
        elif kind == _SIMPLE_PACKET and len(body) >= 4 and self._interfaces:
            (original,) = struct.unpack_from(self._order + "I", body)
            snap = self._interfaces[0].snap_bytes or MAX_PACKET_BYTES
            self._packet(body, 4, 0, 0, min(original, snap, len(body) - 4), original, packets)

    def _packet(
        self, body: bytes, head: int, number: int, ticks: int, kept: int, original: int, packets: list[CapturedPacket]
    ) -> None:
        if number >= len(self._interfaces) or kept > min(len(body) - head, MAX_PACKET_BYTES):
            self.bytes_skipped += len(body)
            return
        interface = self._interfaces[number]
        stamp_ns = ticks * 1_000_000_000 // interface.units_per_s + interface.offset_s * 1_000_000_000
        packets.append(CapturedPacket(stamp_ns, interface.link_type, body[head : head + kept], original))

    def _interface(self, body: bytes) -> None:
        if len(body) < 8 or len(self._interfaces) >= MAX_INTERFACES:
            self._fail(CaptureState.DAMAGED)
            return
        link, _, snap = struct.unpack_from(self._order + "HHI", body)
        options = _options(body[8:], self._order)
        resolution = options.get(_OPTION_TSRESOL, b"\x06")[:1] or b"\x06"
        power = min(resolution[0] & 0x7F, 63 if resolution[0] & 0x80 else 19)
        units = 2**power if resolution[0] & 0x80 else 10**power
        offset = options.get(_OPTION_TSOFFSET, b"")
        offset_s = struct.unpack(self._order + "q", offset)[0] if len(offset) == 8 else 0
        self._interfaces.append(_Interface(link, units, offset_s, snap))


def _options(data: bytes, order: str) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from(order + "HH", data, at)
        if code == _OPTION_END or at + 4 + length > len(data):
            break
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + (length + 3) // 4 * 4
    return found
