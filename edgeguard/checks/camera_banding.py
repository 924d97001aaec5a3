"""C4.banding: stripes across the picture, from a lamp that flickers faster than the frames (GhostStripe, 2407.07510).

A rolling shutter exposes row after row, so a flickering light multiplies each row by its own factor, the same over the
whole width. The scene does not: what moves in it changes some columns. So the logarithm of each row's brightness is
held against its own past in eight sectors of the width, and only what most sectors share is looked at. Stripes are a
peak in its spectrum; a bump in the road shifts the whole profile, which is fitted and taken out.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.camera_evidence import CameraEvidence
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.kernels.blocks import row_means
from edgeguard.types import CheckResult, Level, SyncedSet

SECTORS = 8
LEARN = 0.2  # of the profile per frame: five frames
MIN_FRAMES = 4
MIN_CYCLES = 2.5  # over the picture's height; fewer are shade and exposure
MIN_DEPTH = 0.02  # of brightness; below, stripes change no classifier and rows differ by themselves
DARK_DN = 8.0
LOCATION, SIGMA = 1.0, 0.25  # peak over what the neighbouring frequencies allow; 1 is the largest of honest rows
HONEST_SIGMA = 2.5  # honest rows reach four to five times their median, log 5 = 1.6; only what lies beyond adds up
HOLD_FRAMES = 100


class BandingCheck:
    """C4.banding. Raw score: spectral peak of the common row residual over its surroundings, 8 and more are stripes."""

    name = "C4.banding"

    def __init__(self, evidence: CameraEvidence, fits: SensorFits | None = None) -> None:
        self.sensors: tuple[str, ...] = (evidence.camera,)
        self._evidence = evidence
        self._monitor = ScoreMonitor(
            self.name, Prior(LOCATION, SIGMA, "log ratio", one_sided=True), fits, persist=2, cusum_k=HONEST_SIGMA
        )
        self.monitors: tuple[ScoreMonitor, ...] = (self._monitor,)
        self._profile: NDArray[np.float32] | None = None
        self._frames = 0
        self._held = 0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if synced.tick.discontinuity:
            self._profile, self._frames = None, 0
            self._monitor.restart()
        now_s = synced.tick.stamp_ns * 1e-9
        if frame is None:
            self._monitor.skip(now_s)
            return self._result("no new frame at this tick", 0.0)
        rows = np.log(row_means(frame.grey, SECTORS) + DARK_DN)
        if self._profile is None or self._profile.shape != rows.shape:
            self._profile, self._frames = rows, 0
        self._frames += 1
        if self._frames <= MIN_FRAMES:
            self._profile = self._profile + LEARN * (rows - self._profile)
            self._monitor.skip(now_s)
            return self._result("too few frames yet", 0.0)
        score, depth = _stripes(rows, self._profile)
        self._monitor.push(now_s, score, frame.speed_m_s)
        striped = score > LOCATION + 4.0 * SIGMA
        self._held = self._held + 1 if striped else 0
        if not striped or self._held > HOLD_FRAMES:
            self._profile = self._profile + LEARN * (rows - self._profile)
        return self._result("", depth)

    def _result(self, why_not: str, depth: float) -> CheckResult:
        statistic = self._monitor.statistic
        power = float("inf") if why_not else MIN_DEPTH
        if statistic > 1.0:
            level, reason = Level.ANOMALY, f"stripes across the whole width, {200 * depth:.0f} % deep"
        else:
            level, reason = (Level.NOT_OBSERVABLE if why_not else Level.OK), why_not
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "share of light", "rows", reason)


@lru_cache(maxsize=4)
def _of_rows(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Constant, slope and bend over so many rows, orthonormal, (3, count), and their Hann window."""
    at = np.linspace(-1.0, 1.0, count)
    bend = np.linalg.qr(np.stack((np.ones(count), at, at * at), axis=1))[0]
    return np.ascontiguousarray(bend.T), np.hanning(count)


def _stripes(rows: NDArray[np.float32], profile: NDArray[np.float32]) -> tuple[float, float]:
    """Log of the spectral peak over its surroundings, and the amplitude there."""
    count = rows.shape[0]
    bend, window = _of_rows(count)
    ordered = np.sort(rows - profile, axis=1).astype(np.float64)
    common = 0.5 * (ordered[:, (SECTORS - 1) // 2] + ordered[:, SECTORS // 2])
    mean = profile.mean(axis=1, dtype=np.float64)
    shift = np.zeros(count)
    shift[1:-1] = mean[2:] - mean[:-2]
    shift[0], shift[-1] = 2.0 * (mean[1] - mean[0]), 2.0 * (mean[-1] - mean[-2])
    # least squares in two steps: what the bend explains of both, then what the shift explains of the rest
    common, shift = common - (bend @ common) @ bend, shift - (bend @ shift) @ bend
    size = float(shift @ shift)
    if size > 0.0:
        common -= shift * (float(shift @ common) / size)
    spectrum = np.abs(np.fft.rfft(common * window)) * 2.0 / window.sum()
    low = int(np.ceil(MIN_CYCLES))
    band = spectrum[low : count // 3]
    if band.size < 8:
        return 0.0, 0.0
    peak = int(np.argmax(band)) + low
    around = np.concatenate((spectrum[max(1, peak // 2) : max(1, peak - 1)], spectrum[peak + 2 : 2 * peak + 4]))
    usual = float(np.median(around)) if around.size else 0.0
    height = float(spectrum[peak])
    # The Hann window spreads a line over three bins; honest rows reach four to five times their median.
    return float(np.log(height / (usual + 0.1 * MIN_DEPTH))) if height > MIN_DEPTH else 0.0, height
