"""USB identities of receivers, lidars and the bridges they hide behind (from usb.ids and data sheets)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """What an identity says. `bauds`: rates worth trying first; empty for USB devices without a line rate of their own.
    `protocol`: what it speaks, empty for a bridge that anything may hide behind."""

    name: str
    protocol: str = ""
    bauds: tuple[int, ...] = ()


_BRIDGE_BAUDS = (9600, 115_200, 230_400, 460_800, 921_600)

KNOWN: dict[tuple[int, int | None], KnownDevice] = {
    (0x1546, 0x01A4): KnownDevice("u-blox 4 receiver", "gnss"),
    (0x1546, 0x01A5): KnownDevice("u-blox 5 receiver", "gnss"),
    (0x1546, 0x01A6): KnownDevice("u-blox 6 receiver", "gnss"),
    (0x1546, 0x01A7): KnownDevice("u-blox 7 receiver", "gnss"),
    (0x1546, 0x01A8): KnownDevice("u-blox 8 or M8 receiver", "gnss"),
    (0x1546, 0x01A9): KnownDevice("u-blox F9 receiver", "gnss"),
    (0x1546, None): KnownDevice("u-blox receiver", "gnss"),
    (0x067B, 0x2303): KnownDevice("Prolific PL2303 bridge", "", (4800, *_BRIDGE_BAUDS)),
    (0x067B, None): KnownDevice("Prolific bridge", "", (4800, *_BRIDGE_BAUDS)),
    (0x10C4, 0xEA60): KnownDevice("Silicon Labs CP210x bridge (RPLIDAR, LD06 and many others)", "", (
        115_200, 230_400, 460_800, 256_000, 1_000_000, 9600)),
    (0x10C4, None): KnownDevice("Silicon Labs bridge", "", _BRIDGE_BAUDS),
    (0x1A86, 0x7523): KnownDevice("CH340 bridge", "", _BRIDGE_BAUDS),
    (0x1A86, 0x55D4): KnownDevice("CH9102 bridge", "", _BRIDGE_BAUDS),
    (0x1A86, None): KnownDevice("WCH bridge", "", _BRIDGE_BAUDS),
    (0x0403, 0x6001): KnownDevice("FTDI FT232 bridge", "", _BRIDGE_BAUDS),
    (0x0403, 0x6010): KnownDevice("FTDI FT2232 bridge, two ports", "", _BRIDGE_BAUDS),
    (0x0403, 0x6015): KnownDevice("FTDI FT-X bridge", "", _BRIDGE_BAUDS),
    (0x0403, None): KnownDevice("FTDI bridge", "", _BRIDGE_BAUDS),
    (0x0483, 0x5740): KnownDevice("STM32 virtual port", ""),
    (0x2E8A, 0x000A): KnownDevice("Raspberry Pi Pico", ""),
    (0x2E8A, None): KnownDevice("Raspberry Pi microcontroller", ""),
    (0x2341, None): KnownDevice("Arduino board", ""),
    (0x303A, None): KnownDevice("Espressif ESP32", ""),
    (0x091E, 0x0003): KnownDevice("Garmin receiver (Garmin binary, not NMEA)", ""),
    (0x1163, None): KnownDevice("DeLorme receiver", "gnss", (4800,)),
    (0x152A, None): KnownDevice("Septentrio receiver", "gnss"),
    (0x09D7, None): KnownDevice("NovAtel receiver", "gnss"),
    (0x15A9, None): KnownDevice("SiRF receiver", "gnss", (4800,)),
}  # fmt: skip


def known_device(vendor: int, product: int) -> KnownDevice | None:
    """Return what the identity says: the exact product, else the vendor, else None."""
    return KNOWN.get((vendor, product)) or KNOWN.get((vendor, None))
