"""Total-variation denoising by the dual projection of Chambolle (J. Math. Imaging Vis. 20, 2004), per channel.

p <- (p + tau grad(div p - f / lambda)) / (1 + tau |grad(div p - f / lambda)|), u = f - lambda div p. One sweep over the
rows per iteration: the two rows of the divergence that an update needs are kept aside, so the picture is read once.
`error_model="numpy"`: a test for division by zero would keep the loop from being vectorised, and no divisor here is
below 1.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

TAU = 0.25  # the largest step for which convergence in practice is reported; 1/8 is the proven bound


@njit("void(f4[::1], f4[::1], f4[::1], f4[::1], b1, i8, f4[::1])", cache=True, nogil=True, error_model="numpy")
def _divergence(
    scaled: NDArray[np.float32],
    px: NDArray[np.float32],
    py: NDArray[np.float32],
    py_above: NDArray[np.float32],
    top: bool,
    channels: int,
    out: NDArray[np.float32],
) -> None:
    """div p - f / lambda of one row; all (W * C,) float32. Shifted views instead of shifted indices vectorise."""
    n = scaled.shape[0]
    for i in range(n):
        out[i] = px[i] + py[i] - scaled[i]
    right, px_left = out[channels:], px[: n - channels]
    for i in range(n - channels):
        right[i] -= px_left[i]
    if not top:
        for i in range(n):
            out[i] -= py_above[i]


@njit("void(f4[::1], f4[::1], i8, f4[::1], f4[::1])", cache=True, nogil=True, error_model="numpy")
def _ascend(
    here: NDArray[np.float32],
    below: NDArray[np.float32],
    channels: int,
    px: NDArray[np.float32],
    py: NDArray[np.float32],
) -> None:
    """One step of p along the gradient of a row; all (W * C,) float32."""
    tau, one = np.float32(TAU), np.float32(1.0)
    n = here.shape[0]
    m = n - channels
    right = here[channels:]
    for i in range(m):
        gx = tau * (right[i] - here[i])
        gy = tau * (below[i] - here[i])
        scale = one / (one + np.sqrt(gx * gx + gy * gy))
        px[i] = (px[i] + gx) * scale
        py[i] = (py[i] + gy) * scale
    for i in range(m, n):
        gy = tau * (below[i] - here[i])
        scale = one / (one + abs(gy))
        px[i] *= scale
        py[i] = (py[i] + gy) * scale


@njit(
    "void(u1[:,:,::1], f4, i8, f4[:,::1], f4[:,::1], f4[:,::1], f4[:,::1], u1[:,:,::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def chambolle(
    pixels: NDArray[np.uint8],
    weight: float,
    iterations: int,
    scaled: NDArray[np.float32],
    px: NDArray[np.float32],
    py: NDArray[np.float32],
    rows: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    """Denoise a frame.

    pixels, out: (H, W, C) uint8. weight: lambda, as a share of full scale; more is smoother. scaled, px, py: (H, W * C)
    float32 scratch. rows: (2, W * C) float32 scratch.
    """
    height, width, channels = pixels.shape
    n = width * channels
    full = np.float32(255.0)
    per_level = np.float32(1.0) / (full * weight)
    px[:] = np.float32(0.0)
    py[:] = np.float32(0.0)
    for y in range(height):
        flat, target = pixels[y].reshape(n), scaled[y]
        for i in range(n):
            target[i] = np.float32(flat[i]) * per_level
    for _ in range(iterations):
        _divergence(scaled[0], px[0], py[0], py[0], True, channels, rows[0])
        for y in range(height):
            here, below = rows[y & 1], rows[(y + 1) & 1]
            if y + 1 < height:
                _divergence(scaled[y + 1], px[y + 1], py[y + 1], py[y], False, channels, below)
            else:
                below[:] = here
            _ascend(here, below, channels, px[y], py[y])
    to_levels = full * weight
    half, zero = np.float32(0.5), np.float32(0.0)
    for y in range(height):
        _divergence(scaled[y], px[y], py[y], py[max(y - 1, 0)], y == 0, channels, rows[0])
        level, flat_out = rows[0], out[y].reshape(n)
        for i in range(n):
            flat_out[i] = np.uint8(min(max(half - level[i] * to_levels, zero), full))
