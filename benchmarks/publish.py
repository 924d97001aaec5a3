"""Publishing for growing fleets: time, memory, and what one device downloads beside the bundle itself.

python -m benchmarks publish                      100, 1 000 and 10 000 devices
python -m benchmarks publish --devices 100000     one size; enrolling and granting take most of the time
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from benchmarks.wraps import MODEL, enrol_many
from edgeguard.clock import SystemClock
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.state import DeviceState
from edgeguard.update.client import UpdateClient
from edgeguard.update.install import ModelInstaller
from edgeguard.update.source import FolderSource
from edgeguard.update.store_files import FolderStore
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant_many
from firmware_tools.pack import Release, pack_model
from firmware_tools.publish import publish

SIZES = (100, 1_000, 10_000)
LIMIT_BYTES = 50_000  # beside the bundle, whatever the fleet's size


class _Counting(FolderSource):
    """A source that counts what leaves it."""

    fetched = 0

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        for piece in super().stream(path, start, length):
            self.fetched += len(piece)
            yield piece


def main() -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks publish")
    parser.add_argument("--devices", type=int, action="append", help="fleet size; repeat for several")
    sizes = parser.parse_args().devices or SIZES
    print("one bundle; times are wall times of one run; 'again' publishes when nothing is new, 'peak' is Python memory")
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            _print_size(Path(folder), count)


def _print_size(folder: Path, count: int) -> None:
    wall_ns = SystemClock().wall_ns()
    fleet = Fleet.create(folder / "fleet", name="bench", wall_ns=wall_ns, allow_unlocked_memory=True)
    key = FileKeyProvider.generate(folder / "device.pem")
    trust = fleet.trust(wall_ns)
    (folder / "request").write_bytes(make_request(key, trust, device_name="this", board="generic"))
    enroll(fleet, folder / "request", confirm=lambda _: True, wall_ns=wall_ns)
    enrol_many(fleet, count - 1)
    bundle = pack_model(fleet, MODEL, folder / "b", release=Release("m", "1"), wall_ns=wall_ns).path

    wrap_s = _timed(lambda: grant_many(fleet, bundle, None, wall_ns=wall_ns))
    repository = folder / "repository"
    publish_s = _timed(lambda: publish(fleet, repository, [bundle], wall_ns=wall_ns))
    tracemalloc.start()
    again_s = _timed(lambda: publish(fleet, repository, [bundle], wall_ns=wall_ns))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    shutil.copytree(fleet.trust_folder, folder / "pinned")
    state = DeviceState.create(folder / "state", key=key, trust=trust)
    store, source = FolderStore(folder / "store"), _Counting(repository)
    index = UpdateClient(store, source, pinned=folder / "pinned", state=state).refresh()
    done = ModelInstaller(store, source, index, key=key, state=state).install("m")
    beside = source.fetched - sum(p.stat().st_size for p in (bundle / "payload").iterdir())
    assert not done.already_there
    print(
        f"  {count:7} devices  grant {wrap_s:7.2f} s  publish {publish_s:7.2f} s  again {again_s:7.2f} s (traced)  "
        f"peak {peak / 1e6:6.1f} MB  one device fetches {beside:6} B beside the payload "
        f"({'within' if beside <= LIMIT_BYTES else 'OVER'} {LIMIT_BYTES})"
    )


def _timed(work: object) -> float:
    start_s = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
