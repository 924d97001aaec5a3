"""The operations on camera frames: uint8 in, uint8 out, each a frozen value that a TOML file or a signed policy holds.

Every step is pure: the same pixels and the same draw give the same result. A number may be written as a pair
`[low, high]`; then each frame draws one in between from the keyed generator, and the draw is in the evidence. Steps run
before any normalisation, in the order written. Frames keep their shape: what crops or shrinks goes back to full size.

    [[chains]]
    name = "smooth-and-requantise"
    steps = [{ op = "bilateral", diameter_px = 5 }, { op = "jpeg", quality = [40, 60] }]

Sources: bit depth and medians, Xu, Evans and Qi, "Feature Squeezing" (NDSS 2018); JPEG, Das et al., SHIELD (KDD 2018);
resize and pad, Xie et al. (ICLR 2018); total variation, Chambolle (2004); dark channel, He, Sun and Tang (CVPR 2009);
guided filter, He, Sun and Tang (ECCV 2010). MITRE ATLAS AML.M0010. None of them is a defence against an attacker who
knows it (Athalye, Carlini and Wagner, ICML 2018).
"""

from __future__ import annotations

from typing import Annotated

import cv2
import msgspec
import numpy as np
from msgspec import Meta

from edgeguard.kernels.frame import compiled_view
from edgeguard.kernels.scratch import Scratch
from edgeguard.restore.draw import Draw
from edgeguard.restore.image_filters import Pixels, as_u8, dehaze, stretch, upper_median_2x2

Odd = Annotated[int, Meta(ge=3, le=31)]

HAZE_KEPT = 0.95  # the paper's omega: some haze stays, or distance would be lost
PAD_GREY = 128  # mid grey: the value that says least about the scene

_SCRATCH = Scratch()


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op"):
    """Base of the steps: the field `op` in TOML and JSON says which."""


class BitDepth(_Step, frozen=True, tag="bit-depth"):
    """Keep the `bits` highest levels per channel: round(p / 255 * (2^b - 1)) / (2^b - 1) * 255."""

    bits: Annotated[int, Meta(ge=1, le=7)] = 5

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        top = 2**self.bits - 1
        table = np.rint(np.rint(np.arange(256) / 255.0 * top) / top * 255.0).astype(np.uint8)
        return as_u8(cv2.LUT(pixels, table))


class Median(_Step, frozen=True, tag="median"):
    """Median over `size_px` x `size_px`, 2, 3 or 5. A window of 2 x 2 ends at the pixel and gives the upper median."""

    size_px: Annotated[int, Meta(ge=2, le=5)] = 3

    def __post_init__(self) -> None:
        if self.size_px == 4:
            raise ValueError("a median is 2, 3 or 5 pixels wide")

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        return upper_median_2x2(pixels) if self.size_px == 2 else as_u8(cv2.medianBlur(pixels, self.size_px))


class RowMedian(_Step, frozen=True, tag="row-median"):
    """Median of five neighbours in the row: takes narrow upright structure such as rain, and nothing broad."""

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        return self.of(pixels)

    @staticmethod
    def of(pixels: Pixels) -> Pixels:
        """Return the row median of (H, W) or (H, W, C) uint8, borders repeated."""
        pad = [(0, 0), (2, 2), (0, 0)][: pixels.ndim]
        wide = np.pad(pixels, pad, mode="edge")
        a, b, c, d, e = (wide[:, k : k + pixels.shape[1]] for k in range(5))
        # Median of five by comparisons: drop the least and the greatest of two pairs, then take the middle of three.
        low = np.maximum(np.minimum(a, b), np.minimum(c, d))
        high = np.minimum(np.maximum(a, b), np.maximum(c, d))
        return as_u8(np.maximum(np.minimum(low, high), np.minimum(np.maximum(low, high), e)))


class Jpeg(_Step, frozen=True, tag="jpeg"):
    """Encode and decode as baseline JPEG with 4:2:0 chroma."""

    quality: int | tuple[int, int] = 50

    def __post_init__(self) -> None:
        _require_pair(self.quality, 5, 100, "quality")

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return (H, W, 3) uint8."""
        quality = draw.integer(self.quality)
        done, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR) if done else None
        return pixels if decoded is None else as_u8(decoded)


class Bilateral(_Step, frozen=True, tag="bilateral"):
    """Bilateral filter (Tomasi and Manduchi, ICCV 1998)."""

    diameter_px: Annotated[int, Meta(ge=3, le=15)] = 5
    sigma_level: Annotated[float, Meta(gt=0, le=255)] = 60.0
    sigma_px: Annotated[float, Meta(gt=0, le=255)] = 60.0

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        return as_u8(cv2.bilateralFilter(pixels, self.diameter_px, self.sigma_level, self.sigma_px))


class NonLocalMeans(_Step, frozen=True, tag="non-local-means"):
    """Non-local means (Buades, Coll and Morel, CVPR 2005) on luma and chroma."""

    strength: Annotated[float, Meta(gt=0, le=60)] = 8.0
    patch_px: Odd = 3
    search_px: Odd = 11

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        return as_u8(
            cv2.fastNlMeansDenoisingColored(pixels, None, self.strength, self.strength, self.patch_px, self.search_px)
        )


class TotalVariation(_Step, frozen=True, tag="total-variation"):
    """Total-variation denoising per channel; `weight` is a share of full scale."""

    weight: Annotated[float, Meta(gt=0, le=1)] = 0.06
    iterations: Annotated[int, Meta(ge=1, le=100)] = 20

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        from edgeguard.kernels.total_variation import chambolle

        height, width, channels = pixels.shape
        n = width * channels
        planes = [_SCRATCH.array(name, height * n, np.float32).reshape(height, n) for name in ("f", "px", "py")]
        rows = _SCRATCH.array("rows", 2 * n, np.float32).reshape(2, n)
        out = np.empty_like(pixels)
        chambolle(compiled_view(pixels), self.weight, self.iterations, *planes, rows, out)
        return out


class ResizePad(_Step, frozen=True, tag="resize-pad"):
    """Shrink to a drawn share of the size and lay the frame somewhere on grey of the full size."""

    share: float | tuple[float, float] = (0.85, 0.98)

    def __post_init__(self) -> None:
        _require_pair(self.share, 0.25, 1.0, "share")

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return (H, W, 3) uint8."""
        height, width = pixels.shape[:2]
        share = draw.real(self.share)
        inner_w, inner_h = max(1, round(width * share)), max(1, round(height * share))
        left, top = draw.integer((0, width - inner_w)), draw.integer((0, height - inner_h))
        out = np.full_like(pixels, PAD_GREY)
        out[top : top + inner_h, left : left + inner_w] = cv2.resize(
            pixels, (inner_w, inner_h), interpolation=cv2.INTER_AREA
        )
        return out


class Crop(_Step, frozen=True, tag="crop"):
    """Cut a drawn share of width and height at a drawn place and enlarge it back."""

    share: float | tuple[float, float] = (0.85, 0.98)

    def __post_init__(self) -> None:
        _require_pair(self.share, 0.25, 1.0, "share")

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return (H, W, 3) uint8."""
        height, width = pixels.shape[:2]
        share = draw.real(self.share)
        inner_w, inner_h = max(1, round(width * share)), max(1, round(height * share))
        left, top = draw.integer((0, width - inner_w)), draw.integer((0, height - inner_h))
        inner = pixels[top : top + inner_h, left : left + inner_w]
        return as_u8(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR))


class Stretch(_Step, frozen=True, tag="stretch"):
    """Map the luma percentiles `cut` and 1 - `cut` to 0 and 255, all channels alike, so that hues stay."""

    cut: Annotated[float, Meta(ge=0.0, le=0.1)] = 0.005

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        return stretch(pixels, self.cut)


class Dehaze(_Step, frozen=True, tag="dehaze"):
    """Dark-channel dehazing with a guided filter for the transmission; also undoes a lost contrast."""

    strength: Annotated[float, Meta(gt=0.0, le=1.0)] = HAZE_KEPT

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        return dehaze(pixels, self.strength)


class Sharpen(_Step, frozen=True, tag="sharpen"):
    """Unsharp masking: p + amount * (p - blurred)."""

    amount: Annotated[float, Meta(gt=0.0, le=5.0)] = 1.5
    sigma_px: Annotated[float, Meta(gt=0.0, le=20.0)] = 2.0

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:  # noqa: ARG002
        """Return (H, W, 3) uint8."""
        blurred = cv2.GaussianBlur(pixels, (0, 0), self.sigma_px)
        return as_u8(cv2.addWeighted(pixels, 1.0 + self.amount, blurred, -self.amount, 0.0))


ImageStep = (
    BitDepth
    | Median
    | RowMedian
    | Jpeg
    | Bilateral
    | NonLocalMeans
    | TotalVariation
    | ResizePad
    | Crop
    | Stretch
    | Dehaze
    | Sharpen
)


def _require_pair(value: float | tuple[float, float], low: float, high: float, name: str) -> None:
    # Not `Meta(ge=, le=)`: msgspec 0.22 crashes in the garbage collector on a fixed tuple beside a bounded number.
    first, last = value if isinstance(value, tuple) else (value, value)
    if not low <= first <= last <= high:
        raise ValueError(f"{name} lies in {low}..{high}, a pair from low to high")
