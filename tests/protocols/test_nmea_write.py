"""Sentences as a simulated receiver writes them, read by our decoder and by the public one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynmeagps import NMEAReader

from edgeguard.errors import PacketError
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.gnss_record import GnssRecord
from edgeguard.protocols.nmea_write import NmeaFix, epoch, sentence
from edgeguard.types import GnssFix

FIX = NmeaFix(1_767_225_600_100_000_000, 48.1370012345, 11.5750098765, 520.125, 9.5, 123.456, 12, 0.8)
NEXT = NmeaFix(1_767_225_600_200_000_000, 48.1370022345, 11.5750198765, 520.225, 9.6, 123.5, 12, 0.8)
LAST = NmeaFix(1_767_225_600_300_000_000, 48.1370032345, 11.5750298765, 520.325, 9.7, 123.6, 12, 0.8)


def feed(*parts: bytes) -> tuple[list[GnssRecord], GnssDecoder]:
    """Return the fixes of all parts and the decoder, which knows how our epochs end."""
    decoder = GnssDecoder(ends=["RMC"])
    return [fix for part in parts for fix in decoder.feed(part)], decoder


@given(
    st.floats(-90.0, 90.0),
    st.floats(-180.0, 180.0),
    st.floats(0.0, 100.0),
    st.floats(0.0, 359.9),
    st.integers(0, 4_000_000_000_00),
)
def test_a_fix_comes_back_from_its_sentences(lat: float, lon: float, speed: float, course: float, ms: int) -> None:
    """Round trip to the printed decimals, already of the first epoch; pynmeagps reads the same position."""
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


def test_an_epoch_whose_end_is_known_is_given_with_it_and_is_whole() -> None:
    """Altitude from one sentence, speed from the other; without the hint the first one waits for the second."""
    (found,), _ = feed(epoch(FIX))
    assert (found.altitude_msl_m, found.satellites_used) == (520.125, 12)
    assert found.speed_m_s == pytest.approx(9.5, abs=3e-4)
    sample = found.sample(77, "gnss")
    assert isinstance(sample, GnssFix)
    assert (sample.stamp_ns, sample.device_stamp_ns, sample.hdop) == (77, FIX.utc_ns, 0.8)
    unknowing = GnssDecoder()
    assert [len(unknowing.feed(epoch(f))) for f in (FIX, NEXT, LAST)] == [0, 2, 1]


def test_a_wrong_hint_is_unlearned() -> None:
    """A receiver that sends RMC first: one epoch is cut short, from then on they are whole."""
    turned = [b"".join(epoch(f).splitlines(keepends=True)[::-1]) for f in (FIX, NEXT, LAST)]
    found, _ = feed(*turned)
    assert [f.altitude_msl_m for f in found[1:]] == [NEXT.altitude_m, LAST.altitude_m][: len(found) - 1]
    assert len(found) >= 2


def test_a_void_or_zero_quality_epoch_is_no_fix() -> None:
    """RMC status V silences the epoch, whatever GGA claims; without either there is none."""
    gga, rmc = epoch(FIX).decode().splitlines()
    void = sentence(rmc[1:-3].replace(",A,", ",V,", 1))
    zero = sentence(gga[1:-3].replace(",E,1,", ",E,0,"))
    for first in (gga.encode() + b"\r\n", zero):
        found, decoder = feed(first, void)
        assert found == []
        assert decoder.drops == {"no fix": 1}


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
def test_a_correct_checksum_does_not_make_nonsense_a_number(body: str) -> None:
    """Hostile fields behind a valid checksum give no impossible value, and the good epochs after them are read."""
    found, _ = feed(sentence(body), epoch(FIX), epoch(NEXT))
    assert [f.latitude_deg for f in found[-2:]] == pytest.approx([FIX.latitude_deg, NEXT.latitude_deg])
    for fix in found:
        assert fix.speed_m_s is None or 0.0 <= fix.speed_m_s <= 1000.0
        assert fix.hdop is None or 0.0 <= fix.hdop < 99.0


def test_writing_a_fix_without_time_is_refused() -> None:
    """NMEA needs a time in every epoch."""
    with pytest.raises(PacketError) as caught:
        epoch(NmeaFix(None, 1.0, 2.0))
    assert caught.value.code == "EG-N035"
