"""Drift: whether what the device sees still looks like what the model was released with.

A fixed reference, a sketch of each scalar's distribution, travels in the signed bundle. Two tests on it: per window, a
two-sample Kolmogorov-Smirnov test with Bonferroni over the scalars; over the stream, a mixture of power martingales on
conformal p-values with CUSUM reset (Vovk, Nouretdinov and Gammerman, "Testing exchangeability on-line", ICML 2003;
Volkhonskiy et al., COPA 2017). The population stability index and its rule of thumb of 0.2 are left out: on windows of
50 frames it alarms on every clean one. MITRE ATLAS AML.M0008.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeguard.errors import CalibrationError

SKETCH_POINTS = 129  # quantiles kept per scalar: the sketch adds at most 1/128 to the largest distance
MAX_SCALARS = 64
MIN_REFERENCE = 50
EXPONENTS = np.array([0.2, 0.4, 0.6, 0.8])  # of the mixed power martingales: no exponent has to be chosen
MAX_LOG_MARTINGALE = 200.0
DRIFT_WINDOW = 100  # frames: a shift of half a standard deviation is seen in nine of ten windows
DRIFT_LEVEL = 0.001  # per window, family-wise: at one frame a second one false alarm in a day of windows

Finite = Annotated[float, Meta(ge=-1e18, le=1e18)]


class Sketch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantiles of one scalar over `count` reference frames, ascending."""

    count: Annotated[int, Meta(ge=MIN_REFERENCE, le=2**40)]
    quantiles: Annotated[tuple[Finite, ...], Meta(min_length=2, max_length=1025)]

    def __post_init__(self) -> None:
        if any(a > b for a, b in zip(self.quantiles, self.quantiles[1:], strict=False)):
            raise ValueError("quantiles must ascend")

    def cdf(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the share of the reference below, and at or below, each value."""
        q = np.asarray(self.quantiles)
        levels = np.linspace(0.0, 1.0, q.size)
        below = np.interp(values, q, levels)
        first, last = np.searchsorted(q, values, "left"), np.searchsorted(q, values, "right")
        tied = last - first > 1  # a step of the distribution: values that many frames share
        low = np.where(tied, levels[np.minimum(first, q.size - 1)], below)
        high = np.where(tied, levels[np.maximum(last - 1, 0)], below)
        return low, high


def sketch(values: NDArray[np.float64]) -> Sketch:
    """Return the sketch of (N,) reference values.

    Raises:
        CalibrationError: EG-L022: fewer than 50 values, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < MIN_REFERENCE or not np.isfinite(array).all():
        raise CalibrationError(
            f"a drift reference takes at least {MIN_REFERENCE} finite values, not {array.size}",
            code="EG-L022",
            hint="calibrate on more frames",
        )
    points = np.quantile(array, np.linspace(0.0, 1.0, min(SKETCH_POINTS, array.size)))
    return Sketch(array.size, tuple(points.tolist()))


class DriftReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the release's own frames looked like: a sketch per scalar. In the signed bundle, so it never moves."""

    scalars: Annotated[dict[str, Sketch], Meta(min_length=1, max_length=MAX_SCALARS)]


class DriftWatch:
    """Holds a stream of frames against the reference of a release.

    Args:
        reference: of the release. scalars: which of them this stream will give; others of the reference are not
            watched, and one that the reference lacks is an error.
        rng: breaks ties. window: frames per test of distributions.

    Two ways to alarm: a window of frames (Kolmogorov-Smirnov, Bonferroni over the scalars), and the martingale of each
    scalar, which does not wait for a window. What drifted stays named until a whole window looks right again.

    Raises:
        CalibrationError: EG-L023: the reference lacks one of the scalars.
    """

    def __init__(
        self,
        reference: DriftReference,
        scalars: Collection[str],
        rng: np.random.Generator,
        *,
        window: int = DRIFT_WINDOW,
        level: float = DRIFT_LEVEL,
    ) -> None:
        missing = sorted(set(scalars) - reference.scalars.keys())
        if missing:
            raise CalibrationError(
                f"the drift reference says nothing about {missing[0]}", code="EG-L023", hint="make it anew"
            )
        self._reference = {name: reference.scalars[name] for name in sorted(scalars)}
        self._rng, self._window, self._level = rng, window, level
        self._seen: dict[str, list[float]] = {name: [] for name in self._reference}
        self._streams = self._fresh()
        self.drifted: tuple[str, ...] = ()

    def push(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Take one frame's scalars; return the names of those that have drifted, sorted.

        Raises:
            CalibrationError: EG-L023: other scalars than are watched.
        """
        if values.keys() != self._reference.keys():
            raise CalibrationError("the frame gives other scalars than the reference", code="EG-L023")
        found = {name for name in values if self._streams[name].push(values[name])}
        for name, value in values.items():
            self._seen[name].append(value)
        if len(next(iter(self._seen.values()))) == self._window:
            _, p = window_drift(
                self._reference, {name: np.asarray(seen) for name, seen in self._seen.items()}, level=self._level
            )
            apart = {name for name, value in p.items() if value < self._level / len(p)}
            self._seen = {name: [] for name in self._reference}
            if not apart and not found:
                self._streams, self.drifted = self._fresh(), ()
            found |= apart
        self.drifted = tuple(sorted(found | set(self.drifted)))
        return self.drifted

    def _fresh(self) -> dict[str, DriftMartingale]:
        return {name: DriftMartingale(sketch_, self._rng) for name, sketch_ in self._reference.items()}


def kolmogorov_smirnov(reference: Sketch, window: NDArray[np.float64]) -> tuple[float, float]:
    """Return the largest distance of the distributions and its two-sided asymptotic p-value.

    window: (M,) finite float64. Ties count as SciPy's `ks_2samp` counts them; the p-value is Stephens' approximation.
    """
    x = np.sort(np.asarray(window, dtype=np.float64))
    m = x.size
    low, high = reference.cdf(x)
    up = np.searchsorted(x, x, "right") / m
    down = np.searchsorted(x, x, "left") / m
    distance = float(max((up - high).max(), (low - down).max(), 0.0))
    effective = math.sqrt(m * reference.count / (m + reference.count))
    return distance, _kolmogorov_tail((effective + 0.12 + 0.11 / effective) * distance)


def window_drift(
    reference: Mapping[str, Sketch], window: Mapping[str, NDArray[np.float64]], *, level: float = 0.01
) -> tuple[bool, dict[str, float]]:
    """Return whether any scalar drifted, at a family-wise false-alarm share of `level`, and each one's p-value.

    Raises:
        CalibrationError: EG-L023: the window holds other scalars than the reference.
    """
    if not reference or reference.keys() != window.keys():
        raise CalibrationError("the window holds other scalars than the reference", code="EG-L023", hint="make it anew")
    p = {name: kolmogorov_smirnov(reference[name], values)[1] for name, values in window.items()}
    return min(p.values()) < level / len(p), p


class DriftMartingale:
    """One scalar's stream against its fixed reference.

    A CUSUM of log-martingales, one per exponent: each restarts at one when it falls below. Their mean above
    `threshold` is the alarm. The reset makes the threshold a mean run length, not a probability for all time.
    """

    def __init__(self, reference: Sketch, rng: np.random.Generator, *, threshold: float = 1e6) -> None:
        self._reference = reference
        self._rng = rng  # breaks ties at random, as the conformal p-value's exactness needs
        self._logs = np.zeros(EXPONENTS.size)
        self._threshold = math.log(threshold)

    @property
    def log_value(self) -> float:
        """Natural logarithm of the mixture; 0 is no evidence."""
        top = float(self._logs.max())
        return top + math.log(float(np.exp(self._logs - top).mean()))

    def push(self, value: float) -> bool:
        """Take one value; return whether drift is alarmed. What is not a number is the most extreme value."""
        n = self._reference.count
        low, high = (
            (float(side[0]) for side in self._reference.cdf(np.array([value]))) if math.isfinite(value) else (1.0, 1.0)
        )
        upper = (n * (1.0 - low) + 1.0) / (n + 1.0)
        lower = n * (1.0 - high) / (n + 1.0)
        p = min(max(lower + self._rng.random() * (upper - lower), 0.5 / (n + 1.0)), 1.0)
        # Drift goes either way: bet half on small and half on large p-values.
        small, large = (
            EXPONENTS * p ** (EXPONENTS - 1.0),
            EXPONENTS * max(1.0 - p, 0.5 / (n + 1.0)) ** (EXPONENTS - 1.0),
        )
        self._logs = np.clip(self._logs + np.log((small + large) / 2.0), 0.0, MAX_LOG_MARTINGALE)
        return self.log_value >= self._threshold


def _kolmogorov_tail(x: float) -> float:
    if x < 0.2:  # the series converges slowly there, and the tail is one to six digits
        return 1.0
    total = sum((-1.0) ** (k - 1) * math.exp(-2.0 * k * k * x * x) for k in range(1, 101))
    return min(max(2.0 * total, 0.0), 1.0)
