"""What the audit log and `--format json` say about one tick.

The log never holds frames, only their digests: a stolen log must not be a recording of the street.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from edgeguard.types import CheckResult, FrameResult, FusedObject, Image, InputEvidence, PointCloud, Restoration

MAX_CHANGES = 16  # per restorer and tick in the log: enough to see what kind of fault it was
MAX_OBJECTS = 32  # per printed frame: what a person or a script can still use


def public_record(frame: FrameResult) -> dict[str, Any]:
    """Return the object printed per frame: frame, stamp_ns, verdict, trust, anomalies; the objects or classes that the
    model named and what the gate found, where there are any."""
    objects = [object_record(o) for o in frame.fused.objects if o.label][:MAX_OBJECTS]
    return {
        "frame": frame.synced.tick.frame,
        "stamp_ns": frame.synced.stamp_ns,
        "verdict": frame.verdict.value,
        "trust": {name: trust.state.value for name, trust in frame.fused.trust.items()},
        "anomalies": [anomaly_record(result) for result in frame.anomalies],
        **({"objects": objects} if objects else {}),
        **({"classes": [[c.label, round(c.probability, 4)] for c in frame.classes]} if frame.classes else {}),
        **({"inputs": inputs_record(frame.inputs)} if frame.inputs is not None else {}),
    }


def inputs_record(inputs: InputEvidence) -> dict[str, Any]:
    """Return what the gate found as plain JSON values. With `keys`, `chains` and their digest each restored view can be
    made again from the frame; they are there on an alarm only."""
    found: dict[str, Any] = {
        "alarm": inputs.alarm,
        "restored": inputs.restored,
        "refused": inputs.refused,
        "p_value": round(inputs.p_value, 6),
        "level": round(inputs.level, 6),
        "parts": {name: round(value, 6) for name, value in sorted(inputs.parts.items())},
        "passes": inputs.passes,
    }
    if inputs.restored:
        found |= {"chains": list(inputs.chains), "keys": [str(k) for k in inputs.keys]}
        found["chains_sha256"] = inputs.chains_sha256
    if inputs.window is not None:
        found["window_px"] = list(inputs.window)
    if inputs.drifted:
        found["drifted"] = list(inputs.drifted)
    return found


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
    for seen in ("objects", "classes"):
        public.pop(seen, None)  # the log says what was decided, not what was in the street
    return {
        **public,
        "reason": frame.verdict_reason,
        "model_id": frame.model_id,
        "detections": len(frame.detections),
        **({"restored": [restoration_record(r) for r in frame.restorations]} if frame.restorations else {}),
        "seen_sha256": {
            name: hashlib.sha256(_payload(sample)).hexdigest()
            for name, sample in frame.synced.samples.items()
            if isinstance(sample, Image | PointCloud)
        },
    }


def restoration_record(done: Restoration) -> dict[str, Any]:
    """Return what a restorer changed as plain JSON values. changes: [quantity, stamp_ns, old, new], at most
    `MAX_CHANGES` of them; unlisted: how many more there were."""
    listed = done.changes[:MAX_CHANGES]
    found: dict[str, Any] = {"restorer": done.restorer, "sensor": done.sensor, "share": round(done.changed_share, 6)}
    if listed:
        found["changes"] = [[c.quantity, c.stamp_ns, _finite(c.old), _finite(c.new)] for c in listed]
        found["unlisted"] = done.unlisted + len(done.changes) - len(listed)
    if done.note:
        found["note"] = done.note
    if done.chain_sha256:
        found["chain_sha256"] = done.chain_sha256
    return found


def _payload(sample: Image | PointCloud) -> bytes:
    return sample.pixels.tobytes() if isinstance(sample, Image) else sample.xyz.tobytes()


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else math.copysign(1.7e308, value)
