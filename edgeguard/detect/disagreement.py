"""What the models' answers say about a frame: how far two of them disagree, how narrowly one decided.

All functions take probability vectors (C,) over the same classes and give larger numbers for more suspicious frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
FLOOR = 1e-12


def jensen_shannon(p: Probabilities, q: Probabilities) -> float:
    """Return the Jensen-Shannon divergence, bits, 0 to 1 (Lin, IEEE Trans. Inf. Theory 37, 1991).

    A perturbation is made for one model; another architecture mostly keeps its answer. An attacker who aims at both
    models at once makes it blind.
    """
    p, q = normalised(p), normalised(q)
    m = np.maximum((p + q) / 2.0, FLOOR)
    return float(_relative(p, m) + _relative(q, m)) / 2.0


def low_margin(p: Probabilities) -> float:
    """Return 1 minus the distance between the two most likely classes: decision-based attacks end on a boundary."""
    top = np.partition(normalised(p), -2)[-2:]
    return float(1.0 - abs(top[1] - top[0]))


def squeezed_shift(p: Probabilities, squeezed: Probabilities) -> float:
    """Return the L1 distance of two answers, before and after a squeezer, 0 to 2.

    Source: Xu, Evans and Qi, NDSS 2018. Confident multi-step attacks move *less* than clean frames under a weak
    squeezer, so small values are suspicious too: see `two_sided`.
    """
    return float(np.abs(normalised(p) - normalised(squeezed)).sum())


def two_sided(value: float, clean: NDArray[np.float64]) -> float:
    """Return how far a value lies from the middle of the clean ones, as a share of ranks, 0 to 1.

    clean: (N,) float64, sorted.
    """
    rank = (np.searchsorted(clean, value, "left") + np.searchsorted(clean, value, "right")) / 2.0
    return float(abs(2.0 * rank / max(clean.size, 1) - 1.0))


def normalised(p: Probabilities) -> Probabilities:
    """Return finite, non-negative numbers with the sum one; an answer of nothing but zeros or NaN becomes even."""
    cleaned = np.nan_to_num(np.maximum(np.asarray(p, dtype=np.float64), 0.0), nan=0.0, posinf=0.0)
    total = cleaned.sum()
    return cleaned / total if total > 0.0 else np.full(cleaned.shape, 1.0 / max(cleaned.size, 1))


def _relative(p: Probabilities, m: Probabilities) -> float:
    return float((p * np.log2(np.maximum(p, FLOOR) / m)).sum())
