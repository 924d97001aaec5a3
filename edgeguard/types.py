"""The values that walk through the pipeline. Frozen, slotted, no behaviour beyond what a value needs.

Conventions: axes follow REP-103 (x forward, y left, z up; camera optical frame x right, y down, z forward),
frames REP-105. `T_cam_lidar` maps points in the lidar frame to the camera frame. `stamp_ns` is monotonic
nanoseconds of the pipeline's clock; `device_stamp_ns` is what the sensor's own clock said, where it has one.
Arrays inside values are never written after construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

# The names of the five sensors of a road rig, used in trust tables and JSON.
CAMERA = "camera"
LIDAR = "lidar"
GNSS = "gnss"
IMU = "imu"
WHEELS = "wheels"


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One camera frame. `pixels`: (H, W, 3) uint8, BGR."""

    pixels: NDArray[np.uint8]
    stamp_ns: int
    sensor: str = CAMERA
    device_stamp_ns: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PointCloud:
    """One lidar sweep in the sensor frame.

    xyz: (N, 3) float32, metres. intensity: (N,) float32, 0..1 (reflectance as the sensor reports it).
    ring: (N,) int16 beam number, or None where the source does not tell. time_offset_ns: (N,) int32 relative to
    `stamp_ns`, or None.
    """

    xyz: NDArray[np.float32]
    intensity: NDArray[np.float32]
    stamp_ns: int
    sensor: str = LIDAR
    ring: NDArray[np.int16] | None = None
    time_offset_ns: NDArray[np.int32] | None = None
    device_stamp_ns: int | None = None


@dataclass(frozen=True, slots=True)
class ImuSample:
    """Body-frame rates and specific force (x forward, y left, z up). At rest accel is (0, 0, +9.81)."""

    stamp_ns: int
    gyro_rad_s: tuple[float, float, float]
    accel_m_s2: tuple[float, float, float]
    sensor: str = IMU
    device_stamp_ns: int | None = None


@dataclass(frozen=True, slots=True)
class GnssSignal:
    """One satellite that a receiver hears. `system` is a letter of RINEX, `residual_m` what the solution leaves of its
    pseudorange; None where the receiver does not tell."""

    system: str
    number: int
    cn0_dbhz: float
    elevation_deg: float | None = None
    residual_m: float | None = None
    used: bool = False


@dataclass(frozen=True, slots=True)
class GnssFix:
    """One position fix. Course is degrees clockwise from true north; None where the receiver gave no value.

    Accuracies are the receiver's own one-figure estimates. cn0_dbhz: carrier to noise of the satellites it tracks.
    signals: the same, satellite by satellite. spoof_state, jam_state: what the receiver itself suspects, in the numbers
    of u-blox (1 nothing, 2 suspected, 3 sure; None where it does not tell). agc_share: gain of its amplifier, 0..1.
    """

    stamp_ns: int
    latitude_deg: float
    longitude_deg: float
    altitude_m: float | None = None
    speed_m_s: float | None = None
    course_deg: float | None = None
    satellites: int | None = None
    hdop: float | None = None
    fix_quality: int = 1
    sensor: str = GNSS
    device_stamp_ns: int | None = None
    horizontal_accuracy_m: float | None = None
    speed_accuracy_m_s: float | None = None
    cn0_dbhz: tuple[float, ...] = ()
    signals: tuple[GnssSignal, ...] = ()
    spoof_state: int | None = None
    jam_state: int | None = None
    agc_share: float | None = None


@dataclass(frozen=True, slots=True)
class WheelOdometry:
    """Wheel speeds in m/s, order front-left, front-right, rear-left, rear-right; `speed_m_s` is their mean
    signed forward speed. `steering_rad` is the road-wheel angle, left positive, where it is known."""

    stamp_ns: int
    speed_m_s: float
    wheel_speeds_m_s: tuple[float, float, float, float] | None = None
    steering_rad: float | None = None
    sensor: str = WHEELS
    device_stamp_ns: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scan2d:
    """One revolution of a planar lidar. `range_m`, `angle_rad`, `intensity`: (N,) float32, sensor frame."""

    range_m: NDArray[np.float32]
    angle_rad: NDArray[np.float32]
    intensity: NDArray[np.float32]
    stamp_ns: int
    sensor: str = "scan2d"
    device_stamp_ns: int | None = None


Sample = Image | PointCloud | ImuSample | GnssFix | WheelOdometry | Scan2d


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source is: its sensor name, the kind of sample it gives, its nominal period, where it reads from."""

    sensor: str
    kind: type
    period_ns: int
    origin: str


@dataclass(frozen=True, slots=True)
class LineStats:
    """Running totals of a byte stream, for the serial checks. All zero for sources that are no byte stream."""

    bytes_received: int = 0
    frames: int = 0
    checksum_failures: int = 0
    bytes_skipped: int = 0
    sequence_gaps: int = 0


class Source(Protocol):
    """Where samples come from: a device, a recording or the simulator, all behind these four.

    `read` returns the next sample, or None when none arrived within `timeout_s` (0 asks without waiting). It raises
    `SensorDisconnectedError` when the device is gone and `EndOfStream` never: a recording that is over just keeps
    returning None and has `exhausted` set. `drops` are running totals, per reason, of samples it lost before it could
    give them. Use as a context manager.
    """

    @property
    def info(self) -> SourceInfo: ...

    @property
    def exhausted(self) -> bool: ...

    @property
    def line_stats(self) -> LineStats: ...

    @property
    def drops(self) -> Mapping[str, int]: ...

    def open(self) -> None: ...

    def read(self, timeout_s: float) -> Sample | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ClockEstimate:
    """Where a sensor's clock stands: host = anchor_host + (1 + drift) * (device - anchor_device).

    drift_ppm: how much faster our clock runs than the sensor's; 0 while the span is too short to tell. drift_sigma_ppm:
    how well that is known, from jitter and span. jitter_ns: median delay above the quickest sample. span_ns: device
    time the estimate rests on. jumps: how often the clock was set. outliers: stamps that fitted nothing.
    """

    anchor_device_ns: int
    anchor_host_ns: int
    drift_ppm: float
    drift_sigma_ppm: float
    jitter_ns: int
    span_ns: int
    jumps: int
    outliers: int

    @property
    def offset_ns(self) -> int:
        """Our clock minus the sensor's, at the anchor (the newest sample when the estimate was made)."""
        return self.anchor_host_ns - self.anchor_device_ns

    def host_ns(self, device_ns: int) -> int:
        """Return the time of our clock at which the sensor's read `device_ns`."""
        since_ns = device_ns - self.anchor_device_ns
        return self.anchor_host_ns + since_ns + round(since_ns * self.drift_ppm * 1e-6)


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """How one stream has behaved up to a tick.

    `received` counts samples accepted so far, `dropped` counts per reason code, `age_ns` is how old the newest
    accepted sample is at the tick (None before the first), `period_ns` the nominal period. `clock` is where the
    sensor's own clock stands, None for a sensor that has none.
    """

    sensor: str
    period_ns: int
    received: int
    age_ns: int | None
    rate_hz: float
    dropped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    line: LineStats = LineStats()
    clock: ClockEstimate | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """One moment at which the pipeline decides.

    `frame` counts ticks, or is the recording's own frame number. `recording_gap` names sensors for which the
    recording itself has nothing here (a fact about the file, not a fault of the sensor); `discontinuity` says that
    time jumped since the previous tick, so that history must not be bridged.
    """

    frame: int
    stamp_ns: int
    discontinuity: bool = False
    recording_gap: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class SyncedSet:
    """All sensors at one tick; built at every tick, even when streams are silent.

    samples: per sensor, the sample that belongs to the tick, or None. series: per sensor, every sample accepted
    since the previous tick, oldest first. health: per sensor.
    """

    tick: Tick
    samples: Mapping[str, Sample | None]
    series: Mapping[str, Sequence[Sample]]
    health: Mapping[str, StreamHealth]

    @property
    def stamp_ns(self) -> int:
        return self.tick.stamp_ns


class Level(Enum):
    """What a check found. No evidence is NOT_OBSERVABLE, never OK."""

    OK = "OK"
    ANOMALY = "ANOMALY"
    NOT_OBSERVABLE = "NOT_OBSERVABLE"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check at one tick.

    check: stable name such as ``X8.speed``. sensors: who the evidence is about: one for a self-check, several for a
    cross-check. statistic and threshold share a unit; ANOMALY means statistic > threshold. power: the smallest
    change the check could have seen now, in `power_unit`; inf when it is blind. quantity: what is compared
    ("speed", "yaw_rate", "position", ...); two checks of one quantity can exonerate each other's sensors. size: how
    large an anomaly is, in `power_unit`, where the check can tell; only a check that could have seen that much
    exonerates.
    """

    check: str
    sensors: tuple[str, ...]
    level: Level
    statistic: float
    threshold: float
    power: float = float("inf")
    power_unit: str = ""
    quantity: str = ""
    reason: str = ""
    size: float | None = None


class Check(Protocol):
    """One consistency check. Holds its own history; gets every tick, in order, exactly once."""

    name: str
    sensors: tuple[str, ...]

    def evaluate(self, synced: SyncedSet) -> CheckResult: ...


class TrustState(Enum):
    TRUSTED = "TRUSTED"
    SUSPECT = "SUSPECT"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class SensorTrust:
    """Belief in one sensor. `log_odds` > 0 favours honest."""

    sensor: str
    state: TrustState
    log_odds: float


class Verdict(Enum):
    """What may leave the device. Ordered: each is stricter than the one before."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    DEGRADE = "DEGRADE"
    HOLD = "HOLD"
    STOP = "STOP"


@dataclass(frozen=True, slots=True, eq=False)
class RegisteredDepth:
    """Lidar depth on the camera's pixel grid. `depth_m`: (H, W) float32, NaN where no return; `points` is the number
    of returns inside the image."""

    depth_m: NDArray[np.float32]
    points: int


@dataclass(frozen=True, slots=True)
class EgoState:
    """Where the vehicle is, in a local east-north plane that starts at the first fix (or at 0,0 without GNSS).

    `yaw_rad` counter-clockwise from east. `sigma_m` is the 1-sigma position uncertainty per axis, the others those of
    yaw and speed. `sources` are the sensors that were used at this tick.
    """

    east_m: float
    north_m: float
    yaw_rad: float
    speed_m_s: float
    sigma_m: float
    sources: tuple[str, ...]
    sigma_yaw_rad: float = float("inf")
    sigma_speed_m_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class FusedObject:
    """One object that camera, lidar or both see, and how likely it exists.

    `existence`: probability, from what both sensors could have seen and did or did not. `sources`: who saw it at this
    tick. `label`, `score` and `box_xyxy` (pixels) come from the model, "" and None where only the lidar sees it.
    `position_m`: (x forward, y left) of its nearest point in the lidar's frame, and `size_m` (length, width, height) of
    what the lidar sees of it, None without the lidar. `track`: number that stays with the object.
    """

    track: int
    existence: float
    sources: tuple[str, ...]
    label: str = ""
    score: float = 0.0
    box_xyxy: tuple[float, float, float, float] | None = None
    position_m: tuple[float, float] | None = None
    size_m: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FusedState:
    """What fusion makes of one tick: whom to believe, and the product.

    `cloud`: this tick's sweep with the vehicle's own motion taken out, at the sweep's stamp; None where there is none
    or the lidar is rejected. `results`: what fusion's own long-window checks found. `objects`: after inference.
    """

    trust: Mapping[str, SensorTrust]
    registered: RegisteredDepth | None
    ego: EgoState | None
    cloud: PointCloud | None = None
    results: tuple[CheckResult, ...] = ()
    objects: tuple[FusedObject, ...] = ()


@dataclass(frozen=True, slots=True)
class Detection:
    """One detected object. `box_xyxy` in pixels of the original frame (left, top, right, bottom)."""

    label: str
    score: float
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of a classifier's answer and its probability, 0..1."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class InputEvidence:
    """What the gate found about the frame that the model was asked about (AML.M0010, AML.M0015).

    alarm: the frame is suspicious. restored: the answer is that of restored views. refused: no answer leaves. p_value:
    conformal, of the frame as a whole; parts: of each score; level: share of clean frames that alarm. chains and keys:
    of the restored views, so that each can be made again; chains_sha256 names the file they were chosen from. window:
    the place taken for a patch, (left, top, right, bottom) in pixels. passes: of models spent on this frame. drifted:
    scalars of the stream that no longer look like those of the release (AML.M0008).
    """

    alarm: bool
    restored: bool
    refused: bool
    p_value: float
    level: float
    parts: Mapping[str, float]
    chains: tuple[str, ...] = ()
    keys: tuple[int, ...] = ()
    chains_sha256: str = ""
    window: tuple[int, int, int, int] | None = None
    passes: int = 0
    drifted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ModelAnswer:
    """What a model said of a frame: boxes of a detector, None where it is none; the likeliest classes of a classifier,
    best first. inputs: what the gate in front of it found, None without one."""

    detections: tuple[Detection, ...] | None = None
    classes: tuple[ClassScore, ...] = ()
    inputs: InputEvidence | None = None


class CameraModel(Protocol):
    """What a pipeline asks about camera frames: a model, or a gate in front of several."""

    @property
    def model_id(self) -> str: ...

    def ask(self, image: Image) -> ModelAnswer: ...


@dataclass(frozen=True, slots=True)
class Change:
    """One number of one serial sample that a restorer replaced; `quantity` has its unit in the name."""

    quantity: str
    stamp_ns: int
    old: float
    new: float


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restorer did to one sample or series: `changed_share` in 0..1 of its pixels, points or readings.

    changes: of a series, number by number; unlisted: how many more there were. note: what it left alone and why, such
    as returns that a cap spared; empty where there is nothing to say. chain_sha256: of the chain that did it, empty for
    a built-in restorer without one and where nothing was changed.
    """

    restorer: str
    sensor: str
    changed_share: float
    changes: tuple[Change, ...] = ()
    unlisted: int = 0
    note: str = ""
    chain_sha256: str = ""


class Restorer(Protocol):
    """Repairs a sample without inventing: images keep shape and dtype, clouds may only lose points up to a cap.

    `apply` is pure: the same sample and seed give the same result. `cost_ms_per_mpx` is declared for budgeting.
    """

    name: str
    sensor: str
    cost_ms_per_mpx: float

    def apply(self, sample: Sample, seed: int) -> tuple[Sample, Restoration]: ...


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """Everything the pipeline decided at one tick; the audit log, the console and the report are made of these.

    stage_ns: wall time spent per stage. model_id is empty when no model is loaded. classes: of a classifier, best
    first. inputs: what the gate in front of the model found, None where none was asked.
    """

    synced: SyncedSet
    results: tuple[CheckResult, ...]
    fused: FusedState
    restorations: tuple[Restoration, ...]
    detections: tuple[Detection, ...]
    verdict: Verdict
    verdict_reason: str
    stage_ns: Mapping[str, int]
    model_id: str = ""
    classes: tuple[ClassScore, ...] = ()
    inputs: InputEvidence | None = None

    @property
    def anomalies(self) -> tuple[CheckResult, ...]:
        return tuple(r for r in self.results if r.level is Level.ANOMALY)


@dataclass(frozen=True, slots=True, eq=False)
class RigCalibration:
    """Geometry of a rig. camera_matrix: (3, 3) float64. T_cam_lidar: (4, 4) float64, rigid; where there is no lidar,
    from axes x forward, y left, z up at the camera. image_size_px: (width, height). `lidar_height_m` above ground.
    distortion: (k1, k2, p1, p2[, k3]) in OpenCV's order, empty for a rectified or ideal camera. R_cam_imu: (3, 3)
    float64, from the IMU's axes as its samples have them; None where only the nominal mounting is known."""

    camera_matrix: NDArray[np.float64]
    T_cam_lidar: NDArray[np.float64]
    image_size_px: tuple[int, int]
    lidar_height_m: float = 1.73
    distortion: tuple[float, ...] = ()
    R_cam_imu: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """Simulator ground truth of one attack: who, what, from when to when."""

    attack: str
    sensor: str
    start_ns: int
    end_ns: int
    size: str
