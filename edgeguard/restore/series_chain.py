"""Chains for serial series (IMU, GNSS, wheels): every change is told, sample by sample.

A restorer remembers the raw readings of the last moments, so that a tick's readings are judged by those before them.
The newest have nothing behind them yet: they are judged by a line through the past alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.restore.chain_digest import digest_of
from edgeguard.restore.series_channels import CHANNEL_NAMES, Channels, channels_of
from edgeguard.restore.series_filters import declip, hampel, running_median
from edgeguard.types import Change, Restoration, Sample

MAX_HALF = 25  # a longer window reaches over manoeuvres
MAX_CHANGES = 64  # listed of one tick; the others are counted
MAX_STEPS = 8
PAST = 50  # readings that are kept, for how much is usual
MAX_GAP = 5.0  # usual periods: after a longer silence the past says nothing about now

Floats = NDArray[np.float64]
Half = Annotated[int, Meta(ge=3, le=MAX_HALF)]


class _Step(msgspec.Struct, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """What every step has. channels: the names it works on, all of them when empty."""

    channels: tuple[str, ...] = ()

    def _require_known(self) -> None:
        for name in self.channels:
            if name not in CHANNEL_NAMES:
                raise ValueError(f"no channel is called {name}; known: {', '.join(sorted(CHANNEL_NAMES))}")

    def __post_init__(self) -> None:
        self._require_known()


class Hampel(_Step, frozen=True, tag="hampel"):
    """Outliers become the robust line around them: spikes of a loose contact, single wild fixes.

    sigmas: of the spread around the line; of heavy-tailed (Laplacian) vibration, one reading in 200 000 is farther off
    than 12. What an honest body could do in half a window is never an outlier, so `half`
    readings to either side also say how fast is honest.
    """

    half: Half = 5
    sigmas: Annotated[float, Meta(ge=3.0, le=100.0)] = 12.0

    def apply(self, t_s: Floats, values: Floats, least: Floats) -> Floats:
        """Return what the readings (N,) should be; least (N,): see `series_filters.hampel`."""
        return hampel(t_s, values, self.half, self.sigmas, least)


class RunningMedian(_Step, frozen=True, tag="median"):
    """Every reading becomes the median around it: for coarse or chattering sensors. It changes clean readings too."""

    half: Annotated[int, Meta(ge=1, le=MAX_HALF)] = 1

    def apply(self, t_s: Floats, values: Floats, least: Floats) -> Floats:  # noqa: ARG002
        """Return the medians (N,)."""
        return running_median(values, self.half)


class Declip(_Step, frozen=True, tag="declip"):
    """Short clipped stretches become a cubic between what is known on both sides; needs the sensor's full scale.

    full_scale: in the units of the channels, which therefore have to be named. longest_s: of a stretch.
    """

    full_scale: Annotated[float, Meta(gt=0.0, le=1e6)] = msgspec.field(default=0.0)
    longest_s: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    half: Annotated[int, Meta(ge=2, le=MAX_HALF)] = 5

    def __post_init__(self) -> None:
        self._require_known()
        if not self.channels or self.full_scale <= 0.0:
            raise ValueError("declip needs channels and their full_scale, from the sensor's data sheet")

    def apply(self, t_s: Floats, values: Floats, least: Floats) -> Floats:  # noqa: ARG002
        """Return the readings (N,) with clipped stretches repaired."""
        return declip(t_s, values, self.full_scale, self.longest_s)


SeriesStep = Hampel | RunningMedian | Declip


class SeriesChain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="series", tag_field="kind"):
    """Named steps in order, for the series of one sensor."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    sensor: Annotated[str, Meta(min_length=1, max_length=64)]
    steps: Annotated[tuple[SeriesStep, ...], Meta(min_length=1, max_length=MAX_STEPS)]

    @property
    def half(self) -> int:
        """Readings to either side that the widest step looks at."""
        return max(step.half for step in self.steps)

    def apply(self, t_s: Floats, values: Floats, least: tuple[float, ...], names: tuple[str, ...]) -> Floats:
        """Return the readings (N, C) after all steps; least: honest distance from a line, per channel."""
        out = values.copy()
        for step in self.steps:
            for c, name in enumerate(names):
                if (not step.channels or name in step.channels) and len(t_s) > 1:
                    out[:, c] = step.apply(t_s, out[:, c], np.full(len(t_s), least[c]))
        return out


class SeriesRestorer:
    """Runs one chain on the series of its sensor, tick after tick.

    The past that it keeps is what arrived, not what it made of it: a wrong repair is no reason for the next.
    """

    cost_ms_per_mpx = 0.0  # of no pixels

    def __init__(self, chain: SeriesChain) -> None:
        self.chain, self.name, self.sensor = chain, chain.name, chain.sensor
        self._digest = digest_of(chain)
        self._past: list[Sample] = []

    def apply(self, sample: Sample, seed: int) -> tuple[Sample, Restoration]:  # noqa: ARG002 - a series is no sample
        """Return the sample as it is: one reading alone cannot be judged."""
        return sample, Restoration(self.name, self.sensor, 0.0)

    def restart(self) -> None:
        """Forget the past: time has jumped."""
        self._past = []

    def apply_series(self, series: Sequence[Sample]) -> tuple[Sequence[Sample], Restoration]:
        """Return this tick's readings, as many as came, and every change. Unchanged ones are the same objects."""
        untouched = Restoration(self.name, self.sensor, 0.0)
        fresh = list(series)
        channels = channels_of(fresh)
        if channels is None:
            return series, untouched
        known = self._recent(fresh)
        past = len(known) - len(fresh)
        self._past = known[-max(PAST, 2 * self.chain.half) :]
        stamps = np.array([sample.stamp_ns for sample in known], np.int64)
        if len(known) < 2 or (np.diff(stamps) <= 0).any():
            return series, untouched
        t_s = (stamps - stamps[0]) / NS_PER_S
        values = channels.read(known)
        reach_s = float(np.median(np.diff(t_s))) * self.chain.half
        made = self.chain.apply(t_s, values, channels.least(known, reach_s), channels.names)
        return self._told(fresh, channels, values[past:], made[past:])

    def _recent(self, fresh: list[Sample]) -> list[Sample]:
        """What came before, as far as it is one stretch with what comes now."""
        known = [*(s for s in self._past if type(s) is type(fresh[0])), *fresh]
        stamps = np.array([sample.stamp_ns for sample in known], np.int64)
        steps = np.diff(stamps)
        breaks = np.flatnonzero(steps > MAX_GAP * np.median(steps)) if len(steps) else np.empty(0, np.int64)
        first = max((int(b) + 1 for b in breaks if b + 1 <= len(known) - len(fresh)), default=0)
        return known[first:]

    def _told(
        self, fresh: list[Sample], channels: Channels, old: Floats, new: Floats
    ) -> tuple[Sequence[Sample], Restoration]:
        differs = np.isfinite(new) & (new != old)  # a reading that was not there is not invented
        rows = np.flatnonzero(differs.any(axis=1))
        changes: list[Change] = []
        for row in rows:
            changed = {channels.names[c]: float(new[row, c]) for c in np.flatnonzero(differs[row])}
            stamp_ns = fresh[row].stamp_ns
            changes += [
                Change(name, stamp_ns, float(old[row, channels.names.index(name)]), value)
                for name, value in changed.items()
            ]
            fresh[row] = channels.write(fresh[row], changed)
        share = len(rows) / len(fresh)
        listed = tuple(changes[:MAX_CHANGES])
        return tuple(fresh), Restoration(
            self.name,
            self.sensor,
            share,
            listed,
            len(changes) - len(listed),
            chain_sha256=self._digest if share else "",
        )
