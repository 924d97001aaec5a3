"""pcap and pcapng, every link layer, fragments; against other writers, and cut or damaged in every way."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.protocols import udp as udp_module
from edgeguard.protocols.pcap import CapturedPacket, CaptureReader, CaptureState, is_capture
from edgeguard.protocols.udp import Datagram, UdpReader

STAMP_NS = 1_650_410_295_123_456_789
A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "fe80::1", "ff02::2"


def udp(payload: bytes, source_port: int = 7502, port: int = 7502) -> bytes:
    return struct.pack(">4H", source_port, port, 8 + len(payload), 0) + payload


def ipv4(body: bytes, *, offset: int = 0, more: bool = False, ident: int = 7, protocol: int = 17) -> bytes:
    flags = offset // 8 | (0x2000 if more else 0)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), ident, flags, 64, protocol, 0)
    return head + ip_address(A4).packed + ip_address(B4).packed + body


def ipv6(body: bytes, *, extensions: bytes = b"", first: int = 17) -> bytes:
    head = struct.pack(">IHBB", 0x60000000, len(extensions) + len(body), first, 64)
    return head + ip_address(A6).packed + ip_address(B6).packed + extensions + body


def fragment6(body: bytes, offset: int, more: bool, ident: int = 9) -> bytes:
    return ipv6(body, extensions=struct.pack(">BBHI", 17, 0, offset | more, ident), first=44)


LINKS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "ethernet": (1, lambda ip: b"\0" * 12 + _kind(ip) + ip),
    "one vlan": (1, lambda ip: b"\0" * 12 + b"\x81\x00\x00\x05" + _kind(ip) + ip),
    "two vlans": (1, lambda ip: b"\0" * 12 + b"\x88\xa8\x00\x05\x81\x00\x00\x06" + _kind(ip) + ip),
    "cooked": (113, lambda ip: b"\0" * 14 + _kind(ip) + ip),
    "cooked 2": (276, lambda ip: _kind(ip) + b"\0" * 18 + ip),
    "raw": (101, lambda ip: ip),
    "raw of bsd": (12, lambda ip: ip),
    "null": (0, lambda ip: struct.pack("<I", 2 if ip[0] >> 4 == 4 else 30) + ip),
    "loop": (108, lambda ip: struct.pack(">I", 2 if ip[0] >> 4 == 4 else 24) + ip),
}


def _kind(ip: bytes) -> bytes:
    return b"\x08\x00" if ip[0] >> 4 == 4 else b"\x86\xdd"


def pcap(frames: list[bytes], link: int = 1, *, order: str = "<", nano: bool = False) -> bytes:
    unit = 1 if nano else 1000
    out = struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    for frame in frames:
        seconds, rest = divmod(STAMP_NS, 10**9)
        out += struct.pack(order + "4I", seconds, rest // unit, len(frame), len(frame)) + frame
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body += b"\0" * (-len(body) % 4)
    return struct.pack(order + "II", kind, 12 + len(body)) + body + struct.pack(order + "I", 12 + len(body))


def pcapng(frames: list[bytes], link: int = 1, *, order: str = "<", resolution: int | None = None) -> bytes:
    units = 10**6 if resolution is None else 2 ** (resolution & 127) if resolution & 128 else 10**resolution
    options = b"" if resolution is None else struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    out = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    out += block(order, 1, struct.pack(order + "HHI", link, 0, 0) + options)
    out += block(order, 0x0BAD, b"something else")
    for frame in frames:
        ticks = STAMP_NS * units // 10**9
        head = struct.pack(order + "5I", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
        out += block(order, 6, head + frame)
    return out


def datagrams(data: bytes) -> list[Datagram]:
    reader, udp_reader = CaptureReader(), UdpReader()
    return [d for packet in reader.feed(data) if (d := udp_reader.feed(packet)) is not None]


@pytest.mark.parametrize("ip", [ipv4(udp(b"lidar")), ipv6(udp(b"lidar"))], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("link", LINKS)
def test_every_link_layer_is_read(link: str, ip: bytes) -> None:
    """Ethernet with and without VLANs, both cooked forms, raw and loopback."""
    number, wrap = LINKS[link]
    (got,) = datagrams(pcap([wrap(ip)], number))
    addresses = (A4, B4) if ip[0] >> 4 == 4 else (A6, B6)
    assert got == Datagram(STAMP_NS // 1000 * 1000, addresses[0], 7502, addresses[1], 7502, b"lidar")


FRAME = b"\0" * 12 + b"\x08\x00" + ipv4(udp(b"0123456789"))
FILES = {
    "pcap": (pcap([FRAME] * 3), 1000),
    "pcap, big-endian": (pcap([FRAME] * 3, order=">"), 1000),
    "pcap, nanoseconds": (pcap([FRAME] * 3, nano=True), 1),
    "pcap, big-endian nanoseconds": (pcap([FRAME] * 3, order=">", nano=True), 1),
    "pcapng": (pcapng([FRAME] * 3), 1000),
    "pcapng, big-endian": (pcapng([FRAME] * 3, order=">"), 1000),
    "pcapng, nanoseconds": (pcapng([FRAME] * 3, resolution=9), 1),
    "pcapng, binary fractions": (pcapng([FRAME] * 3, resolution=128 | 30), 2),
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_format_is_read_with_its_stamps(name: str) -> None:
    """Both byte orders, all resolutions; never later than the truth by more than one unit."""
    data, unit_ns = FILES[name]
    assert is_capture(data)
    got = datagrams(data)
    assert [d.payload for d in got] == [b"0123456789"] * 3
    assert all(0 <= STAMP_NS - d.stamp_ns < unit_ns + 1 for d in got)


@given(name=st.sampled_from(sorted(FILES)), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_the_result_does_not_depend_on_how_the_file_is_cut(name: str, cuts: list[int]) -> None:
    """Any pieces give the same packets."""
    data, _ = FILES[name]
    reader = CaptureReader()
    got = []
    for a, b in itertools.pairwise([0, *sorted(min(c, len(data)) for c in cuts), len(data)]):
        got += reader.feed(data[a:b])
    assert got == CaptureReader().feed(data)
    assert reader.torn_bytes == 0


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_plays_up_to_the_cut(name: str) -> None:
    """At every length: the whole packets before the cut, and the rest is said to be torn."""
    data, _ = FILES[name]
    whole = CaptureReader().feed(data)
    for length in range(4, len(data)):
        reader = CaptureReader()
        got = reader.feed(data[:length])
        assert got == whole[: len(got)]
        assert reader.state is CaptureState.READING
        if reader.torn_bytes == 0:
            assert len(reader.feed(data[length:])) == 3 - len(got)


@given(st.binary(max_size=300), st.sampled_from(sorted(FILES)), st.integers(0, 300))
def test_arbitrary_bytes_never_raise(junk: bytes, name: str, at: int) -> None:
    """Damage anywhere; what is kept stays below what one block may hold."""
    data = bytearray(FILES[name][0])
    data[at : at + len(junk)] = junk
    udp_reader = UdpReader()
    for source in (bytes(data), junk):
        reader = CaptureReader()
        for packet in reader.feed(source):
            udp_reader.feed(packet)
        assert reader.torn_bytes <= len(source) + 1


def test_a_file_of_another_kind_is_foreign() -> None:
    """And stays so."""
    reader = CaptureReader()
    assert reader.feed(b"$GPRMC,1235") == []
    assert reader.state is CaptureState.FOREIGN
    assert reader.feed(FILES["pcap"][0]) == []
    assert reader.bytes_skipped == reader.bytes_received


def test_a_packet_larger_than_any_is_damage_not_memory() -> None:
    """A length field of 2 GB is not waited for."""
    reader = CaptureReader()
    reader.feed(pcap([]) + struct.pack("<4I", 1, 1, 2**31, 2**31))
    assert reader.state is CaptureState.DAMAGED
    reader = CaptureReader()
    reader.feed(pcapng([]) + struct.pack("<II", 6, 2**31))
    reader.feed(b"\0" * 8)
    assert reader.state is CaptureState.DAMAGED


def test_a_large_block_of_another_kind_is_skipped_without_keeping_it() -> None:
    """A pcapng file may carry megabytes of comments or decryption secrets."""
    big = block("<", 0x0BAD, b"x" * (3 << 20))
    data = pcapng([FRAME])
    reader = CaptureReader()
    got = []
    whole = data + big + pcapng([FRAME])
    for at in range(0, len(whole), 65_536):
        got += reader.feed(whole[at : at + 65_536])
        assert reader.torn_bytes <= (1 << 20) + 65_536
    assert len(got) == 2


PAYLOAD = bytes(range(256)) * 60
PIECES = [(0, 1480), (1480, 1480), (2960, 8000), (10_960, len(PAYLOAD) + 8 - 10_960)]


def fragments(version: int, *, ident: int = 7, order: tuple[int, ...] = (0, 1, 2, 3)) -> list[CapturedPacket]:
    whole = udp(PAYLOAD)
    packets = []
    for index in order:
        offset, size = PIECES[index]
        body, more = whole[offset : offset + size], index < 3
        ip = ipv4(body, offset=offset, more=more, ident=ident) if version == 4 else fragment6(body, offset, more, ident)
        packets.append(CapturedPacket(STAMP_NS, 101, ip, len(ip)))
    return packets


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_fragments_in_any_order_make_the_datagram(version: int, order: tuple[int, ...]) -> None:
    """Lidar packets are larger than a frame: almost all traffic is fragments."""
    reader = UdpReader()
    got = [d for p in fragments(version, order=order) if (d := reader.feed(p)) is not None]
    assert [d.payload for d in got] == [PAYLOAD]
    assert reader.pending == 0
    assert not reader.drops


def test_fragments_of_two_datagrams_do_not_mix() -> None:
    """They are told apart by sender, receiver and number."""
    reader = UdpReader()
    pairs = zip(fragments(4, ident=1), fragments(4, ident=2), strict=True)
    got = [d for pair in pairs for p in pair if (d := reader.feed(p)) is not None]
    assert [d.payload for d in got] == [PAYLOAD, PAYLOAD]


def test_overlapping_fragments_are_refused_whole() -> None:
    """RFC 5722: they serve to show a filter one thing and the receiver another."""
    reader = UdpReader()
    first = ipv4(udp(PAYLOAD)[:1480], more=True)
    over = ipv4(b"\xff" * 16, offset=1472, more=True)
    assert reader.feed(CapturedPacket(1, 101, first, 1)) is None
    assert reader.feed(CapturedPacket(1, 101, over, 1)) is None
    assert reader.drops == {"fragments_overlap": 1}
    assert reader.pending == 0


def test_a_flood_of_first_fragments_keeps_only_the_newest() -> None:
    """64 datagrams under way at most; a genuine one that follows is read."""
    reader = UdpReader()
    for ident in range(1000):
        reader.feed(CapturedPacket(1, 101, ipv4(b"\0" * 16, more=True, ident=ident), 1))
    assert reader.pending == udp_module.MAX_PARTIAL_DATAGRAMS
    got = [d for p in fragments(4, ident=5000) if (d := reader.feed(p)) is not None]
    assert [d.payload for d in got] == [PAYLOAD]


def test_fragments_that_never_come_are_given_up() -> None:
    """Five seconds later by the capture's own stamps."""
    reader = UdpReader()
    reader.feed(CapturedPacket(0, 101, ipv4(b"\0" * 16, more=True, ident=1), 1))
    reader.feed(CapturedPacket(6 * 10**9, 101, ipv4(b"\0" * 16, more=True, ident=2), 1))
    assert reader.pending == 1
    assert reader.drops == {"fragments_lost": 1}


def test_what_is_no_datagram_is_counted_by_reason() -> None:
    """ARP, TCP, a packet cut by the snap length, a length that lies."""
    reader = UdpReader()
    arp = b"\0" * 12 + b"\x08\x06" + b"\0" * 28
    lying = ipv4(struct.pack(">4H", 1, 2, 900, 0) + b"x")
    for link, data in (
        (1, arp),
        (101, ipv4(b"", protocol=6)),
        (101, ipv4(udp(b"x" * 100))[:60]),
        (101, lying),
        (1, b""),
    ):
        assert reader.feed(CapturedPacket(1, link, data, len(data))) is None
    assert reader.drops == {"not_ip": 2, "not_udp": 1, "cut": 1, "malformed": 1}


def test_captures_written_by_the_sdk_are_read(make_sensor, tmp_path: Path) -> None:
    """Ouster's own writer cuts packets into IP fragments, as the sensor does."""
    import ouster.sdk.core as sdk
    import ouster.sdk.pcap

    sensor = make_sensor("RNG19_RFL8_SIG16_NIR16_DUAL")
    packets = sdk.frame_to_packets(sensor.frame(1, 1), sdk.PacketFormat(sensor.info), 1, 2)
    lidar = [p for p in packets if isinstance(p, sdk.LidarPacket)]
    for number, packet in enumerate(lidar):
        packet.host_timestamp = STAMP_NS + number
    path = tmp_path / "sdk.pcap"
    for cooked in (False, True):
        ouster.sdk.pcap.record(lidar, str(path), use_sll_encapsulation=cooked)
        got = datagrams(path.read_bytes())
        assert [d.payload for d in got] == [bytes(p.buf) for p in lidar]
        assert {(d.destination_port) for d in got} == {7502}


def test_captures_written_by_dpkt_are_read() -> None:
    """A second writer for both formats."""
    dpkt = pytest.importorskip("dpkt")
    for writer, nano in ((dpkt.pcap.Writer, True), (dpkt.pcap.Writer, False), (dpkt.pcapng.Writer, False)):
        file = io.BytesIO()
        sink = writer(file, nano=nano) if writer is dpkt.pcap.Writer else writer(file)
        for _ in range(3):
            sink.writepkt(FRAME, ts=1234.5)
        got = datagrams(file.getvalue())
        assert [(d.stamp_ns, d.payload) for d in got] == [(1234_500_000_000, b"0123456789")] * 3
