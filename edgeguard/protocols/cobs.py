"""Consistent Overhead Byte Stuffing (Cheshire and Baker, IEEE/ACM ToN 1999): bytes without zeros."""

from __future__ import annotations

from edgeguard.errors import PacketError


def encode(data: bytes) -> bytes:
    """Return `data` stuffed so that it holds no zero byte; the delimiter is not added."""
    out = bytearray()
    groups = data.split(b"\0")
    for index, group in enumerate(groups):
        rest = group
        while len(rest) >= 254:
            out += b"\xff" + rest[:254]
            rest = rest[254:]
        if group and not rest and index == len(groups) - 1:
            break  # a full final block needs no length byte after it: the end of the frame says as much
        out.append(len(rest) + 1)
        out += rest
    return bytes(out)


def decode(data: bytes) -> bytes:
    """Return what `encode` was given.

    Raises:
        PacketError: EG-N031 when `data` is not the encoding of anything.
    """
    out = bytearray()
    position = 0
    while position < len(data):
        length = data[position]
        end = position + length
        if length == 0 or end > len(data):
            raise PacketError("a stuffed frame has a zero inside or ends too early", code="EG-N031")
        group = data[position + 1 : end]
        if 0 in group:
            raise PacketError("a stuffed frame has a zero inside or ends too early", code="EG-N031")
        out += group
        position = end
        if length < 255 and position < len(data):
            out.append(0)
    return bytes(out)
