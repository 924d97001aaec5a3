"""Serial 2-D lidars as sources: LDROBOT LD06/LD19, which talk at once, and SLAMTEC RPLIDAR, which wait to be asked."""

from __future__ import annotations

from typing import Literal

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.protocols.ld06 import Ld06Decoder
from edgeguard.protocols.rplidar import START_EXPRESS, START_STANDARD, STOP, RplidarDecoder
from edgeguard.sensors.serial import SerialSource
from edgeguard.types import Scan2d, SourceInfo

LD06_BAUD = 230_400
RPLIDAR_BAUD = 115_200  # A1 and A2; A3 and S1 use 256000, S2 one million
# Twenty turns. An RPLIDAR whose power failed forgets that it was asked: it is opened, and asked, again.
SILENCE_S = 2.0
SCAN_PERIOD_NS = NS_PER_S // 10  # both turn ten times a second as delivered


class Ld06Source(SerialSource):
    """An LD06 or LD19: one `Scan2d` per revolution, points without a return left out.

    Args:
        port, clock: as for `SerialSource`. sensor: name in the rig.
    """

    def __init__(self, port: str, clock: Clock, *, sensor: str = "scan2d", period_ns: int = SCAN_PERIOD_NS) -> None:
        info = SourceInfo(sensor, Scan2d, period_ns, port)
        super().__init__(port, LD06_BAUD, Ld06Decoder(), info, clock, stop_after_silence_s=SILENCE_S)


class RplidarSource(SerialSource):
    """An RPLIDAR: asked for scans on opening, told to stop on closing; its motor runs while DTR is low (A1, A2).

    Args:
        port, clock: as for `SerialSource`. baud: 115200 for A1 and A2, 256000 for A3 and S1. mode: kind of scan.
    """

    def __init__(
        self,
        port: str,
        clock: Clock,
        *,
        sensor: str = "scan2d",
        baud: int = RPLIDAR_BAUD,
        mode: Literal["standard", "express"] = "express",
        period_ns: int = SCAN_PERIOD_NS,
    ) -> None:
        start = START_STANDARD if mode == "standard" else START_EXPRESS
        info = SourceInfo(sensor, Scan2d, period_ns, port)
        super().__init__(
            port, baud, RplidarDecoder(), info, clock, hello=STOP + start, goodbye=STOP, dtr=False,
            stop_after_silence_s=SILENCE_S,
        )  # fmt: skip
