"""GNSS decoding: ours against the plain readers of pyubx2 and pynmeagps over the same bytes.

The bytes: five minutes of a receiver that sends NMEA, and one of a receiver that sends UBX with 40 satellites.
With EDGEGUARD_REALDATA set, the recorded logs of real receivers too. The peers only parse; ours also builds epochs.
"""

from __future__ import annotations

import os
import struct
from io import BytesIO
from pathlib import Path

from pynmeagps import NMEAReader
from pyubx2 import ERR_IGNORE, NMEA_PROTOCOL, UBX_PROTOCOL, UBXMessage, UBXReader

from benchmarks.timing import paired_s
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.nmea_write import NmeaFix, epoch, sentence

T0 = 1_767_225_600_000_000_000


def nmea_stream(seconds: int) -> bytes:
    """Return GGA, RMC, GSA, three GSV and VTG per second."""
    extra = (
        sentence("GNGSA,A,3,01,02,03,04,05,06,07,08,,,,,2.0,1.0,1.7,1")
        + sentence("GPGSV,2,1,08,01,40,083,46,02,17,308,41,12,07,344,39,14,22,228,45,1")
        + sentence("GPGSV,2,2,08,15,40,083,46,16,17,308,41,18,07,344,39,19,22,228,45,1")
        + sentence("GLGSV,1,1,04,65,40,083,46,66,17,308,41,72,07,344,39,73,22,228,45,1")
        + sentence("GNVTG,54.7,T,34.4,M,5.5,N,10.2,K,A")
    )
    fixes = (NmeaFix(T0 + k * 10**9, 48.1 + k * 1e-6, 11.5, 500.0, 3.0, 90.0, 10, 0.9) for k in range(seconds))
    return b"".join(epoch(fix) + extra for fix in fixes)


def ubx_stream(seconds: int) -> bytes:
    """Return NAV-PVT, NAV-DOP, NAV-SAT with 40 satellites and NAV-EOE per second."""
    sats = b"".join(struct.pack("<BBBbhhI", 0, k + 1, 40, 30, 90, 0, 0x1F) for k in range(40))
    parts = []
    for k in range(seconds):
        tow = 1000 * (k + 1)
        pvt = struct.pack(
            "<IHBBBBBBIiBBBBiiiiIIiiiiiIIH14x", tow, 2026, 1, 1, 12, k // 60 % 60, k % 60, 7, 30, 0, 3, 1, 0, 12,
            115750000, 481370000 + k, 566_000, 520_000, 1500, 2500, 1000, 0, -100, 1000, 9_000_000, 300, 1000, 150,
        )  # fmt: skip
        for name, payload in (
            ("NAV-PVT", pvt),
            ("NAV-DOP", struct.pack("<IHHHHHHH", tow, 1, 2, 3, 4, 5, 6, 7)),
            ("NAV-SAT", struct.pack("<IBB2x", tow, 1, 40) + sats),
            ("NAV-EOE", struct.pack("<I", tow)),
        ):
            parts.append(UBXMessage("NAV", name, 0, payload=payload).serialize())
    return b"".join(parts)


def ours(data: bytes) -> int:
    """Return how many epochs come out."""
    decoder = GnssDecoder()
    found = 0
    for start in range(0, len(data), 4096):
        found += len(decoder.feed(data[start : start + 4096]))
    return found + len(decoder.finish())


def pynmea(data: bytes) -> int:
    """Return how many sentences pynmeagps reads."""
    return sum(1 for _, parsed in NMEAReader(BytesIO(data), quitonerror=0) if parsed is not None)


def pyubx(data: bytes) -> int:
    """Return how many messages pyubx2 reads, UBX and NMEA."""
    reader = UBXReader(BytesIO(data), protfilter=NMEA_PROTOCOL | UBX_PROTOCOL, quitonerror=ERR_IGNORE)
    return sum(1 for _, parsed in reader if parsed is not None)


def main() -> None:
    """Print MB/s of both and their ratio, best of five in turns."""
    rows = [("NMEA, 300 s", nmea_stream(300), pynmea), ("UBX with 40 satellites, 60 s", ubx_stream(60), pyubx)]
    folder = Path(os.environ.get("EDGEGUARD_REALDATA", "")) / "gnss_logs"
    if os.environ.get("EDGEGUARD_REALDATA") and folder.is_dir():
        names = ("quectel-l76k-nmea", "ublox-glo", "ublox-zed-f9r")
        rows += [(name, (folder / f"{name}.log").read_bytes(), pyubx) for name in names]
    print(f"{'stream':30} {'bytes':>8} {'ours MB/s':>10} {'peer MB/s':>10} {'ratio':>7}  peer")
    for name, data, peer in rows:
        assert ours(data) > 0
        assert peer(data) > 0
        mine, theirs = paired_s(lambda data=data: ours(data), lambda data=data, peer=peer: peer(data))
        size = len(data) / 1e6
        other = "pynmeagps" if peer is pynmea else "pyubx2"
        print(f"{name:30} {len(data):8} {size / mine:10.2f} {size / theirs:10.2f} {theirs / mine:6.1f}x  {other}")


if __name__ == "__main__":
    main()
