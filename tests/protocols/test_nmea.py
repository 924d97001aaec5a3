"""NMEA out of mixed byte streams: framing, epochs, refusals, and real receivers' logs."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynmeagps import NMEAReader

from edgeguard.errors import PacketError
from edgeguard.protocols.nmea import MAX_SENTENCE_BYTES, NmeaDecoder, NmeaFix, NmeaFramer
from edgeguard.protocols.nmea_write import epoch, sentence
from edgeguard.types import GnssFix

FIX = NmeaFix(1_767_225_600_100_000_000, 48.1370012345, 11.5750098765, 520.125, 9.5, 123.456, 12, 0.8)
NEXT = NmeaFix(1_767_225_600_200_000_000, 48.1370022345, 11.5750198765, 520.225, 9.6, 123.5, 12, 0.8)


def feed(*parts: bytes) -> tuple[list[NmeaFix], NmeaDecoder]:
    """Return the fixes of all parts and the decoder."""
    decoder = NmeaDecoder()
    return [fix for part in parts for fix in decoder.feed(part)], decoder


@given(
    st.floats(-90.0, 90.0),
    st.floats(-180.0, 180.0),
    st.floats(0.0, 100.0),
    st.floats(0.0, 359.9),
    st.integers(0, 4_000_000_000_00),
)
def test_a_fix_comes_back_from_its_sentences(lat: float, lon: float, speed: float, course: float, ms: int) -> None:
    """Round trip to the printed decimals; pynmeagps, the oracle, reads the same position."""
    fix = NmeaFix(1_000_000_000_000_000_000 + ms % 10**11 * 1_000_000, lat, lon, 12.0, speed, course, 9, 1.1)
    data = epoch(fix)
    (found,), _ = feed(data)
    assert found.latitude_deg == pytest.approx(lat, abs=2e-9)
    assert found.longitude_deg == pytest.approx(lon, abs=2e-9)
    assert found.speed_m_s == pytest.approx(speed, abs=3e-4)
    assert found.course_deg == pytest.approx(course, abs=6e-4)
    assert found.utc_ns == fix.utc_ns
    message = NMEAReader.parse(data.splitlines(keepends=True)[0])
    assert message.lat == pytest.approx(lat, abs=2e-9)


def test_one_epoch_gives_one_fix_in_either_order() -> None:
    """GGA and RMC of one time merge: altitude from one, speed from the other."""
    gga, rmc = epoch(FIX).splitlines(keepends=True)
    for order in (gga + rmc, rmc + gga):
        (found,), _ = feed(order)
        assert found.altitude_m == 520.125
        assert found.speed_m_s == pytest.approx(9.5, abs=3e-4)
        assert found.satellites == 12
    sample = found.sample(77, "gnss")
    assert isinstance(sample, GnssFix)
    assert (sample.stamp_ns, sample.device_stamp_ns, sample.hdop) == (77, FIX.utc_ns, 0.8)


def test_a_receiver_that_sends_only_one_kind_is_understood() -> None:
    """From the second epoch on its fixes come at once; the first waits for the second."""
    for line in (0, 1):
        lines = [epoch(f).splitlines(keepends=True)[line] for f in (FIX, NEXT)]
        decoder = NmeaDecoder()
        assert decoder.feed(lines[0]) == []
        assert len(decoder.feed(lines[1])) == 2


def test_a_void_or_zero_quality_epoch_is_no_fix() -> None:
    """RMC status V or GGA quality 0 silence the epoch, even when the other sentence claims a position."""
    gga, rmc = epoch(FIX).decode().splitlines()
    void = sentence(rmc[1:-3].replace(",A,", ",V,", 1))
    zero = sentence(gga[1:-3].replace(",E,1,", ",E,0,"))
    for first, second in ((gga.encode() + b"\r\n", void), (zero, rmc.encode() + b"\r\n"), (zero, void)):
        found, decoder = feed(first, second)
        assert found == []
        assert decoder.stats.without_fix == 1
        assert decoder.drops == {"no fix": 1}


def test_sentences_that_contradict_each_other_give_nothing() -> None:
    """A second position spliced into the same epoch is not averaged in or preferred."""
    gga, _ = epoch(FIX).splitlines(keepends=True)
    moved = NmeaFix(FIX.utc_ns, FIX.latitude_deg + 0.01, FIX.longitude_deg, 1.0, 9.5, 1.0)
    _, rmc = epoch(moved).splitlines(keepends=True)
    found, decoder = feed(gga, rmc)
    assert found == []
    assert decoder.stats.malformed == 1


@pytest.mark.parametrize(
    "body",
    [
        "GNRMC,120000.000,A,4808.2200000,N,01134.5000000,E,nan,1.0,010126,,,A",
        "GNRMC,120000.000,A,4808.2200000,N,01134.5000000,E,1e9,1.0,010126,,,A",
        "GNRMC,120000.000,A,9908.2200000,N,01134.5000000,E,1.0,1.0,010126,,,A",
        "GNRMC,120000.000,A,,,,,1.0,1.0,010126,,,A",
        "GNRMC,996199.000,A,4808.2200000,N,01134.5000000,E,1.0,1.0,010126,,,A",
        "GNGGA,120000.000,4808.22,N,01134.5,E,x,12,0.8,520.1,M,0.0,M,,",
        "GNGGA,120000.000,4808.22,N,01134.5,E,1,12,inf,520.1,M,0.0,M,,",
        "GNGGA",
        "GNGGA,",
    ],
)
def test_a_correct_checksum_does_not_make_nonsense_a_fix(body: str) -> None:
    """Hostile fields behind a valid checksum are refused quietly and the next good epoch is read."""
    found, _ = feed(sentence(body), epoch(FIX), epoch(NEXT))
    assert len(found) == 2
    assert found[0].latitude_deg == pytest.approx(FIX.latitude_deg)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), st.data())
def test_cutting_the_stream_anywhere_changes_nothing(noise: list[bytes], data: st.DataObject) -> None:
    """Fixes and counters are the same for one feed, random pieces and single bytes."""
    stream = b"".join(n + epoch(f) for n, f in zip(noise, [FIX, NEXT] * 3, strict=False))
    expected, whole = feed(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    found, pieces = feed(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)))
    assert found == expected
    assert pieces.stats == whole.stats
    single, decoder = feed(*(stream[i : i + 1] for i in range(len(stream))))
    assert single == expected
    assert decoder.stats == whole.stats


@given(st.binary(max_size=400))
def test_noise_in_front_costs_at_most_its_own_sentence(noise: bytes) -> None:
    """Binary protocols between sentences do no harm: a dollar starts anew."""
    framer = NmeaFramer()
    sentences = framer.feed(noise + epoch(FIX))
    assert len(sentences) >= 2
    assert sentences[-2].startswith(b"$GNGGA")
    assert framer.bytes_received == len(noise) + len(epoch(FIX))


@given(st.integers(1, 60), st.integers(1, 255))
def test_a_changed_byte_is_caught_by_the_checksum(position: int, change: int) -> None:
    """No altered sentence gives an altered fix: the exclusive or differs, or the frame breaks."""
    gga, _ = epoch(FIX).splitlines(keepends=True)
    damaged = bytearray(gga)
    damaged[position] ^= change
    assert all(s == gga[:-2] for s in NmeaFramer().feed(bytes(damaged)))


def test_an_endless_sentence_is_dropped() -> None:
    """Memory is bounded by one sentence."""
    framer = NmeaFramer()
    framer.feed(b"$" + b"A" * 100_000)
    assert len(framer._buffer) <= MAX_SENTENCE_BYTES + 1
    assert framer.bytes_skipped >= 100_000
    assert len(framer.feed(b"\r\n" + epoch(FIX))) == 2


def test_writing_a_fix_without_time_is_refused() -> None:
    """NMEA needs a time in every epoch."""
    with pytest.raises(PacketError) as caught:
        epoch(NmeaFix(None, 1.0, 2.0))
    assert caught.value.code == "EG-N035"


@pytest.mark.realdata
def test_logs_of_real_receivers_are_read_without_an_exception(realdata: Path) -> None:
    """Every fix out of 39 real logs is finite and in range, and all input is counted."""
    logs = sorted((realdata / "gnss_logs").glob("*.log"))
    assert len(logs) >= 30
    total = 0
    for log in logs:
        data = log.read_bytes()
        decoder = NmeaDecoder()
        fixes = [f for start in range(0, len(data), 1013) for f in decoder.feed(data[start : start + 1013])]
        assert decoder.stats.bytes_received == len(data)
        for fix in fixes:
            numbers = (fix.latitude_deg, fix.longitude_deg, fix.altitude_m, fix.speed_m_s, fix.course_deg)
            assert all(n is None or isfinite(n) for n in numbers)
            assert abs(fix.latitude_deg) <= 90
        total += len(fixes)
    assert total > 300


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["cat-ms352.log", "quectel-l76k-nmea.log", "rx210.log", "iTrek.log"])
def test_positions_agree_with_those_gpsd_decoded(realdata: Path, name: str) -> None:
    """Each of our positions is one that gpsd reports for the same bytes, to its printed digits."""
    folder = realdata / "gnss_logs"
    known = []
    for line in (folder / f"{name}.chk").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{"):
            report = json.loads(line)
            if report.get("class") == "TPV" and "lat" in report:
                known.append((report["lat"], report["lon"]))
    fixes = NmeaDecoder().feed((folder / name).read_bytes())
    assert fixes
    for fix in fixes:
        nearest = min(max(abs(fix.latitude_deg - a), abs(fix.longitude_deg - b)) for a, b in known)
        assert nearest < 2e-9
