"""What `edgeguard calibrate inputs` fits: the gate's view of clean frames, through the models that will be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.calibration import InputsSection, fit_inputs
from edgeguard.infer.ensemble import checked_members
from edgeguard.infer.gated import how_asked
from edgeguard.restore.diagnose import Diagnosis, diagnose, fit_limits
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
            the models are not of one kind; EG-C140 not a frame.
    """
    kind, asked = how_asked(checked_members(opened.members))
    diagnoses: list[Diagnosis] = []
    watched = _Watched(frames, diagnoses)
    choice = ChainChoice(opened.policy.chains)
    return fit_inputs(
        watched,
        asked,
        choice.squeeze,
        kind=kind,
        chains=choice.digest,
        level=level,
        limits=lambda share: msgspec.to_builtins(fit_limits(diagnoses, share)),
        on_frame=on_frame,
    )


class _Watched:
    """Frames whose diagnoses are kept the first time they are read."""

    def __init__(self, frames: Iterable[NDArray[np.uint8]], diagnoses: list[Diagnosis]) -> None:
        self._frames, self._diagnoses, self._again = frames, diagnoses, False

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        first, self._again = not self._again, True
        for pixels in self._frames:
            if first:
                self._diagnoses.append(diagnose(pixels))
            yield pixels
