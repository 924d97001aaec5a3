"""`--chains` and `--drift-frames`: what the release says about its inputs, for the signed manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgeguard.detect.drift import MIN_REFERENCE, DriftReference, sketch
from edgeguard.detect.scalars import frame_scalars
from edgeguard.errors import ConfigError, ProvisioningError, RecordingError
from edgeguard.infer.input_policy import SCHEMA, InputPolicy
from edgeguard.restore.chain_file import images_of, read_chain_file, sensors_of
from edgeguard.restore.image_chain import STANDARD_CHAINS
from edgeguard.sensors.frames import FrameReader

EVERY_S = 1.0  # of a recording: frames nearer than this are one observation


def input_policy(
    chains: Path | None,
    drift_frames: Path | None,
    *,
    mirror: bool = True,
    on_frame: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Return the manifest's `input_policy`; None when nothing is given.

    Args:
        chains: TOML of restoration chains of all kinds; where it has none for pictures, the standard ones.
        drift_frames: a folder of pictures or a recording, as the model's users will see the world. mirror: see
            `InputPolicy`.

    Raises:
        ProvisioningError: EG-P026: a file cannot be used, or the frames are fewer than a reference takes.
    """
    if chains is None and drift_frames is None and mirror:
        return None
    try:
        chosen = () if chains is None else read_chain_file(chains)
        drift = None if drift_frames is None else _reference(FrameReader(drift_frames, EVERY_S), on_frame)
    except (ConfigError, RecordingError) as error:
        raise ProvisioningError(error.message, code="EG-P026", hint=error.hint) from None
    return InputPolicy(SCHEMA, images_of(chosen) or STANDARD_CHAINS, mirror, drift, sensors_of(chosen)).fields()


def _reference(frames: Iterable[Any], on_frame: Callable[[], None]) -> DriftReference:
    columns: dict[str, list[float]] = {}
    for pixels in frames:
        for name, value in frame_scalars(pixels).items():
            columns.setdefault(name, []).append(value)
        on_frame()
    count = len(next(iter(columns.values()), []))
    if count < MIN_REFERENCE:
        raise ProvisioningError(
            f"a drift reference takes at least {MIN_REFERENCE} frames, not {count}",
            code="EG-P026",
            hint="give more frames, or a longer recording: one frame a second counts",
        )
    return DriftReference({name: sketch(np.asarray(values)) for name, values in columns.items()})
