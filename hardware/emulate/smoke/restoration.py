"""Mend one damaged frame in every way, and thin one sweep.

    restoration.py GIVEN MADE

GIVEN holds `frames.npz` of the host, so that both processors begin with the same bytes. MADE gets `restoration.npz`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeguard.restore.chain_file import restorer_of
from edgeguard.restore.cloud_chain import SCATTERED_RETURNS
from edgeguard.restore.diagnosed import DiagnosedFrames
from edgeguard.restore.draw import Draw
from edgeguard.restore.image_chain import STANDARD_CHAINS, ImageChain
from edgeguard.restore.image_steps import BitDepth, Dehaze, NonLocalMeans, ResizePad, Sharpen, Stretch, TotalVariation
from edgeguard.restore.impulse import ImpulseMedian
from edgeguard.types import Image, PointCloud

KEY = 20261123  # of the drawn parameters
SINGLE_STEPS = (BitDepth(), NonLocalMeans(), TotalVariation(), ResizePad(), Stretch(), Dehaze(), Sharpen())


def main(given: Path, made: Path) -> None:
    """Write each mended frame and the points that are left."""
    frames = np.load(given / "frames.npz")
    noisy = np.ascontiguousarray(frames["damaged"])
    chains = (*STANDARD_CHAINS, *(ImageChain(_tag(step), (step,)) for step in SINGLE_STEPS))
    mended: dict[str, Any] = {chain.name: chain.apply(noisy, Draw(KEY)) for chain in chains}
    for restorer in (ImpulseMedian(), DiagnosedFrames()):
        image, _ = restorer.apply(Image(noisy, 0), KEY)
        assert isinstance(image, Image)  # noqa: S101 - restorers keep a sample's kind
        mended[restorer.name] = image.pixels
    cloud = PointCloud(frames["xyz"], frames["intensity"], 0, ring=frames["ring"])
    left, _ = restorer_of(SCATTERED_RETURNS).apply(cloud, KEY)
    assert isinstance(left, PointCloud)  # noqa: S101
    np.savez(made / "restoration.npz", points_left=left.xyz, **mended)


def _tag(step: object) -> str:
    return str(type(step).__struct_config__.tag)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
