"""Attacks and faults of cameras on their way through lens, shutter and sensor."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.sim.attacks.base import AttackBase, End, Moment, Share, Start
from edgeguard.types import CAMERA, Image, Sample

_EVADE = ("AML.T0041", "AML.T0015")
_DENY = ("AML.T0041", "AML.T0029")


def _clipped(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(pixels + np.float32(0.5), 0, 255), dtype=np.uint8)


class CameraDazzle(AttackBase, frozen=True, tag="camera_dazzle"):
    """A laser or lamp shines into the lens: a saturated core, a halo, and veiling glare over everything."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    source: ClassVar[str] = "Vos, CIE stray light: glare falls with the square of the angle"
    knob: ClassVar[str] = "strength"

    start_s: Start
    end_s: End
    strength: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0, description="halo at one core radius, full scales")] = (
        4.0
    )
    u_share: Share = 0.5
    v_share: Share = 0.45
    core_share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0, description="core radius per image width")] = 0.03
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"{self.strength:g} times full scale at the core"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Add the light that scatters in lens and sensor, then clip."""
        del moment
        if not isinstance(sample, Image):
            return sample
        height, width = sample.pixels.shape[:2]
        v, u = np.mgrid[0:height, 0:width].astype(np.float32)
        radius = np.hypot(u - self.u_share * width, v - self.v_share * height) / (self.core_share * width)
        light = np.float32(255.0 * self.strength) / np.maximum(radius, 0.5) ** 2
        return replace(sample, pixels=_clipped(sample.pixels.astype(np.float32) + light[..., None]))


class CameraDark(AttackBase, frozen=True, tag="camera_dark"):
    """The lens is covered, or the exposure driven down: only a share of the light is left."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    knob: ClassVar[str] = "lost_share"

    start_s: Start
    end_s: End
    lost_share: Share = 1.0
    noise_dn: Annotated[float, msgspec.Meta(ge=0.0, le=50.0, description="read noise, 1 sigma")] = 1.4
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"{100 * self.lost_share:g} % of the light lost"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Dim the frame; the sensor's own noise stays."""
        if not isinstance(sample, Image):
            return sample
        noise = self.noise_dn * moment.rng.standard_normal(sample.pixels.shape, dtype=np.float32)
        dimmed = sample.pixels.astype(np.float32) * np.float32(1.0 - self.lost_share) + noise
        return replace(sample, pixels=_clipped(dimmed))


class CameraBanding(AttackBase, frozen=True, tag="camera_banding"):
    """GhostStripe: a lamp flickers faster than the frame rate and a rolling shutter turns it into stripes."""

    atlas: ClassVar[tuple[str, ...]] = _EVADE
    source: ClassVar[str] = "GhostStripe, arXiv 2407.07510"
    knob: ClassVar[str] = "depth"

    start_s: Start
    end_s: End
    depth: Annotated[float, msgspec.Meta(gt=0.0, le=1.0, description="share of the light that the lamp takes away")] = (
        0.5
    )
    flicker_hz: Annotated[float, msgspec.Meta(gt=0.0, le=1e5, description="square wave of the lamp")] = 400.0
    row_us: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0, description="time between two rows")] = 30.0
    exposure_us: Annotated[float, msgspec.Meta(gt=0.0, le=1e5, description="of each row; smooths the stripes")] = 500.0
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"{100 * self.depth:g} % at {self.flicker_hz:g} Hz"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Dim each row by the share of its exposure in which the lamp was off."""
        if not isinstance(sample, Image):
            return sample
        begin = np.asarray(moment.stamp_ns / NS_PER_S + np.arange(sample.pixels.shape[0]) * self.row_us * 1e-6)
        off = _off_share(np.asarray(begin * self.flicker_hz, np.float64), self.exposure_us * 1e-6 * self.flicker_hz)
        gain = (1.0 - self.depth * off).astype(np.float32)
        return replace(sample, pixels=_clipped(sample.pixels.astype(np.float32) * gain[:, None, None]))


def _off_share(begin: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Return the share of [begin, begin + length] in the second half of a period; both in periods."""

    def off_until(t: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.floor(t)
        return np.asarray(0.5 * whole + np.maximum(0.0, t - whole - 0.5))

    return np.asarray((off_until(begin + length) - off_until(begin)) / length)


class CameraDefocus(AttackBase, frozen=True, tag="camera_defocus"):
    """The lens loses focus: every point becomes a disc."""

    atlas: ClassVar[tuple[str, ...]] = ()
    knob: ClassVar[str] = "radius_px"

    start_s: Start
    end_s: End
    radius_px: Annotated[float, msgspec.Meta(gt=0.0, le=60.0, description="of the blur disc")] = 6.0
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"blur of {self.radius_px:g} px"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Blur with a disc."""
        del moment
        if not isinstance(sample, Image):
            return sample
        reach = int(np.ceil(self.radius_px))
        v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        disc = np.clip(self.radius_px + 0.5 - np.hypot(u, v), 0.0, 1.0)
        blurred = cv2.filter2D(sample.pixels, -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE)
        return replace(sample, pixels=np.asarray(blurred, dtype=np.uint8))


class CameraDirt(AttackBase, frozen=True, tag="camera_dirt"):
    """Mud or drops on the lens: soft blots that stay where they are while the street goes by."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    knob: ClassVar[str] = "cover"

    start_s: Start
    end_s: End
    cover: Annotated[float, msgspec.Meta(gt=0.0, le=1.0, description="share of the image behind blots")] = 0.3
    blot_share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0, description="blot radius per image width")] = 0.06
    opacity: Share = 0.95
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"{100 * self.cover:g} % covered"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Blend the blots over the frame."""
        if not isinstance(sample, Image):
            return sample
        alpha = (self.opacity * self._blots(sample.pixels.shape[:2], moment.steady_rng()))[..., None]
        mud = np.array([38.0, 52.0, 66.0], dtype=np.float32)
        return replace(sample, pixels=_clipped(sample.pixels.astype(np.float32) * (1 - alpha) + mud * alpha))

    def _blots(self, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return (H, W) 0..1: random blots, as many as cover the share; out of focus, since the lens is so near."""
        height, width = shape
        mask = np.zeros(shape, dtype=np.float32)
        radius = self.blot_share * width
        for _ in range(int(20 / self.blot_share)):
            if mask.mean() >= self.cover:
                break
            centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            axes = (int(radius * rng.uniform(0.5, 1.5)) + 1, int(radius * rng.uniform(0.5, 1.5)) + 1)
            cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(1.0, 0.25 * radius)), dtype=np.float32)


# ---- things in the scene that only the camera sees -----------------------------------------------------------------


class _Plate(AttackBase, frozen=True, tag=None):
    """A flat thing in the scene, seen by a pinhole camera that looks straight ahead, `camera_height_m` above ground."""

    def _corners(self, distance_m: float, left_m: float, bottom_m: float, size_m: tuple[float, float], road: bool
                 ) -> NDArray[np.float64]:  # fmt: skip
        """Return (4, 3) forward, left, up from the ground below the camera: far left, far right, near right, near left
        (or top to bottom for a standing plate)."""
        width, length = size_m
        if road:
            return np.array([
                [distance_m + length, left_m + width / 2, 0.0], [distance_m + length, left_m - width / 2, 0.0],
                [distance_m, left_m - width / 2, 0.0], [distance_m, left_m + width / 2, 0.0],
            ])  # fmt: skip
        return np.array([
            [distance_m, left_m + width / 2, bottom_m + length], [distance_m, left_m - width / 2, bottom_m + length],
            [distance_m, left_m - width / 2, bottom_m], [distance_m, left_m + width / 2, bottom_m],
        ])  # fmt: skip


def _warp(
    picture: NDArray[np.float32], corners: NDArray[np.float64], shape: tuple[int, int], focal_share: float, eye_m: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the picture as the camera sees it (H, W, 3) and how much of each pixel it covers (H, W, 1)."""
    height, width = shape
    focal = focal_share * width
    seen = np.empty((4, 2), dtype=np.float32)
    seen[:, 0] = (width - 1) / 2 - focal * corners[:, 1] / corners[:, 0]
    seen[:, 1] = (height - 1) / 2 - focal * (corners[:, 2] - eye_m) / corners[:, 0]
    rows, columns = picture.shape[:2]
    flat = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], dtype=np.float32) - np.float32(0.5)
    to_image = cv2.getPerspectiveTransform(flat, seen)
    # INTER_AREA does not exist for warps: a small picture far away is softened by the last blur instead.
    warped = cv2.warpPerspective(picture, to_image, (width, height), flags=cv2.INTER_LINEAR)
    cover = cv2.warpPerspective(np.ones((rows, columns), np.float32), to_image, (width, height))
    return np.asarray(warped, dtype=np.float32), np.asarray(cover, dtype=np.float32)[..., None]


class CameraPatch(_Plate, frozen=True, tag="camera_patch"):
    """A printed patch on a surface of the world: it is lit by the scene, grows as the vehicle comes near, and stays.

    The pattern is random blocks, not optimised against any model; nothing in front of it hides it.
    """

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0043", "AML.T0015")
    knob: ClassVar[str] = "width_m"

    start_s: Start
    end_s: End
    width_m: Annotated[float, msgspec.Meta(gt=0.0, le=30.0)] = 1.2
    height_m: Annotated[float, msgspec.Meta(gt=0.0, le=60.0, description="length along the road for one on it")] = 0.9
    distance_m: Annotated[float, msgspec.Meta(gt=0.5, le=200.0, description="ahead of the camera at the start")] = 12.0
    left_m: Annotated[float, msgspec.Meta(ge=-50.0, le=50.0)] = 0.0
    bottom_m: Annotated[float, msgspec.Meta(ge=0.0, le=20.0, description="above ground; for a standing one")] = 0.5
    on_road: bool = False
    closing_m_s: Annotated[float, msgspec.Meta(ge=-60.0, le=60.0, description="0 for one on a car ahead")] = 0.0
    blocks: Annotated[int, msgspec.Meta(ge=2, le=256, description="pattern, per side")] = 16
    focal_share: Annotated[float, msgspec.Meta(gt=0.1, le=10.0, description="focal length per image width")] = 0.65625
    camera_height_m: Annotated[float, msgspec.Meta(gt=0.0, le=20.0)] = 1.65
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"{self.width_m:g} x {self.height_m:g} m at {self.distance_m:g} m"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Paint the patch: its reflectance times the light that falls there."""
        distance = self.distance_m - self.closing_m_s * moment.elapsed_s
        if not isinstance(sample, Image) or distance < 0.5:
            return sample
        blocks = moment.steady_rng().random((self.blocks, self.blocks, 3), dtype=np.float32)
        print_ = np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)
        size = (self.width_m, self.height_m)
        corners = self._corners(distance, self.left_m, self.bottom_m, size, self.on_road)
        shape = sample.pixels.shape[:2]
        pattern, cover = _warp(print_, corners, (shape[0], shape[1]), self.focal_share, self.camera_height_m)
        scene = sample.pixels.astype(np.float32)
        inside = cover[..., 0] > 0.5
        if not inside.any():
            return sample
        # White paper there would be about as bright as the brightest tenth of what it covers, and not below mid grey.
        white = max(float(np.percentile(scene[inside], 90)), 110.0)
        return replace(sample, pixels=_clipped(scene * (1 - cover) + np.float32(white) * pattern))


class CameraPhantom(_Plate, frozen=True, tag="camera_phantom"):
    """A projector throws a figure of light onto the road or a wall: brightness without a body."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0043", "AML.T0015")
    source: ClassVar[str] = "Nassi et al., Phantom of the ADAS, CCS 2020"
    knob: ClassVar[str] = "light"

    start_s: Start
    end_s: End
    light: Annotated[float, msgspec.Meta(gt=0.0, le=4.0, description="share of full scale, where it is brightest")] = (
        0.4
    )
    figure: str = "pedestrian"
    height_m: Annotated[float, msgspec.Meta(gt=0.0, le=60.0)] = 1.75
    distance_m: Annotated[float, msgspec.Meta(gt=0.5, le=200.0)] = 12.0
    left_m: Annotated[float, msgspec.Meta(ge=-50.0, le=50.0)] = 0.0
    on_road: bool = False
    closing_m_s: Annotated[float, msgspec.Meta(ge=-60.0, le=60.0)] = 0.0
    focal_share: Annotated[float, msgspec.Meta(gt=0.1, le=10.0, description="focal length per image width")] = 0.65625
    camera_height_m: Annotated[float, msgspec.Meta(gt=0.0, le=20.0)] = 1.65
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"{100 * self.light:g} % of full scale at {self.distance_m:g} m"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Add the figure's light to the scene's."""
        distance = self.distance_m - self.closing_m_s * moment.elapsed_s
        if not isinstance(sample, Image) or distance < 0.5:
            return sample
        figure = _figure(self.figure)
        size = (self.height_m * figure.shape[1] / figure.shape[0], self.height_m)
        corners = self._corners(distance, self.left_m, 0.0, size, self.on_road)
        shape = sample.pixels.shape[:2]
        lit, _ = _warp(figure, corners, (shape[0], shape[1]), self.focal_share, self.camera_height_m)
        return replace(sample, pixels=_clipped(sample.pixels.astype(np.float32) + np.float32(255.0 * self.light) * lit))


def _figure(kind: str) -> NDArray[np.float32]:
    """Return (H, W, 3) light of a figure, 0..1; a square of light for what it does not know."""
    if kind != "pedestrian":
        return np.ones((64, 64, 3), dtype=np.float32)
    canvas = np.zeros((256, 112, 3), dtype=np.float32)
    skin, coat, legs = (0.55, 0.7, 0.9), (0.95, 0.75, 0.5), (0.5, 0.45, 0.4)
    cv2.ellipse(canvas, (56, 28), (19, 26), 0, 0, 360, skin, -1)
    cv2.ellipse(canvas, (56, 104), (36, 52), 0, 0, 360, coat, -1)
    for foot, knee in (((34, 250), (44, 150)), ((80, 250), (68, 150))):
        cv2.line(canvas, knee, foot, legs, 22)
    for hand, shoulder in (((12, 138), (30, 76)), ((100, 138), (82, 76))):
        cv2.line(canvas, shoulder, hand, coat, 15)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), 1.5), dtype=np.float32)
