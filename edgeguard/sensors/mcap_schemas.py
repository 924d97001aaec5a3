"""JSON schemas of the channels in a recording; docs/recording.md explains them.

The ``foxglove.*`` ones are those of github.com/foxglove/foxglove-sdk (MIT), reduced to the fields we write and with our
own object `edgeguard` beside them: it keeps what the public schema has no place for, so that a replay is exact.
"""

from __future__ import annotations

import json
from typing import Any

_TIME = {
    "type": "object",
    "title": "time",
    "properties": {"sec": {"type": "integer", "minimum": 0}, "nsec": {"type": "integer", "minimum": 0}},
}
_TEXT, _INTEGER, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
_BYTES = {"type": "string", "contentEncoding": "base64"}
_FLAG = {"type": "boolean"}
_MAYBE = {"type": ["number", "null"]}
_MAYBE_INTEGER = {"type": ["integer", "null"]}
_XYZ = {"type": "object", "properties": {"x": _MAYBE, "y": _MAYBE, "z": _MAYBE}}
_VECTOR = {"type": "object", "title": "foxglove.Vector3", "properties": {"x": _NUMBER, "y": _NUMBER, "z": _NUMBER}}
_TURN = {
    "type": "object",
    "title": "foxglove.Quaternion",
    "properties": {"x": _NUMBER, "y": _NUMBER, "z": _NUMBER, "w": _NUMBER},
}
_POSE = {"type": "object", "title": "foxglove.Pose", "properties": {"position": _VECTOR, "orientation": _TURN}}
_STAMPS = {"stamp_ns": _INTEGER, "device_stamp_ns": _MAYBE_INTEGER}


def _ours(**more: object) -> dict[str, Any]:
    return {"type": "object", "properties": {**_STAMPS, **more}, "required": list(_STAMPS)}


def _list(of: object) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _schema(title: str, fields: dict[str, Any]) -> bytes:
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": fields,
        "required": list(fields),
    }
    return json.dumps(whole).encode()


_HEAD = {"timestamp": _TIME, "frame_id": _TEXT}

SCHEMAS: dict[str, bytes] = {
    name: _schema(name, fields)
    for name, fields in {
        "foxglove.CompressedImage": {**_HEAD, "data": _BYTES, "format": _TEXT, "edgeguard": _ours()},
        "foxglove.RawImage": {
            **_HEAD, "width": _INTEGER, "height": _INTEGER, "encoding": _TEXT, "step": _INTEGER, "data": _BYTES,
            "edgeguard": _ours(),
        },
        "foxglove.PointCloud": {
            **_HEAD, "pose": _POSE, "point_stride": _INTEGER,
            "fields": _list({
                "type": "object", "title": "foxglove.PackedElementField",
                "properties": {"name": _TEXT, "offset": _INTEGER, "type": _INTEGER},
            }),
            "data": _BYTES, "edgeguard": _ours(),
        },
        "foxglove.LocationFix": {
            **_HEAD, "latitude": _NUMBER, "longitude": _NUMBER, "altitude": _NUMBER,
            "position_covariance": _list(_NUMBER), "position_covariance_type": _INTEGER,
            "edgeguard": _ours(
                latitude_deg=_MAYBE, longitude_deg=_MAYBE, altitude_m=_MAYBE, speed_m_s=_MAYBE, course_deg=_MAYBE,
                satellites=_MAYBE_INTEGER, hdop=_MAYBE, fix_quality=_INTEGER,
                horizontal_accuracy_m=_MAYBE, speed_accuracy_m_s=_MAYBE, cn0_dbhz=_list(_MAYBE),
                signals=_list({"type": "object", "properties": {
                    "system": _TEXT, "number": _INTEGER, "cn0_dbhz": _MAYBE, "elevation_deg": _MAYBE,
                    "residual_m": _MAYBE, "used": _FLAG,
                }}),
                spoof_state=_MAYBE_INTEGER, jam_state=_MAYBE_INTEGER, agc_share=_MAYBE,
            ),
        },
        "foxglove.LaserScan": {
            **_HEAD, "pose": _POSE, "start_angle": _NUMBER, "end_angle": _NUMBER, "ranges": _list(_NUMBER),
            "intensities": _list(_NUMBER), "edgeguard": _ours(range_m=_BYTES, angle_rad=_BYTES, intensity=_BYTES),
        },
        "edgeguard.Imu": {
            **_HEAD, "angular_velocity": _XYZ, "linear_acceleration": _XYZ, "edgeguard": _ours(),
        },
        "edgeguard.WheelOdometry": {
            **_HEAD, "speed_m_s": _MAYBE, "wheel_speeds_m_s": {"type": ["array", "null"], "items": _MAYBE},
            "steering_rad": _MAYBE, "edgeguard": _ours(),
        },
        "edgeguard.Frame": {
            "timestamp": _TIME, "frame": _INTEGER, "stamp_ns": _INTEGER, "discontinuity": _FLAG,
            "recording_gap": _list(_TEXT), "verdict": _TEXT, "reason": _TEXT, "model_id": _TEXT,
            "trust": {"type": "object", "additionalProperties": {
                "type": "object", "properties": {"state": _TEXT, "log_odds": _MAYBE},
            }},
            "results": _list({"type": "object", "properties": {
                "check": _TEXT, "sensors": _list(_TEXT), "level": _TEXT, "statistic": _MAYBE, "threshold": _MAYBE,
                "power": _MAYBE, "power_unit": _TEXT, "quantity": _TEXT, "reason": _TEXT, "size": _MAYBE,
            }}),
            "detections": _list({"type": "object", "properties": {
                "label": _TEXT, "score": _NUMBER, "box_xyxy": _list(_NUMBER),
            }}),
            "streams": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                "received": _INTEGER, "dropped": {"type": "object", "additionalProperties": _INTEGER},
                "line": {"type": "object", "additionalProperties": _INTEGER},
                "source_drops": {"type": "object", "additionalProperties": _INTEGER},
            }}},
            "stage_ms": {"type": "object", "additionalProperties": _NUMBER},
        },
        "foxglove.PoseInFrame": {**_HEAD, "pose": _POSE},
        "foxglove.Log": {
            "timestamp": _TIME, "level": _INTEGER, "message": _TEXT, "name": _TEXT, "file": _TEXT, "line": _INTEGER,
        },
        "foxglove.CameraCalibration": {
            **_HEAD, "width": _INTEGER, "height": _INTEGER, "distortion_model": _TEXT, "D": _list(_NUMBER),
            "K": _list(_NUMBER), "R": _list(_NUMBER), "P": _list(_NUMBER),
        },
        "foxglove.FrameTransform": {
            "timestamp": _TIME, "parent_frame_id": _TEXT, "child_frame_id": _TEXT, "translation": _VECTOR,
            "rotation": _TURN,
        },
    }.items()
}  # fmt: skip
