"""Listening to a port to learn what speaks there and how fast. Only on request: opening a port can reset a device."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import serial

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.sensors.line_diagnosis import COMMON_BAUDS, LineDiagnosis, LineWatch
from edgeguard.sensors.recognise import Recognition, foreign_protocols, recognise
from edgeguard.types import LineStats

MAX_HEARD_BYTES = 1 << 16  # under a second of the fastest line; more teaches nothing
# Enough to be sure early: a slow receiver needs the whole time for this.
ENOUGH_BYTES = 1 << 13
MAX_SENDERS = 16


@dataclass(frozen=True, slots=True)
class Heard:
    """What came in on a serial port. `baud` is the rate at which it made sense, or the last one tried."""

    baud: int
    received: int
    recognised: tuple[Recognition, ...]
    foreign: tuple[str, ...] = ()
    diagnosis: LineDiagnosis | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class UdpHeard:
    """What came in on a UDP port: (sender, packets, bytes of the last) per sender."""

    port: int
    senders: tuple[tuple[str, int, int], ...]
    trouble: str = ""


def listen_serial(path: str, seconds: float, clock: Clock, bauds: Sequence[int] = COMMON_BAUDS) -> Heard:
    """Return what speaks on a port, trying rates until one makes sense.

    Each rate gets `seconds`. A silent line is silent at every rate, so the first silence ends it; a line at the wrong
    rate often tells the right one by the shape of its bits, which is then tried next.
    """
    waiting = list(dict.fromkeys(bauds))
    heard = Heard(0, 0, (), trouble="no rate to try")
    tried: set[int] = set()
    while waiting:
        baud = waiting.pop(0)
        tried.add(baud)
        data, trouble = _receive(path, baud, seconds, clock)
        heard = _judge(baud, data, trouble)
        if trouble or not data or heard.recognised or heard.foreign:
            return heard
        if heard.diagnosis is not None:
            likely = [b for b in heard.diagnosis.likely_bauds if b not in tried]
            waiting = list(dict.fromkeys([*likely[:1], *waiting]))
    return heard


def _judge(baud: int, data: bytes, trouble: str) -> Heard:
    recognised = tuple(recognise(data)) if data else ()
    if recognised or not data:
        return Heard(baud, len(data), recognised, trouble=trouble)
    watch = LineWatch(baud)
    watch.note(data * (1 + 1024 // len(data)), LineStats(len(data), 0, 0, len(data)))
    return Heard(baud, len(data), (), tuple(foreign_protocols(data)), watch.diagnosis, trouble)


def _receive(path: str, baud: int, seconds: float, clock: Clock) -> tuple[bytes, str]:
    try:
        port = serial.Serial(path, baud, timeout=0, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        return b"", f"cannot be opened: {getattr(error, 'strerror', None) or 'busy, forbidden or no serial port'}"
    data = bytearray()
    end_ns = clock.now_ns() + int(seconds * NS_PER_S)
    try:
        while len(data) < MAX_HEARD_BYTES and (left_ns := end_ns - clock.now_ns()) > 0:
            if select.select([port.fileno()], [], [], min(0.2, left_ns / NS_PER_S))[0]:
                data += port.read(4096)
                if len(data) >= ENOUGH_BYTES and recognise(bytes(data)):
                    break
    except (serial.SerialException, OSError, TypeError):
        return bytes(data), "went away while listening"
    finally:
        with suppress(serial.SerialException, OSError):
            port.close()
    return bytes(data), ""


def listen_udp(ports: Sequence[int], seconds: float, clock: Clock, host: str = "") -> list[UdpHeard]:
    """Return who sends to each port. A port that somebody else has bound is reported, not shared."""
    sockets: dict[socket.socket, int] = {}
    troubles: dict[int, str] = {}
    for port in ports:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            one.bind((host, port))
            one.setblocking(False)
            sockets[one] = port
        except OSError as error:
            troubles[port] = error.strerror or "cannot be bound"
            one.close()
    senders: dict[int, dict[str, tuple[int, int]]] = {port: {} for port in ports}
    end_ns = clock.now_ns() + int(seconds * NS_PER_S)
    try:
        while sockets and (left_ns := end_ns - clock.now_ns()) > 0:
            for one in select.select(list(sockets), [], [], min(0.2, left_ns / NS_PER_S))[0]:
                with suppress(OSError):
                    packet, address = one.recvfrom(65_535)
                    known = senders[sockets[one]]
                    if address[0] in known or len(known) < MAX_SENDERS:
                        known[address[0]] = (known.get(address[0], (0, 0))[0] + 1, len(packet))
    finally:
        for one in sockets:
            one.close()
    return [
        UdpHeard(port, tuple((who, *what) for who, what in sorted(senders[port].items())), troubles.get(port, ""))
        for port in ports
    ]
