"""Restoration of camera frames against the peers' operations, results compared before times.

    python -m benchmarks restoration [--size vga|hd]

Peers are adversarial-robustness-toolbox 1.20 (ART), scikit-image, SciPy and NumPy, as far as they are installed
(`pip install "edgeguard[peers]"`). Each row runs both in turns and takes the best; ratios travel between machines,
milliseconds do not.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import best_s, paired_s, yardstick_s
from edgeguard.bundle.manifest import InputSpec
from edgeguard.detect.answers import ClassAnswers
from edgeguard.detect.calibration import fit_inputs
from edgeguard.detect.chroma import chroma_features
from edgeguard.detect.gate import InputGate
from edgeguard.detect.patch import entropy_map
from edgeguard.infer.preprocess import image_tensor
from edgeguard.kernels._reference_images import entropy_windows as numpy_entropy
from edgeguard.kernels.image_noise import entropy_weights, entropy_windows, second_differences
from edgeguard.kernels.image_tensor import encode_levels, fill_planes, thermometer_table
from edgeguard.restore.diagnose import diagnose
from edgeguard.restore.draw import Draw
from edgeguard.restore.image_chain import ChainChoice
from edgeguard.restore.image_steps import BitDepth, ImageStep, Jpeg, Median, TotalVariation

SIZES = {"vga": (640, 480), "hd": (1920, 1080)}
Pixels = NDArray[np.uint8]


def scene(width: int, height: int) -> Pixels:
    """A frame with texture, edges and sensor noise."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
    frame = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.rectangle(frame, (width // 4, height // 4), (width // 2, height // 2), (30, 200, 90), -1)
    return np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8)


def row(
    name: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    *,
    goal: float,
    rounds: int = 3,
    differ: float | None = None,
    as_ours: Callable[[Any], Any] = lambda result: result,
) -> None:
    """Compare the results, then the times, and print one line. differ: the largest mean difference that is equal."""
    far = float(np.abs(np.asarray(ours(), np.float64) - np.asarray(as_ours(peer()), np.float64)).mean())
    if differ is not None and far > differ:
        raise SystemExit(f"{name}: results differ by {far:.3f} on average: times mean nothing")
    mine, theirs = paired_s(ours, peer, rounds)
    state = "met" if theirs / mine >= goal else "MISSED"
    print(
        f"{name:34s} {mine * 1e3:9.2f} ms {theirs * 1e3:10.2f} ms {theirs / mine:9.1f}x  goal {goal:6.0f}x {state:6s}"
        f"  mean difference {far:.4f}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the table for one size, or for both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks restoration")
    parser.add_argument("--size", choices=sorted(SIZES))
    wanted = parser.parse_args(arguments).size
    print(f"SHA-256 of 64 MiB, one thread: {yardstick_s() * 1e3:.0f} ms")
    for name in [wanted] if wanted else ["vga", "hd"]:
        width, height = SIZES[name]
        print(f"\n{width} x {height}                           ours            peer     ratio")
        frame = scene(width, height)
        if name == "vga":
            whole_stages(frame)
        against_numpy(frame)
        if importlib.util.find_spec("art"):
            against_art(frame, everything=name == "vga")
        else:
            print("adversarial-robustness-toolbox is not installed: its rows are left out")
        if importlib.util.find_spec("skimage"):
            against_skimage(frame)


def whole_stages(frame: Pixels) -> None:
    """What a frame costs before any model runs: absolute goals, beside the yardstick above."""
    spec = InputSpec("x", "NCHW", (224, 224), "RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "letterbox")
    answer = np.random.default_rng(1).dirichlet(np.full(1000, 0.1))
    frames = [np.roll(frame, 8 * shift, axis=1) for shift in range(40)]
    # Members that cost nothing: what is left is the gate.
    members = [("a", lambda pixels: answer), ("b", lambda pixels: answer)]
    choice = ChainChoice()
    gate = InputGate(
        members,
        fit_inputs(frames, members, choice.squeeze, kind=ClassAnswers(), chains=choice.digest),
        kind=ClassAnswers(),
        restore=lambda pixels, key: (pixels, ""),
        squeeze=choice.squeeze,
        fresh_key=lambda: 0,
        chains=choice.digest,
    )
    quiet = next(other for other in frames if not gate.judge(other).alarm)

    def left() -> None:
        chroma_features(frame)
        image_tensor(frame, spec)
        entropy_map(frame)

    with ThreadPoolExecutor(1) as other:

        def together() -> None:
            waiting = other.submit(diagnose, frame)
            left()
            waiting.result()

        rows = [
            ("diagnose", lambda: diagnose(frame), None),
            ("chroma features", lambda: chroma_features(frame), None),
            ("entropy map", lambda: entropy_map(frame), None),
            ("tensor of 224 x 224", lambda: image_tensor(frame, spec), None),
            ("all four, two threads", together, 4.0),
            ("gate, no alarm, models excluded", lambda: gate.judge(quiet), 6.0),
        ]
        for name, call, goal_ms in rows:
            spent_ms = best_s(call, 20) * 1e3
            verdict = "" if goal_ms is None else f"goal {goal_ms:g} ms {'met' if spent_ms <= goal_ms else 'MISSED'}"
            print(f"{name:34s} {spent_ms:9.2f} ms  {verdict}")


def against_numpy(frame: Pixels) -> None:
    """The tensor, the noise and the entropy map, which ART has not."""
    gain = np.array([0.017, 0.0175, 0.0174], np.float32)
    bias = np.array([-2.1, -2.0, -1.8], np.float32)
    height, width = frame.shape[:2]
    out = np.empty((3, height, width), np.float32)

    def tensor() -> NDArray[np.float32]:
        fill_planes(frame, 0, 0, gain, bias, bias, True, out)
        return out

    def numpy_tensor() -> NDArray[np.float32]:
        return np.ascontiguousarray((frame[:, :, ::-1].astype(np.float32) * gain + bias).transpose(2, 0, 1))

    row("tensor, RGB planes (NumPy)", tensor, numpy_tensor, goal=5, differ=0.0)
    scratch = np.empty(width * 3, np.float32), np.empty(width * 3, np.float32)
    blocks = np.empty((height // 16, width // 16, 3), np.float32)
    ycrcb = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2YCrCb))

    def noise() -> float:
        second_differences(ycrcb, 16, *scratch, blocks)
        return float(blocks.mean())

    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    row(
        "second differences (OpenCV)",
        noise,
        lambda: float(np.abs(cv2.filter2D(ycrcb, cv2.CV_32F, kernel)).mean()),
        goal=2,
        differ=0.5,
    )
    grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
    cells = np.empty((height // 8, width // 8, 32), np.uint16)
    weights, entropy = entropy_weights(), np.empty((height // 8 - 2, width // 8 - 2), np.float32)

    def entropy_map() -> NDArray[np.float32]:
        entropy_windows(grey, cells, weights, entropy)
        return entropy

    row("entropy map (NumPy)", entropy_map, lambda: numpy_entropy(grey), goal=10, differ=1e-4, rounds=1)


def against_art(frame: Pixels, *, everything: bool) -> None:
    """Every preprocessor of ART that has a counterpart here; floats in 0..1 as it wants them."""
    from art.defences.preprocessor import (  # type: ignore[import-not-found]
        FeatureSqueezing,
        JpegCompression,
        SpatialSmoothing,
        ThermometerEncoding,
        TotalVarMin,
    )

    # RGB, because JPEG treats the colours differently; the operations on each channel alone do not care.
    batch = np.ascontiguousarray(frame[None, :, :, ::-1]).astype(np.float32) / np.float32(255.0)

    def levels(result: Any) -> NDArray[np.float64]:
        return np.asarray(result[0][0][:, :, ::-1], np.float64) * 255.0

    def pair(name: str, step: ImageStep, defence: Any, goal: float, differ: float | None, rounds: int = 3) -> None:
        row(
            name,
            lambda: step.apply(frame, Draw(0)),
            lambda: defence(batch),
            goal=goal,
            rounds=rounds,
            differ=differ,
            as_ours=levels,
        )

    pair("bit depth 5 (ART)", BitDepth(bits=5), FeatureSqueezing(clip_values=(0, 1), bit_depth=5), 10, 0.5)
    for size in (2, 3, 5):
        pair(f"median {size} (ART)", Median(size_px=size), SpatialSmoothing(window_size=size), 10, 0.2)
    pair("JPEG 75 (ART)", Jpeg(quality=75), JpegCompression((0, 1), quality=75), 2, 1.5)
    if not everything:
        return
    variation = TotalVarMin(norm=2, max_iter=10, clip_values=(0, 1))
    pair("total variation (ART TotalVarMin)", TotalVariation(weight=0.06), variation, 100, None, rounds=1)
    table, out = thermometer_table(10), np.empty((*frame.shape, 10), np.float32)

    def thermometer() -> NDArray[np.float32]:
        encode_levels(frame, table, out)
        return out

    coder = ThermometerEncoding((0, 1), num_space=10)
    row(
        "thermometer, 10 levels (ART)",
        thermometer,
        lambda: coder(batch),
        goal=1000,
        rounds=1,
        differ=0.0,
        as_ours=lambda result: np.asarray(result[0]).reshape(out.shape)[:, :, ::-1],
    )


def against_skimage(frame: Pixels) -> None:
    """Chambolle's iteration in scikit-image, as many iterations, float64."""
    from skimage.restoration import denoise_tv_chambolle  # type: ignore[import-not-found]

    scaled = frame.astype(np.float64) / 255.0
    row(
        "total variation (scikit-image)",
        lambda: TotalVariation(weight=0.06, iterations=20).apply(frame, Draw(0)),
        lambda: denoise_tv_chambolle(scaled, weight=0.06, eps=0.0, max_num_iter=20, channel_axis=-1),
        goal=20,
        rounds=1,
        differ=1.0,
        as_ours=lambda result: result * 255.0,
    )


if __name__ == "__main__":
    main()
