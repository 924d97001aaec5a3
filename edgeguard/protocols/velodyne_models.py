"""Laser tables of the Velodyne sensors whose packets carry their model: manuals 63-9243 Rev E (VLP-16, Puck Hi-Res),
63-9325 (VLP-32C), 63-9277 (HDL-32E)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import radians, tan

import numpy as np
from numpy.typing import NDArray

STRONGEST, LAST, DUAL = 0x37, 0x38, 0x39  # factory byte: return mode


@dataclass(frozen=True, slots=True)
class VelodyneModel:
    """One product. Angles in degrees, one per laser in firing order; heights in millimetres; times in nanoseconds.

    `period_ns` is one firing sequence with recharge; `shot_ns` the time from one shot to the next; `lasers_per_shot`
    fire together. A block of 32 channels holds 32 / lasers firing sequences.
    """

    name: str
    product_id: int
    unit_m: float
    period_ns: float
    shot_ns: float
    lasers_per_shot: int
    elevation_deg: tuple[float, ...]
    azimuth_deg: tuple[float, ...]
    height_mm: tuple[float, ...]

    @property
    def firings(self) -> int:
        """Firing sequences per block."""
        return 32 // len(self.elevation_deg)

    def lasers(self) -> NDArray[np.float64]:
        """Return (L, 4): cos and sin of elevation, azimuth offset in radians, height in metres."""
        elevation = np.radians(np.array(self.elevation_deg))
        return np.ascontiguousarray(
            np.stack(
                [
                    np.cos(elevation),
                    np.sin(elevation),
                    np.radians(np.array(self.azimuth_deg)),
                    np.array(self.height_mm) * 1e-3,
                ],
                axis=1,
            )
        )

    def rings(self) -> NDArray[np.int16]:
        """Return (L,): beam number, 0 is the lowest."""
        order = np.argsort(np.array(self.elevation_deg), kind="stable")
        rings = np.empty(len(order), dtype=np.int16)
        rings[order] = np.arange(len(order), dtype=np.int16)
        return rings

    def firing_ns(self) -> NDArray[np.float64]:
        """Return (32,): time of each channel of a block from the block's begin."""
        channel = np.arange(32)
        laser, firing = channel % len(self.elevation_deg), channel // len(self.elevation_deg)
        return np.ascontiguousarray(firing * self.period_ns + (laser // self.lasers_per_shot) * self.shot_ns)

    def packet_ns(self, *, dual: bool) -> float:
        """Time from one packet to the next."""
        return self.period_ns * self.firings * (6 if dual else 12)


def _heights(elevation_deg: tuple[float, ...], origin_mm: float) -> tuple[float, ...]:
    """Return where beams leave the axis when they cross at `origin_mm` before it, as the optical drawings show."""
    return tuple(-origin_mm * tan(radians(e)) for e in elevation_deg)


_NONE_16, _NONE_32 = (0.0,) * 16, (0.0,) * 32

_VLP16 = VelodyneModel(
    "VLP-16", 0x22, 0.002, 55_296.0, 2_304.0, 1,
    (-15, 1, -13, 3, -11, 5, -9, 7, -7, 9, -5, 11, -3, 13, -1, 15),
    _NONE_16,
    (11.2, -0.7, 9.7, -2.2, 8.1, -3.7, 6.6, -5.1, 5.1, -6.6, 3.7, -8.1, 2.2, -9.7, 0.7, -11.2),
)  # fmt: skip
_PUCK_HI_RES = VelodyneModel(
    "Puck Hi-Res", 0x24, 0.002, 55_296.0, 2_304.0, 1,
    (-10.0, 0.667, -8.667, 2.0, -7.333, 3.333, -6.0, 4.667, -4.667, 6.0, -3.333, 7.333, -2.0, 8.667, -0.667, 10.0),
    _NONE_16,
    (7.4, -0.9, 6.5, -1.8, 5.5, -2.7, 4.6, -3.7, 3.7, -4.6, 2.7, -5.5, 1.8, -6.5, 0.9, -7.4),
)  # fmt: skip
_VLP32C_ELEVATION = (
    -25.0, -1.0, -1.667, -15.639, -11.31, 0.0, -0.667, -8.843, -7.254, 0.333, -0.333, -6.148, -5.333, 1.333, 0.667,
    -4.0, -4.667, 1.667, 1.0, -3.667, -3.333, 3.333, 2.333, -2.667, -3.0, 7.0, 4.667, -2.333, -2.0, 15.0, 10.333,
    -1.333,
)  # fmt: skip
_HDL32E_ELEVATION = (
    -30.67, -9.33, -29.33, -8.0, -28.0, -6.67, -26.67, -5.33, -25.33, -4.0, -24.0, -2.67, -22.67, -1.33, -21.33, 0.0,
    -20.0, 1.33, -18.67, 2.67, -17.33, 4.0, -16.0, 5.33, -14.67, 6.67, -13.33, 8.0, -12.0, 9.33, -10.67, 10.67,
)  # fmt: skip
_VLP32C = VelodyneModel(
    "VLP-32C", 0x28, 0.004, 55_296.0, 2_304.0, 2,
    _VLP32C_ELEVATION,
    (1.4, -4.2, 1.4, -1.4, 1.4, -1.4, 4.2, -1.4, 1.4, -4.2, 1.4, -1.4, 4.2, -1.4, 4.2, -1.4, 1.4, -4.2, 1.4, -4.2, 4.2,
     -1.4, 1.4, -1.4, 1.4, -1.4, 1.4, -4.2, 4.2, -1.4, 1.4, -1.4),
    _heights(_VLP32C_ELEVATION, 42.4),
)  # fmt: skip
_HDL32E = VelodyneModel(
    "HDL-32E", 0x21, 0.002, 46_080.0, 1_152.0, 1,
    _HDL32E_ELEVATION,
    _NONE_32,
    _heights(_HDL32E_ELEVATION, 28.95),
)  # fmt: skip

MODELS: Mapping[int, VelodyneModel] = {m.product_id: m for m in (_VLP16, _PUCK_HI_RES, _VLP32C, _HDL32E)}
