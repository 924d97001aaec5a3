"""Pictures with their classes, as the first model gets to see them."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ConfigError
from edgeguard.infer.preprocess import CROP_SHARE

MAX_PICTURES: Final = 10_000
MAX_CSV_BYTES: Final = 16 * 1024 * 1024
LABEL_COLUMNS: Final = ("label", "class", "imagenet_class", "class_id")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """names: of the files. frames: (N, S, S, 3) uint8 BGR. labels: (N,) class numbers as the CSV has them."""

    names: tuple[str, ...]
    frames: Pixels
    labels: NDArray[np.intp]

    @property
    def digest(self) -> str:
        """SHA-256 over the frames and labels, hex: attacked sets belong to it."""
        state = hashlib.sha256(np.ascontiguousarray(self.frames).data)
        state.update(np.ascontiguousarray(self.labels, dtype=np.int64).data)
        return state.hexdigest()

    def only(self, rows: Sequence[int] | NDArray[np.intp]) -> Pictures:
        """Return some of them, in the order of `rows`."""
        return Pictures(tuple(self.names[int(row)] for row in rows), self.frames[rows], self.labels[rows])


def read_pictures(folder: Path, labels: Path, size_px: int, *, limit: int | None = None, seed: int = 0) -> Pictures:
    """Read pictures, cover 1/0.875 of a square of `size_px` and keep its centre; order drawn from `seed`.

    labels: a CSV file with a header; the column `file` and one of label, class, imagenet_class, class_id.

    Raises:
        ConfigError: EG-C143: the CSV cannot be used, names files that are not there, or no picture can be read.
    """
    rows = _rows(labels)
    order = np.random.default_rng(seed).permutation(len(rows))[: limit or len(rows)]
    names, frames, classes = [], [], []
    for row in order:
        name, label = rows[int(row)]
        pixels = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ConfigError(
                f"{name} of the labels is no picture in {folder}", code="EG-C143", hint="check --images and --labels"
            )
        names.append(name)
        frames.append(_square(np.asarray(pixels, dtype=np.uint8), size_px))
        classes.append(label)
    return Pictures(tuple(names), np.stack(frames), np.asarray(classes, dtype=np.intp))


def _rows(path: Path) -> list[tuple[str, int]]:
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_CSV_BYTES} bytes", code="EG-C143")
        with path.open(newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            columns = table.fieldnames or []
            column = next((name for name in LABEL_COLUMNS if name in columns), None)
            if column is None or "file" not in columns:
                wanted = ", ".join(LABEL_COLUMNS)
                raise ConfigError(
                    f"{path} needs the column file and one of {wanted}",
                    code="EG-C143",
                    hint="write them into its first line",
                )
            rows = [(row["file"] or "", int(row[column] or "")) for row in table]
    except (OSError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as labels: {type(error).__name__}", code="EG-C143") from None
    # A name that leaves the folder would read any file of the user's as a picture.
    if (
        not rows
        or len(rows) > MAX_PICTURES
        or any(Path(name).is_absolute() or ".." in Path(name).parts for name, _ in rows)
    ):
        raise ConfigError(f"{path} names no pictures, too many, or ones outside of the folder", code="EG-C143")
    return rows


def _square(pixels: Pixels, size_px: int) -> Pixels:
    height, width = pixels.shape[:2]
    scale = size_px / CROP_SHARE / min(height, width)
    inner = max(size_px, round(width * scale)), max(size_px, round(height * scale))
    method = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    scaled = cv2.resize(pixels, inner, interpolation=method)
    left, top = (inner[0] - size_px) // 2, (inner[1] - size_px) // 2
    return np.ascontiguousarray(scaled[top : top + size_px, left : left + size_px], dtype=np.uint8)
