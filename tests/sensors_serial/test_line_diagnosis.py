"""What is wrong with a line, told from bytes that a UART would really have delivered."""

from __future__ import annotations

import random

import pytest

from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.nmea_write import NmeaFix, epoch
from edgeguard.sensors.line_diagnosis import WINDOW_BYTES, LineFault, LineWatch, oversampling

T0 = 1_767_225_600_000_000_000


def drive(seconds: int, start_ns: int = T0, latitude: float = 48.1) -> bytes:
    """Return NMEA of a slow drive, one epoch a second."""
    return b"".join(
        epoch(NmeaFix(start_ns + k * 10**9, latitude + k * 1e-5, 11.5, 500.0, 3.0, 90.0, 10, 0.9))
        for k in range(seconds)
    )


def uart(data: bytes, sent_baud: int, read_baud: int) -> bytes:
    """Return what a UART at one rate reads of a sender at another: start edge, samples in mid-bit, and a zero byte
    where the stop bit is missing, as Linux delivers a framing error."""
    bits = [bit for byte in data for bit in (0, *(byte >> k & 1 for k in range(8)), 1)]
    ours = 1.0 / read_baud
    end = len(bits) / sent_baud

    def level(at: float) -> int:
        index = int(at * sent_baud)
        return bits[index] if index < len(bits) else 1

    out = bytearray()
    at = 0.0
    while at < end:
        if level(at) or level(at + ours / 2):
            at += ours / 16
            continue
        value = sum(level(at + ours * (1.5 + k)) << k for k in range(8))
        stop = level(at + ours * 9.5)
        out.append(value if stop else 0)
        at += ours * 9.5
        while not stop and at < end and not level(at):
            at += ours / 16
    return bytes(out)


def watch(data: bytes, baud: int, chunk: int = 200) -> LineWatch:
    """Return the opinion on a line after reading it."""
    decoder, watching = GnssDecoder(), LineWatch(baud)
    for start in range(0, len(data), chunk):
        piece = data[start : start + chunk]
        records = decoder.feed(piece)
        watching.note(piece, decoder.line_stats, [r.utc_ns for r in records])
    return watching


def test_the_model_of_a_uart_reads_its_own_rate() -> None:
    """The oracle itself: equal rates give the bytes back."""
    data = drive(2)
    assert uart(data, 9600, 9600) == data


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (9600, 19_200),
        (9600, 38_400),
        (9600, 57_600),
        (4800, 38_400),
        (38_400, 115_200),
        (115_200, 230_400),
        (115_200, 921_600),
    ],
)
def test_a_sender_slower_than_we_listen_is_named_by_its_rate(sent: int, read: int) -> None:
    """The length of the runs of bits gives the ratio, and with it the rate, as the first suggestion."""
    found = watch(uart(drive(40), sent, read), read).diagnosis
    assert found is not None
    assert found.fault is LineFault.WRONG_RATE
    assert found.likely_bauds[0] == sent
    assert str(sent) in found.hint


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (9600, 4800),
        (19_200, 9600),
        (38_400, 9600),
        (115_200, 9600),
        (115_200, 38_400),
        (921_600, 115_200),
        (9600, 115_200),
        (38_400, 57_600),
    ],
)
def test_other_wrong_rates_are_told_and_the_right_one_is_suggested(sent: int, read: int) -> None:
    """A faster sender leaves no ratio; the right rate is among those to try."""
    found = watch(uart(drive(120 if sent > read else 40), sent, read), read).diagnosis
    assert found is not None
    assert found.fault is LineFault.WRONG_RATE
    assert sent in found.likely_bauds


def test_a_good_line_has_no_diagnosis() -> None:
    """At every chunk size, and at the start in the middle of a sentence."""
    for chunk in (1, 64, 4096):
        assert watch(drive(60)[37:], 9600, chunk).diagnosis is None
    assert oversampling(drive(10)) == 1.0
    assert oversampling(b"") == 1.0


def test_two_senders_interleaved_are_told_from_their_broken_text() -> None:
    """Two texts mixed byte by byte stay text, and more sentences begin than arrive."""
    rng = random.Random(3)
    first, second = list(drive(60)), list(drive(60, T0 + 5 * 10**9, 40.0))
    mixed = bytearray()
    while first and second:
        mixed.append((first if rng.random() < 0.5 else second).pop(0))
    found = watch(bytes(mixed), 9600).diagnosis
    assert found is not None
    assert found.fault is LineFault.TWO_SENDERS


def test_two_senders_taking_turns_are_told_from_their_clocks() -> None:
    """Whole sentences of two receivers: every checksum is right, the time goes back again and again."""
    one, other = drive(20).splitlines(keepends=True), drive(20, T0 - 100 * 10**9).splitlines(keepends=True)
    mixed = b"".join(a + b for a, b in zip(one, other, strict=True))
    found = watch(mixed, 9600).diagnosis
    assert found is not None
    assert found.fault is LineFault.TWO_SENDERS
    assert "time" in found.reason
    assert watch(drive(20) + drive(20), 9600).diagnosis is None


def test_a_noisy_line_is_neither_two_senders_nor_a_wrong_rate() -> None:
    """One byte in forty damaged: some sentences arrive, the rest is no longer text."""
    rng = random.Random(9)
    data = bytearray(drive(60))
    for index in range(len(data)):
        if rng.random() < 1 / 40:
            data[index] ^= 1 << rng.randrange(8)
    found = watch(bytes(data), 9600).diagnosis
    assert found is not None
    assert found.fault is LineFault.NOISE


def test_an_unknown_protocol_at_the_right_rate_is_not_called_a_wrong_rate() -> None:
    """Text that is no NMEA."""
    found = watch(b"temperature 21.5 humidity 40\r\n" * 100, 9600).diagnosis
    assert found is not None
    assert found.fault is LineFault.UNKNOWN_PROTOCOL


def test_memory_is_bounded_and_the_opinion_can_change() -> None:
    """A line that recovers loses its diagnosis with the next full window."""
    watching = watch(bytes(random.Random(1).randrange(256) for _ in range(200_000)), 9600, 4096)
    assert watching.diagnosis is not None
    assert len(watching._window) < 4 * WINDOW_BYTES
    decoder = GnssDecoder()
    for start in range(0, 6000, 100):
        piece = drive(60)[start : start + 100]
        decoder.feed(piece)
        watching.note(piece, decoder.line_stats)
    assert watching.diagnosis is None
