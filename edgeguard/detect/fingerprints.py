"""Query attacks: many requests that are nearly the same picture.

An attacker who sees only answers has to ask thousands of times about frames that differ by a little. Each frame is
cut into overlapping windows of quantised values, each window is hashed with a secret salt, and the smallest hashes are
the frame's fingerprint; a new frame that shares many of them with one remembered frame is a repeat (Li et al.,
"Blacklight", USENIX Security 2022). MITRE ATLAS AML.M0015, AML.M0004.

A video repeats itself too: use it on requests (an endpoint), or with frames that are far apart.
"""

from __future__ import annotations

import secrets
from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.frame import require_image

SIDE_PX = 64  # every frame is shrunk to it: small perturbations move few of its levels
LEVEL_STEP = 50  # quantisation of the published attack detector: a change of 8/255 seldom crosses a step
WINDOW = 20  # consecutive values in one hash
KEPT = 50  # smallest hashes that make the fingerprint
REMEMBERED = 2_000  # frames: an hour at one request in two seconds, 800 kB


class QueryDetector:
    """Remembers fingerprints of the last frames and counts how much a new one shares with its nearest.

    Args:
        salt: secret of this detector; an attacker who knew it could choose frames whose fingerprints differ. None
            draws one from the system's generator.
        alarm_share: shared hashes, as a share of all, from which on two frames are the same picture. Measured on
            photographs: docs/restoration.md.
        repeats: frames that have to match before the stream alarms: a user may send one picture twice.
    """

    def __init__(self, salt: bytes | None = None, *, alarm_share: float = 0.5, repeats: int = 5) -> None:
        key = np.frombuffer(
            np.random.PCG64(int.from_bytes(salt or secrets.token_bytes(32), "big")).random_raw(WINDOW).tobytes(),
            np.uint64,
        )
        self._multipliers = key | np.uint64(1)
        self._alarm_share = alarm_share
        self._repeats = repeats
        self._known: deque[NDArray[np.uint64]] = deque(maxlen=REMEMBERED)
        self._matched: deque[bool] = deque(maxlen=4 * repeats)
        self.last_share = 0.0

    def push(self, pixels: NDArray[np.uint8]) -> bool:
        """Take a frame, (H, W, 3) uint8 BGR; return whether the last ones are queries around one picture.

        Raises:
            ConfigError: EG-C140: not a frame.
        """
        print_ = self.fingerprint(pixels)
        self.last_share = max((_shared(print_, known) for known in self._known), default=0.0)
        self._known.append(print_)
        self._matched.append(self.last_share >= self._alarm_share)
        return sum(self._matched) >= self._repeats

    def fingerprint(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """Return the frame's smallest hashes, ascending, (<= 50,) uint64."""
        require_image(pixels)
        small = np.asarray(cv2.resize(pixels, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), dtype=np.uint64)
        levels = (small // np.uint64(LEVEL_STEP)).ravel()
        windows = np.lib.stride_tricks.sliding_window_view(levels, WINDOW)
        hashed = (windows + np.uint64(1)) @ self._multipliers
        hashed ^= hashed >> np.uint64(29)
        hashed *= np.uint64(0xBF58476D1CE4E5B9)  # finaliser of splitmix64: every input bit reaches every output bit
        hashed ^= hashed >> np.uint64(32)
        return np.asarray(np.unique(hashed)[:KEPT])


def _shared(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    return float(np.isin(first, second, assume_unique=True).sum()) / KEPT
