"""One answer from several: the median of the log-odds, so that one confident liar does not win.

The mean of two probabilities is decided by whoever is more certain, and an attacked model is. MITRE ATLAS AML.M0006.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.disagreement import normalised

CAP = 1e-4  # a probability nearer to 0 or 1 counts as this: no member is more certain than that


def median_log_odds(
    answers: Sequence[NDArray[np.float64]], *, doubted: int | None = None, doubt: float = 0.0
) -> NDArray[np.float64]:
    """Return (C,) probabilities with sum one: per class the median over the answers' capped log-odds.

    answers: at least one, each (C,). With two, the median is their mean: three members make it robust. doubted: a class
    that there is evidence against, doubt: its logarithm, 0 or more nat; it is taken off the class's log-odds.
    """
    p = np.clip(np.stack([normalised(answer) for answer in answers]), CAP, 1.0 - CAP)
    middle = np.median(np.log(p / (1.0 - p)), axis=0)
    if doubted is not None:
        middle[doubted] -= doubt
    return normalised(1.0 / (1.0 + np.exp(-middle)))
