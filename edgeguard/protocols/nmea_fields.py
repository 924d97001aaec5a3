"""The fields of NMEA 0183 sentences: what a text means, or None where it means nothing.

pynmeagps reads the same fields (and is the oracle of the tests), but gives up a whole sentence for one odd field and
has no 60th second; receivers produce both.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import date

from edgeguard.protocols.gnss_time import NS_PER_S, full_year

KNOT_M_S = 1852.0 / 3600.0
MAX_SPEED_M_S = 1000.0  # receivers stop at 515 m/s by export law; beyond this the field is damaged
MAX_DOP = 99.0  # receivers print 99.99 for "unknown"
MAX_ALTITUDE_M = 1e6

_NUMBER = re.compile(r"[+-]?(?:\d{1,12}\.?\d{0,12}|\.\d{1,12})", re.ASCII)
_TIME = re.compile(r"(\d\d)(\d\d)(\d\d)(?:\.(\d{0,9}))?", re.ASCII)
_DATE = re.compile(r"(\d\d)(\d\d)(\d\d)", re.ASCII)


def number(text: str) -> float | None:
    """Return a decimal number; None when the field is empty or is none."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def count(text: str) -> int | None:
    """Return a small non-negative integer."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else None


def within(value: float | None, low: float, high: float) -> float | None:
    """Return the value when it lies in the closed range."""
    return value if value is not None and low <= value <= high else None


def speed(text: str) -> float | None:
    """Knots to m/s."""
    knots = number(text)
    return None if knots is None else within(knots * KNOT_M_S, 0.0, MAX_SPEED_M_S)


def course(text: str) -> float | None:
    """Degrees from true north, 0 to 360."""
    return within(number(text), 0.0, 360.0)


def dop(text: str) -> float | None:
    """A dilution of precision; None for the 99.99 that means unknown."""
    value = within(number(text), 0.0, MAX_DOP)
    return None if value == MAX_DOP else value


def altitude(text: str) -> float | None:
    """Metres."""
    return within(number(text), -MAX_ALTITUDE_M, MAX_ALTITUDE_M)


def position(fields: list[str], at: int) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees from four fields (ddmm.mm, N or S, dddmm.mm, E or W)."""
    latitude = _angle(fields[at], fields[at + 1], "N", "S", 90.0)
    longitude = _angle(fields[at + 2], fields[at + 3], "E", "W", 180.0)
    return None if latitude is None or longitude is None else (latitude, longitude)


def _angle(text: str, side: str, positive: str, negative: str, limit: float) -> float | None:
    value = number(text)
    if value is None or value < 0.0 or side not in {positive, negative}:
        return None
    degrees, minutes = divmod(value, 100.0)
    # The whole degrees are cut off the text: 4807.9999999 must not lose digits to the hundred in front.
    whole = text.strip().split(".")[0]
    if len(whole) > 2:
        minutes = float(text.strip()[len(whole) - 2 :])
    if minutes >= 60.0:
        return None
    angle = degrees + minutes / 60.0
    if angle > limit:
        return None
    return angle if side == positive else -angle


def time_of_day_ns(text: str) -> int | None:
    """hhmmss.ss to nanoseconds since midnight. The 60th second is legal at the end of an hour's last minute."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2]), int(match[3])
    if hour > 23 or minute > 59 or second > 60 or (second == 60 and minute != 59):
        return None
    fraction = int((match[4] or "").ljust(9, "0")[:9])
    return ((hour * 60 + minute) * 60 + second) * NS_PER_S + fraction


def day_of(text: str) -> date | None:
    """Ddmmyy to a date; None for one that does not exist."""
    match = _DATE.fullmatch(text.strip())
    return None if match is None else calendar_day(full_year(int(match[3])), int(match[2]), int(match[1]))


def calendar_day(year: int, month: int, day: int) -> date | None:
    """Return a date between 1980 and 2199, None for one that does not exist."""
    if not (1980 <= year <= 2199 and 1 <= month <= 12):
        return None
    return date(year, month, day) if 1 <= day <= monthrange(year, month)[1] else None
