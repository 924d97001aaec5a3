"""Pictures for the report: the camera frame with lidar depth and detections drawn in. Few and small."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.report.outcomes import AttackOutcome
from edgeguard.types import (
    CAMERA,
    LIDAR,
    Detection,
    FrameResult,
    FusedObject,
    Image,
    RegisteredDepth,
    TrustState,
    Verdict,
)

MAX_WIDTH_PX = 900
JPEG_QUALITY = 82
INTERVAL_S = 0.5  # between pictures kept for choice
MAX_KEPT = 240  # then every second one goes and the interval doubles: about 20 MB whatever the run's length
NEAR_M, FAR_M = 2.0, 60.0  # ends of the colour scale
DIM = 0.62  # the frame steps back so that the depth colours carry


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with its story. `data_uri` is a JPEG."""

    caption: str
    time_s: float
    verdict: str
    distrusted: tuple[str, ...]
    depth_points: int
    data_uri: str


class Album:
    """Keeps one picture per interval and one at every change of verdict, and chooses few of them in the end."""

    def __init__(self) -> None:
        self._kept: list[Picture] = []
        self._interval_s = INTERVAL_S
        self._next_s = 0.0
        self._verdict: Verdict | None = None
        self._last: FrameResult | None = None
        self._last_s = 0.0

    def add(self, frame: FrameResult, time_s: float) -> None:
        """Take in one tick; draws only when the picture may be wanted."""
        changed = frame.verdict is not self._verdict
        self._verdict = frame.verdict
        if not isinstance(frame.synced.samples.get(CAMERA), Image):
            return
        self._last, self._last_s = frame, time_s
        if time_s < self._next_s and not changed:
            return
        self._next_s = time_s + self._interval_s
        self._kept.append(_picture(frame, time_s))
        if len(self._kept) > MAX_KEPT:
            del self._kept[1::2]
            self._interval_s *= 2

    def choose(self, attacks: Sequence[AttackOutcome]) -> tuple[Picture, ...]:
        """Return one clean picture, one per attack, and the last one.

        An attack is shown after it was noticed; one on the lidar before, for a rejected lidar is no longer drawn.
        """
        chosen: list[Picture] = []
        first_attack_s = min((a.start_s for a in attacks), default=float("inf"))
        calm = [p for p in self._kept if p.time_s < first_attack_s and p.verdict == Verdict.PASS.value]
        if calm:
            chosen.append(_captioned(calm[len(calm) // 2], "Clean"))
        for attack in attacks:
            wanted_s = attack.start_s + (attack.delay_s or 0.0) + INTERVAL_S
            during = [p for p in self._kept if attack.start_s <= p.time_s <= attack.end_s]
            if attack.sensor == LIDAR:
                during = [p for p in during if p.depth_points > 0] or during
            nearest = min(during, key=lambda p, at=wanted_s: abs(p.time_s - at), default=None)  # type: ignore[misc]
            if nearest is not None:
                chosen.append(_captioned(nearest, f"{attack.attack} on {attack.sensor}"))
        if self._last is not None and all(p.time_s != self._last_s for p in chosen):
            chosen.append(_captioned(_picture(self._last, self._last_s), "Last frame"))
        return tuple(chosen)


def draw_overlay(
    pixels: NDArray[np.uint8],
    registered: RegisteredDepth | None,
    detections: Sequence[Detection],
    objects: Sequence[FusedObject] = (),
) -> NDArray[np.uint8]:
    """Return a copy with depth coloured in (red near, blue far) and boxes drawn. pixels: (H, W, 3) uint8 BGR.

    objects: of the same frame; a box that one of them has says how likely it exists, and how far it is.

    Depth of another size than the frame is left out.
    """
    import cv2

    canvas = pixels.copy()
    if registered is not None and registered.depth_m.shape == pixels.shape[:2] and registered.points > 0:
        canvas = (pixels.astype(np.float32) * DIM).astype(np.uint8)
        nearest = np.where(np.isfinite(registered.depth_m), registered.depth_m, np.float32(np.inf)).astype(np.float32)
        dot = max(2, round(pixels.shape[1] / 420))
        nearest = cv2.erode(nearest, np.ones((dot, dot), np.uint8))  # a minimum filter: the nearer return wins
        drawn = np.isfinite(nearest)
        near, far = np.log(NEAR_M), np.log(FAR_M)
        scaled = (far - np.log(np.clip(nearest, NEAR_M, FAR_M))) / (far - near) * 255.0
        colours = cv2.applyColorMap(scaled.astype(np.uint8), cv2.COLORMAP_TURBO)
        canvas[drawn] = colours[drawn]
    known = {found.box_xyxy: found for found in objects}
    for detection in detections:
        _draw_box(canvas, detection, known.get(detection.box_xyxy))
    return canvas


def _draw_box(canvas: NDArray[np.uint8], detection: Detection, found: FusedObject | None) -> None:
    """White where the lidar confirms, grey where only the camera sees it; with range and existence where known."""
    import cv2

    limit = max(canvas.shape)
    box = np.nan_to_num(np.array(detection.box_xyxy, dtype=np.float64), nan=0.0, posinf=limit, neginf=0.0)
    left, top, right, bottom = (int(v) for v in np.clip(box, -1, limit + 1))
    unit = canvas.shape[1] / 900
    label = "".join(c for c in detection.label if c.isascii() and c.isprintable())[:24]
    text = f"{label} {detection.score:.2f}" if found is None else f"{label} {found.existence:.2f}"
    if found is not None and found.position_m is not None:
        text += f" {np.hypot(*found.position_m):.0f} m"
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, 1)
    alone = found is not None and LIDAR not in found.sources
    white, ink = ((150, 150, 150) if alone else (255, 255, 255)), (24, 24, 24)
    cv2.rectangle(canvas, (left, top), (right, bottom), ink, max(3, round(4 * unit)), cv2.LINE_AA)
    cv2.rectangle(canvas, (left, top), (right, bottom), white, max(1, round(2 * unit)), cv2.LINE_AA)
    base = max(top, height + 6)
    cv2.rectangle(canvas, (left, base - height - 6), (left + width + 6, base), white, -1)
    cv2.putText(canvas, text, (left + 3, base - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, ink, 1, cv2.LINE_AA)


def _picture(frame: FrameResult, time_s: float) -> Picture:
    import cv2

    image = frame.synced.samples[CAMERA]
    assert isinstance(image, Image)  # noqa: S101 - the caller looked
    canvas = draw_overlay(image.pixels, frame.fused.registered, frame.detections, frame.fused.objects)
    height, width = canvas.shape[:2]
    if width > MAX_WIDTH_PX:
        size = (MAX_WIDTH_PX, max(1, round(height * MAX_WIDTH_PX / width)))
        canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return Picture(
        caption="",
        time_s=time_s,
        verdict=frame.verdict.value,
        distrusted=tuple(
            f"{name} {belief.state.value}"
            for name, belief in frame.fused.trust.items()
            if belief.state is not TrustState.TRUSTED
        ),
        depth_points=frame.fused.registered.points if frame.fused.registered is not None else 0,
        data_uri="data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode("ascii"),
    )


def _captioned(picture: Picture, caption: str) -> Picture:
    return Picture(caption, picture.time_s, picture.verdict, picture.distrusted, picture.depth_points, picture.data_uri)
