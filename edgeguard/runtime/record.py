"""What the audit log and `--format json` say about one tick.

The log never holds frames, only their digests: a stolen log must not be a recording of the street.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from edgeguard.types import CheckResult, FrameResult, FusedObject, Image, PointCloud

MAX_OBJECTS = 32  # per printed frame: what a person or a script can still use


def public_record(frame: FrameResult) -> dict[str, Any]:
    """Return the object printed per frame: frame, stamp_ns, verdict, trust, anomalies, and the objects that the model
    named, where there are any."""
    objects = [object_record(o) for o in frame.fused.objects if o.label][:MAX_OBJECTS]
    return {
        "frame": frame.synced.tick.frame,
        "stamp_ns": frame.synced.stamp_ns,
        "verdict": frame.verdict.value,
        "trust": {name: trust.state.value for name, trust in frame.fused.trust.items()},
        "anomalies": [anomaly_record(result) for result in frame.anomalies],
        **({"objects": objects} if objects else {}),
    }


def object_record(found: FusedObject) -> dict[str, Any]:
    """Return one object as plain JSON values; `position_m` is null where only the camera sees it."""
    return {
        "track": found.track,
        "label": found.label,
        "existence": round(found.existence, 3),
        "sources": list(found.sources),
        "position_m": None if found.position_m is None else [round(value, 2) for value in found.position_m],
    }


def anomaly_record(result: CheckResult) -> dict[str, Any]:
    """Return one anomaly as plain JSON values; an infinite statistic becomes the largest float."""
    return {
        "check": result.check,
        "sensors": list(result.sensors),
        "statistic": _finite(result.statistic),
        "threshold": _finite(result.threshold),
    }


def frame_record(frame: FrameResult) -> dict[str, Any]:
    """Return the audit body of one tick: the public record, the reason, the model, and digests of what was seen."""
    public = public_record(frame)
    public.pop("objects", None)  # the log says what was decided, not what was in the street
    return {
        **public,
        "reason": frame.verdict_reason,
        "model_id": frame.model_id,
        "detections": len(frame.detections),
        "seen_sha256": {
            name: hashlib.sha256(_payload(sample)).hexdigest()
            for name, sample in frame.synced.samples.items()
            if isinstance(sample, Image | PointCloud)
        },
    }


def _payload(sample: Image | PointCloud) -> bytes:
    return sample.pixels.tobytes() if isinstance(sample, Image) else sample.xyz.tobytes()


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else math.copysign(1.7e308, value)
