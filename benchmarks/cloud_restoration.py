"""What finds scatter in sweeps: precision, recall and time, against tree filters of SciPy in the same run.

    python -m benchmarks cloud_restoration [--kitti FOLDER] [--ouster CAPTURE METADATA] [--seeds 11 12] [--quick]

Simulated sweeps of four sensors; with --kitti and --ouster also real ones (float32 x, y, z, reflectance; a pcap with
its metadata). Snow is that of `edgeguard.sim.restoration.snow`: flakes by size and rate, or a share of the returns at
even odds of range. Every line is a mean over its sweeps. Peers: SOR (k = 10, one standard deviation, what Open3D and
PCL call statistical outlier removal), DROR (Charron et al., CRV 2018: radius three times the step of the beam), both
on SciPy's k-d tree with one worker.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.timing import best_cpu_s
from edgeguard.kernels.dbscan import dbscan
from edgeguard.kernels.ground import height_above_ground
from edgeguard.protocols.ouster import OusterDecoder
from edgeguard.protocols.ouster_metadata import parse_metadata
from edgeguard.protocols.ouster_sweep import OusterSweep
from edgeguard.protocols.pcap import CaptureReader
from edgeguard.protocols.udp import UdpReader
from edgeguard.restore.cloud_chain import CloudChain, CloudRestorer
from edgeguard.restore.cloud_cut import cut_within
from edgeguard.restore.cloud_steps import DynamicRadius, Snow
from edgeguard.sim.lidar import sweep
from edgeguard.sim.presets import LIDARS
from edgeguard.sim.restoration.snow import Snowy, fall, scatter
from edgeguard.sim.world import World
from edgeguard.types import PointCloud

Mask = NDArray[np.bool_]
SENSORS = ("vlp16", "vlp32c", "os1_64", "hdl64")
SENSOR_HEIGHT_M = 1.73
SHARES = ((0.01, 15.0), (0.05, 15.0), (0.15, 10.0), (0.15, 15.0), (0.15, 25.0), (0.3, 15.0))  # of returns; metres


def sor(cloud: PointCloud) -> Mask:
    """Which returns statistical outlier removal takes out."""
    tree = cKDTree(cloud.xyz)
    mean = tree.query(cloud.xyz, k=11)[0][:, 1:].mean(axis=1)
    return np.asarray(mean > mean.mean() + mean.std())


def dror(cloud: PointCloud) -> Mask:
    """Which returns dynamic radius outlier removal takes out: 0.2 deg, factor 3, 0.04 m, 3 neighbours."""
    radius = np.maximum(0.04, 3.0 * np.deg2rad(0.2) * np.hypot(cloud.xyz[:, 0], cloud.xyz[:, 1]))
    return np.asarray(cKDTree(cloud.xyz).query_ball_point(cloud.xyz, radius, return_length=True) < 4)


def ours(step: Snow | DynamicRadius) -> Callable[[PointCloud], Mask]:
    """The filter as it runs: with its caps."""

    def found(cloud: PointCloud) -> Mask:
        mask = np.zeros(len(cloud.xyz), np.bool_)
        mask[cut_within(cloud, step.find(cloud), step.cap).removed] = True
        return mask

    return found


FILTERS: dict[str, Callable[[PointCloud], Mask]] = {
    "snow": ours(Snow()), "dynamic-radius": ours(DynamicRadius()), "SOR": sor, "DROR": dror,
}  # fmt: skip


def simulated(sensor: str, seeds: Iterable[int]) -> list[PointCloud]:
    """Two sweeps of each world."""
    return [sweep(World(seed), t, LIDARS[sensor][0]) for seed in seeds for t in (4.0, 9.0)]


def kitti(folder: Path, every: int) -> list[PointCloud]:
    """Sweeps of a folder of .bin files."""
    clouds = []
    for file in sorted(folder.glob("*.bin"))[::every]:
        raw = np.fromfile(file, np.float32).reshape(-1, 4)
        clouds.append(PointCloud(np.ascontiguousarray(raw[:, :3]), np.ascontiguousarray(raw[:, 3]), 0))
    return clouds


def ouster(capture: Path, metadata: Path) -> list[PointCloud]:
    """Sweeps of a capture."""
    reader, udp, decoder = CaptureReader(), UdpReader(), OusterDecoder(parse_metadata(metadata.read_bytes()))
    datagrams = [udp.feed(packet) for packet in reader.feed(capture.read_bytes())]
    records = [r for d in datagrams if d is not None for r in decoder.feed(d.payload)] + decoder.flush()
    return [record.sample(0, "lidar") for record in records if isinstance(record, OusterSweep)]


def snows(quick: bool) -> dict[str, Callable[[PointCloud, np.random.Generator], Snowy]]:
    """Name to snow: rates in mm of water an hour; shares and reach in metres."""
    made: dict[str, Callable[[PointCloud, np.random.Generator], Snowy]] = {}
    for rate in (0.1, 1.0) if quick else (0.1, 0.25, 0.5, 1.0, 2.5):
        made[f"snow {rate:g} mm/h"] = lambda c, rng, rate=rate: fall(c, rate, rng)  # type: ignore[misc]
    evenly = ((0.05, 15.0),) if quick else SHARES
    for share, reach in evenly:
        name = f"{100 * share:g} % to {reach:g} m"
        made[name] = lambda c, rng, s=share, r=reach: scatter(c, s, rng, r)  # type: ignore[misc]
    return made


def quality(name: str, clouds: list[PointCloud], quick: bool) -> None:
    """Print precision / recall and the share of clean returns lost, per snow and filter."""
    print(f"\n{name}: {len(clouds)} sweeps of {np.mean([len(c.xyz) for c in clouds]):.0f} returns")
    print(f"{'':16}{'share':>7}" + "".join(f"{f:>24}" for f in FILTERS))
    for label, make in {"clean": None, **snows(quick)}.items():
        rows, shares = {f: [] for f in FILTERS}, []
        for number, cloud in enumerate(clouds):
            snowy = Snowy(cloud, np.zeros(len(cloud.xyz), np.bool_))
            if make is not None:
                snowy = make(cloud, np.random.default_rng([number, 0x50]))
            shares.append(snowy.share)
            for f, run in FILTERS.items():
                rows[f].append(score(run(snowy.cloud), snowy.scatter))
        text = "".join(
            f"   {p:.2f} / {r:.2f}, -{lost:6.3%}" for p, r, lost in (np.mean(v, axis=0) for v in rows.values())
        )
        print(f"{label:16}{np.mean(shares):7.1%}{text}", flush=True)


def score(removed: Mask, truth: Mask) -> tuple[float, float, float]:
    """Precision, recall, share of the clean returns that went; 1 for what cannot be asked."""
    hit = int((removed & truth).sum())
    return (
        hit / removed.sum() if removed.any() else 1.0,
        hit / truth.sum() if truth.any() else 1.0,
        float((removed & ~truth).sum() / max(1, (~truth).sum())),
    )


def classes(cloud: PointCloud) -> dict[str, Mask]:
    """Ground, thin upright bodies (half a metre wide at most, a metre high at least), other upright things."""
    height = height_above_ground(np.ascontiguousarray(cloud.xyz), SENSOR_HEIGHT_M)
    upright = np.flatnonzero(height > 0.3)
    labels, _, count = dbscan(np.ascontiguousarray(cloud.xyz[upright]), 0.5, 5)
    thin = np.zeros(len(cloud.xyz), np.bool_)
    for k in range(count):
        members = upright[labels == k]
        size = np.ptp(cloud.xyz[members], axis=0)
        if max(size[0], size[1]) <= 0.5 and size[2] >= 1.0:
            thin[members] = True
    ground = np.asarray(height <= 0.3)
    return {"ground": ground, "thin": thin, "other upright": ~ground & ~thin}


def losses(name: str, clouds: list[PointCloud]) -> None:
    """Print which clean returns are lost in snow, per class; 'forced': on the clean sweep with the diagnosis off."""
    kinds = [classes(cloud) for cloud in clouds]
    of = {k: np.mean([kind[k].mean() for kind in kinds]) for k in kinds[0]}
    print(
        f"\n{name}: clean returns lost, per class (of all returns: {', '.join(f'{k} {v:.1%}' for k, v in of.items())})"
    )
    cases: dict[str, Callable[[PointCloud, np.random.Generator], Snowy] | None] = {"forced": None}
    cases |= {f"snow {rate:g} mm/h": lambda c, rng, rate=rate: fall(c, rate, rng) for rate in (0.25, 2.5)}  # type: ignore[misc]
    for label, make in cases.items():
        lost: dict[str, list[float]] = {k: [] for k in of}
        for number, (cloud, kind) in enumerate(zip(clouds, kinds, strict=True)):
            snowy = Snowy(cloud, np.zeros(len(cloud.xyz), np.bool_))
            snowy = snowy if make is None else make(cloud, np.random.default_rng([number, 0x51]))
            removed = ours(Snow() if make else Snow(min_share=0.0))(snowy.cloud)
            for k, mask in kind.items():
                there = mask & ~snowy.scatter
                lost[k].append(float((removed & there).sum() / max(1, there.sum())))
        print(f"  {label:16}" + "".join(f"{k} {np.mean(v):.3%}   " for k, v in lost.items()))


def clusters(name: str, clouds: list[PointCloud]) -> None:
    """Print what becomes of clusters of upright returns when clean sweeps are filtered with the diagnosis off."""
    before = after = changed = 0
    for cloud in clouds:
        height = height_above_ground(np.ascontiguousarray(cloud.xyz), SENSOR_HEIGHT_M)
        upright = height > 0.3
        kept = ~ours(Snow(min_share=0.0))(cloud)
        labels, _, count = dbscan(np.ascontiguousarray(cloud.xyz[upright]), 0.5, 10)
        _, _, count_kept = dbscan(np.ascontiguousarray(cloud.xyz[upright & kept]), 0.5, 10)
        whole = np.bincount(labels[labels >= 0], minlength=count)
        left = np.bincount(labels[(labels >= 0) & kept[upright]], minlength=count)
        before, after, changed = before + count, after + count_kept, changed + int((left < 0.9 * whole).sum())
    print(
        f"\n{name}: {before} clusters; filtered with the diagnosis off {after};"
        f" {changed} lost more than a tenth of their returns"
    )


def times() -> None:
    """Print processor time of one thread, and ratios, for 32 beams by 1084 and 64 by 2083."""
    small = replace(LIDARS["vlp32c"][0], columns=1200)
    large = replace(LIDARS["hdl64"][0], columns=2200)
    print("\nprocessor time, best of 5; snow of 0.5 mm/h")
    for lidar in (small, large):
        cloud = fall(sweep(World(5), 4.0, lidar), 0.5, np.random.default_rng(1)).cloud
        ms = {f: 1e3 * best_cpu_s(lambda run=run, cloud=cloud: run(cloud)) for f, run in FILTERS.items()}  # type: ignore[misc]
        restorer = CloudRestorer(CloudChain("snow", (Snow(),)))
        ms["as restorer"] = 1e3 * best_cpu_s(lambda cloud=cloud, r=restorer: r.apply(cloud, 0))  # type: ignore[misc]
        mine = ms["snow"]
        print(
            f"  {len(cloud.xyz):7d} returns: " + "   ".join(f"{f} {v:.2f} ms = {v / mine:.1f}x" for f, v in ms.items()),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kitti", type=Path)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--ouster", type=Path, nargs=2, metavar=("CAPTURE", "METADATA"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    times()
    sets = {sensor: simulated(sensor, options.seeds) for sensor in SENSORS}
    if options.kitti:
        sets["KITTI"] = kitti(options.kitti, options.every)
    if options.ouster:
        sets["Ouster"] = ouster(*options.ouster)
    for name, clouds in sets.items():
        quality(name, clouds, options.quick)
        losses(name, clouds)
        clusters(name, clouds)
