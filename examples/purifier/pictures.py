"""Pictures that the project makes itself, clean and disturbed: what the purifier learns from.

Nothing of a user's, no photograph, no attack on any model: streets of the simulator, and drawings with the statistics
of natural pictures (noise of falling power over frequency, edges of random polygons, gradients).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.camera import render
from edgeguard.sim.world import World

SIDE_PX = 64
FIRST_STREET = 610_000
Pixels = NDArray[np.uint8]


def drawing(rng: np.random.Generator, side_px: int = SIDE_PX) -> Pixels:
    """Return a drawing, (S, S, 3) uint8: polygons filled with 1/f texture under a gradient of light."""
    picture = _texture(rng, side_px)
    for _ in range(int(rng.integers(2, 9))):
        corners = rng.integers(-side_px // 2, side_px * 3 // 2, (int(rng.integers(3, 7)), 2)).astype(np.int32)
        mask = np.zeros((side_px, side_px), np.uint8)
        cv2.fillPoly(mask, [corners], 255, lineType=cv2.LINE_AA)
        share = (mask / 255.0)[..., None]
        picture = picture * (1.0 - share) + _texture(rng, side_px) * share
    light = np.linspace(rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.0), side_px)
    picture *= light[:, None, None] if rng.random() < 0.5 else light[None, :, None]
    return _as_camera(np.clip(picture, 0, 255).astype(np.uint8), rng)


def streets(rng: np.random.Generator, count: int) -> list[Pixels]:
    """Return crops of simulated frames, (S, S, 3) uint8 each."""
    found = []
    for number in range(count):
        frame = render(World(FIRST_STREET + number, 12.0), float(rng.uniform(1.0, 11.0))).pixels
        for _ in range(8):
            y, x = (int(rng.integers(0, limit - SIDE_PX)) for limit in frame.shape[:2])
            found.append(np.ascontiguousarray(frame[y : y + SIDE_PX, x : x + SIDE_PX]))
    return found


def disturbed(clean: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return (S, S, 3) float32 with a perturbation of at most eight levels, of a kind drawn anew.

    Signs per value, signs of smoothed noise (a gradient through layers of a network is correlated over some pixels and
    between colours), Gaussian noise, or nothing at all: a clean picture has to stay what it is.
    """
    kind, eps = int(rng.integers(0, 5)), float(rng.integers(1, 9))
    shape = clean.shape
    if kind == 0:
        return clean
    if kind == 1:
        change = np.sign(rng.standard_normal(shape)) * eps
    elif kind == 2:
        change = rng.standard_normal(shape) * (eps / 2.0)
    else:
        width = float(rng.uniform(0.5, 2.0))
        mixed = rng.standard_normal(shape) + rng.uniform(0.0, 1.5) * rng.standard_normal((*shape[:2], 1))
        change = np.sign(cv2.GaussianBlur(mixed, (0, 0), width)) * eps
    return np.clip(np.rint(clean + change), 0, 255).astype(np.float32)


def _texture(rng: np.random.Generator, side_px: int) -> NDArray[np.float64]:
    """Noise whose power falls with frequency, as it does in natural pictures (Field, J. Opt. Soc. Am. A 4, 1987)."""
    fy, fx = np.fft.fftfreq(side_px)[:, None], np.fft.fftfreq(side_px)[None, :]
    fall = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / side_px) ** rng.uniform(0.8, 1.4)
    grey = np.real(np.fft.ifft2(np.fft.fft2(rng.standard_normal((side_px, side_px))) * fall))
    grey = (grey - grey.mean()) / (grey.std() + 1e-9)
    colour = rng.uniform(20, 235, 3)
    return np.asarray(colour + grey[..., None] * rng.uniform(2, 40) * rng.uniform(0.6, 1.4, 3))


def _as_camera(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Half the resolution in colour and a JPEG behind it, as photographs have."""
    coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 98))])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)
