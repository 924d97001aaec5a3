"""Camera frames alone: of a folder of pictures, or of a recording, one after the other and as often as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.errors import RecordingError
from edgeguard.sensors.recording import open_recording, recording_kind
from edgeguard.types import CAMERA, Image

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
MAX_WAIT_S = 1e9  # simulated: the next frame of a recording, however long its hole
MAX_PICTURE_BYTES = 256 * 1024 * 1024  # no camera's frame is larger; a bomb is


@dataclass(frozen=True, slots=True)
class FrameReader:
    """Reads anew each time it is iterated, one frame in memory at a time. Gives (H, W, 3) uint8 BGR.

    path: a folder of pictures, in the order of their names, or a recording with a camera. every_s: of a recording, at
    most one frame in so many seconds: neighbours are one observation, not two.

    Raises:
        RecordingError: EG-N073 neither; EG-N150 no picture in it, or a recording without a camera; EG-N151 a file that
            is no picture.
    """

    path: Path
    every_s: float = 1.0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self._pictures() if self.is_pictures else self._recorded()

    @property
    def is_pictures(self) -> bool:
        """Whether it is a folder of pictures; those of a recording's layout are not taken one by one."""
        return self.path.is_dir() and not recording_kind(self.path) and bool(self._names())

    def count(self) -> int | None:
        """How many pictures there are; None for a recording, which has to be read to tell."""
        return len(self._names()) if self.is_pictures else None

    def _names(self) -> list[Path]:
        return sorted(p for p in self.path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())

    def _pictures(self) -> Iterator[NDArray[np.uint8]]:
        for path in self._names():
            too_large = path.stat().st_size > MAX_PICTURE_BYTES
            pixels = None if too_large else cv2.imread(str(path), cv2.IMREAD_COLOR)
            if pixels is None:
                raise RecordingError(
                    f"{path.name} is no picture", code="EG-N151", hint="remove it from the folder, or make it anew"
                )
            yield np.asarray(pixels, dtype=np.uint8)

    def _recorded(self) -> Iterator[NDArray[np.uint8]]:
        if self.path.is_dir() and not recording_kind(self.path):
            raise RecordingError(
                f"{self.path} holds no pictures", code="EG-N150", hint="give a folder of .png or .jpg, or a recording"
            )
        recording = open_recording(self.path)
        clock = ManualClock(start_ns=0)
        source = recording.sources(clock).get(CAMERA)
        if source is None:
            raise RecordingError(f"{self.path} has no camera", code="EG-N150", hint="give frames of the rig's camera")
        last_ns: int | None = None
        source.open()
        with closing(source):
            while (sample := source.read(MAX_WAIT_S)) is not None:
                if not isinstance(sample, Image):
                    continue
                if last_ns is None or sample.stamp_ns - last_ns >= self.every_s * NS_PER_S:
                    last_ns = sample.stamp_ns
                    yield sample.pixels
