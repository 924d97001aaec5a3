"""What a statistical check holds its raw score against: a shipped prior, or a robust fit of clean data.

`ScoreMonitor` runs a gate for jumps and a two-sided CUSUM for ramps over one score (Murguia & Ruths, arXiv 1710.04407:
dynamic detectors bound an attacker tighter than any gate). What correlation does to a sum is taken out by weighting:
`d` samples of integrated autocorrelation count as one, so that Siegmund's run lengths hold in units of `d` samples.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from types import MappingProxyType

from edgeguard.kernels.cusum import cusum_step, detectable_shift

# The horizon in which a change of size `power` is found.
POWER_HORIZON_S = 2.0
# CUSUM limit without calibration: at k = 0.5, five independent Gaussian samples a second run 29 h between alarms. A
# prior's sigma is an upper bound of what clean data show, which multiplies that.
PRIOR_CUSUM_H = 12.0
# Sums stop here, in shares of the limit: an attack that ends is forgotten as fast as it could have grown.
CEILING = 2.0
# A run of the gate ends after this long without a score, or three periods where scores are slower than that.
RUN_GAP_S = 1.0
GAP_PERIODS = 3.0
# The sums survive shorter gaps than this: whoever can blank a sensor for a moment must not wipe the evidence.
FORGET_S = 10.0
_PERIOD_GAIN = 0.1  # of the running estimate of the time between scores

_detectable = lru_cache(maxsize=4096)(detectable_shift)

ScoreListener = Callable[[float, float, float | None], None]


@dataclass(frozen=True, slots=True)
class Prior:
    """What clean data look like before anybody calibrated; shipped with a check and derived, not tuned.

    location, sigma: of the raw score, in `unit`. one_sided: only large values are bad. decorrelation_s: scores closer
    in time than this are not independent.
    """

    location: float
    sigma: float
    unit: str = ""
    one_sided: bool = False
    decorrelation_s: float = 0.2


@dataclass(frozen=True, slots=True)
class Fit:
    """A robust fit of clean data, per monitor and speed bin.

    location, sigma: of the raw score, in its unit. samples, clean_s: what it was fitted on. cusum_h: limit of the CUSUM
    in sigma. decorrelation_samples: integrated autocorrelation of the score; so many samples count as one.
    """

    location: float
    sigma: float
    samples: int
    clean_s: float
    cusum_h: float
    decorrelation_samples: float


@dataclass(frozen=True, slots=True)
class SpeedBin:
    """A fit, and the speeds at which it holds: from `from_m_s` on, below `to_m_s`."""

    from_m_s: float
    fit: Fit
    to_m_s: float = math.inf


class SensorFits:
    """The content of a calibration; immutable, and empty means shipped priors.

    Args:
        bins: by monitor name; bins of one monitor do not overlap.
        definitions: by monitor name, `ScoreMonitor.definition` when it was fitted.
        scales: by the name of a statistic, its threshold as a share of what it is without; 1 where not given.
    """

    def __init__(
        self,
        bins: Mapping[str, tuple[SpeedBin, ...]] | None = None,
        definitions: Mapping[str, str] | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self._bins = MappingProxyType(
            {name: tuple(sorted(each, key=lambda one: one.from_m_s)) for name, each in (bins or {}).items() if each}
        )
        self.definitions: Mapping[str, str] = MappingProxyType(dict(definitions or {}))
        self.scales: Mapping[str, float] = MappingProxyType(dict(scales or {}))

    @classmethod
    def of(cls, fits: Mapping[str, Fit]) -> SensorFits:
        """Fits that hold at every speed."""
        return cls({name: (SpeedBin(0.0, fit),) for name, fit in fits.items()})

    def get(self, monitor: str, speed_m_s: float | None = None) -> Fit | None:
        """The fit of a monitor at a speed (its size; direction does not matter), or None where it has none.

        Speeds that the calibration has not seen have none. Without a speed, or with one that is no number, the widest
        of the monitor's bins: too wide costs power, too narrow costs false alarms.
        """
        bins = self._bins.get(monitor)
        if bins is None:
            return None
        if speed_m_s is None or not math.isfinite(speed_m_s):
            return max((one.fit for one in bins), key=lambda fit: fit.sigma)
        place = bisect_right(bins, abs(speed_m_s), key=lambda one: one.from_m_s)
        found = bins[max(0, place - 1)]
        return found.fit if found.from_m_s <= abs(speed_m_s) < found.to_m_s else None

    def scale(self, statistic: str) -> float:
        """The threshold of a statistic as a share of what it is without a calibration of the whole system's rate."""
        return self.scales.get(statistic, 1.0)

    def bins(self, monitor: str) -> tuple[SpeedBin, ...]:
        """The bins of a monitor, by speed; empty where it has none."""
        return self._bins.get(monitor, ())

    def __iter__(self) -> Iterator[str]:
        """Names of the monitors that have a fit."""
        return iter(self._bins)

    def __len__(self) -> int:
        return len(self._bins)


class ScoreMonitor:
    """Gate for jumps and two-sided CUSUM for ramps over one raw score.

    Args:
        name: ``<CHECK>[.part]`` such as ``X5.rotation.yaw``; the key of its fit in a calibration.
        prior: what holds without a fit.
        fits: the calibration of this rig, None without one.
        gate_sigma, persist: the gate is passed when `persist` scores in a row lie beyond it on the same side.
        cusum_k: shifts below this many sigma are left alone.
        hold_s: an alarm stays up this long, so that checks with different delays overlap when fusion looks.

    Attributes:
        statistic: largest share of its threshold among gate and CUSUM; above 1 is an anomaly.
        scale: of the threshold, by the calibration of the whole system's rate.
        share: the same of the threshold before that scale. What a check may learn is decided by it, so that what it
            learns, and with it the clean statistic, does not depend on the rate that was asked for.
        last: newest raw score; None before the first, and when the last call had none to offer.
        listener: gets (t_s, score, speed_m_s) of every finite score; a calibration collects with it.
    """

    def __init__(
        self,
        name: str,
        prior: Prior,
        fits: SensorFits | None = None,
        *,
        gate_sigma: float = 6.0,
        persist: int = 3,
        cusum_k: float = 0.5,
        hold_s: float = 1.0,
    ) -> None:
        self.name = name
        self.prior = prior
        self.gate_sigma = gate_sigma
        self.persist = persist
        self.cusum_k = cusum_k
        self.last: float | None = None
        self.listener: ScoreListener | None = None
        self._fits = fits if fits is not None else SensorFits()
        self._hold_s = hold_s
        # Half of all runs of `persist` samples lie beyond the gate when the mean lies this much beyond it.
        self._gate_reach = gate_sigma + NormalDist().inv_cdf(0.5 ** (1.0 / persist))
        self._period_s: float | None = None
        self._fit = self._fits.get(name)
        self.scale = self._fits.scale(name)
        self._peak = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget the running statistics: what comes now must not be joined to what was before."""
        self.statistic = self.share = 0.0
        self.last = None
        self._up = self._down = 0.0
        self._run: deque[float] = deque(maxlen=self.persist)
        self._seen_s: float | None = None
        self._alarm_s: float | None = None
        self._alarm_size = 0.0

    @property
    def definition(self) -> str:
        """What a fit of this monitor means; fits of another definition are not its."""
        p = self.prior
        side = "upper" if p.one_sided else "both"
        return f"{p.location:g}+-{p.sigma:g}{p.unit} {side} gate {self.gate_sigma:g}x{self.persist} k {self.cusum_k:g}"

    @property
    def sigma(self) -> float:
        """Sigma in use at the speed of the last score, in the score's unit."""
        return self.prior.sigma if self._fit is None else self._fit.sigma

    @property
    def location(self) -> float:
        """Location in use at the speed of the last score, in the score's unit."""
        return self.prior.location if self._fit is None else self._fit.location

    @property
    def size(self) -> float:
        """How far the middle of the gate's run lies from the location, in the score's unit; 0 without a run."""
        return sorted(abs(z) for z in self._run)[len(self._run) // 2] * self.sigma if self._run else 0.0

    def push(self, t_s: float, score: float, speed_m_s: float | None = None) -> None:
        """Take one raw score. One that is no number counts as `skip`, an infinite one as the largest there is."""
        if math.isnan(score):
            self.skip(t_s)
            return
        self._notice_gap(t_s)
        self._notice_period(t_s)
        self._fit = self._fits.get(self.name, speed_m_s)
        self.last = score if math.isfinite(score) else None
        if self.listener is not None and self.last is not None:
            self.listener(t_s, score, speed_m_s)
        z = (score - self.location) / self.sigma
        # The sums get what a single outlier may weigh, and no more: outliers are the gate's business.
        clipped = min(max(z, -self.gate_sigma), self.gate_sigma)
        h, d = self._limits()
        self._up = cusum_step(self._up, clipped, self.cusum_k, 1.0 / (d * h), CEILING)
        if not self.prior.one_sided:
            self._down = cusum_step(self._down, -clipped, self.cusum_k, 1.0 / (d * h), CEILING)
        self._run.append(min(max(z, -1e6), 1e6))
        self._seen_s = t_s
        self._judge(t_s)

    def skip(self, t_s: float) -> None:
        """Nothing is observable now. A gap ends the gate's run; a long one also forgets the sums."""
        self.last = None
        self._notice_gap(t_s)
        self._judge(t_s)

    def power(self) -> float:
        """Smallest lasting change of the score that would be found within 2 s on average, in the score's unit.

        At the present rate of scores; inf while there are none, or too few in that time.
        """
        if self._period_s is None or self.last is None:
            return math.inf
        samples = POWER_HORIZON_S / self._period_s
        h, d = self._limits()
        # Three digits: the running period changes at every score, the answer hardly ever.
        found = _detectable(float(f"{samples / d:.3g}"), self.cusum_k, h * self.scale)
        if samples >= self.persist:
            found = min(found, self._gate_reach - (1.0 - self.scale) * self.gate_sigma)
        return self.sigma * found

    def take_peak(self) -> float:
        """The largest `share` since the last call."""
        peak, self._peak = self._peak, 0.0
        return peak

    def _limits(self) -> tuple[float, float]:
        """CUSUM limit in sigma, and how many samples count as one."""
        if self._fit is not None:
            return self._fit.cusum_h, max(1.0, self._fit.decorrelation_samples)
        period_s = self._period_s or self.prior.decorrelation_s
        return PRIOR_CUSUM_H, max(1.0, self.prior.decorrelation_s / period_s)

    def _notice_period(self, t_s: float) -> None:
        if self._seen_s is None:
            return
        dt_s = t_s - self._seen_s
        if not 0.0 < dt_s <= FORGET_S:
            return
        self._period_s = dt_s if self._period_s is None else self._period_s + _PERIOD_GAIN * (dt_s - self._period_s)

    def _notice_gap(self, t_s: float) -> None:
        if self._seen_s is None:
            return
        gap_s = abs(t_s - self._seen_s)
        slow_s = GAP_PERIODS * (self._period_s or 0.0)
        if gap_s > max(RUN_GAP_S, slow_s):
            self._run.clear()
        if gap_s > max(FORGET_S, slow_s):
            self._up = self._down = 0.0

    def _judge(self, t_s: float) -> None:
        running = max(self._up, self._down, self._gate())
        self._peak = max(self._peak, running)
        if running > self.scale:
            self._alarm_s, self._alarm_size = t_s, running
        elif self._alarm_s is not None and abs(t_s - self._alarm_s) <= self._hold_s:
            running = self._alarm_size
        self.share, self.statistic = running, running / self.scale

    def _gate(self) -> float:
        """Share of the gate that all of the last `persist` scores reached on one side."""
        if len(self._run) < self.persist:
            return 0.0
        up = min(self._run)
        down = 0.0 if self.prior.one_sided else -max(self._run)
        return max(0.0, up, down) / self.gate_sigma
