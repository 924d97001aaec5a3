"""A GNSS receiver's line, whatever it speaks: bytes in, one record per epoch out.

`GnssDecoder` is sans-IO, bounded, and independent of how the bytes are cut. Where a receiver says one epoch in UBX and
in NMEA, UBX is given (it has more digits and accuracies) and NMEA is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from types import MappingProxyType

from edgeguard.protocols.gnss_frames import UBX, Frame, GnssFramer
from edgeguard.protocols.gnss_nmea import NmeaEpochs
from edgeguard.protocols.gnss_record import GnssRecord
from edgeguard.protocols.ubx import UbxEpochs
from edgeguard.types import LineStats

# After this many NMEA epochs without a UBX one, NMEA is believed again: somebody switched the receiver over.
NMEA_AFTER_EPOCHS = 5

NO_FIX = "no fix"
ALSO_IN_UBX = "also in UBX"
MALFORMED = "malformed message"
BAD_CHECKSUM = "bad checksum"


class GnssDecoder:
    """Decodes NMEA 0183 and UBX out of a mixed stream; names and skips the rest.

    Args:
        unchecked: accept NMEA sentences without a checksum (a few old receivers send none).
        not_before: a date that has certainly passed, such as the day this software was built; dates before it are
            moved forward by 1024-week periods, as a receiver whose week counter wrapped needs. None moves nothing.
    """

    def __init__(self, *, unchecked: bool = False, not_before: date | None = None) -> None:
        self._framer = GnssFramer(unchecked)
        self._nmea = NmeaEpochs(not_before)
        self._ubx = UbxEpochs(not_before)
        self._nmea_since_ubx = NMEA_AFTER_EPOCHS
        self._no_fix = 0
        self._also = 0

    @property
    def line_stats(self) -> LineStats:
        """Totals in the common shape; frames of named foreign protocols arrived whole and are counted as frames."""
        f = self._framer
        whole = f.frames + sum(f.foreign.values())
        return LineStats(f.bytes_received, whole, f.checksum_failures, f.bytes_skipped, 0)

    @property
    def frames(self) -> int:
        """NMEA and UBX frames with a good checksum."""
        return self._framer.frames

    @property
    def foreign(self) -> Mapping[str, int]:
        """Frames of protocols that are named and skipped, by name."""
        return MappingProxyType(self._framer.foreign)

    @property
    def drops(self) -> Mapping[str, int]:
        """Epochs and frames that gave no sample, by reason; running totals."""
        totals = {
            NO_FIX: self._no_fix,
            ALSO_IN_UBX: self._also,
            MALFORMED: self._nmea.malformed + self._ubx.malformed,
            BAD_CHECKSUM: self._framer.checksum_failures,
            **self._framer.refused,
        }
        return MappingProxyType({reason: total for reason, total in totals.items() if total})

    def feed(self, data: bytes) -> list[GnssRecord]:
        """Return the epochs with a position that `data` completes. Never raises on the bytes' account."""
        return self._with_position(self.epochs(data))

    def finish(self) -> list[GnssRecord]:
        """Return the positions of what the end of a recording completes."""
        return self._with_position(self.finish_epochs())

    def epochs(self, data: bytes) -> list[GnssRecord]:
        """Return every epoch that `data` completes, those without a fix included."""
        return self._take(self._framer.feed(data))

    def finish_epochs(self) -> list[GnssRecord]:
        """Return every epoch that the end of a recording completes."""
        records = self._take(self._framer.finish())
        return records + self._choose(self._ubx.finish()) + self._choose(self._nmea.finish())

    def _take(self, frames: list[Frame]) -> list[GnssRecord]:
        records: list[GnssRecord] = []
        for frame in frames:
            found = self._ubx.take(frame.data) if frame.kind == UBX else self._nmea.take(frame.data)
            if found:
                records += self._choose(found)
        return records

    def _choose(self, found: list[GnssRecord]) -> list[GnssRecord]:
        chosen = []
        for record in found:
            if record.protocol == UBX:
                self._nmea_since_ubx = 0
                chosen.append(record)
            elif self._nmea_since_ubx < NMEA_AFTER_EPOCHS:
                self._nmea_since_ubx += 1
                self._also += 1
            else:
                chosen.append(record)
        return chosen

    def _with_position(self, records: list[GnssRecord]) -> list[GnssRecord]:
        fixes = [record for record in records if record.has_position]
        self._no_fix += len(records) - len(fixes)
        return fixes
