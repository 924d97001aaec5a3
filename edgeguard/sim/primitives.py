"""The solids a street is made of, as rows of two arrays that the ray casters read.

`values` (N, 16) float64, world frame, columns named by the constants below; `codes` (N, 3) int64: kind, material,
object number (-1 for scenery that nobody labels). Rows of one object stand next to each other: the caster counts
an object's pixels in one go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.kernels import place

# Columns of `values`. A box's half-length shrinks by TAPER_* metres per metre of height (windscreens, roofs).
X, Y, Z0, Z1, HALF_LENGTH, HALF_WIDTH, COS, SIN, TAPER_FRONT, TAPER_BACK, RED, GREEN, BLUE, REFLECTANCE, GRAIN = range(
    15
)
COLUMNS = 16

BOX, CYLINDER, ELLIPSOID = 0, 1, 2

PLAIN, BUILDING, FOLIAGE, CAR_BODY, CAR_CABIN, BICYCLE, STRIPES, CLOTH, KERB, CONCRETE, LAMP = range(11)

Colour = tuple[float, float, float]


@dataclass(slots=True)
class PrimitiveList:
    """Collects primitives; `arrays()` freezes them."""

    rows: list[list[float]] = field(default_factory=list)
    codes: list[tuple[int, int, int]] = field(default_factory=list)

    def box(
        self,
        at: tuple[float, float, float],
        z: tuple[float, float],
        size: tuple[float, float],
        colour: Colour,
        *,
        material: int = PLAIN,
        taper: tuple[float, float] = (0.0, 0.0),
        reflectance: float = 0.35,
        grain: float = 0.0,
        owner: int = -1,
    ) -> None:
        """Add an upright box: `at` is (x, y, yaw), `z` its bottom and top, `size` its full length and width."""
        x, y, yaw = at
        self.rows.append(
            [x, y, *z, size[0] / 2, size[1] / 2, cos(yaw), sin(yaw), *taper, *colour, reflectance, grain, 0.0]
        )
        self.codes.append((BOX, material, owner))

    def cylinder(
        self,
        at: tuple[float, float],
        z: tuple[float, float],
        radius_m: float,
        colour: Colour,
        *,
        material: int = PLAIN,
        reflectance: float = 0.35,
        grain: float = 0.0,
        owner: int = -1,
    ) -> None:
        """Add an upright cylinder."""
        self.rows.append([*at, *z, radius_m, radius_m, 1.0, 0.0, 0.0, 0.0, *colour, reflectance, grain, 0.0])
        self.codes.append((CYLINDER, material, owner))

    def ellipsoid(
        self,
        at: tuple[float, float],
        z: tuple[float, float],
        radius_m: float,
        colour: Colour,
        *,
        material: int = PLAIN,
        reflectance: float = 0.35,
        grain: float = 0.0,
        owner: int = -1,
    ) -> None:
        """Add an ellipsoid, round in plan, between the two heights."""
        self.rows.append([*at, *z, radius_m, radius_m, 1.0, 0.0, 0.0, 0.0, *colour, reflectance, grain, 0.0])
        self.codes.append((ELLIPSOID, material, owner))

    def arrays(self) -> Primitives:
        """Return what was collected."""
        values = np.asarray(self.rows, dtype=np.float64).reshape(-1, COLUMNS)
        return Primitives(values, np.asarray(self.codes, dtype=np.int64).reshape(-1, 3))


@dataclass(frozen=True, slots=True, eq=False)
class Primitives:
    """values: (N, 16) float64; codes: (N, 3) int64; velocity: (N, 2) m/s, or None where all stand still."""

    values: NDArray[np.float64]
    codes: NDArray[np.int64]
    velocity: NDArray[np.float64] | None = None

    def velocities(self) -> NDArray[np.float64]:
        """Return (N, 2) velocities in m/s."""
        return np.zeros((len(self.codes), 2)) if self.velocity is None else self.velocity

    def seen_from(self, x: float, y: float, z: float, yaw: float, reach_m: float) -> Primitives:
        """Return what is within `reach_m`, in a frame at (x, y, z) whose x axis points along `yaw`."""
        return Primitives(
            *place.seen_from(self.values, self.codes, self.velocities(), x, y, z, cos(yaw), sin(yaw), reach_m)
        )


def joined(first: Primitives, second: Primitives) -> Primitives:
    """Return both, first before second."""
    velocity = None
    if first.velocity is not None or second.velocity is not None:
        velocity = np.concatenate([first.velocities(), second.velocities()])
    values = np.concatenate([first.values, second.values])
    return Primitives(values, np.concatenate([first.codes, second.codes]), velocity)


def corners(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (N, 8, 3) corners of each primitive's upright bounding box, in the frame of `values`."""
    return np.asarray(place.corners(np.ascontiguousarray(values)))
