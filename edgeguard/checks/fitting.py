"""Fits of clean scores: robust location and sigma per speed bin, decorrelation, and the CUSUM limit by block bootstrap.

Textbook limits assume white Gaussian residuals. Real ones are correlated and heavy-tailed (a limit for one alarm in
50 minutes gave one in 35 s), so sigma respects the tail, sums count decorrelated samples, and the limit comes from the
data: excursions of the CUSUM over resampled blocks (Kuensch 1989), whose peaks have an exponential tail (Siegmund).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.quantiles import tolerance_widening
from edgeguard.checks.scores import FORGET_S, GAP_PERIODS, RUN_GAP_S, Fit, Prior, ScoreMonitor, SensorFits, SpeedBin
from edgeguard.kernels.cusum import limit_for
from edgeguard.kernels.sequential import cusum_excursions

# Below it a monitor's own data are not believed: its prior is, widened.
MIN_CLEAN_S = 30.0
# Below so many independent scores nothing is said about a monitor at all.
MIN_INDEPENDENT = 4.0
SPEED_EDGES_M_S = (0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 20.0, 30.0)
# A fit holds a little beyond the fastest speed it has seen.
SPEED_MARGIN, SPEED_MARGIN_M_S = 1.1, 0.5
# A median absolute deviation knows as much as a standard deviation from this share of the samples.
MAD_EFFICIENCY = 0.37
MAD_TO_SIGMA = 1.4826
TAIL_QUANTILE, TAIL_SIGMA = 0.95, 1.96
TAIL_SAMPLES = 100
# No fit is narrower than this share of the prior: a recording in which a sensor had nothing to do shows no noise.
SIGMA_FLOOR_SHARE = 0.1
# Clean scores reach at most this share of the gate.
GATE_SHARE = 2.0 / 3.0
MIN_CUSUM_H, MAX_CUSUM_H = 4.0, 1000.0
MAX_LAG = 2000
# The limit is the second largest of ten resampled recordings': one recording is one draw of what could have been seen.
RECORDINGS, RECORDING_RANK = 10, 2
RESAMPLED = 300_000  # samples per resampled recording: a second for all monitors of a rig
BLOCK_DECORRELATIONS, MIN_BLOCK = 5.0, 10
# Peaks of excursions above this quantile carry the exponential tail.
PEAK_QUANTILE, MIN_PEAKS = 0.98, 50


@dataclass(slots=True)
class Scores:
    """What one monitor gave over a recording; `listen` is its listener.

    name, prior, gate_sigma, persist, cusum_k, definition: the monitor's. t_s, score, speed_m_s: (N,) in order of
    arrival, speed NaN where the check gave none.
    """

    name: str
    prior: Prior
    gate_sigma: float
    persist: int
    cusum_k: float
    definition: str
    t_s: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    speed_m_s: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, monitor: ScoreMonitor) -> Scores:
        """Start to collect from a monitor."""
        scores = cls(
            monitor.name, monitor.prior, monitor.gate_sigma, monitor.persist, monitor.cusum_k, monitor.definition
        )
        monitor.listener = scores.listen
        return scores

    def listen(self, t_s: float, score: float, speed_m_s: float | None) -> None:
        """Take one score."""
        self.t_s.append(t_s)
        self.score.append(score)
        self.speed_m_s.append(math.nan if speed_m_s is None else abs(speed_m_s))

    def part(self, rows: Sequence[int]) -> Scores:
        """The scores with these numbers, in this order."""
        return replace(
            self,
            t_s=[self.t_s[i] for i in rows],
            score=[self.score[i] for i in rows],
            speed_m_s=[self.speed_m_s[i] for i in rows],
        )

    def monitor(self, fits: SensorFits) -> ScoreMonitor:
        """A monitor like the one that gave the scores, with these fits."""
        return ScoreMonitor(
            self.name, self.prior, fits, gate_sigma=self.gate_sigma, persist=self.persist, cusum_k=self.cusum_k
        )

    def alarms(self, fits: SensorFits) -> int:
        """How often such a monitor begins an alarm over these scores."""
        monitor = self.monitor(fits)
        alarms, up = 0, False
        for t_s, score, speed_m_s in zip(self.t_s, self.score, self.speed_m_s, strict=True):
            monitor.push(t_s, score, speed_m_s)
            alarms += monitor.statistic > 1.0 and not up
            up = monitor.statistic > 1.0
        return alarms

    @property
    def period_s(self) -> float:
        """Median time between scores, gaps left out; 0 for fewer than two."""
        steps = np.diff(self.t_s)
        steps = steps[(steps > 0.0) & (steps <= FORGET_S)]
        return float(np.median(steps)) if len(steps) else 0.0


@dataclass(frozen=True, slots=True)
class FittedBin:
    """A speed bin, and what it rests on: `data`, or the `prior` where too little was seen."""

    bin: SpeedBin
    basis: str


def fit_scores(
    scores: Scores, hours_between_alarms: float, rng: np.random.Generator, *, trust_tail: bool = True
) -> tuple[FittedBin, ...]:
    """Fit one monitor; empty where it gave next to nothing, so that its prior holds unchanged.

    Args:
        scores: clean ones. hours_between_alarms: of this monitor alone. rng: resamples.
        trust_tail: no score is an anomaly, so the gate must clear them all; False where some may be.
    """
    table = _Table.of(scores)
    if table is None:
        return ()
    rough = table.standardised([_robust(scores.prior, table.score[rows]) for rows in table.rows])
    d, error = decorrelation(rough, table.segment)
    d *= 1.0 + error
    if len(rough) / d < MIN_INDEPENDENT:
        return ()
    basis = "data" if table.clean_s(len(rough)) >= MIN_CLEAN_S else "prior"
    if basis == "prior":
        widened = scores.prior.sigma * tolerance_widening(len(rough) / d)
        spans = [(scores.prior.location, widened)] * len(table.rows)
    else:
        spans = [_span(scores, table.score[rows], table.segment[rows], d, trust_tail) for rows in table.rows]
    z = table.standardised(spans)
    samples = hours_between_alarms * 3600.0 / table.period_s
    h = cusum_limit(z, d, scores.cusum_k, samples, scores.gate_sigma, rng, one_sided=scores.prior.one_sided)
    return tuple(
        FittedBin(SpeedBin(low, Fit(at, sigma, len(rows), table.clean_s(len(rows)), h, d), high), basis)
        for (low, high), (at, sigma), rows in zip(table.speeds, spans, table.rows, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """Scores as arrays, cut into speed bins. segment: (N,) number of the gapless stretch that a score lies in."""

    score: NDArray[np.float64]
    segment: NDArray[np.int64]
    period_s: float
    speeds: tuple[tuple[float, float], ...]
    rows: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, scores: Scores) -> _Table | None:
        period_s = scores.period_s
        if period_s == 0.0:
            return None
        t_s, speed = np.array(scores.t_s), np.array(scores.speed_m_s)
        gap_s = max(RUN_GAP_S, GAP_PERIODS * period_s)
        known = np.isfinite(speed)
        # A check that nearly never knows a speed has one fit for all; where it mostly does, the rest tells nothing.
        by_speed = bool(known.mean() > 0.5)
        keep = known if by_speed else np.ones(len(t_s), dtype=bool)
        segment = np.cumsum(np.concatenate(([0], np.abs(np.diff(t_s[keep])) > gap_s)))
        if not by_speed:
            return cls(np.array(scores.score), segment, period_s, ((0.0, math.inf),), (np.arange(len(t_s)),))
        needed = max(1, math.ceil(MIN_CLEAN_S / period_s))
        speeds = tuple(_speed_bins(speed[keep], needed))
        rows = tuple(np.flatnonzero((speed[keep] >= low) & (speed[keep] < high)) for low, high in speeds)
        return cls(np.array(scores.score)[keep], segment, period_s, speeds, rows)

    def clean_s(self, samples: int) -> float:
        return samples * self.period_s

    def standardised(self, spans: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
        z = np.empty_like(self.score)
        for rows, (location, sigma) in zip(self.rows, spans, strict=True):
            z[rows] = (self.score[rows] - location) / sigma
        return z


def _speed_bins(speed: NDArray[np.float64], needed: int) -> Iterator[tuple[float, float]]:
    """Bins of at least `needed` samples: neighbours merge upward, and a rest goes to the bin before it."""
    top = float(speed.max()) * SPEED_MARGIN + SPEED_MARGIN_M_S
    bottom = max((edge for edge in SPEED_EDGES_M_S if edge <= speed.min()), default=0.0)
    edges = [edge for edge in SPEED_EDGES_M_S if bottom < edge < top]
    low = bottom
    for edge in edges:
        inside = ((speed >= low) & (speed < edge)).sum()
        if inside >= needed and (speed >= edge).sum() >= needed:
            yield low, edge
            low = edge
    yield low, top


def _robust(prior: Prior, score: NDArray[np.float64]) -> tuple[float, float]:
    """Location and sigma: the median, and the larger of what the middle and the tail of the deviations say."""
    location = float(np.median(score))
    deviation = score[score >= location] - location if prior.one_sided else np.abs(score - location)
    sigma = MAD_TO_SIGMA * float(np.median(deviation))
    if len(deviation) >= TAIL_SAMPLES:
        sigma = max(sigma, float(np.quantile(deviation, TAIL_QUANTILE)) / TAIL_SIGMA)
    return location, max(sigma, SIGMA_FLOOR_SHARE * prior.sigma)


def _span(
    scores: Scores, score: NDArray[np.float64], segment: NDArray[np.int64], d: float, trust_tail: bool
) -> tuple[float, float]:
    """Location and sigma of a bin, widened for its own uncertainty and for what its tail does at the gate."""
    location, sigma = _robust(scores.prior, score)
    sigma *= tolerance_widening(max(MIN_INDEPENDENT, MAD_EFFICIENCY * len(score) / d))
    if trust_tail:
        reach = _persistent_reach(score - location, segment, scores.persist, scores.prior.one_sided)
        sigma = max(sigma, reach / (GATE_SHARE * scores.gate_sigma))
    return location, sigma


def _persistent_reach(
    deviation: NDArray[np.float64], segment: NDArray[np.int64], persist: int, one_sided: bool
) -> float:
    """Largest deviation that `persist` scores in a row reached on one side."""
    if len(deviation) < persist:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(deviation, persist)
    whole = segment[persist - 1 :] == segment[: len(segment) - persist + 1]
    up = runs.min(axis=1)
    reach = up if one_sided else np.maximum(up, -runs.max(axis=1))
    return float(np.max(reach[whole], initial=0.0))


def decorrelation(z: NDArray[np.float64], segment: NDArray[np.int64]) -> tuple[float, float]:
    """Integrated autocorrelation of a stationary series, at least 1, and its relative standard error.

    So many samples say as much as one. z: (N,) standardised, clipped here at 3 so that one burst does not decide.
    segment: (N,) pairs across segments do not count. Sums until the first negative pair of lags (Geyer, Statistical
    Science 7, 1992); the error of a sum over W lags is sqrt(2 (2 W + 1) / N) (Sokal 1997, eq. 3.19).
    """
    clipped = np.clip(z, -3.0, 3.0)
    clipped = clipped - clipped.mean()
    variance = float(np.mean(clipped**2))
    if variance == 0.0:
        return 1.0, 0.0
    total = 1.0
    lags = 0
    for lag in range(1, min(MAX_LAG, len(z) // 4), 2):
        pair = 0.0
        for each in (lag, lag + 1):
            together = segment[each:] == segment[:-each]
            if together.any():
                pair += float(np.mean((clipped[each:] * clipped[:-each])[together])) / variance
        if pair <= 0.0:
            break
        total += 2.0 * pair
        lags = lag + 1
    error = math.sqrt(2.0 * (2.0 * lags + 1.0) / len(z)) if lags else 0.0
    return max(1.0, total), error


def cusum_limit(
    z: NDArray[np.float64],
    d: float,
    k: float,
    samples: float,
    clip: float,
    rng: np.random.Generator,
    *,
    one_sided: bool = False,
) -> float:
    """The limit with which the CUSUM over scores like `z` runs `samples` samples between false alarms.

    z: (N,) clean standardised scores. d: decorrelation in samples. clip: what one score may weigh. Never below what
    white Gaussian scores need.
    """
    clipped = np.clip(z, -clip, clip)
    block = min(max(MIN_BLOCK, math.ceil(BLOCK_DECORRELATIONS * d)), max(1, len(z) // 4))
    blocks = math.ceil(len(z) / block)
    sides = (clipped,) if one_sided else (clipped, -clipped)
    limits = []
    for _ in range(RECORDINGS):
        recording = rng.integers(0, len(z), blocks)
        starts = recording[rng.integers(0, blocks, max(1, RESAMPLED // block))]
        limits.append(max(_tail_limit(cusum_excursions(side, starts, block, k, 1.0 / d), starts.size * block,
                                      len(sides) * samples) for side in sides))  # fmt: skip
    bootstrapped = sorted(limits)[-RECORDING_RANK]
    return min(max(bootstrapped, limit_for(samples / d, k), MIN_CUSUM_H), MAX_CUSUM_H)


def _tail_limit(peaks: NDArray[np.float64], seen: int, samples: float) -> float:
    """The height that a peak passes once in `samples` samples, given the peaks of `seen`; 0 where there are too few."""
    start = float(np.quantile(peaks, PEAK_QUANTILE)) if len(peaks) else 0.0
    above = peaks[peaks > start] - start
    if len(above) < MIN_PEAKS:
        return float(peaks.max(initial=0.0))
    return max(0.0, start + float(above.mean()) * math.log(samples * len(above) / seen))
