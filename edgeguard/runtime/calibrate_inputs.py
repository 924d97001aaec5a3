"""What `edgeguard calibrate inputs` fits: the gate's view of clean frames, through the models that will be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.calibration import InputsSection, fit_inputs
from edgeguard.infer.ensemble import EnsembleSession
from edgeguard.restore.image_chain import ChainChoice
from edgeguard.runtime.models import OpenedModel


def calibrate_inputs(
    frames: Iterable[NDArray[np.uint8]],
    opened: OpenedModel,
    *,
    level: float | None = None,
    on_frame: Callable[[], None] | None = None,
) -> InputsSection:
    """Fit the gate of these models on clean frames.

    Args:
        frames: (H, W, 3) uint8 BGR, iterated twice. opened: models and signed chains. level: share of clean frames
            that may alarm; None takes the lowest that the frames support. on_frame: called after each frame.

    Raises:
        CalibrationError: EG-L020 too few frames, EG-L024 a level lower than the frames support. ConfigError: EG-C142
            the models are no classifiers of one kind; EG-C140 not a frame.
    """
    ensemble = EnsembleSession(opened.members)
    choice = ChainChoice(opened.policy.chains)
    return fit_inputs(
        frames,
        [(member.model_id, member.classify_pixels) for member in ensemble.members],
        choice.squeeze,
        chains=choice.digest,
        level=level,
        on_frame=on_frame,
    )
