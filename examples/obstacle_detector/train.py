"""Train the obstacle detector that ships with the simulator: `python examples/obstacle_detector/train.py`.

Needs the extra `eval` (torch, onnx) and about a quarter of an hour on one core. Writes
obstacle_detector.{onnx,toml,json} to edgeguard/sim/models; every number in docs/example-model.md comes from the .json.
Everything is seeded: on one machine with one version of each library the run repeats itself.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
from pathlib import Path
from time import perf_counter

import cv2
import msgspec
import numpy as np
import onnxruntime
import torch
from evaluate import FRAMES_PER_TEST_SEED, MODELS, TEST_SEEDS, metrics, tally
from frames import MIN_HEIGHT_PX, MIN_VISIBLE_SHARE, MIN_WIDTH_PX, Frame, simulated_frames
from loss import Targets, loss, targets
from network import STRIDE_PX, ObstacleNet
from numpy.typing import NDArray

from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.infer.adapter import ImageModel
from edgeguard.sim.actors import LABELS

TRAIN_SEEDS, FRAMES_PER_SEED = range(510_000, 510_300), 8
VALIDATION_SEEDS = range(920_000, 920_020)  # the score threshold is chosen on these
SEED = 7
EPOCHS, BATCH = 16, 16
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-3
WARM_UP_STEPS = 150
THREADS = 1  # more gain little on a network this small, and waiting threads cost a shared machine dearly
OPSET = 17
WIDTH, HEIGHT = 320, 192
INPUT = InputSpec(
    name="image",
    layout="NCHW",
    size_px=(WIDTH, HEIGHT),
    color="BGR",
    scale=1.0 / 255.0,
    mean=(0.45, 0.45, 0.45),
    std=(0.25, 0.25, 0.25),
    resize="stretch",
)
IOU_THRESHOLD = 0.5

Sample = tuple[NDArray[np.uint8], Frame]


def model_io(score_threshold: float) -> ModelIo:
    """Return the description that ships beside the model."""
    return ModelIo(INPUT, DecoderSpec("grid-detector/v1", LABELS, STRIDE_PX, score_threshold, IOU_THRESHOLD))


def small(frame: Frame) -> Sample:
    """Shrink a frame once, as the adapter would."""
    return cv2.resize(frame.image.pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), frame


def augmented(sample: Sample, rng: np.random.Generator) -> tuple[NDArray[np.float32], Targets]:
    """Return one input and its targets: mirrored half the time; gain, colour, contrast, blur and noise vary.

    The photometric range is that of a camera whose exposure and lens are not perfect, not of any attack.
    """
    pixels, frame = sample
    height, width = frame.image.pixels.shape[:2]
    boxes = frame.boxes_xyxy * np.array([WIDTH / width, HEIGHT / height] * 2)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes = np.stack([WIDTH - boxes[:, 2], boxes[:, 1], WIDTH - boxes[:, 0], boxes[:, 3]], axis=1)
    if rng.random() < 0.25:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.3, 0.9)))
    x = pixels.astype(np.float32) / 255.0
    x = (x - 0.5) * rng.uniform(0.75, 1.25) + 0.5
    x = x * rng.uniform(0.7, 1.3) * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    x += rng.normal(0.0, rng.uniform(0.0, 0.02), x.shape)
    x = (np.clip(x, 0.0, 1.0) - np.array(INPUT.mean)) / np.array(INPUT.std)
    grid = targets(boxes, frame.labels, frame.counts, HEIGHT // STRIDE_PX, WIDTH // STRIDE_PX)
    return np.ascontiguousarray(x.transpose(2, 0, 1), dtype=np.float32), grid


def fit(samples: list[Sample], epochs: int) -> ObstacleNet:
    """Train with AdamW on a cosine schedule."""
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    network = ObstacleNet(len(LABELS)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(samples) // BATCH)
    done, started = 0, perf_counter()
    for epoch in range(epochs):
        order, total = rng.permutation(len(samples)), 0.0
        for first in range(0, len(samples) - BATCH + 1, BATCH):
            for group in optimizer.param_groups:
                rise = min(1.0, (done + 1) / WARM_UP_STEPS)
                group["lr"] = LEARNING_RATE * rise * 0.5 * (1 + np.cos(np.pi * done / steps))
            images, grids = zip(*(augmented(samples[i], rng) for i in order[first : first + BATCH]), strict=True)
            batch = torch.from_numpy(np.stack(images)).to(memory_format=torch.channels_last)
            value = loss(network(batch), list(grids))
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            done, total = done + 1, total + float(value.detach())
        print(
            f"epoch {epoch + 1}/{epochs} loss {total * BATCH / len(samples):.3f} {perf_counter() - started:.0f} s",
            flush=True,
        )
    return network.eval()


def export(network: ObstacleNet, path: Path) -> None:
    """Write the network as ONNX; batch normalization folds into the convolutions."""
    torch.onnx.export(
        network.to(memory_format=torch.contiguous_format),
        (torch.zeros(1, 3, HEIGHT, WIDTH),),
        str(path),
        input_names=["image"],
        output_names=["grid"],
        opset_version=OPSET,
        dynamo=False,
    )


def choose_threshold(path: Path) -> float:
    """Return the score threshold with the best F1 on the validation seeds."""
    frames = list(simulated_frames(VALIDATION_SEEDS, FRAMES_PER_TEST_SEED))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def f1(threshold: float) -> float:
        counted = tally(ImageModel(session, model_io(threshold)).detect, frames)
        recall, precision = counted.recall(), counted.precision()
        print(f"threshold {threshold:.2f}: recall {recall:.3f}, precision {precision:.3f}", flush=True)
        return 2 * recall * precision / max(recall + precision, 1e-9)

    return float(max((round(0.30 + 0.05 * k, 2) for k in range(8)), key=f1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=MODELS)
    parser.add_argument("--worlds", type=int, default=len(TRAIN_SEEDS), help="fewer, for a trial")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    started = perf_counter()
    seeds = TRAIN_SEEDS[: arguments.worlds]
    samples = [small(frame) for frame in simulated_frames(seeds, FRAMES_PER_SEED)]
    print(f"{len(samples)} frames in {perf_counter() - started:.0f} s", flush=True)
    network = fit(samples, arguments.epochs)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "obstacle_detector.onnx"
    export(network, path)
    trained_s = perf_counter() - started
    io = model_io(choose_threshold(path))
    (arguments.output / "obstacle_detector.toml").write_text(as_toml(io))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    measured = metrics(tally(ImageModel(session, io).detect, simulated_frames(TEST_SEEDS, FRAMES_PER_TEST_SEED)))
    record = {
        "command": "python examples/obstacle_detector/train.py",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "training": {
            "world_seeds": [seeds[0], seeds[-1]],
            "frames": len(samples),
            "seed": SEED,
            "epochs": arguments.epochs,
            "batch": BATCH,
            "optimizer": "AdamW",
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "threads": THREADS,
            "seconds": round(trained_s),
        },
        "what_counts": {
            "visible_share": MIN_VISIBLE_SHARE,
            "width_px": MIN_WIDTH_PX,
            "height_px": MIN_HEIGHT_PX,
            "iou": 0.5,
        },
        "score_threshold": io.decoder.score_threshold,
        "validation_world_seeds": [VALIDATION_SEEDS[0], VALIDATION_SEEDS[-1]],
        "test": {
            "world_seeds": [TEST_SEEDS[0], TEST_SEEDS[-1]],
            "frames": len(TEST_SEEDS) * FRAMES_PER_TEST_SEED,
            **measured,
        },
        "simulator_frame_sha256": simulator_fingerprint(),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    (arguments.output / "obstacle_detector.json").write_bytes(text + b"\n")
    print(text.decode())


def as_toml(io: ModelIo) -> str:
    """Write a `ModelIo`; JSON's scalars and arrays are TOML's."""
    lines = ["# How frames go into obstacle_detector.onnx and detections come out; written by train.py.\n"]
    for table, values in msgspec.to_builtins(io).items():
        lines.append(f"[{table}]\n")
        lines += [f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in values.items()]
        lines.append("\n")
    return "".join(lines).rstrip() + "\n"


def simulator_fingerprint() -> str:
    """Return the digest of one frame: tells whether the simulator still draws as it did at training."""
    frame = next(iter(simulated_frames([TRAIN_SEEDS[0]], 1)))
    return hashlib.sha256(frame.image.pixels.tobytes()).hexdigest()


if __name__ == "__main__":
    main()
