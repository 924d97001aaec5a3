"""Targets on the grid and the loss against them.

Objectness is a heat map with a Gaussian at each counting object (penalty-reduced focal loss, CenterNet 2019); boxes and
labels are learned at the cells around each centre (GIoU 2019 plus L1 on the four numbers, cross-entropy).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from network import STRIDE_PX
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_NEIGHBOURS = [(dj, di) for dj in (-1, 0, 1) for di in (-1, 0, 1)]


@dataclass(slots=True)
class Targets:
    """Per cell of one frame: heat (rows, columns); weight, likewise, 0 where nothing is demanded; for the box cells
    their flat index, (tx, ty, tw, th), label and weight."""

    heat: NDArray[np.float32]
    weight: NDArray[np.float32]
    cells: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    shares: NDArray[np.float32]


def targets(
    boxes_xyxy: NDArray[np.float64], labels: NDArray[np.intp], counts: NDArray[np.bool_], rows: int, columns: int
) -> Targets:
    """Lay objects, given in input pixels and farthest first, on the grid."""
    heat, weight = np.zeros((rows, columns), np.float32), np.ones((rows, columns), np.float32)
    grid_y, grid_x = np.mgrid[0:rows, 0:columns] + 0.5
    owner: dict[int, tuple[NDArray[np.float64], int, float]] = {}
    for box, label, counted in zip(boxes_xyxy / STRIDE_PX, labels, counts, strict=True):
        (x, y), (w, h) = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 0.25)
        if not counted:
            inside = (np.abs(grid_x - x) <= w / 2 + 0.5) & (np.abs(grid_y - y) <= h / 2 + 0.5)
            weight[inside] = 0.0
            continue
        sx, sy = max(w / 6, 0.45), max(h / 6, 0.45)
        blob = np.exp(-((grid_x - x) ** 2) / (2 * sx**2) - (grid_y - y) ** 2 / (2 * sy**2)).astype(np.float32)
        np.maximum(heat, blob, out=heat)
        row, column = min(int(y), rows - 1), min(int(x), columns - 1)
        heat[row, column] = 1.0
        for dj, di in _NEIGHBOURS:
            j, i = row + dj, column + di
            if 0 <= j < rows and 0 <= i < columns and (blob[j, i] > 0.3 or (dj, di) == (0, 0)):
                values = np.array([x - i - 0.5, y - j - 0.5, np.log(w), np.log(h)])
                owner[j * columns + i] = (values, int(label), 1.0 if (dj, di) == (0, 0) else 0.5 * float(blob[j, i]))
    weight[heat > 0.3] = 1.0  # what counts lies in front of, or beside, what does not
    return Targets(
        heat,
        weight,
        np.array(list(owner), np.int64),
        np.array([v for v, _, _ in owner.values()], np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in owner.values()], np.int64),
        np.array([share for _, _, share in owner.values()], np.float32),
    )


def loss(output: Tensor, batch: list[Targets]) -> Tensor:
    """Return the loss of a batch, normalised by its number of objects."""
    heat = torch.from_numpy(np.stack([t.heat for t in batch]))
    weight = torch.from_numpy(np.stack([t.weight for t in batch]))
    objects = max(float((heat == 1.0).sum()), 1.0)
    logit = output[:, 0]
    p = torch.sigmoid(logit)
    found = (heat == 1.0) * (1 - p) ** 2 * functional.softplus(-logit)
    quiet = (heat < 1.0) * (1 - heat) ** 4 * p**2 * functional.softplus(logit)
    heat_loss = ((found + quiet) * weight).sum() / objects
    rows = torch.cat([torch.full((len(t.cells),), k) for k, t in enumerate(batch)])
    cells = torch.from_numpy(np.concatenate([t.cells for t in batch]))
    at = output.flatten(2)[rows, :, cells]
    wanted = torch.from_numpy(np.concatenate([t.boxes for t in batch]))
    share = torch.from_numpy(np.concatenate([t.shares for t in batch]))
    labels = torch.from_numpy(np.concatenate([t.labels for t in batch]))
    total = share.sum().clamp(min=1.0)
    box_loss = ((1 - _giou(at[:, 1:5], wanted)) * share).sum() / total
    number_loss = (
        functional.smooth_l1_loss(at[:, 1:5], wanted, reduction="none", beta=0.2).sum(1) * share
    ).sum() / total
    label_loss = (functional.cross_entropy(at[:, 5:], labels, reduction="none") * share).sum() / total
    return heat_loss + 2.0 * box_loss + 0.5 * number_loss + 0.5 * label_loss


def _giou(predicted: Tensor, wanted: Tensor) -> Tensor:
    def corners(b: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.exp(b[:, 2:].clamp(-4.0, 5.0)) / 2
        return b[:, :2] - half, b[:, :2] + half

    (low_a, high_a), (low_b, high_b) = corners(predicted), corners(wanted)
    common = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(1)
    union = (high_a - low_a).prod(1) + (high_b - low_b).prod(1) - common
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(1)
    return common / union - (hull - union) / hull
