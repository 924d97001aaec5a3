"""What the smoke suite begins with, made once on this machine: a fleet, a bundle for one device, and some frames."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from smoke.model import MODEL_ID, NOW_NS

from edgeguard.clock import NS_PER_S
from edgeguard.keys.file import FileKeyProvider
from edgeguard.sim.camera import render
from edgeguard.sim.lidar import sweep
from edgeguard.sim.world import World
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.io_toml import read_model_io
from firmware_tools.pack import Release, pack_model

SEED = 5  # another street than that of the simulated second
IMPULSES = 0.02  # share of damaged values


def make_given(folder: Path) -> None:
    """Write trust, bundles, keys and frames into the empty `folder`."""
    folder.mkdir(parents=True)
    fleet = Fleet.create(
        folder / "fleet", name="smoke", wall_ns=NOW_NS - NS_PER_S, device_state="optional", allow_unlocked_memory=True
    )
    for device in ("device", "stranger"):
        key = FileKeyProvider.generate(folder / f"{device}.pem")
        request = folder / f"{device}.request"
        request.write_bytes(make_request(key, fleet.trust(NOW_NS), device_name=device, board="any"))
        enroll(fleet, request, confirm=lambda _: True, wall_ns=NOW_NS)
    models = files("edgeguard.sim") / "models"
    with as_file(models / "obstacle_detector.onnx") as onnx, as_file(models / "obstacle_detector.toml") as model_io:
        pack_model(
            fleet, onnx, folder / "bundle", release=Release(MODEL_ID, "1.0.0"), wall_ns=NOW_NS,
            io=read_model_io(model_io),
        )  # fmt: skip
    grant(fleet, folder / "bundle", "device", wall_ns=NOW_NS)
    shutil.copytree(fleet.trust_folder, folder / "trust")
    _tamper(folder)
    _draw_frames(folder / "frames.npz")


def _tamper(folder: Path) -> None:
    """Copy the bundle and flip one bit in the middle of its largest payload."""
    shutil.copytree(folder / "bundle", folder / "tampered")
    payload = max((folder / "tampered" / "payload").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)


def _draw_frames(path: Path) -> None:
    """Write a clean frame, the same with impulses and noise, and a sweep."""
    world, rng = World(SEED, 2.0), np.random.default_rng(SEED)
    camera, cloud = render(world, 1.0).pixels, sweep(world, 1.0)
    damaged = np.clip(camera + rng.normal(0.0, 6.0, camera.shape), 0, 255).astype(np.uint8)
    hit = rng.random(camera.shape) < IMPULSES
    damaged[hit] = np.where(rng.random(camera.shape) < 0.5, 0, 255).astype(np.uint8)[hit]
    rings = np.zeros(len(cloud.xyz), np.int16) if cloud.ring is None else cloud.ring
    np.savez(path, camera=camera, damaged=damaged, xyz=cloud.xyz, intensity=cloud.intensity, ring=rings)
