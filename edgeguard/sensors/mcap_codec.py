"""Samples and results <-> the JSON messages of a recording. Exact: what `decode` gives equals what `encode` was given.

JSON has no NaN and no infinity; they are written as null, and a reading that needs its number is then refused as
``not_finite``. Bytes are base64 (`contentEncoding` in the schema), which Foxglove and msgspec both read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.sensors.camera_decode import MAX_IMAGE_PIXELS, UNDECODABLE, decode_image
from edgeguard.types import (
    FrameResult,
    GnssFix,
    GnssSignal,
    Image,
    ImuSample,
    LineStats,
    PointCloud,
    RigCalibration,
    Sample,
    Scan2d,
    WheelOdometry,
)

if TYPE_CHECKING:
    from edgeguard.types import EgoState

MALFORMED, NOT_FINITE = "malformed", "not_finite"
# foxglove.PackedElementField numeric types
_INT16, _INT32, _FLOAT32 = 4, 6, 7
# foxglove.Log levels
LOG_INFO, LOG_WARNING, LOG_ERROR = 2, 3, 4
_IDENTITY = {"position": {"x": 0.0, "y": 0.0, "z": 0.0}, "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}}
# PNG filter and level 1: lossless, and the camera's own noise leaves little for a higher level to find.
_PNG_LEVEL = 1
MAX_POINTS = 16_000_000

encode_json = msgspec.json.Encoder().encode


def timestamp(stamp_ns: int) -> dict[str, int]:
    """Foxglove's time; a stamp before 1970 becomes 0."""
    return {"sec": max(stamp_ns, 0) // NS_PER_S, "nsec": max(stamp_ns, 0) % NS_PER_S}


# ---- samples out ---------------------------------------------------------------------------------------------------


def schema_of(sample: Sample, images: str) -> str:
    """The schema name of a sample's channel; `images` is ``png``, ``jpeg`` or ``raw``."""
    if isinstance(sample, Image):
        return "foxglove.RawImage" if images == "raw" else "foxglove.CompressedImage"
    return _SCHEMA_OF[type(sample)]


_SCHEMA_OF: Mapping[type, str] = {
    PointCloud: "foxglove.PointCloud",
    ImuSample: "edgeguard.Imu",
    GnssFix: "foxglove.LocationFix",
    WheelOdometry: "edgeguard.WheelOdometry",
    Scan2d: "foxglove.LaserScan",
}


def encode_sample(sample: Sample, shift_ns: int, images: str) -> bytes:
    """One message; `shift_ns` turns the pipeline's time into the recording's.

    Raises:
        ValueError: when a picture cannot be compressed.
    """
    head = {"timestamp": timestamp(sample.stamp_ns + shift_ns), "frame_id": sample.sensor}
    ours = {"stamp_ns": sample.stamp_ns, "device_stamp_ns": sample.device_stamp_ns}
    if isinstance(sample, Image):
        return encode_json({**head, **_image(sample, images), "edgeguard": ours})
    body = _BODY_OF[type(sample)](sample)
    return encode_json({**head, **body, "edgeguard": {**ours, **body.get("edgeguard", {})}})


def _image(sample: Image, images: str) -> dict[str, Any]:
    height, width = sample.pixels.shape[:2]
    if images == "raw":
        data = sample.pixels.tobytes()
        return {"width": width, "height": height, "encoding": "bgr8", "step": 3 * width, "data": data}
    import cv2

    options = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL] if images == "png" else [cv2.IMWRITE_JPEG_QUALITY, 90]
    try:
        done, packed = cv2.imencode("." + images, sample.pixels, options)
    except cv2.error as error:
        raise ValueError(images) from error
    if not done:
        raise ValueError(images)
    return {"data": packed.tobytes(), "format": images}


def _cloud(sample: PointCloud) -> dict[str, Any]:
    fields = _cloud_fields(sample.ring is not None, sample.time_offset_ns is not None)
    packed = np.empty(len(sample.xyz), _cloud_dtype(fields))
    packed["x"], packed["y"], packed["z"] = sample.xyz[:, 0], sample.xyz[:, 1], sample.xyz[:, 2]
    packed["intensity"] = sample.intensity
    if sample.ring is not None:
        packed["ring"] = sample.ring
    if sample.time_offset_ns is not None:
        packed["time_offset_ns"] = sample.time_offset_ns
    return {"pose": _IDENTITY, "point_stride": packed.itemsize, "fields": fields, "data": packed.tobytes()}


def _cloud_fields(ring: bool, offset: bool) -> list[dict[str, Any]]:
    fields: list[dict[str, Any]] = [
        {"name": name, "offset": 4 * i, "type": _FLOAT32} for i, name in enumerate(("x", "y", "z", "intensity"))
    ]
    if ring:
        fields.append({"name": "ring", "offset": 16, "type": _INT16})
    if offset:
        fields.append({"name": "time_offset_ns", "offset": 18 if ring else 16, "type": _INT32})
    return fields


def _cloud_dtype(fields: list[dict[str, Any]]) -> np.dtype[np.void]:
    kinds = {_FLOAT32: "<f4", _INT16: "<i2", _INT32: "<i4"}
    return np.dtype([(field["name"], kinds[field["type"]]) for field in fields])


def _imu(sample: ImuSample) -> dict[str, Any]:
    gyro, accel = (dict(zip("xyz", v, strict=True)) for v in (sample.gyro_rad_s, sample.accel_m_s2))
    return {"angular_velocity": gyro, "linear_acceleration": accel}


# All that a fix holds beside its stamps and its sensor's name: a field added to the value is recorded with it.
_OWN_GNSS = tuple(f.name for f in fields_of(GnssFix) if f.name not in {"stamp_ns", "sensor", "device_stamp_ns"})


def _gnss(sample: GnssFix) -> dict[str, Any]:
    return {
        "latitude": _finite(sample.latitude_deg),
        "longitude": _finite(sample.longitude_deg),
        "altitude": _finite(sample.altitude_m),
        "position_covariance": [0.0] * 9,
        "position_covariance_type": 0,
        "edgeguard": {name: getattr(sample, name) for name in _OWN_GNSS},
    }


def _wheels(sample: WheelOdometry) -> dict[str, Any]:
    return {
        "speed_m_s": sample.speed_m_s,
        "wheel_speeds_m_s": sample.wheel_speeds_m_s,
        "steering_rad": sample.steering_rad,
    }


def _scan(sample: Scan2d) -> dict[str, Any]:
    angles = sample.angle_rad[np.isfinite(sample.angle_rad)]
    parts = {name: getattr(sample, name) for name in ("range_m", "angle_rad", "intensity")}
    return {
        "pose": _IDENTITY,
        "start_angle": float(angles[0]) if len(angles) else 0.0,
        "end_angle": float(angles[-1]) if len(angles) else 0.0,
        "ranges": np.nan_to_num(sample.range_m, posinf=0.0, neginf=0.0).tolist(),
        "intensities": np.nan_to_num(sample.intensity, posinf=0.0, neginf=0.0).tolist(),
        "edgeguard": {name: np.ascontiguousarray(array, "<f4").tobytes() for name, array in parts.items()},
    }


_BODY_OF: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    PointCloud: _cloud,
    ImuSample: _imu,
    GnssFix: _gnss,
    WheelOdometry: _wheels,
    Scan2d: _scan,
}


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


# ---- samples in ----------------------------------------------------------------------------------------------------


class _Ours(msgspec.Struct):
    stamp_ns: int
    device_stamp_ns: int | None = None


class _CompressedImage(msgspec.Struct):
    data: bytes
    edgeguard: _Ours


class _RawImage(msgspec.Struct):
    width: int
    height: int
    encoding: str
    step: int
    data: bytes
    edgeguard: _Ours


class _Field(msgspec.Struct):
    name: str
    offset: int
    type: int


class _PointCloud(msgspec.Struct):
    point_stride: int
    fields: list[_Field]
    data: bytes
    edgeguard: _Ours


class _Xyz(msgspec.Struct):
    x: float | None
    y: float | None
    z: float | None


class _Imu(msgspec.Struct):
    angular_velocity: _Xyz
    linear_acceleration: _Xyz
    edgeguard: _Ours


class _Signal(msgspec.Struct):
    system: str
    number: int
    cn0_dbhz: float | None
    elevation_deg: float | None = None
    residual_m: float | None = None
    used: bool = False


class _OursGnss(_Ours, kw_only=True):
    latitude_deg: float | None
    longitude_deg: float | None
    altitude_m: float | None = None
    speed_m_s: float | None = None
    course_deg: float | None = None
    satellites: int | None = None
    hdop: float | None = None
    fix_quality: int = 1
    horizontal_accuracy_m: float | None = None
    speed_accuracy_m_s: float | None = None
    cn0_dbhz: tuple[float | None, ...] = ()
    signals: tuple[_Signal, ...] = ()
    spoof_state: int | None = None
    jam_state: int | None = None
    agc_share: float | None = None


class _LocationFix(msgspec.Struct):
    edgeguard: _OursGnss


class _Wheels(msgspec.Struct):
    speed_m_s: float | None
    edgeguard: _Ours
    wheel_speeds_m_s: tuple[float | None, float | None, float | None, float | None] | None = None
    steering_rad: float | None = None


class _OursScan(_Ours, kw_only=True):
    range_m: bytes
    angle_rad: bytes
    intensity: bytes


class _LaserScan(msgspec.Struct):
    edgeguard: _OursScan


def decode_sample(schema: str, sensor: str, data: bytes) -> Sample | str:
    """The sample in one message, or the drop reason. Never raises."""
    decoder = DECODERS.get(schema)
    if decoder is None:
        return MALFORMED
    try:
        return decoder(sensor, data)
    except (msgspec.DecodeError, ValueError, TypeError, OverflowError, RecursionError):
        return MALFORMED


S = TypeVar("S")


def _reader(kind: type[S], build: Callable[[str, S], Sample | str]) -> Callable[[str, bytes], Sample | str]:
    decode = msgspec.json.Decoder(kind).decode
    return lambda sensor, data: build(sensor, decode(data))


def _to_image(sensor: str, m: _CompressedImage) -> Sample | str:
    pixels = decode_image(m.data)
    return UNDECODABLE if pixels is None else Image(pixels, m.edgeguard.stamp_ns, sensor, m.edgeguard.device_stamp_ns)


def _to_raw_image(sensor: str, m: _RawImage) -> Sample | str:
    fits = 0 < m.width * m.height <= MAX_IMAGE_PIXELS and m.step == 3 * m.width and len(m.data) == m.step * m.height
    if not fits or m.width < 0 or m.encoding != "bgr8":
        return MALFORMED
    pixels = np.frombuffer(m.data, np.uint8).reshape(m.height, m.width, 3)
    return Image(pixels, m.edgeguard.stamp_ns, sensor, m.edgeguard.device_stamp_ns)


def _to_cloud(sensor: str, m: _PointCloud) -> Sample | str:
    names = [field.name for field in m.fields]
    fields = _cloud_fields("ring" in names, "time_offset_ns" in names)
    dtype = _cloud_dtype(fields)
    told = [{"name": f.name, "offset": f.offset, "type": f.type} for f in m.fields]
    if told != fields or m.point_stride != dtype.itemsize or len(m.data) % dtype.itemsize:
        return MALFORMED
    if len(m.data) // dtype.itemsize > MAX_POINTS:
        return MALFORMED
    packed: NDArray[Any] = np.frombuffer(m.data, dtype)
    xyz = np.stack([packed["x"], packed["y"], packed["z"]], axis=1)
    return PointCloud(
        xyz, packed["intensity"].copy(), m.edgeguard.stamp_ns, sensor,
        packed["ring"].copy() if "ring" in names else None,
        packed["time_offset_ns"].copy() if "time_offset_ns" in names else None,
        m.edgeguard.device_stamp_ns,
    )  # fmt: skip


def _to_imu(sensor: str, m: _Imu) -> Sample | str:
    w, a = m.angular_velocity, m.linear_acceleration
    if w.x is None or w.y is None or w.z is None or a.x is None or a.y is None or a.z is None:
        return NOT_FINITE
    return ImuSample(
        m.edgeguard.stamp_ns, (w.x, w.y, w.z), (a.x, a.y, a.z), sensor, m.edgeguard.device_stamp_ns
    )  # fmt: skip


def _to_gnss(sensor: str, m: _LocationFix) -> Sample | str:
    e = m.edgeguard
    if e.latitude_deg is None or e.longitude_deg is None:
        return NOT_FINITE
    return GnssFix(
        e.stamp_ns, e.latitude_deg, e.longitude_deg, e.altitude_m, e.speed_m_s, e.course_deg, e.satellites, e.hdop,
        e.fix_quality, sensor, e.device_stamp_ns, e.horizontal_accuracy_m, e.speed_accuracy_m_s,
        tuple(value for value in e.cn0_dbhz if value is not None),
        tuple(
            GnssSignal(s.system, s.number, s.cn0_dbhz, s.elevation_deg, s.residual_m, s.used)
            for s in e.signals if s.cn0_dbhz is not None
        ),
        e.spoof_state, e.jam_state, e.agc_share,
    )  # fmt: skip


def _to_wheels(sensor: str, m: _Wheels) -> Sample | str:
    if m.speed_m_s is None:
        return NOT_FINITE
    wheels = None
    if m.wheel_speeds_m_s is not None:
        a, b, c, d = m.wheel_speeds_m_s
        if a is None or b is None or c is None or d is None:
            return NOT_FINITE
        wheels = (a, b, c, d)
    return WheelOdometry(
        m.edgeguard.stamp_ns, m.speed_m_s, wheels, m.steering_rad, sensor, m.edgeguard.device_stamp_ns
    )  # fmt: skip


def _to_scan(sensor: str, m: _LaserScan) -> Sample | str:
    e = m.edgeguard
    range_m, angle_rad, intensity = (np.frombuffer(b, "<f4").copy() for b in (e.range_m, e.angle_rad, e.intensity))
    if not len(range_m) == len(angle_rad) == len(intensity) <= MAX_POINTS:
        return MALFORMED
    return Scan2d(range_m, angle_rad, intensity, e.stamp_ns, sensor, e.device_stamp_ns)


DECODERS: Mapping[str, Callable[[str, bytes], Sample | str]] = {
    "foxglove.CompressedImage": _reader(_CompressedImage, _to_image),
    "foxglove.RawImage": _reader(_RawImage, _to_raw_image),
    "foxglove.PointCloud": _reader(_PointCloud, _to_cloud),
    "edgeguard.Imu": _reader(_Imu, _to_imu),
    "foxglove.LocationFix": _reader(_LocationFix, _to_gnss),
    "edgeguard.WheelOdometry": _reader(_Wheels, _to_wheels),
    "foxglove.LaserScan": _reader(_LaserScan, _to_scan),
}


# ---- results -------------------------------------------------------------------------------------------------------


class FrameMessage(msgspec.Struct):
    """What a replay takes from `edgeguard.Frame`: the tick, and the totals of every stream at it."""

    class Stream(msgspec.Struct):
        line: dict[str, int] = {}
        source_drops: dict[str, int] = {}

        @property
        def line_stats(self) -> LineStats:
            known = {name: max(0, self.line.get(name, 0)) for name in LineStats.__dataclass_fields__}
            return LineStats(**known)

    frame: int
    stamp_ns: int
    discontinuity: bool = False
    recording_gap: tuple[str, ...] = ()
    streams: dict[str, Stream] = {}


decode_frame = msgspec.json.Decoder(FrameMessage).decode


def encode_frame(frame: FrameResult, source_drops: Mapping[str, Mapping[str, int]], shift_ns: int) -> bytes:
    """One tick with everything decided at it; arrays are left out, they stand in the sensors' channels."""
    tick = frame.synced.tick
    return encode_json({
        "timestamp": timestamp(tick.stamp_ns + shift_ns),
        "frame": tick.frame,
        "stamp_ns": tick.stamp_ns,
        "discontinuity": tick.discontinuity,
        "recording_gap": sorted(tick.recording_gap),
        "verdict": frame.verdict.value,
        "reason": frame.verdict_reason,
        "model_id": frame.model_id,
        "trust": {n: {"state": t.state.value, "log_odds": t.log_odds} for n, t in frame.fused.trust.items()},
        "results": [
            {
                "check": r.check, "sensors": r.sensors, "level": r.level.value, "statistic": r.statistic,
                "threshold": r.threshold, "power": r.power, "power_unit": r.power_unit, "quantity": r.quantity,
                "reason": r.reason, "size": r.size,
            }
            for r in frame.results
        ],
        "detections": [{"label": d.label, "score": d.score, "box_xyxy": d.box_xyxy} for d in frame.detections],
        "streams": {
            name: {
                "received": health.received,
                "dropped": dict(health.dropped),
                "line": {field: getattr(health.line, field) for field in LineStats.__dataclass_fields__},
                "source_drops": dict(source_drops.get(name, {})),
            }
            for name, health in frame.synced.health.items()
        },
        "stage_ms": {stage: spent_ns / 1e6 for stage, spent_ns in frame.stage_ns.items()},
    })  # fmt: skip


def encode_pose(ego: EgoState, stamp_ns: int) -> bytes:
    """Where fusion says the vehicle is, as foxglove.PoseInFrame of frame ``map``."""
    half = ego.yaw_rad / 2
    pose = {
        "position": {"x": _finite(ego.east_m), "y": _finite(ego.north_m), "z": 0.0},
        "orientation": {"x": 0.0, "y": 0.0, "z": _finite(math.sin(half)), "w": _finite(math.cos(half))},
    }
    return encode_json({"timestamp": timestamp(stamp_ns), "frame_id": "map", "pose": pose})


def encode_log(stamp_ns: int, level: int, message: str) -> bytes:
    return encode_json({
        "timestamp": timestamp(stamp_ns), "level": level, "message": message, "name": "edgeguard", "file": "",
        "line": 0,
    })  # fmt: skip


# ---- geometry ------------------------------------------------------------------------------------------------------


def encode_camera_calibration(rig: RigCalibration, stamp_ns: int) -> bytes:
    K = rig.camera_matrix
    width, height = rig.image_size_px
    lens = [*rig.distortion, *(0.0,) * (5 - len(rig.distortion))] if rig.distortion else []
    return encode_json({
        "timestamp": timestamp(stamp_ns), "frame_id": "camera", "width": width, "height": height,
        "distortion_model": "plumb_bob" if rig.distortion else "",
        "D": lens, "K": K.ravel().tolist(), "R": np.eye(3).ravel().tolist(),
        "P": np.hstack([K, np.zeros((3, 1))]).ravel().tolist(),
    })  # fmt: skip


def encode_transform(rig: RigCalibration, stamp_ns: int) -> bytes:
    """Where the camera is seen from the lidar: the inverse of T_cam_lidar."""
    T = np.asarray(np.linalg.inv(rig.T_cam_lidar), np.float64)
    x, y, z, w = _quaternion(T[:3, :3])
    return encode_json({
        "timestamp": timestamp(stamp_ns), "parent_frame_id": "lidar", "child_frame_id": "camera",
        "translation": dict(zip("xyz", T[:3, 3].tolist(), strict=True)),
        "rotation": {"x": x, "y": y, "z": z, "w": w},
    })  # fmt: skip


def _quaternion(R: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Unit quaternion (x, y, z, w) of a rotation: the eigenvector of Bar-Itzhack's matrix (JGCD 2000)."""
    (a, b, c), (d, e, f), (g, h, i) = R.tolist()
    matrix = np.array([
        [a - e - i, b + d, c + g, h - f],
        [b + d, e - a - i, f + h, c - g],
        [c + g, f + h, i - a - e, d - b],
        [h - f, c - g, d - b, a + e + i],
    ])  # fmt: skip
    values, vectors = np.linalg.eigh(matrix / 3.0)
    x, y, z, w = vectors[:, int(np.argmax(values))].tolist()
    return (x, y, z, w) if w >= 0 else (-x, -y, -z, -w)
