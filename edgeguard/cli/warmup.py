"""`edgeguard warmup`: compile every kernel now, so that no frame ever waits for a compiler."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeguard.cli.options import config_option, format_option, progress_bar, say
from edgeguard.errors import EXIT_FINDING, EXIT_OK

if TYPE_CHECKING:
    from edgeguard.config import Config
    from edgeguard.kernels.compiled import KernelModule

TICKS = 4  # the first ones find no history, so that not every check does its work
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Drive:
    """A short simulated drive with every sensor. ticks_ms: pipeline time of each tick. compiled: what it compiled."""

    ticks_ms: tuple[float, ...]
    compiled: tuple[str, ...]


@click.command("warmup")
@config_option
@format_option
def command(config_path: Path | None, output: str) -> int:
    """Compile every kernel into the cache, and run all stages on a simulated rig to see that nothing is left.

    Run it once after installing or updating, as the user that runs the pipeline. Exit 1 when somebody else could write
    to the cache: what lies there is executed. NUMBA_CACHE_DIR says where it is, else beside the code or in the user's
    cache folder.
    """
    from edgeguard.config import load_config
    from edgeguard.kernels.compiled import load_kernels
    from edgeguard.runtime.warmup import cache_findings

    config = load_config(config_path)
    begin_s = time.perf_counter()
    modules: list[KernelModule] = []
    with progress_bar() as bar:
        task = bar.add_task("warmup", total=None)
        for module in load_kernels():
            modules.append(module)
            bar.advance(task)
        drive = _drive(config)
    folders = sorted({folder for module in modules for folder in module.cache})
    findings = cache_findings(folders)
    wall_s = time.perf_counter() - begin_s
    _print_result(modules, drive, folders, findings, wall_s, output)
    return EXIT_FINDING if findings or drive.compiled or any(module.lazy for module in modules) else EXIT_OK


def _drive(config: Config) -> Drive:
    """Run the pipeline over a simulated rig with all sensors; a calibration of another rig stays out of it."""
    import msgspec

    from edgeguard.clock import ManualClock
    from edgeguard.config import CalibrationConfig
    from edgeguard.kernels.compiled import compilations
    from edgeguard.runtime.pipeline import Pipeline
    from edgeguard.runtime.ticks import periodic_ticks
    from edgeguard.sim.rig import SimRig
    from edgeguard.sim.world import World

    config = msgspec.structs.replace(config, calibration=CalibrationConfig())
    clock = ManualClock()
    period_ns = config.pipeline.tick_ms * NS_PER_MS
    ticks_ms: list[float] = []
    with SimRig(World(1, 10.0), clock, 1) as rig:
        pipeline = Pipeline(config, rig.sources, clock, calibration=rig.calibration)
        with pipeline, compilations() as compiled:
            for frame in pipeline.run(periodic_ticks(clock.now_ns(), period_ns, TICKS)):
                spent = sum(ns for stage, ns in frame.stage_ns.items() if stage != "sensors")
                ticks_ms.append(round(spent / NS_PER_MS, 3))
    return Drive(tuple(ticks_ms), tuple(compiled))


def _print_result(
    modules: list[KernelModule],
    drive: Drive,
    folders: list[Path],
    findings: tuple[str, ...],
    wall_s: float,
    output: str,
) -> None:
    if output == "json":
        click.echo(json.dumps(_record(modules, drive, folders, findings, wall_s), indent=2))
        return
    for module in modules:
        if module.kernels:
            how = f"{module.compiled} compiled" if module.compiled else "cached"
            click.echo(f"{module.name:16} {module.kernels:3d} kernels  {how:12}  {module.wall_s * 1e3:7.0f} ms")
    click.echo(f"cache: {', '.join(map(str, folders)) or 'none'}")
    for finding in findings:
        click.echo(f"cache: others could put code there: {finding}")
    compiled = ", ".join(drive.compiled) or "nothing"
    ticks = ", ".join(f"{ms:.0f}" for ms in drive.ticks_ms)
    click.echo(f"a simulated drive compiled {compiled}; its ticks took {ticks} ms")
    say(f"{sum(module.kernels for module in modules)} kernels ready in {wall_s:.1f} s")


def _record(
    modules: list[KernelModule], drive: Drive, folders: list[Path], findings: tuple[str, ...], wall_s: float
) -> dict[str, Any]:
    return {
        "modules": [
            {
                "module": module.name, "kernels": module.kernels, "compiled": module.compiled,
                "loaded": module.loaded, "lazy": list(module.lazy), "wall_s": round(module.wall_s, 4),
            }
            for module in modules
        ],
        "cache": [str(folder) for folder in folders],
        "writable_by_others": list(findings),
        "drive_compiled": list(drive.compiled),
        "drive_ticks_ms": list(drive.ticks_ms),
        "wall_s": round(wall_s, 3),
    }  # fmt: skip
