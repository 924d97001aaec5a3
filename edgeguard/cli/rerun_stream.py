"""Streams what a rig sees and what is thought of it to the rerun viewer (rerun.io). Needs the extra `viewer`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from edgeguard.clock import NS_PER_S
from edgeguard.errors import EnvironmentMissingError
from edgeguard.types import FrameResult, Image, Level, PointCloud, TrustState, Verdict

_TRUST = {TrustState.TRUSTED: 1.0, TrustState.SUSPECT: 0.5, TrustState.REJECTED: 0.0}
_STRICTNESS = {verdict: float(number) for number, verdict in enumerate(Verdict)}


class RerunStream:
    """One recording stream: camera image with boxes, lidar points, trust, verdict and checks over time.

    Args:
        target: "" opens the viewer; else a new .rrd file.

    Raises:
        EnvironmentMissingError: EG-E056 without rerun-sdk, EG-E057 when viewer or file cannot be opened.
    """

    def __init__(self, target: str = "") -> None:
        try:
            self._rr: Any = import_module("rerun")
        except ImportError:
            raise EnvironmentMissingError(
                "the rerun viewer is not installed", code="EG-E056", hint='pip install "edgeguard[viewer]"'
            ) from None
        self._stream: Any = self._rr.RecordingStream("edgeguard")
        try:
            if target:
                with Path(target).open("xb"):  # rerun would say only in its log that it cannot write
                    pass
                self._stream.save(target)
            else:
                self._stream.spawn()
        except (OSError, RuntimeError) as error:
            raise EnvironmentMissingError(
                f"cannot open {target or 'the rerun viewer'}: {error}", code="EG-E057",
                hint="give a new file: --rerun-file run.rrd",
            ) from None  # fmt: skip

    def add(self, frame: FrameResult) -> None:
        """Log one tick on the timeline `stamp`, in seconds."""
        rr, stream = self._rr, self._stream
        stream.set_time("stamp", duration=frame.synced.stamp_ns / NS_PER_S)
        for name, sample in frame.synced.samples.items():
            if isinstance(sample, Image):
                stream.log(f"{name}/image", rr.Image(sample.pixels, color_model="BGR").compress())
            elif isinstance(sample, PointCloud):
                stream.log(f"{name}/points", rr.Points3D(sample.xyz))
        boxes = [d.box_xyxy for d in frame.detections]
        labels = [f"{d.label} {d.score:.2f}" for d in frame.detections]
        if frame.model_id:
            stream.log("camera/image/boxes", rr.Boxes2D(array=boxes, array_format=rr.Box2DFormat.XYXY, labels=labels))
        for name, trust in frame.fused.trust.items():
            stream.log(f"trust/{name}", rr.Scalars(_TRUST[trust.state]))
        stream.log("verdict", rr.Scalars(_STRICTNESS[frame.verdict]))
        if frame.verdict is not Verdict.PASS:
            stream.log("verdict/reason", rr.TextLog(frame.verdict_reason))
        for result in frame.results:
            if result.level is not Level.NOT_OBSERVABLE and result.threshold > 0:
                path = "/".join(["checks", result.check, *result.sensors])
                stream.log(path, rr.Scalars(result.statistic / result.threshold))

    def close(self) -> None:
        """Write out what is left."""
        self._stream.flush()
        self._stream.disconnect()
