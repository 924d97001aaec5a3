"""Epochs out of NMEA and UBX: modes, times, one record per epoch, and the oracles pynmeagps and pyubx2."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynmeagps import NMEAReader
from pyubx2 import UBXMessage, UBXReader

from edgeguard.protocols import gnss
from edgeguard.protocols.geodesy import east_north_up, geodetic
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.gnss_foreign import fletcher8
from edgeguard.protocols.gnss_record import FixMode, FixStatus, GnssRecord
from edgeguard.protocols.gnss_time import gps_utc_ns, leap_seconds_at, unroll
from edgeguard.protocols.nmea_fields import day_of, number, position, time_of_day_ns
from edgeguard.protocols.nmea_write import sentence
from edgeguard.types import GnssFix


def ns(*moment: int) -> int:
    """Return nanoseconds since 1970 of a UTC moment."""
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 10**9  # type: ignore[misc,arg-type]


def gga(
    at: str, quality: str = "1", satellites: str = "08", place: str = "4808.2200,N,01134.5000,E", talker: str = "GP"
) -> bytes:
    """Return a GGA."""
    return sentence(f"{talker}GGA,{at},{place},{quality},{satellites},0.9,520.1,M,46.0,M,,")


def rmc(at: str, day: str = "010126", status: str = "A", place: str = "4808.2200,N,01134.5000,E") -> bytes:
    """Return an RMC at 10 knots."""
    return sentence(f"GPRMC,{at},{status},{place},10.0,90.0,{day},,,A")


def gsa(mode: int, satellites: int = 5, talker: str = "GP") -> bytes:
    """Return a GSA."""
    ids = ",".join(str(k + 1) if k < satellites else "" for k in range(12))
    return sentence(f"{talker}GSA,A,{mode},{ids},2.0,1.0,1.7")


def run(*parts: bytes, **options: bool | date) -> list[GnssRecord]:
    """Return every epoch of a stream."""
    decoder = GnssDecoder(**options)  # type: ignore[arg-type]
    return [r for part in parts for r in decoder.epochs(part)] + decoder.finish_epochs()


def pvt(
    tow_ms: int = 1000, fix: int = 3, flags: int = 1, lat: int = 481370000, second: int = 1, nano: int = 0
) -> bytes:
    """Return a NAV-PVT frame."""
    payload = struct.pack(
        "<IHBBBBBBIiBBBBiiiiIIiiiiiIIH14x", tow_ms, 2026, 1, 1, 12, 0, second, 7, 30, nano, fix, flags, 0, 12,
        115750000, lat, 566_000, 520_000, 1500, 2500, 1000, 0, -100, 5000, 9_000_000, 300, 1000, 150,
    )  # fmt: skip
    return bytes(UBXMessage("NAV", "NAV-PVT", 0, payload=payload).serialize())


def nav(name: str, payload: bytes) -> bytes:
    """Return any UBX navigation frame."""
    return bytes(UBXMessage("NAV", name, 0, payload=payload).serialize())


def test_sentences_of_one_time_become_one_record() -> None:
    """Position and height from GGA, speed and date from RMC, mode and dilution from GSA, signals from GSV."""
    gsv = sentence("GPGSV,1,1,02,01,40,083,46,02,17,308,")
    (first, second) = run(gga("120000"), gsa(3), gsv, rmc("120000"), gga("120001"), gsa(3), rmc("120001"))
    assert first.utc_ns == ns(2026, 1, 1, 12)
    assert (first.mode, first.status) == (FixMode.FIX_3D, FixStatus.SINGLE)
    assert first.latitude_deg == pytest.approx(48.137, abs=1e-9)
    assert (first.altitude_msl_m, first.altitude_ellipsoid_m) == (520.1, pytest.approx(566.1))
    assert first.speed_m_s == pytest.approx(10 * 1852 / 3600)
    assert (first.pdop, first.hdop, first.vdop) == (2.0, 1.0, 1.7)
    assert [(s.number, s.cn0_dbhz, s.used) for s in first.satellites] == [(1, 46.0, True), (2, None, True)]
    sample = second.sample(77, "gnss")
    assert isinstance(sample, GnssFix)
    assert (sample.stamp_ns, sample.device_stamp_ns, sample.cn0_dbhz) == (77, ns(2026, 1, 1, 12, 0, 1), (46.0,))


def test_from_the_second_epoch_on_the_last_sentence_gives_the_fix_at_once() -> None:
    """The end of an epoch is learned; before that, the next epoch's start gives the fix."""
    for order in ((gga, rmc), (rmc, gga)):
        decoder = GnssDecoder()
        given = [len(decoder.feed(make(at))) for at in ("120000", "120001", "120002") for make in order]
        assert given == [0, 0, 1, 1, 0, 1]


def test_a_wrongly_learned_end_costs_one_epoch_and_is_unlearned() -> None:
    """A receiver that changes its order is read when the time changes: complete, never twice."""
    stream = [
        gga("120000"),
        rmc("120000"),
        rmc("120001"),
        gga("120001"),
        rmc("120002"),
        gga("120002"),
        rmc("120003"),
        gga("120003"),
    ]
    records = run(*stream)
    assert [r.utc_ns for r in records] == [ns(2026, 1, 1, 12, 0, s) for s in range(4)]
    assert all(r.altitude_msl_m is not None and r.speed_m_s is not None for r in (records[0], *records[2:]))


def test_a_lost_sentence_delays_nothing_for_long() -> None:
    """After a damaged RMC one epoch comes without speed; then the fixes come with their last sentence again."""
    decoder = GnssDecoder()
    for second in range(10):
        broken = rmc(f"1200{second:02d}").replace(b"A,48", b"A,49") if second == 5 else rmc(f"1200{second:02d}")
        decoder.feed(gga(f"1200{second:02d}") + broken)
    assert len(decoder.feed(gga("120010"))) == 0
    (fix,) = decoder.feed(rmc("120010"))
    assert fix.speed_m_s is not None


def test_gga_five_times_and_rmc_once_a_second_give_every_epoch_once() -> None:
    """Epochs of different length: each is given once, the full ones with speed, whatever the others taught."""
    stream = b"".join(
        gga(f"12{k // 300:02d}{k // 5 % 60:02d}.{2 * (k % 5)}0")
        + (rmc(f"12{k // 300:02d}{k // 5 % 60:02d}.00") if k % 5 == 0 else b"")
        for k in range(600)
    )
    records = run(stream)
    moments = [r.utc_ns for r in records if r.utc_ns is not None]
    assert len(moments) == len(set(moments)) == 600
    with_speed = [r for r in records if r.speed_m_s is not None]
    assert len(with_speed) >= 115


@pytest.mark.parametrize(
    ("stream", "mode"),
    [
        ([gga("120000")], 3),
        ([gga("120000", satellites="03")], 2),
        ([gga("120000", satellites="02")], 1),
        ([gga("120000", quality="0")], 1),
        ([gga("120000", quality="")], 1),
        ([gga("120000", place=",,,")], 1),
        ([gga("120000"), gsa(1, 0)], 1),
        ([gga("120000"), gsa(2)], 2),
        ([gga("120000", satellites="03"), gsa(3)], 3),
        ([rmc("120000")], 2),
        ([rmc("120000", status="V")], 1),
        ([gga("120000"), rmc("120000", status="V")], 1),
        ([gsa(3), rmc("120000")], 3),
        ([sentence("GPGLL,4808.22,N,01134.50,E,120000,A,A")], 2),
        ([sentence("GPGLL,4808.22,N,01134.50,E,120000,V,N")], 1),
        ([sentence("GNGNS,120000,4808.22,N,01134.50,E,AA,12,0.8,520.1,46.0,,,S")], 3),
        ([sentence("GNGNS,120000,4808.22,N,01134.50,E,NN,00,,,,,,V")], 1),
        ([sentence("GPGSA,A,1,,,,"), gga("120000")], 3),
    ],
)
def test_the_mode_follows_what_the_receiver_says(stream: list[bytes], mode: int) -> None:
    """One epoch each; two and three dimensions, and no fix."""
    assert run(*stream)[-1].mode == mode


def test_a_time_that_stands_still_is_no_fix() -> None:
    """Receivers that lost the sky and repeat their last sentence are not believed."""
    records = run(gga("120000"), gga("120000"), gsa(3), gga("120000"))
    assert [r.mode for r in records] == [3, 1, 1]
    both = run(gga("120000", talker="GP"), gga("120000", talker="GL"))
    assert [r.mode for r in both] == [3]


@pytest.mark.parametrize("talker", ["GP", "GN", "GL", "GA", "BD", "GB", "GQ", "QZ", "GI", "II", "IN"])
def test_every_talker_is_heard(talker: str) -> None:
    """The talker names the constellation, not the right to speak."""
    assert run(gga("120000", talker=talker))[0].has_position


def test_dates_and_midnight_and_the_leap_second() -> None:
    """A time without a date takes the known day and steps over midnight; a 60th second is the next minute's first."""
    records = run(rmc("235959", "311225"), gga("235959"), gga("000000"), rmc("000000", "010126"), gga("000001"))
    assert [r.utc_ns for r in records] == [ns(2025, 12, 31, 23, 59, 59), ns(2026, 1, 1), ns(2026, 1, 1, 0, 0, 1)]
    (leap,) = run(rmc("235960", "311216"))
    assert leap.utc_ns == ns(2017, 1, 1)
    assert run(rmc("120000", "310226"))[0].utc_ns is None
    assert run(rmc("120000", "010199"))[0].utc_ns == ns(1999, 1, 1, 12)
    assert run(gga("120000"))[0].utc_ns is None
    zda = sentence("GPZDA,120000.00,05,06,2026,00,00")
    assert run(zda, gga("120000.00"))[0].utc_ns == ns(2026, 6, 5, 12)


def test_a_date_sentence_with_a_time_of_its_own_bounds_no_epoch() -> None:
    """ZDA two seconds off, before or behind: one record per epoch, dated all the same."""
    zda = sentence("GPZDA,120002.00,05,06,2026,00,00")
    records = run(zda, gga("120000"), gga("120001"), zda, gga("120003"))
    assert [r.utc_ns for r in records] == [ns(2026, 6, 5, 12, 0, s) for s in (0, 1, 3)]
    midnight = sentence("GPZDA,000000.00,06,06,2026,00,00")
    late = run(sentence("GPZDA,235959.00,05,06,2026,00,00"), gga("235959"), midnight, gga("000000"))
    assert [r.utc_ns for r in late] == [ns(2026, 6, 5, 23, 59, 59), ns(2026, 6, 6)]


def test_the_makers_own_positions_are_read() -> None:
    """Ashtech, Garmin and SkyTraq; each with its units."""
    pos = sentence("PASHR,POS,3,10,120000.00,4808.22,N,01134.50,E,566.1,,90.0,10.0,-0.5,2.0,1.0,1.7,1.0,x")
    (ashtech,) = run(pos)
    assert (ashtech.mode, ashtech.status) == (FixMode.FIX_3D, FixStatus.RTK_FIXED)
    assert (ashtech.altitude_ellipsoid_m, ashtech.altitude_msl_m, ashtech.climb_m_s) == (566.1, None, -0.5)
    assert ashtech.speed_m_s == pytest.approx(10 * 1852 / 3600)
    assert run(sentence("PASHR,POS,,,120000.00,,,,,,,,,,,,,,x"))[0].mode is FixMode.NONE
    (garmin,) = run(sentence("PGRMF,223,424801,010126,120000,18,4808.22,N,01134.50,E,A,2,36,90,2,1"))
    assert (garmin.mode, garmin.speed_m_s, garmin.utc_ns) == (FixMode.FIX_3D, 10.0, ns(2026, 1, 1, 12))
    (skytraq,) = run(sentence("PSTI,030,120000.000,A,4808.22,N,01134.50,E,520.1,3.0,4.0,0.1,010126,R,1.0,9.0"))
    assert (skytraq.mode, skytraq.status, skytraq.speed_m_s) == (FixMode.FIX_3D, FixStatus.RTK_FIXED, 5.0)
    assert skytraq.course_deg == pytest.approx(36.8699, abs=1e-3)


def test_a_wrapped_week_counter_is_corrected_only_when_a_limit_is_given() -> None:
    """1024 weeks are added as often as it takes; without a limit the receiver's word stands."""
    assert run(rmc("120000", "250800"))[0].utc_ns == ns(2000, 8, 25, 12)
    assert run(rmc("120000", "250800"), not_before=date(2020, 1, 1))[0].utc_ns == ns(2020, 4, 10, 12)
    assert unroll(date(1980, 1, 6), date(2019, 4, 7)) == date(2019, 4, 7)


@given(st.integers(0, 2500), st.integers(0, 604_799_999))
def test_gps_time_agrees_with_the_calendar(week: int, tow_ms: int) -> None:
    """The leap seconds of the day are taken off, whatever the week."""
    found = gps_utc_ns(week, tow_ms * 1_000_000, None)
    gps_ms = (int(datetime(1980, 1, 6, tzinfo=UTC).timestamp()) + week * 604_800) * 1000 + tow_ms
    assert gps_ms - found // 1_000_000 in range(0, 18_001, 1000)
    assert leap_seconds_at(date(2016, 12, 31)) == 17
    assert leap_seconds_at(date(2017, 1, 1)) == 18
    assert leap_seconds_at(date(1980, 1, 6)) == 0


@given(
    st.integers(0, 89), st.integers(0, 59_999_999), st.integers(0, 179), st.integers(0, 59_999_999),
    st.sampled_from("NS"), st.sampled_from("EW"),
)  # fmt: skip
def test_positions_are_those_that_pynmeagps_reads(d: int, m: int, e: int, k: int, north: str, east: str) -> None:
    """South and west, and every digit."""
    place = f"{d:02d}{m / 1e6:09.6f},{north},{e:03d}{k / 1e6:09.6f},{east}"
    record = run(gga("120000", place=place))[0]
    message = NMEAReader.parse(gga("120000", place=place))
    assert record.latitude_deg == pytest.approx(message.lat, abs=1e-9)
    assert record.longitude_deg == pytest.approx(message.lon, abs=1e-9)


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e5", "1_0", "--1", "١٢", "0x10", " ", "1.2.3"])
def test_fields_that_are_no_number_are_none(text: str) -> None:
    """Python reads more as a number than NMEA does."""
    assert number(text) is None


def test_fields_out_of_range_are_none() -> None:
    """Impossible angles, times and dates."""
    assert position(["9100.0", "N", "01100.0", "E"], 0) is None
    assert position(["4860.0", "N", "01100.0", "E"], 0) is None
    assert position(["4800.0", "E", "01100.0", "N"], 0) is None
    assert position(["9000.0", "S", "18000.0", "W"], 0) == (-90.0, -180.0)
    for text in ("240000", "126000", "120061", "1200", "abcdef", "12000a", "123060"):
        assert time_of_day_ns(text) is None
    for text in ("320126", "011326", "000126", "1", "abcdef"):
        assert day_of(text) is None


def test_pvt_is_read_as_pyubx2_reads_it() -> None:
    """Every field of the record, against the oracle."""
    frame = pvt(nano=-500_000, second=5)
    oracle = UBXReader.parse(frame)
    (record,) = run(frame)
    assert record.latitude_deg == pytest.approx(oracle.lat, abs=1e-9)
    assert record.longitude_deg == pytest.approx(oracle.lon, abs=1e-9)
    assert record.altitude_msl_m == pytest.approx(oracle.hMSL / 1e3)
    assert record.altitude_ellipsoid_m == pytest.approx(oracle.height / 1e3)
    assert record.speed_m_s == pytest.approx(oracle.gSpeed / 1e3)
    assert record.course_deg == pytest.approx(oracle.headMot)
    assert record.climb_m_s == pytest.approx(-oracle.velD / 1e3)
    assert record.horizontal_accuracy_m == pytest.approx(oracle.hAcc / 1e3)
    assert record.satellites_used == oracle.numSV
    assert record.utc_ns == ns(2026, 1, 1, 12, 0, 5) - 500_000


@pytest.mark.parametrize(
    ("fix", "mode", "status"),
    [(0, 1, FixStatus.UNKNOWN), (1, 2, FixStatus.DEAD_RECKONING), (2, 2, FixStatus.SINGLE), (3, 3, FixStatus.SINGLE),
     (4, 3, FixStatus.SINGLE), (5, 3, FixStatus.SURVEYED), (9, 1, FixStatus.UNKNOWN)],
)  # fmt: skip
def test_the_fix_types_of_ublox_map_to_modes(fix: int, mode: int, status: FixStatus) -> None:
    """Unknown types are no fix."""
    (record,) = run(pvt(fix=fix))
    assert (record.mode, record.status) == (mode, status)
    assert record.has_position == (mode > 1)


def test_a_solution_outside_the_receivers_limits_is_kept_but_not_sampled() -> None:
    """gnssFixOK not set: an epoch, unconfirmed; no sample unless asked for."""
    decoder = GnssDecoder()
    assert decoder.feed(pvt(flags=0)) + decoder.finish() == []
    assert decoder.drops == {gnss.UNCONFIRMED: 1}
    other = GnssDecoder(unconfirmed=True)
    (fix,) = other.feed(pvt(flags=0)) + other.finish()
    assert not fix.confirmed


def test_rtk_and_differential_are_told() -> None:
    """carrSoln before diffSoln."""
    assert [run(pvt(flags=f))[0].status for f in (0x43, 0x83, 0x03)] == [
        FixStatus.RTK_FLOAT,
        FixStatus.RTK_FIXED,
        FixStatus.DIFFERENTIAL,
    ]


def test_old_receivers_are_read_from_their_earth_centred_solution() -> None:
    """NAV-SOL alone: place, speed and time out of ECEF and GPS week."""
    x, y, z = 418_000_000, 85_000_000, 472_000_000
    sol = struct.pack("<IihBBiiiIiiiIHBB4x", 1000, 0, 2400, 3, 0x0D, x, y, z, 100, 0, 0, 100, 50, 200, 0, 9)
    (record,) = run(nav("NAV-SOL", sol))
    latitude, longitude, _ = geodetic(x / 100, y / 100, z / 100)
    assert (record.latitude_deg, record.longitude_deg) == (latitude, longitude)
    assert record.utc_ns == gps_utc_ns(2400, 1_000_000_000, None)
    assert record.speed_m_s == pytest.approx(math.sin(math.pi / 2 - math.radians(latitude)), abs=1e-3)


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(-1000, 100_000))
def test_earth_centred_positions_turn_back(latitude: float, longitude: float, height: float) -> None:
    """From geodetic to Earth-centred by the closed form and back: a tenth of a millimetre."""
    f = 1 / 298.257223563
    e2 = f * (2 - f)
    p, q = math.radians(latitude), math.radians(longitude)
    n = 6_378_137.0 / math.sqrt(1 - e2 * math.sin(p) ** 2)
    x = (n + height) * math.cos(p) * math.cos(q)
    y = (n + height) * math.cos(p) * math.sin(q)
    z = (n * (1 - e2) + height) * math.sin(p)
    found = geodetic(x, y, z)
    assert found[0] == pytest.approx(latitude, abs=1e-9)
    assert found[2] == pytest.approx(height, abs=1e-4)
    if abs(latitude) < 89.999:
        assert abs((found[1] - longitude + 180) % 360 - 180) < 1e-8 / math.cos(p)


def test_east_north_up_is_a_rotation() -> None:
    """At the equator and zero longitude, x is up, y is east, z is north."""
    assert east_north_up(0.0, 0.0, 1.0, 2.0, 3.0) == pytest.approx((2.0, 3.0, 1.0))


def test_ubx_wins_over_nmea_of_the_same_receiver_and_nmea_comes_back_when_it_stops() -> None:
    """One record per epoch from two protocols; the loser is counted."""
    decoder = GnssDecoder()
    eoe = nav("NAV-EOE", struct.pack("<I", 2000))
    records = decoder.feed(pvt(2000) + eoe)
    for second in range(12):
        records += decoder.feed(gga(f"1200{second:02d}") + rmc(f"1200{second:02d}"))
    assert records[0].protocol == "UBX"
    assert [r.protocol for r in records[1:]] == ["NMEA"] * 7
    assert decoder.drops[gnss.REPEATED] == 5


def test_a_short_message_is_malformed_and_harmless() -> None:
    """Every navigation message cut to every length, with a good checksum."""
    for name in ("NAV-PVT", "NAV-SOL", "NAV-POSLLH", "NAV-STATUS", "NAV-DOP", "NAV-VELNED", "NAV-TIMEGPS",
                 "NAV-TIMEUTC", "NAV-SAT", "NAV-SVINFO", "NAV-HPPOSLLH", "NAV-EOE",
                 "NAV-POSECEF", "NAV-VELECEF"):  # fmt: skip
        whole = nav(name, bytes(100))
        ident = whole[3]
        for length in range(0, 100, 3):
            body = bytes((1, ident)) + struct.pack("<H", length) + b"\xff" * length
            records = run(b"\xb5\x62" + body + fletcher8(body) + pvt())
            assert records[-1].has_position


stream_parts = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.builds(lambda s: gga(f"1200{s:02d}"), st.integers(0, 9)),
        st.builds(lambda s: rmc(f"1200{s:02d}"), st.integers(0, 9)),
        st.builds(gsa, st.integers(0, 9)),
        st.builds(lambda t, f: pvt(t * 100, f), st.integers(0, 20), st.integers(0, 6)),
        st.builds(sentence, st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)),
    ),
    max_size=10,
)


@given(stream_parts, st.integers(1, 64))
def test_records_do_not_depend_on_how_the_bytes_are_cut(parts: list[bytes], size: int) -> None:
    """Records, totals and drops; and every number is finite and in range."""
    stream = b"".join(parts)
    whole, cut = GnssDecoder(), GnssDecoder()
    expected = whole.feed(stream) + whole.finish()
    found = [r for i in range(0, len(stream), size) for r in cut.feed(stream[i : i + size])] + cut.finish()
    assert found == expected
    assert (cut.line_stats, dict(cut.drops)) == (whole.line_stats, dict(whole.drops))
    for record in expected:
        assert record.has_position
        assert abs(record.latitude_deg or 0.0) <= 90
        assert abs(record.longitude_deg or 0.0) <= 180
        assert all(v is None or math.isfinite(v) for v in (record.speed_m_s, record.altitude_msl_m, record.course_deg))


def test_a_record_without_a_position_is_no_sample() -> None:
    """The decoder never hands one out; asking for one is a mistake of the caller."""
    (record,) = run(rmc("120000", status="V"))
    with pytest.raises(ValueError, match="position"):
        record.sample(1, "gnss")
