"""What a person watching a rig sees at one moment: from a tick's result, or from a record of the audit log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeguard.clock import NS_PER_S
from edgeguard.types import CheckResult, FrameResult, Level

WORST_SHOWN = 6
MARKS = {"TRUSTED": "+", "SUSPECT": "?", "REJECTED": "!"}


@dataclass(frozen=True, slots=True)
class SensorLine:
    """One sensor. trust: name of the state. rate_hz: None where the source does not say (a log). dropped: samples lost
    by reason."""

    sensor: str
    trust: str
    rate_hz: float | None
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One check: how far its statistic is along to its threshold; above 1 is an anomaly."""

    check: str
    sensors: tuple[str, ...]
    ratio: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment. worst: at most six checks, worst first; from a log anomalies alone. objects: None where not told."""

    time_s: float
    verdict: str
    reason: str
    sensors: tuple[SensorLine, ...]
    worst: tuple[CheckLine, ...]
    model_id: str = ""
    objects: int | None = None

    def line(self) -> str:
        """Return it as one line of text."""
        sensors = " ".join(
            f"{s.sensor}{MARKS.get(s.trust, ' ')}" + ("" if s.rate_hz is None else f" {s.rate_hz:<3.0f}")
            for s in self.sensors
        )
        worst = f"{self.worst[0].check} {self.worst[0].ratio:.2f}x" if self.worst else "-"
        lost = sum(sum(s.dropped.values()) for s in self.sensors)
        dropped = f" | dropped {lost}" if lost else ""
        return f"{self.time_s:7.1f} s | {sensors} | {worst:22s} | {self.verdict}{dropped}"

    def record(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "time_s": round(self.time_s, 3),
            "verdict": self.verdict,
            "reason": self.reason,
            "sensors": {
                s.sensor: {"trust": s.trust, "rate_hz": s.rate_hz, "dropped": dict(s.dropped)} for s in self.sensors
            },
            "worst": [{"check": c.check, "sensors": list(c.sensors), "ratio": c.ratio} for c in self.worst],
            "model_id": self.model_id,
            "objects": self.objects,
        }


def of_frame(frame: FrameResult, start_ns: int) -> Snapshot:
    """Return the snapshot of one tick; seconds count from `start_ns`."""
    health = frame.synced.health
    sensors = tuple(
        SensorLine(
            name, trust.state.value, round(health[name].rate_hz, 1) if name in health else None,
            {k: n for k, n in health[name].dropped.items() if n} if name in health else {},
        )
        for name, trust in frame.fused.trust.items()
    )  # fmt: skip
    seen = [
        CheckLine(r.check, r.sensors, round(_ratio(r), 4)) for r in frame.results if r.level is not Level.NOT_OBSERVABLE
    ]
    seen.sort(key=lambda c: (-c.ratio, c.check, c.sensors))
    return Snapshot(
        (frame.synced.stamp_ns - start_ns) / NS_PER_S, frame.verdict.value, frame.verdict_reason, sensors,
        tuple(seen[:WORST_SHOWN]), frame.model_id, len(frame.detections) if frame.model_id else None,
    )  # fmt: skip


def of_record(body: Mapping[str, Any], start_ns: int) -> Snapshot:
    """Return the snapshot of a `frame` record of the audit log. Its bytes are authentic at best, never trusted in form:
    what is missing or of another type is shown as empty."""
    trust = body.get("trust")
    states = trust if isinstance(trust, Mapping) else {}
    listed = body.get("anomalies")
    worst = []
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, Mapping):
            statistic, threshold = _number(entry.get("statistic")), _number(entry.get("threshold"))
            names = entry.get("sensors")
            sensors = tuple(_shown(n) for n in names) if isinstance(names, list) else ()
            worst.append(
                CheckLine(_shown(entry.get("check")), sensors, statistic / threshold if threshold > 0 else 1.0)
            )
    worst.sort(key=lambda c: (-c.ratio, c.check, c.sensors))
    return Snapshot(
        (_number(body.get("stamp_ns")) - start_ns) / NS_PER_S, _shown(body.get("verdict")), _shown(body.get("reason")),
        tuple(SensorLine(_shown(name), _shown(state), None, {}) for name, state in states.items()),
        tuple(worst[:WORST_SHOWN]), _shown(body.get("model_id")),
        int(_number(body.get("detections"))) if body.get("model_id") else None,
    )  # fmt: skip


def _ratio(result: CheckResult) -> float:
    if result.threshold > 0 and math.isfinite(result.statistic):
        return result.statistic / result.threshold
    return float(result.level is Level.ANOMALY)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _shown(value: object) -> str:
    """Return text that cannot drive a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value or ""))[:256]
