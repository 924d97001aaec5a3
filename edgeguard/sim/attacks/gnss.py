"""Attacks on satellite navigation: spoofing that moves the fix, meaconing, jamming.

A receiver that tracks a coherent fake signal reports a Doppler velocity that belongs to the fake path: position and
velocity never contradict each other, only other sensors contradict both.
"""

from __future__ import annotations

from dataclasses import replace
from math import atan2, cos, degrees, exp, hypot, log, radians, sin
from typing import Annotated, ClassVar

import msgspec

from edgeguard.sim.attacks.base import AttackBase, End, Moment, Start
from edgeguard.sim.gnss import radii_m
from edgeguard.types import GNSS, GnssFix, Sample

_SPOOF = ("AML.T0041", "AML.T0015")
Bearing = Annotated[float, msgspec.Meta(ge=-360.0, le=360.0, description="clockwise from north")]
MAX_OFFSET_M = 1e5  # an exponential spoofer leaves the country, not the planet


def moved(fix: GnssFix, east_m: float, north_m: float, v_east_m_s: float, v_north_m_s: float) -> GnssFix:
    """Return the fix displaced by an offset that itself moves: velocity, where there is one, follows."""
    per_latitude, per_longitude = radii_m(fix.latitude_deg)
    shifted = replace(
        fix,
        latitude_deg=fix.latitude_deg + degrees(north_m / per_latitude),
        longitude_deg=fix.longitude_deg + degrees(east_m / per_longitude),
    )
    if fix.speed_m_s is None or fix.course_deg is None or (v_east_m_s == 0.0 and v_north_m_s == 0.0):
        return shifted
    v_east = fix.speed_m_s * sin(radians(fix.course_deg)) + v_east_m_s
    v_north = fix.speed_m_s * cos(radians(fix.course_deg)) + v_north_m_s
    return replace(shifted, speed_m_s=hypot(v_east, v_north), course_deg=degrees(atan2(v_east, v_north)) % 360.0)


class GnssDrift(AttackBase, frozen=True, tag="gnss_drift"):
    """A spoofer walks the position away at a constant rate; Doppler speed and course move with it."""

    atlas: ClassVar[tuple[str, ...]] = _SPOOF
    source: ClassVar[str] = "PX4-Autopilot issue 27340 saw 5 m/s fused for 34 s"
    knob: ClassVar[str] = "rate_m_s"

    start_s: Start
    end_s: End
    rate_m_s: Annotated[float, msgspec.Meta(ge=0.0, le=200.0, description="how fast the offset grows")]
    bearing_deg: Bearing
    sensor: str = GNSS

    @property
    def size(self) -> str:
        return f"{self.rate_m_s:g} m/s towards {self.bearing_deg:g} deg"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Shift the fix and add the drift to its velocity."""
        if not isinstance(sample, GnssFix):
            return sample
        east = self.rate_m_s * sin(radians(self.bearing_deg))
        north = self.rate_m_s * cos(radians(self.bearing_deg))
        return moved(sample, east * moment.elapsed_s, north * moment.elapsed_s, east, north)


class GnssJump(AttackBase, frozen=True, tag="gnss_jump"):
    """The position steps aside at once and stays there; velocity stays true, as after a crude take-over."""

    atlas: ClassVar[tuple[str, ...]] = _SPOOF
    knob: ClassVar[str] = "offset_m"

    start_s: Start
    end_s: End
    offset_m: Annotated[float, msgspec.Meta(gt=0.0, le=MAX_OFFSET_M, description="length of the step")] = 30.0
    bearing_deg: Bearing = 90.0
    sensor: str = GNSS

    @property
    def size(self) -> str:
        return f"{self.offset_m:g} m towards {self.bearing_deg:g} deg"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Shift the fix."""
        del moment
        if not isinstance(sample, GnssFix):
            return sample
        angle = radians(self.bearing_deg)
        return moved(sample, self.offset_m * sin(angle), self.offset_m * cos(angle), 0.0, 0.0)


class GnssTwoStage(AttackBase, frozen=True, tag="gnss_two_stage"):
    """FusionRipper: a constant sideways offset probes for a weak moment, then the offset grows exponentially."""

    atlas: ClassVar[tuple[str, ...]] = _SPOOF
    source: ClassVar[str] = "Shen et al., USENIX Security 2020 (two stages; default figures are assumed)"
    knob: ClassVar[str] = "probe_m"

    start_s: Start
    end_s: End
    probe_m: Annotated[float, msgspec.Meta(gt=0.0, le=100.0, description="offset of the first stage")] = 0.6
    probe_s: Annotated[float, msgspec.Meta(ge=0.0, le=600.0, description="how long the first stage lasts")] = 3.0
    growth: Annotated[float, msgspec.Meta(gt=1.0, le=10.0, description="factor per second of the second stage")] = 1.5
    side: Annotated[float, msgspec.Meta(ge=-1.0, le=1.0, description="+1 left of the course, -1 right")] = 1.0
    sensor: str = GNSS

    @property
    def size(self) -> str:
        return f"{self.probe_m:g} m for {self.probe_s:g} s, then x{self.growth:g} a second"

    def amount(self, elapsed_s: float) -> float:
        """Return the offset in metres."""
        return float(min(self.probe_m * exp(log(self.growth) * max(0.0, elapsed_s - self.probe_s)), MAX_OFFSET_M))

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Shift the fix across its course; a fix without a course is shifted east."""
        if not isinstance(sample, GnssFix):
            return sample
        offset = self.amount(moment.elapsed_s)
        rate = offset * log(self.growth) if moment.elapsed_s > self.probe_s and offset < MAX_OFFSET_M else 0.0
        course = radians(sample.course_deg or 0.0)
        left = (-cos(course) * self.side, sin(course) * self.side)
        return moved(sample, left[0] * offset, left[1] * offset, left[0] * rate, left[1] * rate)


class GnssMeacon(AttackBase, frozen=True, tag="gnss_meacon"):
    """Meaconing: genuine signals are rebroadcast late, so the receiver reports where it was."""

    atlas: ClassVar[tuple[str, ...]] = _SPOOF
    knob: ClassVar[str] = "delay_s"

    start_s: Start
    end_s: End
    delay_s: Annotated[float, msgspec.Meta(gt=0.0, le=30.0, description="age of what is replayed")] = 2.0
    time_follows: bool = True  # the receiver's clock follows the old signals; False when the attacker hides that
    sensor: str = GNSS

    @property
    def memory_s(self) -> float:
        return self.delay_s

    @property
    def size(self) -> str:
        return f"{self.delay_s:g} s old"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the fix of `delay_s` ago under the present stamp; nothing when there is none yet."""
        if not isinstance(sample, GnssFix):
            return sample
        old = next((p for p in moment.past if isinstance(p, GnssFix)), None)
        if old is None:
            return None
        device_ns = old.device_stamp_ns if self.time_follows else sample.device_stamp_ns
        return replace(old, stamp_ns=sample.stamp_ns, device_stamp_ns=device_ns)


class GnssJam(AttackBase, frozen=True, tag="gnss_jam"):
    """A jammer comes near: carrier to noise and satellites fall, the fix scatters, then there is none."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0029")
    knob: ClassVar[str] = "loss_db"

    start_s: Start
    end_s: End
    loss_db: Annotated[float, msgspec.Meta(gt=0.0, le=60.0, description="carrier to noise lost at the end")] = 25.0
    rise_s: Annotated[float, msgspec.Meta(gt=0.0, le=600.0, description="how long until the full loss")] = 3.0
    least_dbhz: Annotated[float, msgspec.Meta(ge=0.0, le=50.0, description="below it a satellite is lost")] = 25.0
    open_sky_dbhz: Annotated[float, msgspec.Meta(ge=20.0, le=60.0, description="before, where none is said")] = 45.0
    sensor: str = GNSS

    @property
    def size(self) -> str:
        return f"{self.loss_db:g} dB within {self.rise_s:g} s"

    def amount(self, elapsed_s: float) -> float:
        """Return the loss in dB."""
        return self.loss_db * min(1.0, elapsed_s / self.rise_s)

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Weaken every satellite; below four there is no fix and nothing is said."""
        if not isinstance(sample, GnssFix):
            return sample
        loss = self.amount(moment.elapsed_s)
        count = sample.satellites if sample.satellites is not None else len(sample.cn0_dbhz) or 12
        # Where the receiver lists no strengths: a sky between 8 dB below the zenith's and the zenith's.
        sky = sample.cn0_dbhz or tuple(self.open_sky_dbhz - 8.0 * k / max(1, count - 1) for k in range(count))
        kept = [value - loss for value in sky if value - loss >= self.least_dbhz]
        if len(kept) < 4:
            return None
        # Code noise grows with the root of the noise power; geometry grows worse with each satellite that goes.
        spread_m = 0.12 * (10.0 ** (loss / 20.0) - 1.0)
        east, north = (float(v) * spread_m for v in moment.rng.standard_normal(2))
        noisy = moved(sample, east, north, 0.05 * east, 0.05 * north)
        hdop = None if sample.hdop is None else round(min(99.0, sample.hdop * len(sky) / len(kept)), 2)
        strengths = tuple(kept) if sample.cn0_dbhz else ()
        return replace(noisy, satellites=len(kept), hdop=hdop, cn0_dbhz=strengths)
