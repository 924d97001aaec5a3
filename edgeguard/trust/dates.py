"""Dates in signed files: one spelling, whole seconds, UTC. docs/formats/bundle.md section 3."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from edgeguard.clock import NS_PER_S
from edgeguard.errors import BundleFormatError

DATE_PATTERN = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z"
Date = Annotated[str, msgspec.Meta(pattern=DATE_PATTERN)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def date_to_ns(text: str, *, what: str) -> int:
    """Return nanoseconds since 1970 UTC.

    Raises:
        BundleFormatError: EG-B004, no such date.
    """
    moment: datetime | None = None
    if re.match(DATE_PATTERN, text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
    if moment is None:
        raise BundleFormatError(f"{what} is not a date", code="EG-B004")
    return int((moment - _EPOCH) / timedelta(seconds=1)) * NS_PER_S


def ns_to_date(wall_ns: int) -> str:
    """Return the spelling of a moment, rounded down to a second; moments outside years 1970..9999 are clamped."""
    seconds = min(max(wall_ns // NS_PER_S, 0), 253_402_300_799)
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def ns_to_datetime(wall_ns: int) -> datetime:
    """Return the moment as an aware datetime, for the TUF library; clamped as in `ns_to_date`."""
    return datetime.fromisoformat(ns_to_date(wall_ns))
