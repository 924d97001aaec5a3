"""Attacks and faults of links and clocks: late, lost, repeated, reordered, damaged, forged, and wrong time.

On a serial line they act on the bytes of a frame, behind the node that signed it; on sensors that hand over values
they act on whole samples. What they need of the payload is only that it can be held, dropped, copied or spoilt.
"""

from __future__ import annotations

from dataclasses import replace
from math import cos, radians, sin
from typing import Annotated, ClassVar

import msgspec

from edgeguard.clock import NS_PER_S
from edgeguard.sim.attacks.base import DAMAGED, AttackBase, End, Moment, Payload, Share, Start
from edgeguard.sim.attacks.gnss import moved
from edgeguard.types import GNSS, GnssFix, ImuSample, Sample, WheelOdometry

_DENY = ("AML.T0029",)
_REPLAY = ("AML.T0041", "AML.T0015")
Delay = Annotated[float, msgspec.Meta(gt=0.0, le=30.0)]


class LinkDelay(AttackBase, frozen=True, tag="link_delay"):
    """Everything arrives late, under its true stamps: a congested bus, a man in the middle who takes his time."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    knob: ClassVar[str] = "delay_s"

    start_s: Start
    end_s: End
    sensor: str
    delay_s: Delay = 0.3
    jitter_s: Annotated[float, msgspec.Meta(ge=0.0, le=10.0, description="uniform, on top")] = 0.0

    @property
    def size(self) -> str:
        return f"{self.delay_s:g} s late"

    def route(self, item: Payload, at_ns: int, moment: Moment) -> list[tuple[Payload, int]]:
        """Hold the payload back."""
        late_s = self.delay_s + self.jitter_s * float(moment.rng.random())
        return [(item, at_ns + round(late_s * NS_PER_S))]


class StaleData(AttackBase, frozen=True, tag="stale_data"):
    """Old content under fresh stamps: time misalignment that no freshness check sees."""

    atlas: ClassVar[tuple[str, ...]] = _REPLAY
    source: ClassVar[str] = "DejaVu, arXiv 2507.09095: one lidar frame or three camera frames late break detection"
    knob: ClassVar[str] = "delay_s"

    start_s: Start
    end_s: End
    sensor: str
    delay_s: Delay = 0.3

    @property
    def memory_s(self) -> float:
        return self.delay_s

    @property
    def size(self) -> str:
        return f"{self.delay_s:g} s old"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return what the sensor measured `delay_s` ago, stamped now.

        What was delivered before the onset is not delivered again: a delay line first gives nothing.
        """
        old = moment.past[0] if moment.past else sample
        if old.stamp_ns < sample.stamp_ns - round(moment.elapsed_s * NS_PER_S) or old is sample:
            return None
        return _restamped(old, sample)


class LoopReplay(AttackBase, frozen=True, tag="loop_replay"):
    """The last seconds before the attack in a loop under fresh stamps: a recording in place of the sensor."""

    atlas: ClassVar[tuple[str, ...]] = _REPLAY
    knob: ClassVar[str] = "loop_s"
    memory_to_onset: ClassVar[bool] = True

    start_s: Start
    end_s: End
    sensor: str
    loop_s: Annotated[float, msgspec.Meta(gt=0.0, le=10.0, description="length of the loop")] = 1.0

    @property
    def memory_s(self) -> float:
        return self.loop_s

    @property
    def size(self) -> str:
        return f"loop of {self.loop_s:g} s"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the loop's sample for this moment; the genuine one when nothing was recorded before."""
        if not moment.past:
            return sample
        first = moment.past[0].stamp_ns
        span = moment.past[-1].stamp_ns - first + _step_ns(moment)
        wanted = first + round(moment.elapsed_s * NS_PER_S) % max(1, span)
        old = max((p for p in moment.past if p.stamp_ns <= wanted), key=lambda p: p.stamp_ns)
        return _restamped(old, sample)


class WireReplay(AttackBase, frozen=True, tag="wire_replay"):
    """Captured payloads are sent again, bit for bit, between the genuine ones."""

    atlas: ClassVar[tuple[str, ...]] = _REPLAY
    knob: ClassVar[str] = "age_s"

    start_s: Start
    end_s: End
    sensor: str
    age_s: Annotated[float, msgspec.Meta(gt=0.0, le=30.0, description="how old what is sent again is")] = 1.0

    @property
    def memory_s(self) -> float:
        return self.age_s

    @property
    def size(self) -> str:
        return f"payloads of {self.age_s:g} s ago"

    def route(self, item: Payload, at_ns: int, moment: Moment) -> list[tuple[Payload, int]]:
        """Send the payload, and behind it the newest one that is old enough."""
        old = [p for stamp, p in moment.sent if stamp <= moment.stamp_ns - round(self.age_s * NS_PER_S)]
        return [(item, at_ns), (old[-1], at_ns)] if old else [(item, at_ns)]


class Reorder(AttackBase, frozen=True, tag="reorder"):
    """Some payloads are overtaken by later ones."""

    atlas: ClassVar[tuple[str, ...]] = ()
    knob: ClassVar[str] = "share"

    start_s: Start
    end_s: End
    sensor: str
    share: Share = 0.2
    hold_s: Annotated[float, msgspec.Meta(gt=0.0, le=10.0, description="how long the overtaken ones wait")] = 0.25

    @property
    def size(self) -> str:
        return f"{100 * self.share:g} % held {self.hold_s:g} s"

    def route(self, item: Payload, at_ns: int, moment: Moment) -> list[tuple[Payload, int]]:
        """Hold a share of the payloads back."""
        held = moment.rng.random() < self.share
        return [(item, at_ns + round(self.hold_s * NS_PER_S) if held else at_ns)]


class Loss(AttackBase, frozen=True, tag="loss"):
    """A share of the payloads never arrives: dropped frames, a bad connector."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    knob: ClassVar[str] = "share"

    start_s: Start
    end_s: End
    sensor: str
    share: Share = 0.3

    @property
    def size(self) -> str:
        return f"{100 * self.share:g} % lost"

    def route(self, item: Payload, at_ns: int, moment: Moment) -> list[tuple[Payload, int]]:
        """Drop a share of the payloads."""
        return [] if moment.rng.random() < self.share else [(item, at_ns)]


class BitFlips(AttackBase, frozen=True, tag="bit_flips"):
    """Interference flips bits on the wire; a value without bytes is damaged as a whole."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    knob: ClassVar[str] = "share"

    start_s: Start
    end_s: End
    sensor: str
    share: Share = 0.2
    bits: Annotated[int, msgspec.Meta(ge=1, le=10_000, description="flipped in each payload that is hit")] = 3

    @property
    def size(self) -> str:
        return f"{self.bits} bits in {100 * self.share:g} % of the payloads"

    def route(self, item: Payload, at_ns: int, moment: Moment) -> list[tuple[Payload, int]]:
        """Spoil a share of the payloads."""
        if moment.rng.random() >= self.share:
            return [(item, at_ns)]
        if not isinstance(item, bytes) or not item:
            return [(DAMAGED, at_ns)]
        spoilt = bytearray(item)
        for place in moment.rng.integers(0, 8 * len(spoilt), self.bits):
            spoilt[int(place) // 8] ^= 1 << (int(place) % 8)
        return [(bytes(spoilt), at_ns)]


class Truncate(AttackBase, frozen=True, tag="truncate"):
    """Payloads end too early: an overrun buffer, a brown-out in mid-frame."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    knob: ClassVar[str] = "share"

    start_s: Start
    end_s: End
    sensor: str
    share: Share = 0.2

    @property
    def size(self) -> str:
        return f"{100 * self.share:g} % cut short"

    def route(self, item: Payload, at_ns: int, moment: Moment) -> list[tuple[Payload, int]]:
        """Cut a share of the payloads at a random place."""
        if moment.rng.random() >= self.share:
            return [(item, at_ns)]
        if not isinstance(item, bytes) or not item:
            return [(DAMAGED, at_ns)]
        return [(item[: int(moment.rng.integers(0, len(item)))], at_ns)]


class RogueSource(AttackBase, frozen=True, tag="rogue_source"):
    """A second transmitter speaks on the line: well-formed messages that say something else.

    On a line that authenticates its nodes the forger has no key and uses one of his own.
    """

    atlas: ClassVar[tuple[str, ...]] = _REPLAY
    source: ClassVar[str] = "MOLAorg/mola_state_estimation issue 69: a second GNSS publisher, nothing logged"
    knob: ClassVar[str] = "offset_m"

    start_s: Start
    end_s: End
    sensor: str = GNSS
    offset_m: Annotated[float, msgspec.Meta(gt=0.0, le=1e5, description="where its fixes lie")] = 20.0
    bearing_deg: Annotated[float, msgspec.Meta(ge=-360.0, le=360.0)] = 90.0
    speed_m_s: Annotated[float, msgspec.Meta(ge=0.0, le=100.0, description="what its wheels say")] = 0.0

    @property
    def size(self) -> str:
        return f"fixes {self.offset_m:g} m away" if self.sensor == GNSS else "forged beside genuine"

    def forge(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the forger's own message for this moment."""
        if isinstance(sample, GnssFix):
            angle = radians(self.bearing_deg)
            return moved(sample, self.offset_m * sin(angle), self.offset_m * cos(angle), 0.0, 0.0)
        if isinstance(sample, WheelOdometry):
            four = (self.speed_m_s,) * 4
            return replace(sample, speed_m_s=self.speed_m_s, wheel_speeds_m_s=four)
        if isinstance(sample, ImuSample):
            return replace(sample, gyro_rad_s=(0.0, 0.0, 0.0), accel_m_s2=(0.0, 0.0, 9.81))
        return _restamped(moment.held, sample) if moment.held is not None else None


class ClockDrift(AttackBase, frozen=True, tag="clock_drift"):
    """The sensor's own clock runs fast or slow, or is set: its stamps drift away from its samples."""

    atlas: ClassVar[tuple[str, ...]] = _REPLAY
    knob: ClassVar[str] = "drift_ppm"

    start_s: Start
    end_s: End
    sensor: str
    drift_ppm: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6, description="fast is positive")] = 500.0
    step_s: Annotated[float, msgspec.Meta(ge=-3600.0, le=3600.0, description="set at the start, on top")] = 0.0

    @property
    def size(self) -> str:
        return f"{self.drift_ppm:g} ppm" + (f" and a step of {self.step_s:g} s" if self.step_s else "")

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Move the device's stamp; a sensor without a clock of its own has nothing to attack."""
        if sample.device_stamp_ns is None:
            return sample
        wrong_s = self.step_s + moment.elapsed_s * self.drift_ppm * 1e-6
        return replace(sample, device_stamp_ns=max(0, sample.device_stamp_ns + round(wrong_s * NS_PER_S)))


def _restamped(old: Sample, now: Sample) -> Sample:
    """Return the content of `old` with the stamps of `now`."""
    return replace(old, stamp_ns=now.stamp_ns, device_stamp_ns=now.device_stamp_ns)


def _step_ns(moment: Moment) -> int:
    """Return the usual distance of remembered samples: one more closes the loop."""
    past = moment.past
    return (past[-1].stamp_ns - past[0].stamp_ns) // (len(past) - 1) if len(past) > 1 else NS_PER_S // 10
