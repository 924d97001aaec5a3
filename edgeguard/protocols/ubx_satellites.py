"""Satellites in view as UBX lists them: NAV-SAT of series 8 and later, NAV-SVINFO before."""

from __future__ import annotations

from struct import Struct

from edgeguard.protocols.gnss_record import Satellite

_SAT = Struct("<BBBbhhI")
_SVINFO = Struct("<BBBBBbhi")
_SYSTEMS = {0: "G", 1: "S", 2: "E", 3: "C", 4: "?", 5: "J", 6: "R", 7: "I"}


def nav_sat(payload: bytes) -> tuple[Satellite, ...]:
    """NAV-SAT: one row of twelve bytes per satellite."""
    rows = min(payload[5], (len(payload) - 8) // 12)
    result = []
    for row in range(rows):
        system, number, cn0, elevation, azimuth, residual, flags = _SAT.unpack_from(payload, 8 + 12 * row)
        result.append(
            Satellite(
                _SYSTEMS.get(system, "?"),
                number,
                elevation if abs(elevation) <= 90 else None,
                azimuth if 0 <= azimuth <= 360 else None,
                float(cn0) or None,
                bool(flags & 8),
                0.1 * residual if flags & 8 else None,
            )
        )
    return tuple(result)


def nav_svinfo(payload: bytes) -> tuple[Satellite, ...]:
    """NAV-SVINFO of receivers before series 8: one row of twelve bytes per channel."""
    rows = min(payload[4], (len(payload) - 8) // 12)
    result = []
    for row in range(rows):
        _channel, number, flags, _quality, cn0, elevation, azimuth, residual = _SVINFO.unpack_from(
            payload, 8 + 12 * row
        )
        if number in {0, 255}:
            continue
        system = "G" if number <= 32 else "R" if 65 <= number <= 96 else "S" if 120 <= number <= 158 else "?"
        result.append(
            Satellite(
                system,
                number - 64 if system == "R" else number,
                elevation if abs(elevation) <= 90 else None,
                azimuth if 0 <= azimuth <= 360 else None,
                float(cn0) or None,
                bool(flags & 1),
                0.01 * residual if flags & 1 else None,
            )
        )
    return tuple(result)
