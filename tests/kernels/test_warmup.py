"""After `edgeguard warmup` a new process compiles nothing, and nobody else can change what it loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from edgeguard.cli.main import cli, run
from edgeguard.kernels.compiled import compilations, load_kernels
from edgeguard.runtime.warmup import cache_findings

# A new process: every stage over a rig with all sensors, and whatever numba compiles for it.
FRESH = """
import json
from edgeguard.kernels.compiled import compilations
with compilations() as compiled:
    from edgeguard.clock import ManualClock
    from edgeguard.config import Config
    from edgeguard.runtime.pipeline import Pipeline
    from edgeguard.runtime.ticks import periodic_ticks
    from edgeguard.sim.rig import SimRig
    from edgeguard.sim.world import World
    clock = ManualClock()
    with SimRig(World(1, 10.0), clock, 1) as rig:
        with Pipeline(Config(), rig.sources, clock, calibration=rig.calibration) as pipeline:
            frames = list(pipeline.run(periodic_ticks(clock.now_ns(), 100_000_000, 3)))
    from edgeguard.kernels.compiled import load_kernels
    modules = list(load_kernels())
print(json.dumps({
    "frames": len(frames),
    "compiled": [name for name in compiled if name.startswith("edgeguard.kernels.")],
    "loaded": sum(m.loaded for m in modules),
    "missed": sum(m.compiled for m in modules),
}))
"""


def fresh(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_every_kernel_has_its_signatures_said() -> None:
    """None waits for a call to be compiled; every module that has kernels knows its cache."""
    modules = list(load_kernels())
    assert sum(module.kernels for module in modules) > 60
    assert [module.name for module in modules if module.lazy] == []
    assert [module.name for module in modules if module.kernels and not module.cache] == []


def test_the_first_frame_of_a_new_process_compiles_nothing() -> None:
    """Kernels come out of the cache that loading them here has filled; three ticks of a rig with all sensors."""
    list(load_kernels())
    process = fresh(FRESH)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["frames"] == 3
    assert (found["compiled"], found["missed"]) == ([], 0)
    assert found["loaded"] > 60


def test_a_kernel_that_compiles_is_noticed() -> None:
    """The counter counts: a function without a signature compiles at its first call and not at its second."""

    @njit
    def lazy(x: float) -> float:
        return x + 1.0

    with compilations() as compiled:
        assert lazy(1.0) == 2.0
        assert len(compiled) == 1
        assert "lazy" in compiled[0]
        lazy(2.0)
        assert len(compiled) == 1
        lazy(np.int64(1))
        assert len(compiled) == 2


def test_the_verb_warms_and_says_where_the_cache_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Kernels by module, the cache, and a simulated drive that compiled nothing."""
    code = run(cli, "edgeguard", ["warmup", "--format", "json"])
    result = json.loads(capsys.readouterr().out)
    assert code == (1 if result["writable_by_others"] else 0)
    assert result["drive_compiled"] == []
    assert len(result["drive_ticks_ms"]) == 4
    assert all(Path(folder).is_dir() for folder in result["cache"])
    assert {"sequential", "projection"} <= {module["module"] for module in result["modules"]}


def test_a_cache_that_others_can_write_is_found(tmp_path: Path) -> None:
    """The folder, a folder above it, and a single file in it."""
    home = tmp_path / "home"
    cache = home / "cache"
    cache.mkdir(parents=True)
    index = cache / "kernel.nbi"
    index.write_bytes(b"")
    (cache / "notes.txt").write_bytes(b"")
    for path, mode in ((tmp_path, 0o700), (home, 0o755), (cache, 0o755), (index, 0o644), (cache / "notes.txt", 0o666)):
        path.chmod(mode)
    assert cache_findings([cache]) == ()
    for path, mode, good in (
        (cache, 0o775, 0o755),
        (home, 0o757, 0o755),
        (index, 0o666, 0o644),
        (cache, 0o1777, 0o755),
    ):
        path.chmod(mode)
        (finding,) = cache_findings([cache])
        assert finding.startswith(f"{path} ")
        path.chmod(good)
    home.chmod(0o1777)
    assert cache_findings([cache]) == ()
    assert "No such file" in cache_findings([tmp_path / "none"])[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_cache_that_belongs_to_somebody_else_is_found(tmp_path: Path) -> None:
    """Its owner can change it, whatever the mode."""
    tmp_path.chmod(0o755)
    os.chown(tmp_path, 12345, 12345)
    assert f"{tmp_path} belongs to user 12345" in cache_findings([tmp_path])


def test_a_machine_without_any_place_for_a_cache_is_told_what_to_set() -> None:
    """A read-only root file system and no home: an error of ours, not numba's."""
    process = fresh(
        "from edgeguard.cli.main import cli, run; import sys; sys.exit(run(cli, 'edgeguard', ['warmup']))",
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
        NUMBA_CACHE_DIR="/proc/nowhere",
    )
    assert process.returncode == 3
    assert "EG-E070" in process.stderr
    assert "NUMBA_CACHE_DIR" in process.stderr


@pytest.mark.slow
def test_a_cold_start_fills_an_empty_cache_and_the_next_one_uses_it(tmp_path: Path) -> None:
    """In a folder of its own: everything is compiled once, then nothing."""
    tmp_path.chmod(0o700)
    verb = "from edgeguard.cli.main import cli, run; run(cli, 'edgeguard', ['warmup', '--format', 'json'])"
    cold, warm = (json.loads(fresh(verb, NUMBA_CACHE_DIR=str(tmp_path)).stdout) for _ in range(2))
    assert sum(module["compiled"] for module in cold["modules"]) > 60
    assert sum(module["compiled"] for module in warm["modules"]) == 0
    assert all(folder.startswith(str(tmp_path)) for folder in warm["cache"])
