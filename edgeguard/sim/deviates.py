"""A table of standard normal deviates that noise kernels read from places that hashes choose."""

from __future__ import annotations

import numpy as np

# A power of two, a megabyte: large enough that a frame's rows seldom share a stretch of it.
DEVIATES = np.random.default_rng(0x6A55).standard_normal(1 << 18, dtype=np.float32)
