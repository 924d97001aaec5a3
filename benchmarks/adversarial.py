"""Strength of our attacks on a real classifier beside the adversarial-robustness-toolbox, at equal budgets.

    python -m benchmarks adversarial DATA [--images 16]

DATA holds `vision/` with mobilenet_v2.onnx, photos/ and labels.csv. Needs torch and onnx (extra `eval`); ART's rows are
left out where it is not installed. Every image is judged by onnxruntime after rounding to 8 bits.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.sim.attacks.gradient import WhiteBox
from edgeguard.sim.attacks.onnx_torch import TorchGraph, load_torch
from edgeguard.sim.attacks.perturb import attack_images, judge_images
from edgeguard.sim.attacks.victims import Victim, open_victim
from edgeguard.sim.detection.metrics import wilson

SIDE, SHORT_SIDE, CLASSES = 224, 256, 1001
SHUFFLE_SEED = 11
QUERIES = 200
Pixels = NDArray[np.uint8]


def right_images(folder: Path, victim: Victim, count: int) -> tuple[Pixels, NDArray[np.intp]]:
    """Return images, in a shuffled order, that the model gets right, with their labels."""
    rows = list(csv.DictReader((folder / "labels.csv").open(encoding="utf-8")))
    images, labels = [], []
    for index in np.random.default_rng(SHUFFLE_SEED).permutation(len(rows)):
        photo = cv2.imread(str(folder / "photos" / rows[index]["file"]))
        height, width = photo.shape[:2]
        scale = SHORT_SIDE / min(height, width)
        size = max(SHORT_SIDE, round(width * scale)), max(SHORT_SIDE, round(height * scale))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        top, left = (photo.shape[0] - SIDE) // 2, (photo.shape[1] - SIDE) // 2
        image, label = photo[top : top + SIDE, left : left + SIDE], int(rows[index]["imagenet_class"]) + 1
        if judge_images(image[None], np.array([label]), [victim])[0] > 0:
            images.append(image)
            labels.append(label)
        if len(images) == count:
            break
    return np.stack(images), np.array(labels, dtype=np.intp)


def main(arguments: list[str] | None = None) -> None:
    """Print what is left of the accuracy per attack, ours and the peer's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks adversarial")
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=16)
    given = parser.parse_args(arguments)
    load_torch().set_num_threads(1)
    spec = InputSpec("image", "NCHW", (SIDE, SIDE), "RGB", 1 / 255, (0.0,) * 3, (1.0,) * 3, "stretch")
    folder = given.data / "vision"
    victim = open_victim(folder / "mobilenet_v2.onnx", ModelIo(spec, DecoderSpec("raw")))
    images, labels = right_images(folder, victim, given.images)

    def row(name: str, attack: Callable[[], Pixels]) -> None:
        started = time.perf_counter()
        made = attack()
        spent_s = (time.perf_counter() - started) / len(images)
        left = int((judge_images(made, labels, [victim]) > 0).sum())
        low, high = wilson(left, len(images))
        far = int(np.abs(made.astype(int) - images.astype(int)).max())
        print(
            f"{name:34s} {left:3d} of {len(images)} still right ({low:.2f} to {high:.2f})  "
            f"largest change {far:3d}  {spent_s:6.2f} s an image",
            flush=True,
        )

    def ours(**how: Any) -> Callable[[], Pixels]:
        return lambda: attack_images(images, labels, victim, **how).images

    peer = importlib.util.find_spec("art") is not None
    row("FGSM, eps 4", ours(method="fgsm", how=WhiteBox(4)))
    for eps in (1, 4):
        row(f"PGD-10, eps {eps}", ours(how=WhiteBox(eps)))
        if peer:
            row(f"PGD-10, eps {eps} (ART)", art("pgd", victim, images, labels, eps))
    row("PGD-10, eps 4, luma alone", ours(how=WhiteBox(4, luma_only=True)))
    row(f"Square, eps 4, {QUERIES} queries", ours(method="square", how=WhiteBox(4), queries=QUERIES))
    if peer:
        row(f"Square, eps 4, {QUERIES} queries (ART)", art("square", victim, images, labels, 4))


def art(method: str, victim: Victim, images: Pixels, labels: NDArray[np.intp], eps: int) -> Callable[[], Pixels]:
    """Return ART's attack through the same torch graph."""
    from art.attacks.evasion import ProjectedGradientDescent, SquareAttack  # type: ignore[import-not-found]
    from art.estimators.classification import PyTorchClassifier  # type: ignore[import-not-found]

    torch = load_torch()

    class Model(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.graph = TorchGraph(victim.content)
            self.unused = torch.nn.Parameter(torch.zeros(1))  # ART asks the parameters where they live

        def forward(self, x: Any) -> Any:
            return self.graph(x)[0]

    classifier = PyTorchClassifier(
        Model(), torch.nn.CrossEntropyLoss(), (3, SIDE, SIDE), CLASSES, clip_values=(0, 1), optimizer=None
    )
    if method == "pgd":
        step = 2.5 * eps / 255 / 10
        attack = ProjectedGradientDescent(
            classifier, norm=np.inf, eps=eps / 255, eps_step=step, max_iter=10, num_random_init=1, batch_size=1,
            verbose=False,
        )  # fmt: skip
    else:
        attack = SquareAttack(classifier, norm=np.inf, max_iter=QUERIES, eps=eps / 255, nb_restarts=1, verbose=False)

    def run() -> Pixels:
        x = images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255.0)
        made = attack.generate(x, labels).transpose(0, 2, 3, 1)[..., ::-1]
        return np.rint(made * 255).clip(0, 255).astype(np.uint8)

    return run
