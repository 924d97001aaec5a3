"""Run as a process of its own by test_update_kills.py: forks updaters, kills them, and starts the device each time.

argv: folder of a site, number of kills. Prints what started after each kill.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def site_of(folder: Path):
    """Load the `Site` of the tests beside this file."""
    spec = importlib.util.spec_from_file_location("update_site", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["update_site"] = module
    spec.loader.exec_module(module)
    return module.Site(folder)


def main() -> None:
    """Update to one release and to the other, over and over, under fire."""
    from edgeguard.update.install import ModelInstaller

    site = site_of(Path(sys.argv[1]))
    offers = {o.facts.release: o.identity for o in site.refresh().offers}
    rng = random.Random(11)
    killed = 0
    started: list[str] = []
    for _ in range(int(sys.argv[2])):
        ready, begun = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(begun, b"x")
            while True:
                for release in ("2", "3"):
                    index = site.refresh()
                    installer = ModelInstaller(
                        site.store, site.source(), index, key=site.key, state=site.state, clock=site.clock
                    )
                    installer.install("road-objects", identity=offers[release])
                    run = site.start()
                    if run.on_trial:
                        site.slots.mark_good(run.value)
        os.close(begun)
        os.read(ready, 1)
        os.close(ready)
        time.sleep(rng.uniform(0.005, 0.25))
        os.kill(pid, signal.SIGKILL)
        killed += os.waitpid(pid, 0)[1] & 0x7F == signal.SIGKILL
        running = site.start()
        assert running.value.counter >= site.state.floor("road-objects")
        started.append(running.value.release)
    sys.stdout.write(json.dumps({"killed": killed, "started": sorted(set(started))}))


if __name__ == "__main__":
    main()
