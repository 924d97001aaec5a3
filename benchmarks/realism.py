"""The simulated street beside a recorded one: how their statistics differ, in numbers and in pictures.

Run with `EDGEGUARD_REALDATA=FOLDER python -m benchmarks realism --plots docs/images`. FOLDER holds `kitti_drive` in
KITTI's layout: `velodyne/N.bin` and `image_02/N.png`. Nothing is fitted: the simulator runs with the presets `hdl64`
and `kitti`. Only histograms leave; no recorded picture or point does. A KS distance is the largest gap between two
cumulative distributions: 0 alike, 1 apart.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.scan_match import match_scans
from edgeguard.report import svg
from edgeguard.sim import camera as sim_camera
from edgeguard.sim import lidar as sim_lidar
from edgeguard.sim.presets import CAMERAS, LIDARS
from edgeguard.sim.weather import Conditions
from edgeguard.sim.world import World

SWEEPS = 10
SEEDS = (1, 2, 3, 4, 5)
_STYLE = (
    "<style>.t{font:11px sans-serif;fill:#333}.h{font:600 12px sans-serif;fill:#111}.a{stroke:#999;stroke-width:1}"
    ".r{fill:none;stroke:#c2410c;stroke-width:1.6}.s{fill:none;stroke:#1d4ed8;stroke-width:1.6}</style>"
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statistic:
    """One quantity of both streets. low, high: what the plot shows."""

    name: str
    unit: str
    low: float
    high: float
    real: Floats
    simulated: Floats

    @property
    def distance(self) -> float:
        """Kolmogorov-Smirnov distance."""
        return ks_distance(self.real, self.simulated)


def ks_distance(first: Floats, second: Floats) -> float:
    """Return the largest gap between two empirical cumulative distributions."""
    a, b = np.sort(first), np.sort(second)
    every = np.concatenate([a, b])
    return float(
        np.abs(np.searchsorted(a, every, "right") / len(a) - np.searchsorted(b, every, "right") / len(b)).max()
    )


def sweep_statistics(clouds: list[NDArray[np.float32]]) -> dict[str, Floats]:
    """Return range, intensity, elevation, azimuth density and scan-match residual of (N, 4) clouds."""
    points = np.concatenate(clouds).astype(np.float64)
    distance = np.linalg.norm(points[:, :3], axis=1)
    elevation = np.rad2deg(np.arcsin(points[:, 2] / np.maximum(distance, 1e-6)))
    density = []
    for cloud in clouds:
        azimuth = np.rad2deg(np.arctan2(cloud[:, 1], cloud[:, 0]))
        density.append(np.histogram(azimuth, 360, (-180, 180))[0].astype(np.float64))
    residuals = [_residual(a, b) for a, b in zip(clouds[:-1:2], clouds[1::2], strict=False)]
    return {
        "range": distance,
        "intensity": points[:, 3],
        "elevation": elevation,
        "azimuth density": np.concatenate(density),
        "scan-match residual": np.concatenate(residuals),
    }


def _residual(first: NDArray[np.float32], second: NDArray[np.float32]) -> Floats:
    """Gaps between neighbouring sweeps' walls after the match, metres, nearest neighbours in plan."""
    flat = []
    for cloud in (first, second):
        near = (cloud[:, 2] > -1.0) & (cloud[:, 2] < 1.5) & (np.linalg.norm(cloud[:, :2], axis=1) < 40.0)
        standing = cloud[near][:, :2]
        flat.append(np.ascontiguousarray(standing[:: max(1, len(standing) // 6000)].astype(np.float32)))
    pose, _, _ = match_scans(flat[0], flat[1], np.zeros(3))
    c, s = np.cos(pose[2]), np.sin(pose[2])
    back = flat[1][::6].astype(np.float64) @ np.array([[c, s], [-s, c]]) + pose[:2]
    return np.array([np.sqrt(np.square(flat[0] - p).sum(axis=1).min()) for p in back])


def image_statistics(pictures: list[NDArray[np.uint8]]) -> dict[str, Floats]:
    """Return gradient magnitude, brightness and noise of the flattest blocks of (H, W, 3) pictures."""
    gradient, brightness, noise = [], [], []
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)  # Immerkaer 1996
    for picture in pictures:
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
        gx, gy = cv2.Sobel(grey, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(grey, cv2.CV_32F, 0, 1) / 8
        gradient.append(np.hypot(gx, gy)[2:-2:3, 2:-2:3].ravel())
        brightness.append(grey[::3, ::3].ravel())
        response = np.abs(cv2.filter2D(grey, cv2.CV_32F, mask))
        rows, columns = grey.shape[0] // 16 * 16, grey.shape[1] // 16 * 16
        blocks = response[:rows, :columns].reshape(rows // 16, 16, columns // 16, 16).mean(axis=(1, 3)).ravel()
        level = grey[:rows, :columns].reshape(rows // 16, 16, columns // 16, 16).mean(axis=(1, 3)).ravel()
        usable = blocks[(level > 20) & (level < 235)] * np.sqrt(np.pi / 2) / 6
        noise.append(np.sort(usable)[: max(1, len(usable) // 5)])
    return {
        "image gradient": np.concatenate(gradient).astype(np.float64),
        "brightness": np.concatenate(brightness).astype(np.float64),
        "noise of the flattest fifth of blocks": np.concatenate(noise).astype(np.float64),
    }


def simulated_drive() -> tuple[list[NDArray[np.float32]], list[NDArray[np.uint8]]]:
    """Return sweeps in pairs 0.1 s apart, and pictures, of several streets."""
    clouds, pictures = [], []
    for seed in SEEDS:
        world = World(seed, 20.0, Conditions(roughness="A"))
        for at in (8.0, 8.1):
            cloud = sim_lidar.sweep(world, at, LIDARS["hdl64"][0])
            clouds.append(np.column_stack([cloud.xyz, cloud.intensity]))
            pictures.append(sim_camera.render(world, at, CAMERAS["kitti"][0]).pixels)
    return clouds, pictures


def recorded_drive(folder: Path) -> tuple[list[NDArray[np.float32]], list[NDArray[np.uint8]]]:
    """Return sweeps in pairs of neighbours, and pictures, spread over a recording in KITTI's layout."""
    sweeps, images = sorted((folder / "velodyne").glob("*.bin")), sorted((folder / "image_02").glob("*.png"))
    starts = np.linspace(0, len(sweeps) - 2, SWEEPS // 2).astype(int)
    chosen = [sweeps[k + step] for k in starts for step in (0, 1)]
    clouds = [np.fromfile(path, dtype=np.float32).reshape(-1, 4) for path in chosen]
    spread = np.linspace(0, len(images) - 1, SWEEPS).astype(int)
    return clouds, [cv2.imread(str(images[k])) for k in spread]


_SHOWN = (
    ("range", "m", 0.0, 80.0),
    ("intensity", "share", 0.0, 1.0),
    ("elevation", "deg", -25.0, 3.0),
    ("azimuth density", "points per degree", 0.0, 500.0),
    ("scan-match residual", "m", 0.0, 0.5),
    ("image gradient", "grey levels per px", 0.0, 40.0),
    ("brightness", "grey levels", 0.0, 255.0),
    ("noise of the flattest fifth of blocks", "grey levels", 0.0, 4.0),
)


def compare(folder: Path) -> list[Statistic]:
    """Return every statistic of the recording and of the simulated streets."""
    real_clouds, real_pictures = recorded_drive(folder)
    clouds, pictures = simulated_drive()
    real = sweep_statistics(real_clouds) | image_statistics(real_pictures)
    simulated = sweep_statistics(clouds) | image_statistics(pictures)
    return [Statistic(name, unit, low, high, real[name], simulated[name]) for name, unit, low, high in _SHOWN]


def plot(statistics: list[Statistic]) -> str:
    """Return one SVG with the cumulative distributions of all statistics, recorded in red, simulated in blue."""
    width, height, columns = 300.0, 190.0, 2
    content = [_STYLE, '<rect width="100%" height="100%" fill="#fff"/>']
    content.append(svg.label(12, 20, "Cumulative distributions: recorded street red, simulated street blue", "h"))
    for number, found in enumerate(statistics):
        x0, y0 = 40 + (number % columns) * width, 52 + number // columns * height
        wide, tall = width - 60, height - 70
        content.append(svg.label(x0, y0 - 4, f"{found.name}: KS {found.distance:.2f}", "t"))
        content.append(svg.line(x0, y0 + tall, x0 + wide, y0 + tall, "a"))
        content.append(svg.line(x0, y0, x0, y0 + tall, "a"))
        grid = np.linspace(found.low, found.high, 120)
        for values, class_ in ((found.real, "r"), (found.simulated, "s")):
            share = np.searchsorted(np.sort(values), grid, "right") / len(values)
            xs, ys = x0 + (grid - found.low) / (found.high - found.low) * wide, y0 + tall * (1 - share)
            content.append(svg.polyline([(float(x), float(y)) for x, y in zip(xs, ys, strict=True)], class_))
        content.append(svg.label(x0, y0 + tall + 14, f"{found.low:g}", "t"))
        content.append(svg.label(x0 + wide, y0 + tall + 14, f"{found.high:g} {found.unit}", "t", "end"))
    total = 40 + -(-len(statistics) // columns) * height
    return svg.figure(columns * width, total, "".join(content), "Simulated and recorded street, compared")


def main() -> None:
    """Print the table, and write the plot where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks realism", description=__doc__)
    parser.add_argument("--plots", type=Path, help="folder for simulator-realism.svg")
    options = parser.parse_args(sys.argv[1:])
    root = os.environ.get("EDGEGUARD_REALDATA")
    folder = Path(root) / "kitti_drive" if root else None
    if folder is None or not folder.is_dir():
        print("no recording: set EDGEGUARD_REALDATA to a folder that holds kitti_drive")
        return
    statistics = compare(folder)
    print(f"{'statistic':40} {'KS':>6}   {'recorded p10 / p50 / p90':26} simulated p10 / p50 / p90")
    for found in statistics:
        real, simulated = (np.percentile(values, (10, 50, 90)) for values in (found.real, found.simulated))
        left, right = (" / ".join(f"{v:.3g}" for v in row) for row in (real, simulated))
        print(f"{found.name + ', ' + found.unit:40} {found.distance:6.2f}   {left:26} {right}")
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
        (options.plots / "simulator-realism.svg").write_text(plot(statistics), encoding="utf-8")


if __name__ == "__main__":
    main()
