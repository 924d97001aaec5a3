"""X5.rotation: does the camera see the rotation that the gyro measures?

Corners are followed through the last second. The gyro, integrated between two exposures, predicts how their bearings
turn; what is left is solved for together with the camera's translation (`kernels.tracks`), so that driving past things
is no rotation. The remainder per second is the gyro's error, about three axes.

Bias at switch-on is legitimate. It is learned, with the time offset of the two stamps, the mounting and the scale of
the rate, inside data-sheet bounds; then only as slowly as such things wander, and never from what looks suspicious.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.feature_tracks import FeatureTracks, TrackedFrame, common
from edgeguard.checks.motion_statistics import BoundedEstimator
from edgeguard.checks.rate_history import RateHistory
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.tracks import integrate_rates, leftover_rotation
from edgeguard.types import CAMERA, IMU, CheckResult, Image, ImuSample, Level

if TYPE_CHECKING:
    from edgeguard.types import RigCalibration, SyncedSet

# The longest span over which points are compared: a lasting error of the gyro grows over it, an error of a track does
# not. Short ones serve where the scene passes quickly.
SPAN_S = 1.6
MIN_SPAN_S = 0.04
SPAN_GROWTH, SPAN_SHRINK = 1.1, 0.5
ATTEMPTS = 3
KEEP_FRAMES = 64
MIN_TRACKS = 40
MAX_FRAME_GAP_S = 0.5
# Frames wait this long for the gyro to reach their exposure, then the check has nothing to say about them.
MAX_WAIT_S = 0.5
# Optical flow is exact to a tenth of the reduced image's pixel; a worse camera says so by its own misfit.
TRACK_SIGMA_PX = 0.1
MAX_MISFIT = 2.0
# The middle of an honest misfit, one coordinate of Gaussian noise, in sigma.
HONEST_MISFIT = 0.6745
# The picture is cut into so many upright strips, and solved again without each. Where the answers differ by more than
# the noise of the tracks once in a thousand times (chi-square of four over four), their spread is the noise: parts move
# by themselves. Only in traffic: where no parallax stands out of the tracks' noise, its direction is anybody's guess.
STRIPS = 5
STRIPS_BY_CHANCE = 4.62
MIN_PARALLAX_SIGMA = 10.0
# White noise of consumer gyros, rad/s/sqrt(Hz): 0.01 deg/s (ADIS16448 0.0096, MPU-9250 0.01, BMI088 0.014).
GYRO_NOISE = 1.75e-4
# Without a stated mounting the IMU's axes are nominal: two degrees one sigma.
MOUNT_SIGMA_STATED_RAD, MOUNT_SIGMA_NOMINAL_RAD = 0.004, 0.035
# Zero-rate offset: 5 deg/s covers MEMS data sheets (MPU-9250 +-5, ADIS16448 under 1 typical, yet 4.7 seen in EuRoC).
BIAS_SIGMA_RAD_S, BIAS_LIMIT_RAD_S, BIAS_FLOOR_RAD_S, BIAS_WALK_RAD_S = 0.03, 0.09, 1.0e-4, 2.0e-5
OFFSET_SIGMA_S, OFFSET_LIMIT_S, OFFSET_FLOOR_S, OFFSET_WALK_S = 0.02, 0.06, 0.0005, 0.00002
SCALE_SIGMA, SCALE_LIMIT, SCALE_FLOOR, SCALE_WALK = 0.01, 0.04, 0.002, 0.00005
MOUNT_LIMIT_RAD, MOUNT_FLOOR_RAD, MOUNT_WALK_RAD = 0.12, 0.002, 0.00002
CONFIDENCE = 2.5
# A bias known this well, or twice as well as one comparison tells, lets the check speak: 0.04 deg/s.
SETTLED_RAD_S = 0.0007
# Errors of a scene last as long as the scene does, and nobody knows how long. Where parts of the picture differ, any
# number of comparisons leaves the bias as unknown as one of them does, until better ones come, as at a stop. Where they
# agree while points pass, at most one strip may be wrong; at rest only the tracks' noise is left, which a span renews.
DIFFER, AGREE, REST = 1.0, STRIPS**-0.5, 0.0
# So many comparisons are remembered.
REMEMBERED = 600.0
# What has become suspicious within this time after it does not teach.
QUARANTINE_S = 1.5
SUSPICION = 0.25
# Residuals of a clean rig in units of the predicted sigma. Flow errors of neighbouring points are alike, which the
# prediction does not know.
PRIOR = Prior(0.0, 2.0, "sigma", decorrelation_s=0.5 * SPAN_S)
# Gaussian tails reach this in one of 1.7 million independent looks.
GATE_SIGMA = 5.0
STALE_S = 0.6
AXES = ("roll", "pitch", "yaw")


@dataclass(frozen=True, slots=True, eq=False)
class _Residual:
    """One comparison. rate (3,): camera minus gyro, IMU axes, rad/s; gradient (3, 10) by the calibration's
    parameters; sigma (3,) noise; known (10,) the calibration that it was made with; overlap: how
    many of them know as much as one; scene: what share of sigma lasts as long as the scene does."""

    t_s: float
    rate: NDArray[np.float64]
    gradient: NDArray[np.float64]
    sigma: NDArray[np.float64]
    known: NDArray[np.float64]
    overlap: float
    scene: float


class RotationCheck:
    """X5 of one camera and one gyro. Statistic: share of the threshold, threshold 1; power and size in rad/s."""

    name: str = "X5.rotation"

    def __init__(
        self, calibration: RigCalibration, fits: SensorFits | None = None, *, imu: str = IMU, camera: str = CAMERA
    ) -> None:
        self.sensors: tuple[str, ...] = (imu, camera)
        self.monitors: tuple[ScoreMonitor, ...] = tuple(
            ScoreMonitor(f"{self.name}.{axis}", PRIOR, fits, gate_sigma=GATE_SIGMA) for axis in AXES
        )
        self._imu, self._camera = imu, camera
        stated = calibration.R_cam_imu
        # A lidar looks where the vehicle does: its axes are the nominal mounting of the IMU.
        self._R_cam_imu = np.array(calibration.T_cam_lidar[:3, :3] if stated is None else stated, np.float64)
        mount = MOUNT_SIGMA_NOMINAL_RAD if stated is None else MOUNT_SIGMA_STATED_RAD
        self._size_px = calibration.image_size_px
        self._tracks = FeatureTracks(calibration.camera_matrix, calibration.distortion, KEEP_FRAMES)
        self._rates = RateHistory(3)
        self._waiting: deque[TrackedFrame] = deque(maxlen=8)
        self._mount_sigma = mount
        # bias x y z, time offset, mounting x y z, scale x y z
        self._model = BoundedEstimator(
            mean=(0.0,) * 10,
            sd=(BIAS_SIGMA_RAD_S,) * 3 + (OFFSET_SIGMA_S,) + (mount,) * 3 + (SCALE_SIGMA,) * 3,
            low=(-BIAS_LIMIT_RAD_S,) * 3 + (-OFFSET_LIMIT_S,) + (-MOUNT_LIMIT_RAD,) * 3 + (-SCALE_LIMIT,) * 3,
            high=(BIAS_LIMIT_RAD_S,) * 3 + (OFFSET_LIMIT_S,) + (MOUNT_LIMIT_RAD,) * 3 + (SCALE_LIMIT,) * 3,
            sd_floor=(BIAS_FLOOR_RAD_S,) * 3 + (OFFSET_FLOOR_S,) + (MOUNT_FLOOR_RAD,) * 3 + (SCALE_FLOOR,) * 3,
            sd_walk=(BIAS_WALK_RAD_S,) * 3 + (OFFSET_WALK_S,) + (MOUNT_WALK_RAD,) * 3 + (SCALE_WALK,) * 3,
        )
        self._lessons: deque[_Residual] = deque()
        # Per axis: the comparisons that taught by the square of their scene's share, the sum of their precisions, their
        # number.
        self._taught, self._precision, self._remembered = np.zeros(3), np.zeros(3), np.zeros(3)
        self._settled = False
        self._last_image_ns: int | None = None
        self._judged_s = -math.inf
        self._learned_s: float | None = None
        self._suspect_s = -math.inf
        self._why = "no frames yet"
        self._power = math.inf
        self._sigma = np.full(3, math.inf)
        self._rate = np.zeros(3)
        self._span_s = SPAN_S
        self._step_s = 0.0

    @property
    def bias_rad_s(self) -> NDArray[np.float64]:
        """(3,) the gyro's learned zero-rate offset, its own axes."""
        return np.array(self._model.mean[:3])

    @property
    def time_offset_s(self) -> float:
        """How much later the gyro's stamps are than the camera's, as learned."""
        return float(self._model.mean[3])

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        if synced.tick.discontinuity or not synced.tick.recording_gap.isdisjoint(self.sensors):
            self._restart()
        for sample in synced.series.get(self._imu, ()):
            if isinstance(sample, ImuSample):
                self._rates.append(sample.stamp_ns / NS_PER_S, sample.gyro_rad_s)
        for image in synced.series.get(self._camera, ()) or (synced.samples.get(self._camera),):
            self._see(image)
        now_s = synced.stamp_ns / NS_PER_S
        while self._waiting and self._rates.reaches(self._waiting[0].t_s + self.time_offset_s):
            self._judge(self._waiting.popleft())
        while self._waiting and now_s - self._waiting[0].t_s > MAX_WAIT_S:
            self._waiting.popleft()
            self._why = f"{self._imu} does not reach the exposure"
        return self._verdict(now_s)

    def _see(self, image: object) -> None:
        if not isinstance(image, Image) or (self._last_image_ns is not None and image.stamp_ns <= self._last_image_ns):
            return
        height, width = image.pixels.shape[:2]
        if (width, height) != self._size_px:
            self._why = "the picture's size is not the calibration's"
            return
        if self._last_image_ns is not None and image.stamp_ns - self._last_image_ns > MAX_FRAME_GAP_S * NS_PER_S:
            self._tracks.reset()
        elif self._last_image_ns is not None:
            self._step_s = (image.stamp_ns - self._last_image_ns) / NS_PER_S
        self._last_image_ns = image.stamp_ns
        self._waiting.append(self._tracks.push(image.stamp_ns / NS_PER_S, image.pixels))

    def _restart(self) -> None:
        self._tracks.reset()
        self._rates.clear()
        self._waiting.clear()
        self._lessons.clear()
        self._judged_s, self._last_image_ns, self._learned_s = -math.inf, None, None
        for monitor in self.monitors:
            monitor.restart()

    # ---- one comparison -------------------------------------------------------------------------------------

    def _judge(self, late: TrackedFrame) -> None:
        found = self._compare(late)
        if found is None:
            for monitor in self.monitors:
                monitor.skip(late.t_s)
            return
        # What the calibration does not know is systematic: it counts beside the noise, and never averages out.
        unsure = np.hypot([self._model.sd(row) for row in found.gradient], self._scene_rad_s())
        total = np.hypot(found.sigma, unsure)
        bias_only = [1.0] * 3 + [0.0] * 7
        known = max(self._model.sd(row * bias_only) for row in found.gradient)
        self._settled = self._settled or known < max(SETTLED_RAD_S, 0.5 * float(found.sigma.min()))
        if self._settled:
            for monitor, score in zip(self.monitors, (found.rate / total).tolist(), strict=True):
                monitor.push(late.t_s, score)
            self._power = float(self.monitors[2].power() * total[2])
            if max(m.share for m in self.monitors) > SUSPICION:
                self._suspect_s = late.t_s
                self._lessons.clear()
        self._judged_s, self._rate, self._sigma = late.t_s, found.rate, found.sigma
        self._lessons.append(found)
        self._learn(late.t_s)

    def _scene_rad_s(self) -> NDArray[np.float64]:
        """(3,) standard deviation, rad/s, of what the scenes that taught the bias have in common."""
        return np.sqrt(self._taught / np.maximum(self._precision, 1e-12))

    def _compare(self, late: TrackedFrame) -> _Residual | None:
        """The longest comparison that holds: where points pass quickly a long one loses them."""
        for _ in range(ATTEMPTS):
            found = self._compare_over(late, self._span_s)
            if found is not None:
                self._span_s = min(SPAN_S, self._span_s * SPAN_GROWTH)
                return found
            if self._span_s <= MIN_SPAN_S:
                break
            self._span_s = max(MIN_SPAN_S, self._span_s * SPAN_SHRINK)
        return None

    def _compare_over(self, late: TrackedFrame, longest_s: float) -> _Residual | None:
        for early in self._tracks.frames:
            span_s = late.t_s - early.t_s
            if span_s <= 0.0:
                break
            step_s = self._step_s or span_s
            if span_s > max(longest_s, 1.01 * step_s) or not self._rates.covers(early.t_s + self.time_offset_s):
                continue
            here, there = common(early, late)
            if len(here) >= MIN_TRACKS:
                return self._solve(early, late, early.bearings[here], late.bearings[there], late.ids[there])
        self._why = f"fewer than {MIN_TRACKS} points could be followed"
        return None

    def _solve(
        self,
        early: TrackedFrame,
        late: TrackedFrame,
        seen: NDArray[np.float64],
        now_seen: NDArray[np.float64],
        ids: NDArray[np.int64],
    ) -> _Residual | None:
        span_s = late.t_s - early.t_s
        mean = self._model.mean.copy()
        turn = _rotation(mean[4:7]) @ self._R_cam_imu
        start_s, end_s = early.t_s + mean[3], late.t_s + mean[3]
        t_s, raw = self._rates.window(start_s, end_s)
        rates = np.ascontiguousarray(((raw - mean[:3]) * (1.0 + mean[7:10])) @ turn.T)
        R = integrate_rates(t_s, rates, start_s, end_s)
        motion, covariance, misfit = np.empty(6), np.empty((3, 3)), np.empty(len(seen))
        sigma_rad = TRACK_SIGMA_PX / self._tracks.focal_px
        kept = leftover_rotation(seen, np.ascontiguousarray(now_seen @ R.T), sigma_rad, motion, covariance, misfit)
        middle = float(np.median(misfit)) if len(misfit) else math.inf
        if kept < MIN_TRACKS or not np.isfinite(covariance).all() or middle > MAX_MISFIT:
            self._why = "the points move without a common rotation"
            return None
        self._tracks.drop(ids[misfit > 3.0 * max(middle, 1.0)])
        to_imu = turn.T
        turned = to_imu @ np.array((R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1])) * 0.5 / span_s
        change = (self._rates.at(end_s) - self._rates.at(start_s)) / span_s
        gradient = np.zeros((3, 10))
        gradient[:, :3] = -np.eye(3)
        gradient[:, 3] = change
        # A mounting turned by p sees p x w more.
        gradient[:, 4:7] = -_cross(turned) @ to_imu
        gradient[:, 7:10] = np.diag(turned)
        worse = max(1.0, middle / HONEST_MISFIT)
        noise = worse**2 * np.diag(to_imu @ covariance @ to_imu.T)
        scene = REST
        if np.linalg.norm(motion[3:]) > MIN_PARALLAX_SIGMA * sigma_rad:
            spread = _spread(seen, np.ascontiguousarray(now_seen @ R.T), sigma_rad)
            if spread is None:
                self._why = "one part of the picture decides"
                return None
            apart = np.diag(to_imu @ spread @ to_imu.T)
            scene = DIFFER if (apart > STRIPS_BY_CHANCE * noise).any() else AGREE
            noise = np.where(apart > STRIPS_BY_CHANCE * noise, apart, noise)
        noise = noise / span_s**2 + GYRO_NOISE**2 / span_s
        step_s = max(late.t_s - self._judged_s, 1e-3)
        frames = max(1.0, 0.5 * span_s / step_s) if math.isfinite(step_s) else 1.0
        rate = to_imu @ motion[:3] / span_s
        return _Residual(late.t_s, rate, gradient, np.sqrt(noise), mean, frames, scene)

    # ---- calibration ----------------------------------------------------------------------------------------

    def _learn(self, now_s: float) -> None:
        wait_s = QUARANTINE_S if self._settled else 0.0
        if now_s - self._suspect_s < QUARANTINE_S:
            return
        while self._lessons and self._lessons[0].t_s <= now_s - wait_s:
            lesson = self._lessons.popleft()
            dt_s = 0.0 if self._learned_s is None else max(0.0, lesson.t_s - self._learned_s)
            self._learned_s = lesson.t_s
            scene = self._scene_rad_s()
            for axis in range(3):
                row = lesson.gradient[axis]
                innovation = float(lesson.rate[axis] - row @ (self._model.mean - lesson.known))
                # Comparisons overlap: together they know as much as one of them.
                noise = 1.5 * float(lesson.sigma[axis]) * math.sqrt(lesson.overlap)
                unsure = math.hypot(self._model.sd(row), float(scene[axis]))
                limit = CONFIDENCE * (unsure + 2.0 * float(lesson.sigma[axis]))
                if abs(innovation) <= limit:
                    self._remember(lesson, axis)
                if self._settled or abs(innovation) < BIAS_LIMIT_RAD_S:
                    self._model.update(innovation, row, noise, dt_s if axis == 0 else 0.0, limit)

    def _remember(self, lesson: _Residual, axis: int) -> None:
        for kept, one in (
            (self._taught, lesson.scene**2),
            (self._precision, 1.0 / float(lesson.sigma[axis]) ** 2),
            (self._remembered, 1.0),
        ):
            kept[axis] = one + kept[axis] * (0.5 if self._remembered[axis] >= REMEMBERED else 1.0)

    # ---- result ---------------------------------------------------------------------------------------------

    def _verdict(self, now_s: float) -> CheckResult:
        worst = max(range(3), key=lambda i: self.monitors[i].statistic)
        statistic = self.monitors[worst].statistic
        if now_s - self._judged_s > STALE_S:
            return self._result(Level.NOT_OBSERVABLE, 0.0, worst, self._why)
        if not self._settled:
            return self._result(Level.NOT_OBSERVABLE, 0.0, worst, "still learning the gyro's bias at switch-on")
        if statistic > 1.0:
            rate = math.degrees(float(self._rate[worst]))
            reason = f"the picture turns {abs(rate):.2f} deg/s otherwise than {self._imu} says ({AXES[worst]})"
            return self._result(Level.ANOMALY, statistic, worst, reason)
        if not math.isfinite(self._power):
            return self._result(Level.NOT_OBSERVABLE, statistic, worst, "too few comparisons yet")
        return self._result(Level.OK, statistic, worst, "")

    def _result(self, level: Level, statistic: float, axis: int, reason: str) -> CheckResult:
        # Only the yaw rate is a quantity that other sensors have: an error about another axis must not be excused by
        # a lidar that measures yaw.
        quantity = "tilt_rate" if level is Level.ANOMALY and axis != 2 else "yaw_rate"
        power = math.inf if level is Level.NOT_OBSERVABLE else self._power
        size = abs(float(self._rate[axis])) if level is Level.ANOMALY else None
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "rad/s", quantity, reason, size)


def _spread(seen: NDArray[np.float64], turned: NDArray[np.float64], sigma_rad: float) -> NDArray[np.float64] | None:
    """Covariance (3, 3) of the rotation by leaving out one strip of the picture after the other, rad^2.

    The grouped jackknife (Efron & Stein, Annals of Statistics 9, 1981): strips hold equal numbers of points. None
    where what is left of the picture fixes no rotation.
    """
    strip = np.argsort(np.argsort(seen[:, 0] / seen[:, 2])) * STRIPS // len(seen)
    found = np.empty((STRIPS, 3))
    motion, covariance = np.empty(6), np.empty((3, 3))
    for number in range(STRIPS):
        stay = strip != number
        before, after = np.ascontiguousarray(seen[stay]), np.ascontiguousarray(turned[stay])
        if leftover_rotation(before, after, sigma_rad, motion, covariance, np.empty(len(before))) == 0:
            return None
        found[number] = motion[:3]
    apart = found - found.mean(axis=0)
    return np.asarray((STRIPS - 1) / STRIPS * apart.T @ apart)


def _cross(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def _rotation(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix of a small rotation vector, to second order and orthonormal to fourth."""
    K = _cross(v)
    return np.eye(3) + K + 0.5 * K @ K
