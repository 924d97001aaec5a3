"""Every UBX field we read, against pyubx2, for payloads that nobody chose."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pyubx2 import UBXMessage, UBXReader

from edgeguard.protocols.geodesy import geodetic
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.gnss_record import GnssRecord

tow = st.integers(0, 604_799_999)
i32 = st.integers(-(2**31), 2**31 - 1)
u32 = st.integers(0, 2**32 - 1)
angle = st.tuples(st.integers(-1_800_000_000, 1_800_000_000), st.integers(-900_000_000, 900_000_000))


def frame(name: str, payload: bytes) -> bytes:
    """Return a frame."""
    return bytes(UBXMessage("NAV", name, 0, payload=payload).serialize())


def status(tow_ms: int) -> bytes:
    """Return a NAV-STATUS with a good 3D fix, which lets the other messages of its epoch speak."""
    return frame("NAV-STATUS", struct.pack("<IBBBBII", tow_ms, 3, 1, 0, 0, 0, 0))


def read(*frames: bytes) -> GnssRecord:
    """Return the one record of an epoch."""
    decoder = GnssDecoder()
    (record,) = decoder.epochs(b"".join(frames)) + decoder.finish_epochs()
    return record


@given(
    tow, angle, i32, i32, u32, u32, i32, st.integers(0, 1_000_000), st.integers(-36_000_000, 36_000_000), u32,
    st.integers(0, 65_535), st.integers(0, 5), st.integers(0, 255), st.integers(0, 255), st.integers(-(10**9), 10**9),
    st.datetimes(datetime(1980, 1, 7), datetime(2099, 12, 30)),
)  # fmt: skip
def test_nav_pvt(
    at: int, place: tuple[int, int], height: int, msl: int, h_acc: int, v_acc: int, down: int, speed: int, heading: int,
    s_acc: int, pdop: int, fix: int, flags: int, used: int, nano: int, moment: datetime,
) -> None:  # fmt: skip
    """Place, heights, accuracies, motion, dilution and time."""
    payload = struct.pack(
        "<IHBBBBBBIiBBBBiiiiIIiiiiiIIH14x", at, moment.year, moment.month, moment.day, moment.hour, moment.minute,
        moment.second, 3, 0, nano, fix, flags, 0, used, *place, height, msl, h_acc, v_acc, 0, 0, down, speed,
        heading, s_acc, 0, pdop,
    )  # fmt: skip
    data = frame("NAV-PVT", payload)
    oracle, record = UBXReader.parse(data), read(data)
    assert record.satellites_used == oracle.numSV
    assert record.confirmed == (bool(oracle.gnssFixOk) or oracle.fixType == 0)
    assert record.horizontal_accuracy_m == pytest.approx(oracle.hAcc / 1000)
    assert record.vertical_accuracy_m == pytest.approx(oracle.vAcc / 1000)
    assert record.speed_accuracy_m_s == pytest.approx(oracle.sAcc / 1000)
    assert record.utc_ns == int(moment.replace(microsecond=0, tzinfo=UTC).timestamp()) * 10**9 + oracle.nano
    if pdop < 9999:
        assert record.pdop == pytest.approx(oracle.pDOP)
    if oracle.fixType == 0:
        assert record.latitude_deg is None
        return
    assert record.latitude_deg == pytest.approx(oracle.lat, abs=1e-9)
    assert record.longitude_deg == pytest.approx(oracle.lon, abs=1e-9)
    assert record.speed_m_s == pytest.approx(oracle.gSpeed / 1000)
    assert record.climb_m_s == pytest.approx(-oracle.velD / 1000)
    assert abs(((record.course_deg or 0.0) - oracle.headMot + 180) % 360 - 180) < 1e-6
    if record.mode == 3:
        assert record.altitude_msl_m == pytest.approx(oracle.hMSL / 1000)
        assert record.altitude_ellipsoid_m == pytest.approx(oracle.height / 1000)


@given(tow, angle, i32, i32, u32, u32)
def test_nav_posllh(at: int, place: tuple[int, int], height: int, msl: int, h_acc: int, v_acc: int) -> None:
    """Place and heights of receivers before series 7."""
    data = frame("NAV-POSLLH", struct.pack("<IiiiiII", at, *place, height, msl, h_acc, v_acc))
    oracle, record = UBXReader.parse(data), read(data, status(at))
    assert record.latitude_deg == pytest.approx(oracle.lat, abs=1e-9)
    assert record.longitude_deg == pytest.approx(oracle.lon, abs=1e-9)
    assert record.altitude_msl_m == pytest.approx(oracle.hMSL / 1000)
    assert record.horizontal_accuracy_m == pytest.approx(oracle.hAcc / 1000)


@given(tow, angle, st.integers(-99, 99), st.integers(-99, 99), i32, st.integers(-9, 9))
def test_nav_hpposllh(at: int, place: tuple[int, int], lon_hp: int, lat_hp: int, msl: int, msl_hp: int) -> None:
    """The extra digits are added with their sign."""
    assume(abs(place[0]) < 1_799_999_999 and abs(place[1]) < 899_999_999)
    payload = struct.pack("<BBBBIiiiibbbbII", 0, 0, 0, 0, at, *place, 0, msl, lon_hp, lat_hp, 0, msl_hp, 1, 1)
    data = frame("NAV-HPPOSLLH", payload)
    record = read(data, status(at))
    assert record.latitude_deg == pytest.approx((place[1] * 100 + lat_hp) * 1e-9, abs=1e-12)
    assert record.longitude_deg == pytest.approx((place[0] * 100 + lon_hp) * 1e-9, abs=1e-12)
    assert record.altitude_msl_m == pytest.approx(msl / 1000 + msl_hp / 10_000)
    oracle = UBXReader.parse(data)
    assert record.latitude_deg == pytest.approx(oracle.lat, abs=1e-8)


@given(tow, angle, i32, st.integers(0, 99_000), st.integers(0, 36_000_000), u32)
def test_nav_velned(at: int, place: tuple[int, int], down: int, ground: int, heading: int, s_acc: int) -> None:
    """Speed and course in their own message."""
    place_frame = frame("NAV-POSLLH", struct.pack("<IiiiiII", at, *place, 0, 0, 0, 0))
    data = frame("NAV-VELNED", struct.pack("<IiiiIIiII", at, 0, 0, down, 0, ground, heading, s_acc, 0))
    oracle, record = UBXReader.parse(data), read(place_frame, data, status(at))
    assert record.speed_m_s == pytest.approx(oracle.gSpeed / 100)
    assert record.course_deg == pytest.approx(oracle.heading % 360, abs=1e-6)
    assert record.climb_m_s == pytest.approx(-oracle.velD / 100)
    assert record.speed_accuracy_m_s == pytest.approx(oracle.sAcc / 100)


@given(tow, st.tuples(i32, i32, i32), st.integers(0, 4999), st.integers(0, 255))
def test_nav_sol(at: int, ecef: tuple[int, int, int], week: int, used: int) -> None:
    """Earth-centred place in centimetres, week and satellites."""
    payload = struct.pack("<IihBBiiiIiiiIHBB4x", at, 0, week, 3, 0x0D, *ecef, 0, 0, 0, 0, 0, 100, 0, used)
    data = frame("NAV-SOL", payload)
    oracle, record = UBXReader.parse(data), read(data)
    assert (oracle.ecefX, oracle.ecefY, oracle.ecefZ, oracle.week) == (*ecef, week)
    assert record.satellites_used == oracle.numSV
    assert (record.utc_ns is None) == (week == 0)
    if record.latitude_deg is not None:
        expected = geodetic(oracle.ecefX / 100, oracle.ecefY / 100, oracle.ecefZ / 100)
        assert record.latitude_deg == pytest.approx(expected[0], abs=1e-9)
        assert record.longitude_deg == pytest.approx(expected[1], abs=1e-9)


rows = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 3, 5, 6]), st.integers(1, 200), st.integers(0, 99), st.integers(-90, 90),
        st.integers(0, 360), st.integers(0, 2**32 - 1),
    ),
    max_size=12,
)  # fmt: skip


@given(tow, rows)
def test_nav_sat(at: int, sats: list[tuple[int, int, int, int, int, int]]) -> None:
    """Satellites, signal strength, where they stand and whether they are used."""
    body = b"".join(struct.pack("<BBBbhhI", g, n, c, e, a, 0, f) for g, n, c, e, a, f in sats)
    data = frame("NAV-SAT", struct.pack("<IBB2x", at, 1, len(sats)) + body)
    oracle, record = UBXReader.parse(data), read(data, status(at))
    assert len(record.satellites) == oracle.numSvs
    for k, satellite in enumerate(record.satellites, 1):
        assert satellite.number == getattr(oracle, f"svId_{k:02d}")
        assert (satellite.cn0_dbhz or 0) == getattr(oracle, f"cno_{k:02d}")
        assert satellite.elevation_deg == getattr(oracle, f"elev_{k:02d}")
        assert satellite.azimuth_deg == getattr(oracle, f"azim_{k:02d}")
        assert satellite.used == bool(getattr(oracle, f"svUsed_{k:02d}"))


@given(tow, st.lists(st.integers(0, 9998), min_size=7, max_size=7))
def test_nav_dop(at: int, dops: list[int]) -> None:
    """Three of the seven dilutions."""
    data = frame("NAV-DOP", struct.pack("<I7H", at, *dops))
    oracle, record = UBXReader.parse(data), read(data, status(at))
    assert record.pdop == pytest.approx(oracle.pDOP)
    assert record.hdop == pytest.approx(oracle.hDOP)
    assert record.vdop == pytest.approx(oracle.vDOP)


def test_a_status_that_takes_the_fix_back_wins() -> None:
    """Whatever the solution said before it."""
    place = frame("NAV-POSLLH", struct.pack("<IiiiiII", 1000, 1, 1, 0, 0, 0, 0))
    sol = frame(
        "NAV-SOL",
        struct.pack("<IihBBiiiIiiiIHBB4x", 1000, 0, 2400, 3, 13, 4 * 10**8, 0, 48 * 10**7, 0, 0, 0, 0, 0, 1, 0, 9),
    )
    denied = frame("NAV-STATUS", struct.pack("<IBBBBII", 1000, 3, 0, 0, 0, 0, 0))
    assert read(place, sol).has_position
    assert not read(place, sol, denied).has_position
