"""Dates and times as receivers give them: two-digit years, GPS weeks that wrap, leap seconds."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

NS_PER_S = 1_000_000_000
DAY_S = 86_400
WEEK_S = 7 * DAY_S
GPS_EPOCH = datetime(1980, 1, 6, tzinfo=UTC)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GPS_EPOCH_S = int((GPS_EPOCH - _UNIX_EPOCH).total_seconds())
WEEKS_PER_ROLLOVER = 1024

# First day of UTC with this many leap seconds since the GPS epoch (IERS Bulletin C; none announced after 2017).
_LEAPS = (
    (date(1981, 7, 1), 1), (date(1982, 7, 1), 2), (date(1983, 7, 1), 3), (date(1985, 7, 1), 4), (date(1988, 1, 1), 5),
    (date(1990, 1, 1), 6), (date(1991, 1, 1), 7), (date(1992, 7, 1), 8), (date(1993, 7, 1), 9), (date(1994, 7, 1), 10),
    (date(1996, 1, 1), 11), (date(1997, 7, 1), 12), (date(1999, 1, 1), 13), (date(2006, 1, 1), 14),
    (date(2009, 1, 1), 15), (date(2012, 7, 1), 16), (date(2015, 7, 1), 17), (date(2017, 1, 1), 18),
)  # fmt: skip


def leap_seconds_at(day: date) -> int:
    """Return GPS time minus UTC on a day, from the table of announced leap seconds."""
    return next((count for start, count in reversed(_LEAPS) if day >= start), 0)


def full_year(two_digits: int) -> int:
    """Return the year that two digits mean: GPS began in 1980, so 80 to 99 are the last century's."""
    return two_digits + (1900 if two_digits >= 80 else 2000)


def unroll(day: date, not_before: date | None) -> date:
    """Return `day`, moved forward by whole 1024-week periods until it is not before `not_before`.

    Receivers older than their week counter's period report a date 1024 weeks (19.6 years) back.
    """
    while not_before is not None and day < not_before:
        day += timedelta(weeks=WEEKS_PER_ROLLOVER)
    return day


def utc_ns(day: date, second_of_day_ns: int) -> int:
    """Return nanoseconds since 1970; a 60th second falls on the first of the next minute, as in POSIX time."""
    return (day - _UNIX_EPOCH.date()).days * DAY_S * NS_PER_S + second_of_day_ns


def gps_utc_ns(week: int, tow_ns: int, leap_seconds: int | None, not_before: date | None = None) -> int:
    """Return UTC of a GPS week number and time of week; the table's leap seconds where the receiver knows none."""
    start = GPS_EPOCH.date() + timedelta(weeks=week)
    week += ((unroll(start, not_before) - start).days) // 7
    gps_s = _GPS_EPOCH_S + week * WEEK_S
    if leap_seconds is None:
        leap_seconds = leap_seconds_at((_UNIX_EPOCH + timedelta(seconds=gps_s + tow_ns // NS_PER_S)).date())
    return (gps_s - leap_seconds) * NS_PER_S + tow_ns
