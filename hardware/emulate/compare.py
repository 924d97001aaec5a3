"""Holds what two processors made of the same beginning against each other.

Both are right: trigonometry of two C libraries differs in the last bit, sums of two vector widths are taken in another
order, and a ray that passes an edge within that last bit hits what stands behind it. So verdicts, trust and refusals
have to be equal, and numbers within the limits below. docs/simulator.md has the measured ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Limits: what rounding explains, with room, and below what any check looks at. Of the 245760 pixels of a frame and the
# 64000 returns of a sweep hardly one lies within a last bit of an edge; a hundred in a million leaves room for others.
MODEL_OUTPUT = 1e-4  # of the largest value: float32 has 6e-8, and sums of a thousand terms are taken in another order
MODEL_BOX_PX = 0.01
MENDED_LEVELS = 1.0  # mean over the frame: filters round to the next level, and dehazing passes that on, enlarged
PIXEL_SHARE = 1e-4  # of a frame, at silhouettes
RAY_SHARE = 1e-4  # of a sweep, likewise
RANGE_M = 1e-4  # of all other beams; a float32 at 100 m has 8e-6
INTENSITY = 1e-4  # sensors give 8 bits of it
SERIAL = 1e-6  # relative; the wire rounds to its own last digit, and most often to the same one
EGO = 1e-3  # metres, radians, metres per second; a tenth of what the fusion claims to know
STATISTIC = 1e-3  # of the threshold


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: what was compared, how far apart it was, how far it may be."""

    what: str
    measured: float
    limit: float
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the difference is allowed; a NaN is not."""
        return bool(self.measured <= self.limit)

    def record(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return {
            "what": self.what,
            "measured": float(self.measured),
            "limit": self.limit,
            "met": self.met,
            "note": self.note,
        }


def compare(part: str, here: Path, there: Path) -> list[Row]:
    """Return the rows of one part; `here` and `there` are the folders in which both runs left their files."""
    return list(
        {"model": _model, "restoration": _restoration, "sensors": _sensors, "second": _decisions}[part](here, there)
    )


def _load(folder: Path, name: str) -> dict[str, NDArray[Any]]:
    with np.load(folder / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def _unequal(what: str, here: Any, there: Any, note: str = "") -> Row:
    return Row(what, float(here != there), 0.0, note or (f"{here}" if here == there else f"{here} and {there}"))


def _model(here: Path, there: Path) -> Iterator[Row]:
    a, b = (json.loads((folder / "model.json").read_text()) for folder in (here, there))
    yield _unequal("forgeries refused alike", a["refused"], b["refused"])
    opened = [name for name, code in b["refused"].items() if code == "opened"]
    yield Row("forgeries that opened", len(opened), 0.0, ", ".join(opened))
    yield _unequal("labels of the frame", a["labels"], b["labels"])
    x, y = _load(here, "model"), _load(there, "model")
    for name in sorted(x.keys() - {"boxes"}):
        scale = float(np.abs(x[name]).max())
        yield Row(f"model {name}, share of its largest value", _apart(x[name], y[name]) / scale, MODEL_OUTPUT)
    yield Row("boxes and scores of the frame (px, 1)", _apart(x["boxes"], y["boxes"]), MODEL_BOX_PX)


def _restoration(here: Path, there: Path) -> Iterator[Row]:
    x, y = _load(here, "restoration"), _load(there, "restoration")
    yield _unequal("ways to mend", sorted(x), sorted(y), f"{len(x)}")
    yield _unequal("returns left by the cloud's chain", len(x["points_left"]), len(y["points_left"]))
    for name in sorted(x.keys() - {"points_left"}):
        apart = np.abs(x[name].astype(int) - y[name].astype(int))
        note = f"{np.count_nonzero(apart) / apart.size:.2%} of values differ, at most {apart.max()}"
        yield Row(f"{name}: mean difference (levels)", float(apart.mean()), MENDED_LEVELS, note)


def _sensors(here: Path, there: Path) -> Iterator[Row]:
    x, y = _load(here, "sensors"), _load(there, "sensors")
    yield _unequal("samples", sorted(x), sorted(y), f"{len(x)} arrays")
    common = sorted(x.keys() & y.keys())
    yield from _cameras([(x[name], y[name]) for name in common if name.endswith("/pixels")])
    yield from _sweeps([(_by_beam(x, name), _by_beam(y, name)) for name in common if name.endswith("/xyz")])
    for sensor in ("imu", "gnss", "wheels"):
        pairs = [(x[name], y[name]) for name in common if name.startswith(f"{sensor}/")]
        worst = max((_relative(a, b) for a, b in pairs), default=math.nan)
        yield Row(f"{sensor}: largest relative difference", worst, SERIAL, f"{len(pairs)} samples")


def _cameras(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Iterator[Row]:
    apart = [np.abs(a.astype(int) - b.astype(int)).max(axis=2) for a, b in pairs]
    shares = [np.count_nonzero(d) / d.size for d in apart]
    largest = max((int(d.max()) for d in apart), default=0)
    note = f"{len(pairs)} frames, {sum(int(np.count_nonzero(d)) for d in apart)} pixels, at most {largest} levels"
    yield Row("camera: share of pixels that differ, worst frame", max(shares, default=math.nan), PIXEL_SHARE, note)


def _by_beam(arrays: dict[str, NDArray[Any]], name: str) -> dict[tuple[int, int], tuple[float, float]]:
    """Return (range in metres, intensity) by (ring, azimuth); 4096 columns hold the sweep's 1024 at even numbers."""
    xyz = arrays[name].astype(float)
    ring, intensity = arrays[name.replace("/xyz", "/ring")], arrays[name.replace("/xyz", "/intensity")]
    column = np.round(np.arctan2(xyz[:, 1], xyz[:, 0]) / (2 * math.pi) * 4096).astype(int)
    ranges = np.linalg.norm(xyz, axis=1)
    return {(int(r), int(c)): (float(d), float(i)) for r, c, d, i in zip(ring, column, ranges, intensity, strict=True)}


def _sweeps(pairs: list[tuple[dict[Any, tuple[float, float]], dict[Any, tuple[float, float]]]]) -> Iterator[Row]:
    jumped, shares, ranges, intensities = 0, [], 0.0, 0.0
    for a, b in pairs:
        other = len(a.keys() ^ b.keys())
        for beam in a.keys() & b.keys():
            apart_m = abs(a[beam][0] - b[beam][0])
            if apart_m > RANGE_M:
                other += 1
            else:
                ranges, intensities = max(ranges, apart_m), max(intensities, abs(a[beam][1] - b[beam][1]))
        jumped += other
        shares.append(other / max(1, len(a)))
    note = f"{len(pairs)} sweeps of {round(np.mean([len(a) for a, _ in pairs]))} returns, {jumped} beams"
    yield Row(
        "lidar: share of beams that hit something else, worst sweep", max(shares, default=math.nan), RAY_SHARE, note
    )
    yield Row("lidar: range of the others (m)", ranges, RANGE_M)
    yield Row("lidar: intensity of the others", intensities, INTENSITY)


def _decisions(folder_here: Path, folder_there: Path) -> Iterator[Row]:
    here, there = (json.loads((folder / "second.json").read_text()) for folder in (folder_here, folder_there))
    yield _unequal("verdicts", [t["verdict"] for t in here], [t["verdict"] for t in there])
    yield _unequal("trust", [t["trust"] for t in here], [t["trust"] for t in there], f"{len(here)} ticks")
    found = {r[0] for tick in there for r in tick["results"] if r[2] == "ANOMALY" and "lidar" in r[1]}
    yield Row("attack missed", float(not found), 0.0, f"found by {', '.join(sorted(found))}")
    pairs = [(r, s) for t, u in zip(here, there, strict=True) for r, s in zip(t["results"], u["results"], strict=True)]
    yield _unequal("levels", [r[:3] for r, _ in pairs], [s[:3] for _, s in pairs], f"{len(pairs)} results")
    for what, of, place in (("statistics", "share of the threshold", 3), ("powers", "share", 5)):
        worst, name = max(((_of_scale(r, s, place), r[0]) for r, s in pairs), default=(math.nan, ""))
        equal = sum(r[place] == s[place] for r, s in pairs)
        note = f"{equal} of {len(pairs)} equal" + (f"; worst: {name}" if worst else "")
        yield Row(f"{what}, {of}", worst, STATISTIC, note)
    egos = [(np.array(t["ego"]), np.array(u["ego"])) for t, u in zip(here, there, strict=True)]
    yield Row("ego state (m, rad, m/s)", max((_apart(a, b) for a, b in egos), default=math.nan), EGO)


def _of_scale(a: list[Any], b: list[Any], place: int) -> float:
    """How far apart one number of two results is: a statistic as a share of the threshold, a power of itself."""
    x, y, threshold = a[place], b[place], a[4]
    if x == y or (math.isnan(x) and math.isnan(y)):
        return 0.0
    if not (math.isfinite(x) and math.isfinite(y)):
        return math.inf
    counts = place == 3 and math.isfinite(threshold) and threshold > 0.0
    return float(abs(x - y) / (threshold if counts else max(abs(x), abs(y))))


def _apart(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The largest difference; infinite where the shapes differ."""
    if a.shape != b.shape:
        return math.inf
    return float(np.abs(a.astype(float) - b.astype(float)).max(initial=0.0))


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The largest difference as a share of the larger number (of one, where that is smaller)."""
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return math.inf
    x, y = a[~np.isnan(a)], b[~np.isnan(b)]
    return float((np.abs(x - y) / np.maximum(1.0, np.maximum(np.abs(x), np.abs(y)))).max(initial=0.0))
