"""From the rows of a sweep to curves with intervals: detection and delay against size, and ROC.

Rates have Wilson's interval; the median delay has the distribution-free one by order statistics, in which an attack
that was never found waits for ever; the area under the ROC curve is bootstrapped over runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeguard.report.curve import CurvePoint, RocPoint
from edgeguard.sim.detection.metrics import CONFIDENCE, auroc, auroc_interval, wilson
from edgeguard.sim.sweep import SweepRow

BOOTSTRAP_SEED = 1  # equal rows must give equal numbers


@dataclass(frozen=True, slots=True)
class Curve:
    """One scenario's curve over one parameter, in order of value."""

    scenario: str
    attack: str
    parameter: str
    points: tuple[CurvePoint, ...]


def curves(rows: Sequence[SweepRow]) -> tuple[Curve, ...]:
    """Return one curve per scenario and parameter, in the order in which they come first."""
    groups: dict[tuple[str, str, str], list[SweepRow]] = {}
    for row in rows:
        groups.setdefault((row.scenario, row.attack, row.parameter), []).append(row)
    return tuple(Curve(*name, curve(group)) for name, group in groups.items())


def curve(rows: Sequence[SweepRow]) -> tuple[CurvePoint, ...]:
    """Return one point per value, in order of value, of the rows of one scenario."""
    return tuple(_point(value, [r for r in rows if r.value == value]) for value in sorted({row.value for row in rows}))


def _point(value: float, rows: Sequence[SweepRow]) -> CurvePoint:
    rows = sorted(rows, key=lambda r: r.seed)  # the bootstrap must not see in which order workers were done
    found, named = sum(r.detected for r in rows), sum(r.named for r in rows)
    median, low, high = median_interval([math.inf if r.delay_s is None else r.delay_s for r in rows])
    attacked = np.array([r.peak_attacked for r in rows])
    clean = np.array([r.peak_clean for r in rows])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    area = auroc_interval(
        [clean[i : i + 1] for i in range(len(clean))], [attacked[i : i + 1] for i in range(len(rows))], rng
    )
    return CurvePoint(
        value, len(rows), found, wilson(found, len(rows)), named, wilson(named, len(rows)),
        median, (low, high), auroc(clean, attacked), area, roc(clean, attacked),
    )  # fmt: skip


def median_interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Return the median, and an interval that holds it with 95 % whatever the distribution.

    None stands for infinity: an upper end that the sample is too small to bound, or a median that was never reached.
    Below six values the sample bounds neither end: the lower one is then 0.
    """
    ordered = sorted(values)
    count = len(ordered)
    if not count:
        return None, 0.0, None
    middle = ordered[count // 2] if count % 2 else (ordered[count // 2 - 1] + ordered[count // 2]) / 2
    rank, tail = 0, 0.0  # the k-th smallest lies above the median with the chance of fewer than k tosses
    while (tail := tail + math.comb(count, rank) / 2.0**count) <= (1 - CONFIDENCE) / 2:
        rank += 1
    low = ordered[rank - 1] if rank else 0.0
    high = ordered[count - rank] if rank else math.inf
    return _finite(middle), _finite(low), _finite(high)


def roc(
    clean: np.ndarray[tuple[int], np.dtype[np.float64]], attacked: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[RocPoint, ...]:
    """Return the curve from (0, 0) to (1, 1): a point for each score at which something changes, the highest first."""
    points = [RocPoint(math.inf, 0, 0, len(clean), len(attacked))]
    for threshold in sorted({*clean.tolist(), *attacked.tolist()}, reverse=True):
        false, true = int((clean >= threshold).sum()), int((attacked >= threshold).sum())
        points.append(RocPoint(threshold, false, true, len(clean), len(attacked)))
    return tuple(points)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
