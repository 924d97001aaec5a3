"""Lidar kernels against scikit-learn, Open3D, small_gicp, OpenCV and NumPy on real sweeps, one core.

    pip install -e . scikit-learn open3d small_gicp      # in an environment of its own: they are no dependencies
    python -m benchmarks.lidar_peers FOLDER [--rounds 3]

FOLDER holds sweeps as KITTI stores them: float32 x, y, z, reflectance. Results are compared before times. Every call
gets another sweep than the one before, because a processor learns the branches of a sweep that is repeated; ours and
the peers take turns, all sweeps each. Medians of processor time, which other programs disturb least, and their
ratio.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import open3d
import small_gicp
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from benchmarks.kernels import HEIGHT, WIDTH, K, R, T
from edgeguard.kernels import _reference as twin
from edgeguard.kernels.dbscan import dbscan
from edgeguard.kernels.ground import height_above_ground
from edgeguard.kernels.plane import fit_ground
from edgeguard.kernels.projection import depth_image, project_points
from edgeguard.kernels.scan_match import match_scans
from edgeguard.kernels.voxels import thin_points
from edgeguard.sim.lidar import DEFAULT_LIDAR, sweep
from edgeguard.sim.world import World

cv2.setNumThreads(1)
Cloud = NDArray[np.float32]
Pose = NDArray[np.float64]
LIDAR_HEIGHT_M = 1.73
P = np.ascontiguousarray(K @ np.column_stack((R, T)))


def race(name: str, rounds: int, count: int, **calls: Callable[[int], object]) -> None:
    """Time each call on each of `count` inputs in turn; the first is ours."""
    times: dict[str, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call(0)
    for _ in range(rounds):
        for key, call in calls.items():
            for i in range(count):
                start = time.process_time()
                call(i)
                times[key].append(time.process_time() - start)
    mine, *others = ((key, 1e3 * float(np.median(t))) for key, t in times.items())
    rest = "   ".join(f"{key} {ms:.2f} ms = {ms / mine[1]:.1f}x" for key, ms in others)
    print(f"{name}: {mine[0]} {mine[1]:.2f} ms   {rest}", flush=True)


def cloud_of(xyz: Cloud) -> open3d.geometry.PointCloud:
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz.astype(np.float64)))


def clusters(sweeps: list[Cloud], rounds: int) -> None:
    upright = [np.ascontiguousarray(s[height_above_ground(s, LIDAR_HEIGHT_M) > 0.3]) for s in sweeps]
    clouds = [cloud_of(u) for u in upright]
    for points, cloud in zip(upright, clouds, strict=True):
        labels, core, count = dbscan(points, 0.5, 10)
        theirs = DBSCAN(eps=0.5, min_samples=10).fit(points.astype(np.float64))
        np.testing.assert_array_equal(labels, theirs.labels_)
        np.testing.assert_array_equal(np.flatnonzero(core), theirs.core_sample_indices_)
        other = np.asarray(cloud.cluster_dbscan(0.5, 10))
        assert other.max() + 1 == count
        # Open3D numbers clusters in another order and gives border points to whom it likes: core points must agree
        assert len(set(zip(labels[core].tolist(), other[core].tolist(), strict=True))) == count
        np.testing.assert_array_equal(labels < 0, other < 0)
    print(f"  {np.median([len(u) for u in upright]):.0f} points; labels equal scikit-learn's, number for number")
    race(
        "DBSCAN 0.5 m, 10 points", max(1, rounds - 2), len(sweeps),
        ours=lambda i: dbscan(upright[i], 0.5, 10),
        scikit_learn=lambda i: DBSCAN(eps=0.5, min_samples=10).fit(upright[i]),
        open3d=lambda i: clouds[i].cluster_dbscan(0.5, 10),
    )  # fmt: skip


def planes(sweeps: list[Cloud], rounds: int) -> None:
    rng = np.random.default_rng(0)
    # a third of a sweep is ground: of 100 triples, none lies on it once in some hundred sweeps; 200 cost an eighth more
    triples = [rng.integers(0, len(s), (200, 3)).astype(np.int32) for s in sweeps]
    clouds = [cloud_of(s) for s in sweeps]
    shares = []
    for s, t, cloud in zip(sweeps, triples, clouds, strict=True):
        _, mine = fit_ground(s, t, 0.2, 0.3)
        shares.append([mine / len(cloud.segment_plane(0.2, 3, tries)[1]) for tries in (100, 1000)])
    low, high = np.min(shares, axis=0), np.median(shares, axis=0)
    print(f"  inliers over Open3D's: with 100 tries median {high[0]:.3f}, least {low[0]:.3f}; with 1000 tries"
          f" median {high[1]:.3f}, least {low[1]:.3f}")  # fmt: skip
    race(
        "ground plane", rounds, len(sweeps),
        ours=lambda i: fit_ground(sweeps[i], triples[i], 0.2, 0.3),
        open3d_100=lambda i: clouds[i].segment_plane(0.2, 3, 100),
        open3d_1000=lambda i: clouds[i].segment_plane(0.2, 3, 1000),
    )  # fmt: skip


def voxels(sweeps: list[Cloud], rounds: int) -> None:
    def compare(edge: float) -> None:
        # a far corner on the lattice: Open3D counts from the lowest corner, ours and small_gicp from the origin
        corner = np.full((1, 3), -200.0 + 0.5 * edge, np.float32)
        anchored = [np.ascontiguousarray(np.concatenate((s, corner))) for s in sweeps]
        clouds = [cloud_of(s) for s in anchored]
        small = [small_gicp.PointCloud(s.astype(np.float64)) for s in anchored]
        for i, s in enumerate(anchored):
            mine = thin_points(s, edge)
            for theirs in (
                np.asarray(clouds[i].voxel_down_sample(edge).points),
                small_gicp.voxelgrid_sampling(small[i], edge, 1).points()[:, :3],
            ):
                assert len(theirs) == len(mine)
                for a, b in zip(sorted_rows(mine), sorted_rows(theirs), strict=True):
                    np.testing.assert_allclose(a, b, atol=2e-5)
        race(
            f"voxels {edge} m ({len(mine)} occupied, centroids equal)", rounds, len(sweeps),
            ours=lambda i: thin_points(anchored[i], edge),
            open3d=lambda i: clouds[i].voxel_down_sample(edge),
            small_gicp=lambda i: small_gicp.voxelgrid_sampling(small[i], edge, 1),
        )  # fmt: skip

    for edge in (0.25, 0.5):
        compare(edge)


def sorted_rows(points: NDArray[np.floating]) -> Pose:
    """Rows in an order that does not hang on the last bit of a mean."""
    rounded = np.round(points.astype(np.float64), 3)
    values = points.astype(np.float64)[np.lexsort(rounded.T)]
    return np.asarray(values[np.lexsort(np.floor(values / 0.25 + 1e-4).T)])


def projections(sweeps: list[Cloud], rounds: int) -> None:
    for s in sweeps:
        for mine, theirs in zip(
            project_points(s, P, WIDTH, HEIGHT), twin.project_points(s, P, WIDTH, HEIGHT), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(nearest_numpy(s), np.nan_to_num(depth_image(s, P, WIDTH, HEIGHT)[0], nan=np.inf))
    rvec = cv2.Rodrigues(R)[0]
    n = max(len(s) for s in sweeps)
    depth, pixel, visible = np.empty((HEIGHT, WIDTH), np.float32), np.empty((n, 2), np.int32), np.empty(n, np.bool_)

    def ours(i: int) -> object:
        m = len(sweeps[i])
        return project_points(sweeps[i], P, WIDTH, HEIGHT, (depth, pixel[:m], visible[:m]))

    race(
        "projection (pixel, visibility, depth buffer; equal to the last bit)", rounds, len(sweeps),
        ours=ours,
        numpy_sorted=lambda i: twin.project_points(sweeps[i], P, WIDTH, HEIGHT),
        cv2_no_buffer=lambda i: cv2.projectPoints(sweeps[i], rvec, T, K, None),
    )  # fmt: skip
    race(
        "projection (depth buffer only)", rounds, len(sweeps),
        ours=lambda i: depth_image(sweeps[i], P, WIDTH, HEIGHT, depth),
        numpy_minimum_at=lambda i: nearest_numpy(sweeps[i]),
        cv2_no_buffer=lambda i: cv2.projectPoints(sweeps[i], rvec, T, K, None),
    )  # fmt: skip


def nearest_numpy(xyz: Cloud) -> Cloud:
    """The fastest depth buffer NumPy gives: cull, project what is left, minimum.at."""
    w = xyz @ P[2, :3] + P[2, 3]
    ahead = w >= 0.1
    w, near = w[ahead], xyz[ahead].astype(np.float64)
    u = np.floor((near @ P[0, :3] + P[0, 3]) / w + 0.5)
    v = np.floor((near @ P[1, :3] + P[1, 3]) / w + 0.5)
    inside = (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
    depth = np.full(HEIGHT * WIDTH, np.inf, np.float32)
    np.minimum.at(depth, (v[inside] * WIDTH + u[inside]).astype(np.int64), w[inside].astype(np.float32))
    return depth.reshape(HEIGHT, WIDTH)


def match_ours(previous: Cloud, current: Cloud) -> Pose:
    """Two raw sweeps to a pose: heights, upright points, match."""
    upright = []
    for xyz in (previous, current):
        height = height_above_ground(xyz, LIDAR_HEIGHT_M)
        upright.append(np.ascontiguousarray(xyz[(height > 0.4) & (height < 3.5)]))
    thinned = np.ascontiguousarray(thin_points(upright[1], 0.1)[:, :2])
    return match_scans(np.ascontiguousarray(upright[0][:, :2]), thinned, np.zeros(3))[0]


def match_small_gicp(previous: Cloud, current: Cloud) -> Pose:
    """Two raw sweeps to a pose: the preprocessing and GICP that small_gicp offers, at 0.25 m."""
    target, tree = small_gicp.preprocess_points(
        previous.astype(np.float64), downsampling_resolution=0.25, num_threads=1
    )
    source, _ = small_gicp.preprocess_points(current.astype(np.float64), downsampling_resolution=0.25, num_threads=1)
    M = small_gicp.align(
        target, source, tree, registration_type="GICP", num_threads=1, max_correspondence_distance=2.0
    ).T_target_source
    return np.array([M[0, 3], M[1, 3], np.arctan2(M[1, 0], M[0, 0])])


def known_motions(sweeps: list[Cloud]) -> dict[str, list[tuple[Cloud, Cloud, Pose]]]:
    """Pairs of sweeps with the pose between them."""
    rng = np.random.default_rng(1)
    pairs: dict[str, list[tuple[Cloud, Cloud, Pose]]] = {
        "same points": [],
        "other half of the points": [],
        "driven": [],
    }
    for s in sweeps:
        pose = np.array([rng.uniform(0, 0.8), rng.uniform(-0.1, 0.1), rng.uniform(-0.03, 0.03)])
        turn = np.array([[np.cos(pose[2]), np.sin(pose[2]), 0], [-np.sin(pose[2]), np.cos(pose[2]), 0], [0, 0, 1]])
        for kind, one, two in (("same points", s, s), ("other half of the points", s[::2], s[1::2])):
            moved = ((two - [pose[0], pose[1], 0.0]) @ turn.T).astype(np.float32)
            pairs[kind].append((np.ascontiguousarray(one), np.ascontiguousarray(moved), pose))
    for seed in range(len(sweeps)):
        world = World(100 + seed, 20.0)
        before, after = world.ego(5.0), world.ego(5.1)
        ahead_m = DEFAULT_LIDAR.mount_m[0]
        at = [
            (e.east_m + ahead_m * np.cos(e.yaw_rad), e.north_m + ahead_m * np.sin(e.yaw_rad)) for e in (before, after)
        ]
        c, s_ = np.cos(before.yaw_rad), np.sin(before.yaw_rad)
        pose = np.array([*(np.array([[c, s_], [-s_, c]]) @ np.subtract(at[1], at[0])), after.yaw_rad - before.yaw_rad])
        first, second = (np.ascontiguousarray(sweep(world, t).xyz) for t in (5.0, 5.1))
        pairs["driven"].append((first, second, pose))
    return pairs


def matches(sweeps: list[Cloud], rounds: int) -> None:
    pairs = known_motions(sweeps)
    for kind, some in pairs.items():
        line = []
        for name, match in (("ours", match_ours), ("small_gicp", match_small_gicp)):
            error = np.array([match(a, b) - pose for a, b, pose in some])
            distance = np.hypot(error[:, 0], error[:, 1])
            line.append(
                f"{name} {1e3 * np.sqrt((distance**2).mean()):.2f} mm rms, {1e3 * distance.max():.1f} worst,"
                f" {1e3 * np.sqrt((error[:, 2] ** 2).mean()):.3f} mrad rms"
            )
        print(f"  {kind}: {'; '.join(line)}")
    some = pairs["same points"]
    race(
        "scan match, raw sweeps to pose", max(1, rounds - 1), len(some),
        ours=lambda i: match_ours(*some[i][:2]),
        small_gicp=lambda i: match_small_gicp(*some[i][:2]),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sweeps", type=int, default=8, help="how many, evenly over the folder")
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.bin"))
    files = files[:: max(1, len(files) // options.sweeps)][: options.sweeps]
    sweeps = [np.fromfile(f, "<f4").reshape(-1, 4)[:, :3].copy() for f in files]
    print(f"{len(sweeps)} sweeps of {np.median([len(s) for s in sweeps]):.0f} points, one core")
    for part in (voxels, projections, planes, clusters, matches):
        part(sweeps, options.rounds)


if __name__ == "__main__":
    main()
