"""Run benchmarks, one table each, with a yardstick of this machine in this run.

python -m benchmarks                    every part
python -m benchmarks sync kernels       these parts
python -m benchmarks models --help      options of one part
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.timing import yardstick_s

NOT_PARTS = ("__main__", "lidar_peers", "scan_peers", "timing")
PARTS = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in NOT_PARTS)


def main() -> None:
    names = [argument for argument in sys.argv[1:] if argument in PARTS] or PARTS
    options = [argument for argument in sys.argv[1:] if argument not in PARTS]
    if options and len(names) != 1:
        sys.exit(f"name one part for options; parts are: {', '.join(PARTS)}")
    if not {"-h", "--help"} & set(options):
        print(f"yardstick: SHA-256 of 64 MiB on one thread takes {yardstick_s() * 1e3:.1f} ms here (best of 5)\n")
    for name in names:
        print(f"== {name}")
        sys.argv[:] = [f"benchmarks {name}", *options]
        import_module(f"benchmarks.{name}").main()
        print()


if __name__ == "__main__":
    main()
