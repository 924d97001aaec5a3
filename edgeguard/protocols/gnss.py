"""A GNSS receiver's line, whatever it speaks: bytes in, one record per epoch out.

`GnssDecoder` is sans-IO, bounded, and independent of how the bytes are cut. Where a receiver says one epoch in several
ways, one is given and the others are counted: UBX before NMEA (more digits, accuracies), its high-rate output before
its navigation messages (they arrive later, for a time already given).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from types import MappingProxyType

from edgeguard.protocols.gnss_frames import TEXT, UBX, Frame, GnssFramer
from edgeguard.protocols.gnss_nmea import NmeaEpochs
from edgeguard.protocols.gnss_record import GnssRecord
from edgeguard.protocols.ubx import HNR, UbxEpochs
from edgeguard.types import LineStats

# After this many epochs in a row of a lesser protocol, it is believed again: somebody switched the receiver over.
SILENT_EPOCHS = 5
_RANK = {"NMEA": 0, UBX: 1, HNR: 2}

NO_FIX = "no fix"
UNCONFIRMED = "outside the receiver's limits"
REPEATED = "epoch in a second protocol"
MALFORMED = "malformed message"
BAD_CHECKSUM = "bad checksum"


class GnssDecoder:
    """Decodes NMEA 0183 and UBX out of a mixed stream; names and skips the rest.

    Args:
        unchecked: accept NMEA sentences without a checksum (a few old receivers send none).
        not_before: a date that has certainly passed, such as the day this software was built; dates before it are
            moved forward by 1024-week periods, as a receiver whose week counter wrapped needs. None moves nothing.
        unconfirmed: also give fixes that the receiver calls outside its limits.
        repeated: also give epochs that another protocol on the line has already told; for comparing receivers' outputs.
        ends: kinds of NMEA sentences ("RMC") that are known to end an epoch; without, the first fix comes with the
            second epoch. What turns out to be wrong is unlearned.
    """

    def __init__(
        self,
        *,
        unchecked: bool = False,
        not_before: date | None = None,
        unconfirmed: bool = False,
        repeated: bool = False,
        ends: Iterable[str] = (),
    ) -> None:
        self._framer = GnssFramer(unchecked)
        self._nmea = NmeaEpochs(not_before, ends)
        self._ubx = UbxEpochs(not_before)
        self._give_unconfirmed, self._give_repeated = unconfirmed, repeated
        self._rank = 0
        self._lesser = 0
        self._no_fix = self._unconfirmed = self._repeated = 0

    @property
    def line_stats(self) -> LineStats:
        """Totals in the common shape; frames of named foreign protocols arrived whole and are counted as frames."""
        f = self._framer
        whole = f.frames + sum(count for name, count in f.foreign.items() if name != TEXT)
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
            UNCONFIRMED: self._unconfirmed,
            REPEATED: self._repeated,
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
            rank = _RANK[record.protocol]
            self._lesser = 0 if rank >= self._rank else self._lesser + 1
            # One epoch in ten is NAV beside ten of HNR: only an unbroken run of the lesser one says that it took over.
            if rank >= self._rank or self._lesser > SILENT_EPOCHS:
                self._rank = rank
                chosen.append(record)
            elif self._give_repeated:
                chosen.append(record)
            else:
                self._repeated += 1
        return chosen

    def _with_position(self, records: list[GnssRecord]) -> list[GnssRecord]:
        placed = [record for record in records if record.has_position]
        fixes = [record for record in placed if record.confirmed or self._give_unconfirmed]
        self._no_fix += len(records) - len(placed)
        self._unconfirmed += len(placed) - len(fixes)
        return fixes
