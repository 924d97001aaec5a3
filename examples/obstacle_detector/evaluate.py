"""Precision and recall of a detector on simulated frames: `python examples/obstacle_detector/evaluate.py`.

Detections, best first, each take the best free object of their label at IoU >= 0.5 that counts. One that instead
overlaps an object of its label which does not count (too small, too hidden) is not held against the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeguard.infer.grid_detector import iou
from edgeguard.sim.actors import LABELS
from edgeguard.types import Detection, Image

IOU_MATCH = 0.5
HEIGHT_BINS_PX = ((16, 24), (24, 48), (48, 385))
MODELS = Path(__file__).parents[2] / "edgeguard" / "sim" / "models"
TEST_SEEDS = range(930_000, 930_060)  # never used for training or for choosing anything
FRAMES_PER_TEST_SEED = 5


@dataclass(slots=True)
class Tally:
    """Counts per label: objects that count, those found, detections that match nothing.

    Beside them all matched IoUs, and for each object its height in pixels and whether it was found.
    """

    objects: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 0))
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 0))
    false: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 0))
    ious: list[float] = field(default_factory=list)
    heights: list[tuple[float, bool]] = field(default_factory=list)

    def recall(self, labels: Sequence[str] = LABELS) -> float:
        return sum(self.found[n] for n in labels) / max(sum(self.objects[n] for n in labels), 1)

    def precision(self, labels: Sequence[str] = LABELS) -> float:
        found = sum(self.found[n] for n in labels)
        return found / max(found + sum(self.false[n] for n in labels), 1)

    def add(self, detections: Iterable[Detection], frame) -> None:
        for label in frame.labels[frame.counts]:
            self.objects[LABELS[label]] += 1
        free = frame.counts.copy()
        for detection in sorted(detections, key=lambda d: -d.score):
            overlap = iou(np.array(detection.box_xyxy), frame.boxes_xyxy)
            overlap[frame.labels != LABELS.index(detection.label)] = 0.0
            best = int(np.argmax(np.where(free, overlap, -1.0))) if free.any() else -1
            if best >= 0 and overlap[best] >= IOU_MATCH:
                free[best] = False
                self.found[detection.label] += 1
                self.ious.append(float(overlap[best]))
            elif not (overlap[~frame.counts] >= 0.3).any():
                self.false[detection.label] += 1
        tall = frame.boxes_xyxy[:, 3] - frame.boxes_xyxy[:, 1]
        self.heights += [(float(tall[k]), not free[k]) for k in np.flatnonzero(frame.counts)]


def tally(detect: Callable[[Image], Sequence[Detection]], frames: Iterable) -> Tally:
    """Run `detect` on every frame and count."""
    total = Tally()
    for frame in frames:
        total.add(detect(frame.image), frame)
    return total


def metrics(total: Tally) -> dict[str, object]:
    """Return a tally as the record keeps it."""
    return {
        "recall": round(total.recall(), 4),
        "precision": round(total.precision(), 4),
        "mean_iou_of_matches": round(float(np.mean(total.ious)) if total.ious else 0.0, 4),
        "objects": sum(total.objects.values()),
        "recall_by_height_px": {
            f"{low}-{high}": round(float(np.mean([hit for tall, hit in total.heights if low <= tall < high])), 4)
            for low, high in HEIGHT_BINS_PX
        },
        "per_label": {
            n: {
                "objects": total.objects[n],
                "recall": round(total.recall([n]), 4),
                "precision": round(total.precision([n]), 4),
            }
            for n in LABELS
        },
    }


def main() -> None:
    import msgspec
    import onnxruntime
    from frames import simulated_frames

    from edgeguard.bundle.manifest import ModelIo
    from edgeguard.infer.adapter import ImageModel

    io = msgspec.toml.decode((MODELS / "obstacle_detector.toml").read_bytes(), type=ModelIo)
    session = onnxruntime.InferenceSession(MODELS / "obstacle_detector.onnx", providers=["CPUExecutionProvider"])
    frames = simulated_frames(TEST_SEEDS, FRAMES_PER_TEST_SEED)
    print(msgspec.json.format(msgspec.json.encode(metrics(tally(ImageModel(session, io).detect, frames)))).decode())


if __name__ == "__main__":
    main()
