"""Hold a purifier against the chains that need no training, at equal clean accuracy:

    python examples/purifier/evaluate.py purifier.onnx --model a.onnx --images DIR --labels CSV --attacked CACHE

CACHE holds the sets of `edgeguard bench restoration --cache CACHE`. Each row: share of pictures that the model has
right, clean ones (of all) and attacked ones (of those it had right). A purifier is worth shipping when it keeps as
much of the clean accuracy as a chain and gives back more under attack.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgeguard.restore.draw import Draw
from edgeguard.restore.image_chain import STANDARD_CHAINS
from edgeguard.sim.restoration.attacked import RECIPES, attacked_set
from edgeguard.sim.restoration.members import Member, open_member
from edgeguard.sim.restoration.pictures import read_pictures

Pixels = NDArray[np.uint8]
SETS = ("fgsm-2", "fgsm-4", "pgd-2", "pgd-4")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("purifier", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--attacked", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    given = parser.parse_args()
    session = onnxruntime.InferenceSession(given.purifier, providers=["CPUExecutionProvider"])

    def purify(pixels: Pixels) -> Pixels:
        levels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
        (clean,) = session.run(None, {"levels": levels})
        return np.rint(clean[0].transpose(1, 2, 0)).astype(np.uint8)

    ways: dict[str, Callable[[Pixels], Pixels]] = {"untouched": lambda pixels: pixels, "purifier": purify}
    for chain in STANDARD_CHAINS:
        ways[chain.name] = lambda pixels, chain=chain: chain.apply(pixels, Draw(0))
    member: Member = open_member(given.model)
    pictures = read_pictures(given.images, given.labels, member.victim.spec.size_px[0])
    right = [k for k, frame in enumerate(pictures.frames) if int(member.classify(frame).argmax()) == pictures.labels[k]]
    chosen = right[: given.count]
    sets = {name: attacked_set(RECIPES[name], pictures.only(chosen), [member], cache=given.attacked, seed=0)
            for name in SETS}  # fmt: skip
    print(f"{len(pictures.names)} pictures, {len(chosen)} attacked; {given.model.name}")
    print(f"{'way':16s} {'clean':>6s} " + " ".join(f"{name:>7s}" for name in SETS) + "   ms")
    for name, way in ways.items():
        start = time.perf_counter()
        clean = np.mean(
            [int(member.classify(way(f)).argmax()) == t for f, t in zip(pictures.frames, pictures.labels, strict=True)]
        )
        spent_ms = (time.perf_counter() - start) / len(pictures.names) * 1e3
        under = [np.mean([int(member.classify(way(f)).argmax()) == pictures.labels[row]
                          for f, row in zip(sets[one], chosen, strict=True)]) for one in SETS]  # fmt: skip
        print(f"{name:16s} {clean:6.3f} " + " ".join(f"{value:7.3f}" for value in under) + f"  {spent_ms:5.1f}")


if __name__ == "__main__":
    main()
