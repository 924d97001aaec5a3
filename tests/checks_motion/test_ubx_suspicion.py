"""What a u-blox receiver says of its own radio reaches the record of the epoch; pyubx2 is the oracle of the layout."""

from __future__ import annotations

import struct

from pyubx2 import UBXMessage

from edgeguard.protocols.ubx import UbxEpochs


def frame(message: UBXMessage) -> bytes:
    """From class to the end of the payload, as the framer hands it over."""
    return bytes(message.serialize()[2:-2])


def test_spoofing_jamming_and_gain_come_with_the_epoch():
    """NAV-STATUS flags2 and MON-HW, laid out by pyubx2."""
    epochs = UbxEpochs()
    hardware = bytearray(60)
    struct.pack_into("<HH", hardware, 16, 90, 4000)
    hardware[22] = 2 << 2
    parsed = UBXMessage("MON", "MON-HW", 0, payload=bytes(hardware))
    assert (parsed.agcCnt, parsed.jammingState) == (4000, 2)
    assert epochs.take(frame(parsed)) == []
    status = bytearray(16)
    struct.pack_into("<IBB", status, 0, 1000, 3, 1)
    status[7] = 2 << 3
    parsed = UBXMessage("NAV", "NAV-STATUS", 0, payload=bytes(status))
    assert parsed.spoofDetState == 2
    epochs.take(frame(parsed))
    (record,) = epochs.finish()
    assert (record.spoof_state, record.jam_state) == (2, 2)
    assert record.agc_share is not None
    assert abs(record.agc_share - 4000 / 8191) < 1e-9
