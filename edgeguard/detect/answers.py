"""The kinds of answers that the gate can compare and join: classes, and boxes.

What a kind knows: how far two answers to one frame differ, 0 to 1; one answer from several; and what an answer to a
mirrored frame says about the frame as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.disagreement import jensen_shannon
from edgeguard.detect.vote import median_log_odds
from edgeguard.types import Detection

T = TypeVar("T")
Boxes = tuple[Detection, ...]
SAME_OBJECT_IOU: Final = 0.4  # between views of one object: restoration and mirroring move edges by some pixels


class AnswerKind(Protocol[T]):
    """What the gate has to know of the answers of its models."""

    def differ(self, one: T, other: T) -> float:
        """Return how far two answers differ, 0 to 1; symmetric."""
        ...

    def merge(self, answers: Sequence[T], doubted: T, doubt: float) -> T:
        """Return one answer from several. doubted: the answer that there is evidence against, doubt: its logarithm."""
        ...

    def turned(self, answer: T, width_px: int) -> T:
        """Return what an answer to the mirrored frame says about the frame."""
        ...


class ClassAnswers:
    """Probabilities per class, (C,) float64."""

    def differ(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        """Return the Jensen-Shannon divergence, bits."""
        return jensen_shannon(one, other)

    def merge(
        self, answers: Sequence[NDArray[np.float64]], doubted: NDArray[np.float64], doubt: float
    ) -> NDArray[np.float64]:
        """Return the median of the log-odds, the doubted answer's class lowered."""
        return median_log_odds(answers, doubted=int(np.argmax(doubted)), doubt=doubt)

    def turned(self, answer: NDArray[np.float64], width_px: int) -> NDArray[np.float64]:  # noqa: ARG002
        """Return the same: a mirrored frame is of the same class."""
        return answer


class BoxAnswers:
    """Detections in frame pixels."""

    def differ(self, one: Boxes, other: Boxes) -> float:
        """Return 1 minus the agreement of two sets of boxes: the scores that match, as a share of all.

        A box counts as much as both are sure of it, and matches one of the same label that overlaps by 0.4.
        """
        total = sum(box.score for box in (*one, *other))
        if total <= 0.0:
            return 0.0
        left, shared = list(other), 0.0
        for box in sorted(one, key=lambda found: -found.score):
            overlaps = [_overlap(box, found) for found in left]
            if overlaps and max(overlaps) >= SAME_OBJECT_IOU:
                near = left.pop(overlaps.index(max(overlaps)))
                shared += min(box.score, near.score)
        return 1.0 - 2.0 * shared / total

    def merge(self, answers: Sequence[Boxes], doubted: Boxes, doubt: float) -> Boxes:  # noqa: ARG002
        """Return what more than half of the answers hold, best first: the median of scores and of edges.

        One that hides objects and one that invents them are outvoted alike, so nothing more is doubted.
        """
        found = sorted(((box, number) for number, boxes in enumerate(answers) for box in boxes), key=_by_score)
        groups: list[dict[int, Detection]] = []
        for box, number in found:
            fits = (g for g in groups if number not in g and _overlap(next(iter(g.values())), box) >= SAME_OBJECT_IOU)
            group = next(fits, None)
            if group is None:
                groups.append({number: box})
            else:
                group[number] = box
        kept = [_joined(list(group.values()), len(answers)) for group in groups if 2 * len(group) > len(answers)]
        return tuple(sorted(kept, key=lambda box: -box.score))

    def turned(self, answer: Boxes, width_px: int) -> Boxes:
        """Return the boxes with left and right exchanged."""
        edges = ((box, box.box_xyxy) for box in answer)
        return tuple(replace(box, box_xyxy=(width_px - e[2], e[1], width_px - e[0], e[3])) for box, e in edges)


def _by_score(found: tuple[Detection, int]) -> tuple[float, int]:
    return -found[0].score, found[1]


def _joined(boxes: Sequence[Detection], answers: int) -> Detection:
    """The median box; who does not see it counts as a score of zero."""
    scores = [box.score for box in boxes] + [0.0] * (answers - len(boxes))
    left, top, right, bottom = (float(v) for v in np.median([box.box_xyxy for box in boxes], axis=0))
    return Detection(boxes[0].label, float(np.median(scores)), (left, top, right, bottom))


def _overlap(one: Detection, other: Detection) -> float:
    """Intersection over union, 0 for another label."""
    if one.label != other.label:
        return 0.0
    a, b = one.box_xyxy, other.box_xyxy
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0.0 or height <= 0.0:
        return 0.0
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0.0 else 0.0
