"""UDP datagrams out of captured link-layer packets: Ethernet with VLANs, Linux cooked, raw IP, loopback; IPv4 and IPv6
with reassembly of fragments. Sans-IO and bounded.

Lidar packets are larger than an Ethernet frame, so most of a capture consists of fragments.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from edgeguard.protocols.pcap import CapturedPacket

MAX_DATAGRAM_BYTES = 65_535
MAX_PARTIAL_DATAGRAMS = 64  # the oldest is given up for a new one; a sensor has one or two under way
MAX_FRAGMENTS = 64  # of one datagram: 65 kB in pieces of 1 kB; more is an attack on the reassembly
FRAGMENT_TIMEOUT_NS = 5_000_000_000  # Linux waits 30 s; a sensor's fragments follow each other within microseconds
MAX_VLAN_TAGS = 4
MAX_EXTENSION_HEADERS = 8

_NULL, _ETHERNET, _RAW_12, _RAW_14, _RAW_101, _LOOP, _COOKED, _IPV4, _IPV6, _COOKED2 = (
    0, 1, 12, 14, 101, 108, 113, 228, 229, 276,
)  # fmt: skip
_TYPE_IPV4, _TYPE_IPV6 = 0x0800, 0x86DD
_VLAN_TYPES = frozenset({0x8100, 0x88A8, 0x9100})
_UDP, _FRAGMENT_HEADER = 17, 44
_SKIPPED_HEADERS = frozenset({0, 43, 60})  # hop-by-hop, routing, destination options


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP datagram. `stamp_ns` is when its last fragment was captured, nanoseconds since 1970."""

    stamp_ns: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes


@dataclass(slots=True)
class _Partial:
    """Fragments of one datagram, by offset."""

    first_ns: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    total: int | None = None


class UdpReader:
    """Captured packets in, datagrams out. `drops` counts by reason what was no UDP or could not be completed."""

    def __init__(self) -> None:
        self._partial: OrderedDict[tuple[bytes, bytes, int], _Partial] = OrderedDict()
        self._drops: Counter[str] = Counter()

    @property
    def drops(self) -> Mapping[str, int]:
        """Totals: not_ip, not_udp, cut (by the snap length), malformed, fragments_lost, fragments_overlap."""
        return dict(self._drops)

    @property
    def pending(self) -> int:
        """Datagrams of which some fragments have come."""
        return len(self._partial)

    def feed(self, packet: CapturedPacket) -> Datagram | None:
        """Return the datagram that this packet is or completes. Never raises on the packet's account."""
        kind, at = _network_layer(packet.link_type, packet.data)
        if kind == _TYPE_IPV4:
            return self._ipv4(packet, at)
        if kind == _TYPE_IPV6:
            return self._ipv6(packet, at)
        return self._drop("not_ip")

    def _drop(self, reason: str) -> Datagram | None:
        self._drops[reason] += 1
        return None

    def _ipv4(self, packet: CapturedPacket, at: int) -> Datagram | None:
        data = packet.data
        if len(data) < at + 20 or data[at] >> 4 != 4:
            return self._drop("malformed")
        header = (data[at] & 0x0F) * 4
        total, ident, flags = struct.unpack_from(">HHH", data, at + 2)
        if data[at + 9] != _UDP:
            return self._drop("not_udp")
        if total == 0:  # segmentation offload: the length was left to the card
            total = len(data) - at
        if header < 20 or total < header:
            return self._drop("malformed")
        if at + total > len(data):
            return self._drop("cut")
        source, destination = data[at + 12 : at + 16], data[at + 16 : at + 20]
        body = data[at + header : at + total]
        offset, more = (flags & 0x1FFF) * 8, bool(flags & 0x2000)
        if offset or more:
            whole = self._reassemble((source, destination, ident), offset, more, body, packet.stamp_ns)
            if whole is None:
                return None
            body = whole
        return self._udp(packet.stamp_ns, str(IPv4Address(source)), str(IPv4Address(destination)), body)

    def _ipv6(self, packet: CapturedPacket, at: int) -> Datagram | None:
        data = packet.data
        if len(data) < at + 40 or data[at] >> 4 != 6:
            return self._drop("malformed")
        (length,) = struct.unpack_from(">H", data, at + 4)
        source, destination = data[at + 8 : at + 24], data[at + 24 : at + 40]
        kind, here, end = data[at + 6], at + 40, at + 40 + length
        if end > len(data):
            return self._drop("cut")
        fragment: tuple[int, bool, int] | None = None
        for _ in range(MAX_EXTENSION_HEADERS):
            if kind in _SKIPPED_HEADERS and here + 8 <= end:
                kind, here = data[here], here + 8 + data[here + 1] * 8
            elif kind == _FRAGMENT_HEADER and here + 8 <= end and fragment is None:
                field_, ident = struct.unpack_from(">HI", data, here + 2)
                fragment = (field_ & 0xFFF8, bool(field_ & 1), ident)
                kind, here = data[here], here + 8
            else:
                break
        if kind != _UDP:
            return self._drop("not_udp")
        if here > end:
            return self._drop("malformed")
        body = data[here:end]
        if fragment is not None and (fragment[0] or fragment[1]):
            whole = self._reassemble(
                (source, destination, fragment[2]), fragment[0], fragment[1], body, packet.stamp_ns
            )
            if whole is None:
                return None
            body = whole
        return self._udp(packet.stamp_ns, str(IPv6Address(source)), str(IPv6Address(destination)), body)

    def _udp(self, stamp_ns: int, source: str, destination: str, body: bytes) -> Datagram | None:
        if len(body) < 8:
            return self._drop("malformed")
        source_port, destination_port, length, _ = struct.unpack_from(">4H", body)
        if length == 0 and len(body) > 8:  # a capture of segmentation offload, as above
            length = len(body)
        if not 8 <= length <= len(body):
            return self._drop("malformed")
        return Datagram(stamp_ns, source, source_port, destination, destination_port, body[8:length])

    def _reassemble(
        self, key: tuple[bytes, bytes, int], offset: int, more: bool, body: bytes, stamp_ns: int
    ) -> bytes | None:
        """Return the datagram's bytes when this fragment completes it."""
        self._expire(stamp_ns)
        partial = self._partial.get(key)
        if partial is None:
            if len(self._partial) >= MAX_PARTIAL_DATAGRAMS:
                self._partial.popitem(last=False)
                self._drop("fragments_lost")
            partial = self._partial[key] = _Partial(stamp_ns)
        if not self._fits(partial, offset, more, body):
            # Overlapping fragments are refused whole, as RFC 5722 asks: they serve only to slip past a filter.
            del self._partial[key]
            self._drop("fragments_overlap")
            return None
        partial.pieces[offset] = body
        if partial.total is None or sum(map(len, partial.pieces.values())) < partial.total:
            return None
        del self._partial[key]
        return b"".join(partial.pieces[start] for start in sorted(partial.pieces))

    @staticmethod
    def _fits(partial: _Partial, offset: int, more: bool, body: bytes) -> bool:
        end = offset + len(body)
        if partial.pieces.get(offset) == body:
            return True  # the same once more
        if not body or end > MAX_DATAGRAM_BYTES or (more and len(body) % 8) or len(partial.pieces) >= MAX_FRAGMENTS:
            return False
        if any(start < end and offset < start + len(piece) for start, piece in partial.pieces.items()):
            return False
        if not more:
            if partial.total is not None or any(start > offset for start in partial.pieces):
                return False
            partial.total = end
        return partial.total is None or end <= partial.total

    def _expire(self, now_ns: int) -> None:
        while self._partial:
            key, oldest = next(iter(self._partial.items()))
            if abs(now_ns - oldest.first_ns) <= FRAGMENT_TIMEOUT_NS:
                return
            del self._partial[key]
            self._drop("fragments_lost")


def _network_layer(link_type: int, data: bytes) -> tuple[int, int]:
    """Return the EtherType and where the network header begins; type 0 when there is none."""
    if link_type == _ETHERNET:
        return _after_vlans(data, 12)
    if link_type == _COOKED:
        return _after_vlans(data, 14)
    if link_type == _COOKED2:
        return (int.from_bytes(data[0:2], "big"), 20) if len(data) >= 20 else (0, 0)
    if link_type in {_RAW_12, _RAW_14, _RAW_101, _IPV4, _IPV6}:
        return _by_version(data, 0)
    if link_type in {_NULL, _LOOP}:
        return _by_version(data, 4)  # the address family before it differs between systems; the version does not
    return 0, 0


def _after_vlans(data: bytes, at: int) -> tuple[int, int]:
    for _ in range(MAX_VLAN_TAGS + 1):
        if len(data) < at + 2:
            return 0, 0
        kind = data[at] << 8 | data[at + 1]
        if kind not in _VLAN_TYPES:
            return kind, at + 2
        at += 4
    return 0, 0


def _by_version(data: bytes, at: int) -> tuple[int, int]:
    version = data[at] >> 4 if len(data) > at else 0
    return {4: _TYPE_IPV4, 6: _TYPE_IPV6}.get(version, 0), at
