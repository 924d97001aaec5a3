"""Attacks and faults of inertial units and wheel sensors."""

from __future__ import annotations

from dataclasses import replace
from math import pi, sin
from typing import Annotated, ClassVar, Literal

import msgspec

from edgeguard.sim.attacks.base import AttackBase, End, Moment, Share, Start
from edgeguard.types import IMU, WHEELS, ImuSample, Sample, WheelOdometry

Quantity = Literal["gyro", "accel"]
Axis = Literal["x", "y", "z"]
Wheel = Literal["all", "front_left", "front_right", "rear_left", "rear_right"]
_WHEELS = ("front_left", "front_right", "rear_left", "rear_right")
_UNITS = {"gyro": "rad/s", "accel": "m/s^2"}


def _shifted(sample: ImuSample, quantity: Quantity, axis: Axis, by: float) -> ImuSample:
    index = "xyz".index(axis)
    values = list(sample.gyro_rad_s if quantity == "gyro" else sample.accel_m_s2)
    values[index] += by
    three = (values[0], values[1], values[2])
    return replace(sample, gyro_rad_s=three) if quantity == "gyro" else replace(sample, accel_m_s2=three)


class ImuBias(AttackBase, frozen=True, tag="imu_bias"):
    """One axis reads too much: at once, or growing over `ramp_s`."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0015")
    knob: ClassVar[str] = "bias"

    start_s: Start
    end_s: End
    bias: Annotated[float, msgspec.Meta(ge=-100.0, le=100.0, description="rad/s or m/s^2, at full size")] = 0.1
    quantity: Quantity = "gyro"
    axis: Axis = "z"
    ramp_s: Annotated[float, msgspec.Meta(ge=0.0, le=600.0, description="0 for a step")] = 0.0
    sensor: str = IMU

    @property
    def size(self) -> str:
        ramp = f" over {self.ramp_s:g} s" if self.ramp_s else ""
        return f"{self.bias:g} {_UNITS[self.quantity]} on {self.quantity} {self.axis}{ramp}"

    def amount(self, elapsed_s: float) -> float:
        """Return the bias then."""
        return self.bias * (min(1.0, elapsed_s / self.ramp_s) if self.ramp_s else 1.0)

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Add the bias."""
        if not isinstance(sample, ImuSample):
            return sample
        return _shifted(sample, self.quantity, self.axis, self.amount(moment.elapsed_s))


class ImuResonance(AttackBase, frozen=True, tag="imu_resonance"):
    """Sound at the sensor's resonance, sampled below its frequency: it aliases into a slow swing, or into a bias."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0015")
    source: ClassVar[str] = "Trippel et al., WALNUT, EuroS&P 2017; Son et al., USENIX Security 2015"
    knob: ClassVar[str] = "amplitude"

    start_s: Start
    end_s: End
    amplitude: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0, description="rad/s or m/s^2")] = 1.0
    tone_hz: Annotated[float, msgspec.Meta(gt=0.0, le=1e5, description="frequency of the sound")] = 2003.0
    quantity: Quantity = "gyro"
    axis: Axis = "z"
    sensor: str = IMU

    @property
    def size(self) -> str:
        return f"{self.amplitude:g} {_UNITS[self.quantity]} at {self.tone_hz:g} Hz on {self.quantity} {self.axis}"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Add the tone as it stands when the sample is taken: aliasing follows from the sampling itself."""
        if not isinstance(sample, ImuSample):
            return sample
        phase = 2 * pi * float(moment.steady_rng().random())
        tone = self.amplitude * sin(2 * pi * self.tone_hz * moment.elapsed_s + phase)
        return _shifted(sample, self.quantity, self.axis, tone)


class ImuSaturation(AttackBase, frozen=True, tag="imu_saturation"):
    """Shaken beyond its range: strong noise that the converter clips at its rails."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0029")
    knob: ClassVar[str] = "shake_m_s2"

    start_s: Start
    end_s: End
    shake_m_s2: Annotated[float, msgspec.Meta(gt=0.0, le=1e4, description="1 sigma of the shaking")] = 40.0
    accel_range_m_s2: Annotated[float, msgspec.Meta(gt=0.0, le=1e4, description="rail, plus and minus: 2 g")] = 19.6
    gyro_range_rad_s: Annotated[float, msgspec.Meta(gt=0.0, le=1e3, description="rail: 250 deg/s")] = 4.36
    gyro_share: Annotated[float, msgspec.Meta(ge=0.0, le=10.0, description="rad/s of rate per m/s^2 of shake")] = 0.1
    sensor: str = IMU

    @property
    def size(self) -> str:
        return f"{self.shake_m_s2:g} m/s^2 on a range of {self.accel_range_m_s2:g}"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Shake and clip all six axes."""
        if not isinstance(sample, ImuSample):
            return sample
        draw = moment.rng.standard_normal(6)
        accel = [
            min(max(v + self.shake_m_s2 * float(d), -self.accel_range_m_s2), self.accel_range_m_s2)
            for v, d in zip(sample.accel_m_s2, draw[:3], strict=True)
        ]
        swing = self.shake_m_s2 * self.gyro_share
        gyro = [
            min(max(v + swing * float(d), -self.gyro_range_rad_s), self.gyro_range_rad_s)
            for v, d in zip(sample.gyro_rad_s, draw[3:], strict=True)
        ]
        return replace(sample, accel_m_s2=(accel[0], accel[1], accel[2]), gyro_rad_s=(gyro[0], gyro[1], gyro[2]))


class ImuStuck(AttackBase, frozen=True, tag="imu_stuck"):
    """The same reading again and again under fresh stamps: a bus that hangs, a register that is not refreshed."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0029",)

    start_s: Start
    end_s: End
    sensor: str = IMU

    @property
    def size(self) -> str:
        return "last reading repeated"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the held values with the new stamps."""
        if not isinstance(sample, ImuSample) or not isinstance(moment.held, ImuSample):
            return sample
        return replace(sample, gyro_rad_s=moment.held.gyro_rad_s, accel_m_s2=moment.held.accel_m_s2)


def _turned(sample: WheelOdometry, wheel: Wheel, factor: float, plus_m_s: float = 0.0) -> WheelOdometry:
    """Return the sample with one wheel, or all, turning differently; the mean follows."""
    if sample.wheel_speeds_m_s is None:
        share = 1.0 if wheel == "all" else 0.25
        return replace(sample, speed_m_s=sample.speed_m_s * (1 + share * (factor - 1)) + share * plus_m_s)
    hit = [wheel in {"all", name} for name in _WHEELS]
    four = [v * factor + plus_m_s if h else v for v, h in zip(sample.wheel_speeds_m_s, hit, strict=True)]
    return replace(sample, speed_m_s=sum(four) / 4.0, wheel_speeds_m_s=(four[0], four[1], four[2], four[3]))


class WheelScale(AttackBase, frozen=True, tag="wheel_scale"):
    """Wheels that read too fast or too slow: wrong tyre, lost pressure, a doctored pulse count."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0015")
    knob: ClassVar[str] = "scale"

    start_s: Start
    end_s: End
    scale: Annotated[float, msgspec.Meta(gt=0.0, le=10.0, description="factor on the speed")] = 1.1
    wheel: Wheel = "all"
    ramp_s: Annotated[float, msgspec.Meta(ge=0.0, le=600.0, description="0 for a step")] = 0.0
    sensor: str = WHEELS

    @property
    def size(self) -> str:
        return f"x{self.scale:g} on {self.wheel.replace('_', ' ')}"

    def amount(self, elapsed_s: float) -> float:
        """Return the factor then."""
        return 1.0 + (self.scale - 1.0) * (min(1.0, elapsed_s / self.ramp_s) if self.ramp_s else 1.0)

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Scale the speeds."""
        if not isinstance(sample, WheelOdometry):
            return sample
        return _turned(sample, self.wheel, self.amount(moment.elapsed_s))


class WheelStuck(AttackBase, frozen=True, tag="wheel_stuck"):
    """A wheel sensor, or all, repeats its last speed: a register that is not refreshed."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0029",)

    start_s: Start
    end_s: End
    wheel: Wheel = "all"
    sensor: str = WHEELS

    @property
    def size(self) -> str:
        return f"{self.wheel.replace('_', ' ')} repeated"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the held speeds of the stuck wheels with the new stamps."""
        held = moment.held
        if not isinstance(sample, WheelOdometry) or not isinstance(held, WheelOdometry):
            return sample
        if sample.wheel_speeds_m_s is None or held.wheel_speeds_m_s is None:
            return replace(sample, speed_m_s=held.speed_m_s) if self.wheel == "all" else sample
        if self.wheel == "all":
            return replace(
                sample,
                speed_m_s=held.speed_m_s,
                wheel_speeds_m_s=held.wheel_speeds_m_s,
                steering_rad=held.steering_rad,
            )
        four = [
            old if self.wheel == name else new
            for name, old, new in zip(_WHEELS, held.wheel_speeds_m_s, sample.wheel_speeds_m_s, strict=True)
        ]
        return replace(sample, speed_m_s=sum(four) / 4.0, wheel_speeds_m_s=(four[0], four[1], four[2], four[3]))


class WheelSlip(AttackBase, frozen=True, tag="wheel_slip"):
    """Wheels spin on ice: bursts in which they turn faster than the road goes by."""

    atlas: ClassVar[tuple[str, ...]] = ()
    knob: ClassVar[str] = "slip_m_s"

    start_s: Start
    end_s: End
    slip_m_s: Annotated[float, msgspec.Meta(gt=0.0, le=50.0, description="excess speed at a burst's peak")] = 3.0
    burst_s: Annotated[float, msgspec.Meta(gt=0.0, le=60.0, description="length of a burst")] = 1.0
    duty: Share = 0.5
    wheel: Wheel = "all"
    sensor: str = WHEELS

    @property
    def size(self) -> str:
        return f"{self.slip_m_s:g} m/s in bursts of {self.burst_s:g} s on {self.wheel.replace('_', ' ')}"

    def amount(self, elapsed_s: float) -> float:
        """Return the excess speed: half a sine over each burst, then a pause."""
        if self.duty <= 0.0:
            return 0.0
        phase = elapsed_s % (self.burst_s / self.duty)
        return self.slip_m_s * sin(pi * phase / self.burst_s) if phase < self.burst_s else 0.0

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Add the slip."""
        if not isinstance(sample, WheelOdometry):
            return sample
        return _turned(sample, self.wheel, 1.0, self.amount(moment.elapsed_s))
