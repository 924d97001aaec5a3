"""What lies between a wheel's speed and a receiver's: scale of tyres, lag of the receiver, slip, place of the antenna.

``v_gnss(t) = k v (1 - s a) - y w``, all of the right side at ``t - lag``: a driven wheel turns faster than the road
goes by, in proportion to the acceleration it transmits, and an antenna `y` to the left of the axle's middle is slower
in a left turn. Recursive least squares over the four, in plain Python (small arrays cost ten times as much), inside
physical bounds. What they leave open is an offset that lasts, so it is given out as one: `sd`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeguard.checks.scores import SensorFits

Row = tuple[float, float, float, float]
SIZE = range(4)

# Names under which a calibration keeps the four.
NAMES = ("X8.speed.scale", "X8.speed.lag", "X8.speed.slip", "X8.speed.antenna")
# Tyre radius (wear, pressure, load: 2 % sd, never 6 %), receiver filter and serial line (0..0.5 s), slip per m/s^2 (a
# slip stiffness of 30 per unit of load gives 0.3 %; one driven axle or two and the mean of all wheels spread it),
# metres by which an antenna on a roof or a dashboard lies off the middle.
PRIOR_MEAN: Row = (1.0, 0.15, 0.003, 0.0)
PRIOR_SD: Row = (0.02, 0.1, 0.002, 0.25)
LOW: Row = (0.94, -0.1, 0.0, -0.8)
HIGH: Row = (1.06, 0.5, 0.01, 0.8)
# Confidence never gets better than this, whatever a calibration has seen: tyres warm up; a
# receiver's filter is no pure delay; slip follows the force on the wheels, of which drag, grade and brakes are a part
# that acceleration does not tell; wheels cut corners.
FLOOR: Row = (0.0005, 0.02, 0.002, 0.04)
# Random walk per square root of a second: how slowly the estimate may still follow.
WALK: Row = (0.0001, 0.001, 0.0001, 0.005)
# A fit of an earlier drive is not believed closer than this: tyre pressure goes with the weather, 1 % per 3 K.
FIT_SD: Row = (0.002, 0.02, 0.001, 0.05)
# Learned is what is known to this share of its prior.
LEARNED = 0.8


class SpeedModel:
    """The four parameters and what is known of them.

    Args:
        fits: the calibration of this rig; what it found replaces the priors.
    """

    def __init__(self, fits: SensorFits | None = None) -> None:
        mean, sd = list(PRIOR_MEAN), list(PRIOR_SD)
        for i, name in enumerate(NAMES):
            fit = fits.get(name) if fits is not None else None
            if fit is not None:
                mean[i] = min(max(fit.location, LOW[i]), HIGH[i])
                sd[i] = min(max(fit.sigma, FIT_SD[i]), PRIOR_SD[i])
        self.mean = mean
        self._covariance = [[sd[i] ** 2 if i == j else 0.0 for j in SIZE] for i in SIZE]

    @property
    def scale(self) -> float:
        """Metres of road per metre of wheel."""
        return self.mean[0]

    @property
    def lag_s(self) -> float:
        """How much later a receiver's speed arrives than the wheels' of the same moment."""
        return self.mean[1]

    def predict(self, v: float, a: float, w: float) -> float:
        """Receiver's speed for wheel speed `v`, acceleration `a` and yaw rate `w`, all taken `lag_s` ago."""
        mean = self.mean
        return mean[0] * v * (1.0 - mean[2] * a) - mean[3] * w

    def sd(self, v: float, a: float, w: float) -> float:
        """Standard deviation of that prediction, the floor included."""
        return self._sd(self._gradient(v, a, w))

    def path_sd(self, driven_m: float, change_m_s: float, v: float, turned_rad: float) -> float:
        """Standard deviation of a path of `driven_m` over which speed changed by `change_m_s`, around `v`."""
        k = self.mean[0]
        return self._sd((driven_m, -k * change_m_s, -k * v * change_m_s, -turned_rad))

    def parameter_sd(self, index: int) -> float:
        """Standard deviation of one of the four, the floor included."""
        return math.sqrt(max(self._covariance[index][index], 0.0) + FLOOR[index] ** 2)

    @property
    def covariance(self) -> list[list[float]]:
        """(4, 4) covariance of the four, the floor not included."""
        return [list(row) for row in self._covariance]

    @property
    def learned(self) -> dict[str, tuple[float, float]]:
        """What was learned so far, for a calibration: name to mean and standard deviation. Only what is known better
        than its prior."""
        sd = [math.sqrt(max(self._covariance[i][i], 0.0)) for i in SIZE]
        return {name: (self.mean[i], sd[i]) for i, name in enumerate(NAMES) if 0.0 < sd[i] < LEARNED * PRIOR_SD[i]}

    def update(
        self, motion: tuple[float, float, float], measured: float, noise_sd: float, dt_s: float, limit: float
    ) -> None:
        """Take one receiver's speed for (v, a, w), unless it is off by more than `limit`: what the present calibration
        does not explain is for the monitors to judge, and must not teach."""
        p = self._covariance
        for i in SIZE:
            p[i][i] += WALK[i] ** 2 * max(dt_s, 0.0)
        innovation = measured - self.predict(*motion)
        if abs(innovation) > limit:
            return
        g = self._gradient(*motion)
        pg = [p[i][0] * g[0] + p[i][1] * g[1] + p[i][2] * g[2] + p[i][3] * g[3] for i in SIZE]
        total = g[0] * pg[0] + g[1] * pg[1] + g[2] * pg[2] + g[3] * pg[3] + noise_sd**2
        for i in SIZE:
            gain = pg[i] / total
            self.mean[i] = min(max(self.mean[i] + gain * innovation, LOW[i]), HIGH[i])
            for j in range(i, 4):
                p[i][j] = p[j][i] = p[i][j] - gain * pg[j]
            p[i][i] = max(p[i][i], 0.0)

    def _gradient(self, v: float, a: float, w: float) -> Row:
        k = self.mean[0]
        return v, -k * a, -k * v * a, -w

    def _sd(self, g: Row) -> float:
        total = 0.0
        for i, row in enumerate(self._covariance):
            total += g[i] * (row[0] * g[0] + row[1] * g[1] + row[2] * g[2] + row[3] * g[3])
            total += (g[i] * FLOOR[i]) ** 2
        return math.sqrt(max(0.0, total))
